"""Curves in a terminal, drawn by plotext in braille cells; plain text where there is no terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ckpt_inspect.plot.image import robust_limits
from ckpt_inspect.plot.names import shortest_names
from ckpt_inspect.plot.series import Curve
from ckpt_inspect.plot.smoothing import Smoothing, thinned
from ckpt_inspect.printable import printable

_COLOURS = ("blue+", "orange+", "green+", "magenta+", "cyan+", "yellow")
_MARKERS = ("braille", "dot", "x", "+", "*", "o")
_LARGEST = 1e300  # plotext multiplies while it rounds
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def chart(
    curves: Sequence[Curve], smoothing: Smoothing, *, width: int, height: int, colour: bool, log_scale: bool = False
) -> str:
    """The curves as text lines of at most `width` characters, notes and legend beneath."""
    drawable = [
        curve for curve in curves if any(abs(y) < _LARGEST for series in curve.series for _, y in series.finite)
    ]
    body = _plot(drawable, smoothing, width, height, colour=colour, log_scale=log_scale) if drawable else ""
    notes = [f"{printable(curve.name, 40)}: {printable(note, 160)}" for curve in curves for note in curve.notes]
    return "\n".join([line for line in (body, *notes) if line]) + "\n"


def _plot(
    curves: Sequence[Curve], smoothing: Smoothing, width: int, height: int, *, colour: bool, log_scale: bool
) -> str:
    import plotext

    figure = plotext
    figure.clear_figure()  # plotext keeps one figure per process
    figure.theme("clear")
    figure.plot_size(width, height)
    names = shortest_names([curve.path for curve in curves])
    legend: list[str] = []
    shown: list[float] = []
    number = 0
    for curve, name in zip(curves, names, strict=True):
        for series in curve.series:
            values, words = (
                (series.values, "") if series.is_evaluation or series.is_schedule else smoothing.apply(series.values)
            )
            x, y = thinned(series.x, values, 4 * width)
            points = [(a, b) for a, b in zip(x, y, strict=True) if abs(b) < _LARGEST]  # NaN compares false
            if not points:
                continue
            line = len(points) > 1 and not series.is_evaluation  # one braille dot is hardly seen
            marker = ("braille" if line else "dot") if colour else _MARKERS[number % len(_MARKERS)]
            options = {"marker": marker, **({"color": _COLOURS[number % len(_COLOURS)]} if colour else {})}
            draw = figure.scatter if series.is_evaluation or len(points) == 1 else figure.plot
            draw([a for a, _ in points], [b for _, b in points], **options)
            shown.extend(b for _, b in points)
            prefix = f"{printable(name, 30)}: " if len(curves) > 1 else ""
            sample = _sample(marker, _COLOURS[number % len(_COLOURS)] if colour else None)
            legend.append(
                f"{sample} {prefix}{printable(series.metric, 40)}{f' ({words})' if words else ''}{_ends(series.final)}"
            )
            number += 1
    if log_scale and shown and min(shown) > 0:
        figure.yscale("log")
    elif limits := robust_limits(shown):
        figure.ylim(*limits)
    figure.xlabel(curves[0].axis)
    positions = [position for curve in curves for series in curve.series for position in (series.x[:1] + series.x[-1:])]
    figure.xticks(*_ticks(min(positions), max(positions), width // 14))
    text = str(figure.build())
    if not colour:
        text = _ESCAPES.sub("", text)
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join([*lines, *legend])


def _ticks(low: float, high: float, wanted: int) -> tuple[list[float], list[str]]:
    """Round positions between two values, and their labels."""
    if high <= low:
        return [low], [f"{low:g}"]
    power = 10.0 ** math.floor(math.log10((high - low) / max(wanted, 1)))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= (high - low) / max(wanted, 1))
    ticks = [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return ticks, [f"{tick:.10g}" for tick in ticks]


def _ends(final: tuple[int, float] | None) -> str:
    return f", final {final[1]:.4g} at step {final[0]}" if final is not None else ""


def _sample(marker: str, colour: str | None) -> str:
    glyph = {"braille": "⠒⠒", "dot": "••"}.get(marker, marker * 2)
    codes = {"blue+": 94, "orange+": 33, "green+": 92, "magenta+": 95, "cyan+": 96, "yellow": 33}
    return f"\x1b[{codes[colour]}m{glyph}\x1b[0m" if colour else glyph
