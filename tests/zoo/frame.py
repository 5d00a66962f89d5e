"""The fault zoo: for every rule, one named edit of a real run that makes its fault, and what else follows from it.

A case edits a copy of a directory of ``fixtures/`` (`base`), or fills an empty directory where none of them can have
the fault (`base=None`)::

    @case("CKP011", base="resumed", also=("CKP001",))
    def the_optimizer_was_never_written(run: Path) -> None:
        (run / "checkpoint-16" / "optimizer.pt").write_bytes(b"")
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ckpt_inspect.rules.check import Options, check_run
from ckpt_inspect.rules.finding import Finding
from ckpt_inspect.run import open_run

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
Edit = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One fault.

    `also` are the rules that fire with it because they see the same fault; `deep` reads weights; `model` is the base
    model's directory among the fixtures, as ``--base`` would give it.
    """

    rule: str
    base: str | None
    also: frozenset[str]
    deep: bool
    model: str | None
    edit: Edit

    @property
    def name(self) -> str:
        return f"{self.rule}-{self.edit.__name__}"


CASES: list[Case] = []


def case(
    rule: str, *, base: str | None, also: Iterable[str] = (), deep: bool = False, model: str | None = None
) -> Callable[[Edit], Edit]:
    """Add an edit to the zoo."""

    def add(edit: Edit) -> Edit:
        CASES.append(Case(rule, base, frozenset(also), deep, model, edit))
        return edit

    return add


@cache
def all_cases() -> tuple[Case, ...]:
    """The cases of every ``cases_*.py`` beside this file."""
    for path in sorted(Path(__file__).parent.glob("cases_*.py")):
        import_module(f"zoo.{path.stem}")
    return tuple(CASES)


def findings_of(run: Path, *, deep: bool = False, model: str | None = None) -> tuple[Finding, ...]:
    """Every finding of every rule."""
    base = FIXTURES / model if model else None
    return check_run(open_run(run), Options(deep=deep, base=base)).findings


@cache
def before(base: str | None, deep: bool, model: str | None) -> tuple[Finding, ...]:
    """What is found in a fixture as it is."""
    return findings_of(FIXTURES / base, deep=deep, model=model) if base else ()


def specimen(case: Case, directory: Path) -> Path:
    """The directory with the case's fault."""
    run = directory / (case.base or "run")
    if case.base:
        shutil.copytree(FIXTURES / case.base, run)
        age(run)
    else:
        run.mkdir()
    case.edit(run)
    if case.base:
        age(run, since=time.time() - 3600)  # an edit inside a checkpoint is not what changed its age
    return run


def age(run: Path, *, since: float = 0.0) -> None:
    """Give checkpoints touched after `since` times in the order of their steps, whatever the checkout did to them."""
    for path in run.glob("checkpoint-*"):
        step = path.name.split("-")[1]
        if step.isdigit() and path.stat().st_mtime > since:
            os.utime(path, (1_600_000_000 + int(step) * 60,) * 2)


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Apply a change to a JSON file; `change` edits in place or returns a new value."""
    value = json.loads(path.read_text())
    changed = change(value)
    path.write_text(json.dumps(value if changed is None else changed, indent=2))


def set_json(path: Path, **values: Any) -> None:
    """Set keys of the object in a JSON file."""
    edit_json(path, lambda value: value.update(values))


def cut(path: Path, size: int) -> None:
    """Truncate a file: to `size` bytes, or by -`size` bytes when negative."""
    data = path.read_bytes()
    path.write_bytes(data[:size])


def flip(path: Path, offset: int) -> None:
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(bytes(data))
