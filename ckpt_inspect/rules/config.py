"""Settings of a check from ``ckpt-inspect.toml`` or ``[tool.ckpt-inspect]`` in ``pyproject.toml``.

Looked for beside the run and above it; the nearest file that has settings wins. Unknown keys are errors.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ckpt_inspect.errors import UsageError
from ckpt_inspect.printable import printable

MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """What a settings file may say; relative paths in it are relative to the file."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    severity: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    deep: bool = False
    max_findings: int | None = None
    expect: tuple[str, ...] = ()
    baseline: Path | None = None
    contract: Path | None = None
    base: Path | None = None
    source: Path | None = None


def find_config(run: Path) -> Config:
    """The settings nearest to `run`, or none.

    Raises:
        UsageError: a settings file is not TOML, or says something that is not a setting.
    """
    start = run.resolve()
    for directory in (start if start.is_dir() else start.parent, *start.parents):
        for name in ("ckpt-inspect.toml", "pyproject.toml"):
            path = directory / name
            if path.is_file():
                table = _table(path)
                if table is not None:
                    return _config(path, table)
    return Config()


def read_config(path: Path) -> Config:
    """The settings in the file given by ``--config``.

    Raises:
        UsageError: it is not there, not TOML, or says something that is not a setting.
    """
    if not path.is_file():
        raise UsageError("no such settings file", where=str(path))
    return _config(path, _table(path) or {})


def _table(path: Path) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        if path.name == "pyproject.toml":
            return None  # somebody else's file; its own tools will complain
        raise UsageError(f"not valid TOML: {error}", where=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read settings: {error}", where=str(path)) from error
    tool = content.get("tool", {})
    nested = tool.get("ckpt-inspect") if isinstance(tool, dict) else None
    if path.name == "pyproject.toml" or nested is not None:
        return nested if isinstance(nested, dict) else None
    return content


def _config(path: Path, table: Mapping[str, Any]) -> Config:
    known = {item.name for item in fields(Config)} - {"source"}
    values: dict[str, Any] = {"source": path}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            near = get_close_matches(key, [item.replace("_", "-") for item in known], 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
            raise UsageError(f"unknown setting {printable(key)!r}", where=str(path), remedy=hint)
        values[name] = _value(path, name, value)
    return Config(**values)


def _value(path: Path, name: str, value: Any) -> Any:
    if name in ("select", "ignore", "expect"):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise _wrong(path, name, "a list of texts")
    if name == "severity":
        if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
            return value
        raise _wrong(path, name, "a table of rule = level")
    if name in ("strict", "deep"):
        if isinstance(value, bool):
            return value
        raise _wrong(path, name, "true or false")
    if name == "max_findings":
        if type(value) is int and value > 0:
            return value
        raise _wrong(path, name, "a positive number")
    if isinstance(value, str):
        return path.parent / value
    raise _wrong(path, name, "a path")


def _wrong(path: Path, name: str, wanted: str) -> UsageError:
    return UsageError(f"{name.replace('_', '-')} must be {wanted}", where=str(path))
