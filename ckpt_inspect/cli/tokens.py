"""`tokens`: short for ``explain tokens``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckpt_inspect.cli.options import BaseOption, JsonOption, RunPath


def tokens(
    path: RunPath = Path(),
    json: JsonOption = False,
    base: BaseOption = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compare embedding rows with the base model's: slower, tells more.")
    ] = False,
) -> None:
    """Tell where the new tokens are and whether they were trained."""
    from ckpt_inspect.cli.explain import explain

    # "./tokens" is a directory, "tokens" the topic
    place = str(path) if path.is_absolute() else f"./{path}"
    explain(["tokens", place], json=json, base=base, deep=deep)
