"""What a rule is and which rules there are. A rule is a function; its docstring is its documentation page.

A page reads::

    What it finds, in one sentence.

    Why it matters: ...

    How to fix: ...

    Example: ...

    Source: library, function, version or issue number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import getdoc
from typing import TYPE_CHECKING, Literal, TypeVar

from ckpt_inspect.rules.finding import Hit, Severity

if TYPE_CHECKING:
    from ckpt_inspect.rules.subject import Subject

Scope = Literal["run", "directory", "checkpoint"]
Check = Callable[["Subject"], Iterator[Hit]]
CheckT = TypeVar("CheckT", bound=Callable[..., Iterator[Hit]])

SECTIONS = ("Why it matters", "How to fix", "Example", "Source")
FAMILIES = (
    "files",
    "containers",
    "documents",
    "weights",
    "trainer",
    "losses",
    "schedules",
    "adapters",
    "adapter_use",
    "new_tokens",
    "zero",
    "zero_values",
    "sharded",
    "pickles",
    "resume",
    "rotation",
    "tokenizers",
    "templates",
    "logs",
    "cards",
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule's identity and page.

    `scope` says what it is called with: the run once, each directory (the run's root and every checkpoint), or each
    checkpoint. `deep` rules read weights and run only on request. `thorough` rules open every pickle or every shard of
    the run, or parse its templates: `check` has them, the first look of `show` has not.
    """

    code: str
    name: str
    severity: Severity
    scope: Scope
    deep: bool
    thorough: bool
    check: Check
    summary: str
    sections: tuple[tuple[str, str], ...]

    def section(self, title: str) -> str:
        """The text under one of `SECTIONS`, '' if the page lacks it."""
        return dict(self.sections).get(title, "")


@dataclass(frozen=True, slots=True)
class _Mark:
    code: str
    name: str
    severity: Severity
    scope: Scope
    deep: bool
    thorough: bool


def rule(
    code: str,
    name: str,
    severity: Severity,
    *,
    scope: Scope = "directory",
    deep: bool = False,
    thorough: bool = False,
) -> Callable[[CheckT], CheckT]:
    """Mark a function as the rule `code` (CKP and three digits) called `name` (kebab case)."""

    def mark(check: CheckT) -> CheckT:
        check.__ckpt_rule__ = _Mark(code, name, severity, scope, deep, thorough)  # type: ignore[attr-defined]  # a plain label
        return check

    return mark


@cache
def all_rules() -> dict[str, Rule]:
    """Every rule by code, in code order.

    Raises:
        ValueError: two rules share a code or a name (a mistake of ours, found by the first test that runs).
    """
    found: dict[str, Rule] = {}
    for family in FAMILIES:
        module = import_module(f"ckpt_inspect.rules.{family}")
        for check in vars(module).values():
            mark = getattr(check, "__ckpt_rule__", None)
            if mark is None or check.__module__ != module.__name__:
                continue
            if mark.code in found or any(known.name == mark.name for known in found.values()):
                raise ValueError(f"rule {mark.code} {mark.name} is defined twice")
            summary, sections = page(getdoc(check) or "")
            found[mark.code] = Rule(
                mark.code, mark.name, mark.severity, mark.scope, mark.deep, mark.thorough, check, summary, sections
            )
    return dict(sorted(found.items()))


def page(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Split a rule's docstring into its first paragraph and its titled sections."""
    pattern = re.compile(rf"^({'|'.join(SECTIONS)}):[ \n]", re.MULTILINE)
    marks = list(pattern.finditer(text))
    summary = text[: marks[0].start()] if marks else text
    sections = tuple(
        (mark.group(1), text[mark.end() : marks[index + 1].start() if index + 1 < len(marks) else None].strip())
        for index, mark in enumerate(marks)
    )
    return " ".join(summary.split()), sections
