"""A finding: one rule that fired, where, on what evidence, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

_WORD = re.compile(r"(?!latest\b)[a-z][a-z'-]*(?=[\s,:;]|$)")

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # worst first


def capitalised(text: str) -> str:
    """A sentence's beginning in upper case, where it is a word: names of files and tensors stay as they are."""
    return text[:1].upper() + text[1:] if _WORD.match(text) else text


@dataclass(frozen=True, slots=True)
class Hit:
    """What a rule yields: the place (path below the run, '' for the run itself), one sentence, and the trigger.

    `remedy` replaces the rule's own advice where the case allows better; `severity` likewise (a rule may be an
    error for resuming and a note for inference). Text from files inside `message` has already passed `printable`.
    """

    path: str
    message: str
    remedy: str | None = None
    tensor: str | None = None
    severity: Severity | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """A hit with its rule's identity; the unit every report format renders."""

    rule: str
    name: str
    severity: Severity
    path: str
    tensor: str | None
    message: str
    remedy: str
    evidence: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """What makes it the same finding in a later run: rule, place and tensor, not the wording."""
        return "|".join((self.rule, self.path, self.tensor or ""))


@dataclass(frozen=True, slots=True)
class Summary:
    """How many findings of each severity."""

    errors: int
    warnings: int
    notes: int

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> Summary:
        """Count them."""
        levels = [finding.severity for finding in findings]
        return cls(levels.count("error"), levels.count("warning"), levels.count("note"))
