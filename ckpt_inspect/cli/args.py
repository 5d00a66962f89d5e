"""`args`: every hyper-parameter in training_args.bin, and what differs from another run's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckpt_inspect.cli.options import JsonOption, RunPath
from ckpt_inspect.cli.session import emit, output_width, use_color


def args(
    path: RunPath = Path(),
    diff: Annotated[
        Path | None, typer.Option("--diff", metavar="OTHER", help="Show only what differs from OTHER's arguments.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show every training argument; secrets are masked."""
    from ckpt_inspect.report.args_document import args_document
    from ckpt_inspect.run import open_run

    document = args_document(open_run(path), open_run(diff) if diff is not None else None)
    if json:
        from ckpt_inspect.report.json_text import json_text

        emit(json_text(document))
        return
    from ckpt_inspect.report.text_args import args_text

    emit(args_text(document, width=output_width(), color=use_color()))
