"""`tensors`: what lies in weight and optimizer files, and statistics of the values on request."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckpt_inspect.cli.options import JsonOption, RunPaths
from ckpt_inspect.cli.progress import progress
from ckpt_inspect.cli.session import output_width, use_color, write
from ckpt_inspect.errors import UsageError

if TYPE_CHECKING:
    from ckpt_inspect.tensors import SortKey

_LINES_AT_ONCE = 2000


def tensors(
    paths: RunPaths = None,
    match: Annotated[
        list[str] | None,
        typer.Option(
            "--match",
            "-m",
            metavar="GLOB",
            help="Only names that match: '*.q_proj.*'; without a wildcard, names that contain it. Repeatable.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", "-x", metavar="GLOB", help="Leave out names that match. Repeatable."),
    ] = None,
    sort: Annotated[
        str,
        typer.Option("--sort", "-s", metavar="KEY", help="place (as in the files), name, size, dtype, shape or file."),
    ] = "place",
    reverse: Annotated[bool, typer.Option("--reverse", "-r", help="The other way round.")] = False,
    stats: Annotated[
        bool,
        typer.Option("--stats", help="Read the values: mean, std, min, max, NaN, Inf and zeros of each tensor."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """List tensors with their element type, shape, size and place, from headers alone.

    PATH is any weight or optimizer file (safetensors, torch), or a directory: a model, an adapter, a checkpoint, a
    DeepSpeed tag or universal checkpoint, an FSDP or DCP checkpoint. A run without weights of its own shows its newest
    checkpoint's.
    """
    from ckpt_inspect.tensors import list_tensors

    listing = list_tensors(
        paths or [Path()],
        patterns=tuple(match or ()),
        exclude=tuple(exclude or ()),
        sort=_sort_key(sort),
        reverse=reverse,
        progress=progress(),
    )
    measured = None
    if stats:
        from ckpt_inspect.tensors.values import statistics_of

        measured = statistics_of(listing, progress=progress())
        if sys.stderr.isatty():  # rows and the progress bar would write over one another
            measured = iter(list(measured))
    if json:
        from ckpt_inspect.report.tensors_document import tensors_json

        _write_all(tensors_json(listing, measured), at_once=1 if stats else _LINES_AT_ONCE)
        return
    from ckpt_inspect.report.text_tensors import tensors_text

    lines = tensors_text(listing, measured, width=output_width(), color=use_color())
    _write_all((f"{line}\n" for line in lines), at_once=1 if stats else _LINES_AT_ONCE)


def _sort_key(text: str) -> SortKey:
    from ckpt_inspect.tensors import SORT_KEYS

    for key in SORT_KEYS:
        if key == text:
            return key
    raise UsageError(f"cannot sort by {text!r}", remedy=f"one of {', '.join(SORT_KEYS)}")


def _write_all(pieces: Iterable[str], *, at_once: int) -> None:
    """Write pieces of text in larger ones."""
    waiting: list[str] = []
    for piece in pieces:
        waiting.append(piece)
        if len(waiting) >= at_once:
            write("".join(waiting))
            waiting.clear()
    write("".join(waiting))
