"""Tables of facts about the libraries that write checkpoints, each row with its source.

Code reads the tables and never repeats them in branches. `load` gives one table; the faults of every room lie in
``faults/<room>.toml`` and are merged.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def load(name: str) -> dict[str, Any]:
    """The table ``knowledge/<name>.toml`` as plain data; treat it as immutable."""
    return tomllib.loads((files(__package__) / f"{name}.toml").read_text(encoding="utf-8"))


def text(name: str) -> str:
    """The file ``knowledge/<name>`` as it is: lists too long for a table."""
    return (files(__package__) / name).read_text(encoding="utf-8")


@cache
def faults() -> dict[str, dict[str, str]]:
    """Every fault kind with its rule code, severity, meaning, remedy and source."""
    merged: dict[str, dict[str, str]] = {}
    for table in sorted((files(__package__) / "faults").iterdir(), key=lambda entry: entry.name):
        if table.name.endswith(".toml"):
            for kind, row in tomllib.loads(table.read_text(encoding="utf-8")).items():
                if kind in merged:
                    raise ValueError(f"fault {kind!r} is described twice")
                merged[kind] = row
    return merged
