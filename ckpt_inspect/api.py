"""The verbs as functions: what the command line prints as JSON, as plain data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def show(path: str | os.PathLike[str], *, base: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """What is at `path` and how the run went: the document of ``ckpt-inspect show --json``.

    Args:
        path: a run, checkpoint, tag directory, adapter, model or single file.
        base: the base model's directory, where the run does not lead to it.

    Raises:
        UnreadableError: the path cannot be read at all.
    """
    from ckpt_inspect.report.json_text import jsonable
    from ckpt_inspect.report.show_document import show_document
    from ckpt_inspect.run import open_run

    document: dict[str, Any] = jsonable(show_document(open_run(path), base=Path(base) if base is not None else None))
    return document


def args(path: str | os.PathLike[str], *, diff: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Every training argument: the document of ``ckpt-inspect args --json``.

    Raises:
        NotAFormatError: there are no training arguments at `path`.
        UnreadableError: the path cannot be read at all.
    """
    from ckpt_inspect.report.args_document import args_document
    from ckpt_inspect.report.json_text import jsonable
    from ckpt_inspect.run import open_run

    document: dict[str, Any] = jsonable(args_document(open_run(path), open_run(diff) if diff is not None else None))
    return document
