"""`show`: what is here and how did it go, on one screen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckpt_inspect.cli.options import BaseOption, JsonOption, RunPath
from ckpt_inspect.cli.session import emit, output_width, use_color


def show(
    path: RunPath = Path(),
    files: Annotated[bool, typer.Option("--files", help="List every file with its purpose.")] = False,
    json: JsonOption = False,
    base: BaseOption = None,
) -> None:
    """Show what a training output directory holds and how the run went."""
    from ckpt_inspect.cli.progress import progress
    from ckpt_inspect.report.show_document import show_document
    from ckpt_inspect.run import open_run

    document = show_document(open_run(path), base=base, progress=progress())
    if json:
        from ckpt_inspect.report.json_text import json_text

        emit(json_text(document))
        return
    from ckpt_inspect.report.text_show import show_text

    emit(show_text(document, width=output_width(), color=use_color(), files=files))
