"""`plot-loss`: the training curve in the terminal, or as an image, a page or numbers in a file."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckpt_inspect.cli.options import OutputOption, RunPaths
from ckpt_inspect.cli.session import emit, note, output_width, use_color, write
from ckpt_inspect.errors import UsageError
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from ckpt_inspect.plot.series import Curve
    from ckpt_inspect.plot.smoothing import Smoothing

_FORMATS = ("png", "svg", "pdf", "html", "csv", "json")


def plot_loss(
    paths: RunPaths = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", "-m", metavar="NAME", help="What to draw, by its logged name; comma lists and wildcards."
        ),
    ] = None,
    x: Annotated[str, typer.Option("--x", metavar="AXIS", help="step, epoch, tokens or time.")] = "step",
    output: OutputOption = None,
    smoothing: Annotated[
        str, typer.Option("--smoothing", metavar="HOW", help="ema, llamafactory, none, or a window in points.")
    ] = "ema",
    learning_rate: Annotated[bool, typer.Option("--lr", help="Add the learning rate on a panel of its own.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Logarithmic values.")] = False,
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="Title of the figure.")] = None,
    size: Annotated[str, typer.Option("--size", metavar="WxH", help="Size of an image in inches.")] = "8x4.8",
    dpi: Annotated[int, typer.Option("--dpi", min=20, max=1200, help="Dots per inch of an image.")] = 150,
    dark: Annotated[bool, typer.Option("--dark", help="Light lines on a dark background.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Redraw while the run is being written.")] = False,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.2, help="How often --follow looks.")
    ] = 5.0,
) -> None:
    """Draw training curves: in the terminal, or into FILE.png, .svg, .pdf, .html, .csv or .json.

    Several runs are drawn over one another, with a table of their final, best and average values.
    """
    from ckpt_inspect.plot.smoothing import parse_smoothing

    smooth = parse_smoothing(smoothing)
    metrics = tuple(name.strip() for given in metric or () for name in given.split(",") if name.strip())
    if learning_rate:
        metrics = (*(metrics or ("loss", "eval_*loss")), "learning_rate")
    places = paths or [Path()]
    if output is not None:
        if follow:
            raise UsageError("--follow draws in the terminal and cannot be combined with --output")
        kind = output.suffix.lower().removeprefix(".")
        if kind not in _FORMATS:
            raise UsageError(
                f"cannot tell what to write into {printable(output.name)!r}",
                remedy=f"end it in .{', .'.join(_FORMATS)}",
            )
        inches = _size(size)
        curves = _read(places, metrics, x, optional=learning_rate)
        _write(output, kind, curves, smooth, title=title, size=inches, dpi=dpi, dark=dark, log=log)
        return
    if not follow:
        _draw(_read(places, metrics, x, optional=learning_rate), smooth, log=log)
        return
    _follow(places, metrics, x, smooth, every, optional=learning_rate, log=log)


def _read(places: list[Path], metrics: tuple[str, ...], x: str, *, optional: bool) -> list[Curve]:
    from ckpt_inspect.plot.series import curve_of
    from ckpt_inspect.run import open_run

    curves = []
    for place in places:
        run = open_run(place)
        try:
            curves.append(curve_of(run, metrics=metrics, x=x))
        except UsageError:
            if not optional:
                raise
            curves.append(curve_of(run, metrics=tuple(name for name in metrics if name != "eval_*loss"), x=x))
    return curves


def _draw(curves: list[Curve], smooth: Smoothing, *, log: bool) -> None:
    from ckpt_inspect.plot.table import table
    from ckpt_inspect.plot.terminal import chart

    width = output_width()
    lines = shutil.get_terminal_size((width, 28)).lines if sys.stdout.isatty() else 28
    height = max(10, min(lines - 8, width // 3, 40))
    text = chart(curves, smooth, width=width, height=height, colour=use_color(), log_scale=log)
    emit(f"{text}\n{table(curves)}" if any(curve.series for curve in curves) else text)


def _write(
    output: Path,
    kind: str,
    curves: list[Curve],
    smooth: Smoothing,
    *,
    title: str | None,
    size: tuple[float, float],
    dpi: int,
    dark: bool,
    log: bool,
) -> None:
    from ckpt_inspect import __version__
    from ckpt_inspect.cli.output import write_file
    from ckpt_inspect.plot.table import as_csv, as_json, table

    content: str | bytes
    if kind == "csv":
        content = as_csv(curves)
    elif kind == "json":
        content = as_json(curves, __version__)
    elif kind == "html":
        from ckpt_inspect.plot.html import page

        content = page(curves, smooth, title=title, log_scale=log)
    else:
        from ckpt_inspect.plot.image import Style, figure, render

        style = Style(size, dpi, dark, log, title, smooth)
        content = render(figure(curves, style), kind, style)
    write_file(output, content)
    note(f"wrote {printable(output)} ({len(content):,} {'characters' if isinstance(content, str) else 'bytes'})")
    for curve in curves:
        for remark in curve.notes:
            note(f"{printable(curve.name, 40)}: {printable(remark, 200)}")
    if len(curves) > 1 and kind not in ("csv", "json"):
        emit(table(curves))


def _follow(
    places: list[Path], metrics: tuple[str, ...], x: str, smooth: Smoothing, every: float, *, optional: bool, log: bool
) -> None:
    """Redraw whenever a log grew, until interrupted. A file caught in the middle of a write keeps the last picture."""
    from ckpt_inspect.errors import CkptInspectError

    shown = ""
    while True:
        try:
            curves = _read(places, metrics, x, optional=optional)
            state = repr(
                [(series.metric, len(series.steps), series.final) for curve in curves for series in curve.series]
            )
            if state != shown:
                shown = state
                if sys.stdout.isatty():
                    write("\x1b[H\x1b[2J")
                _draw(curves, smooth, log=log)
        except CkptInspectError as error:
            if not shown:
                raise
            note(f"ckpt-inspect: {printable(error, 300)}; looking again in {every:g} s")
        time.sleep(every)


def _size(text: str) -> tuple[float, float]:
    width, _, height = text.lower().partition("x")
    try:
        inches = (float(width), float(height))
    except ValueError:
        inches = (0.0, 0.0)
    if not all(0.5 <= side <= 60 for side in inches):
        raise UsageError(f"--size {printable(text)!r} is not WIDTHxHEIGHT in inches (0.5 to 60)")
    return inches
