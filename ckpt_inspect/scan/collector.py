"""Gathers what is learnt about one file while its parts are looked at, and counts what the looking costs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

from ckpt_inspect import knowledge
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.pickle_nodes import Global
from ckpt_inspect.formats.zip_content import InflateBudget
from ckpt_inspect.printable import printable
from ckpt_inspect.scan.tiers import Standing
from ckpt_inspect.scan.verdicts import (
    Coverage,
    GlobalUse,
    ScanFinding,
    ScannedFile,
    ScannedGlobal,
    Severity,
    Verdict,
    less_covered,
    rank,
    worse,
)

_USE_RANK: dict[GlobalUse, int] = {"reference": 0, "instance": 1, "call": 2}
_FINDINGS_PER_KIND = 12
_GLOBALS = 2_000
_SEVERITY_OF_VERDICT: dict[Verdict, Severity] = {
    "clean": "note",
    "known": "note",
    "unknown": "warning",
    "suspicious": "error",
    "dangerous": "error",
}

_Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """Budgets of one file, shared by everything nested in it.

    `inflated` bytes held after decompression; `nesting` of containers; `pickles` in all; `members` looked at in all;
    `text` bytes searched for secrets; `seconds` of wall clock, None for no such limit.
    """

    inflated: int = 64 << 20
    nesting: int = 3
    pickles: int = 200_000
    pickles_per_stream: int = 16
    members: int = 300_000
    text: int = 64 << 20
    seconds: float | None = None


class LimitReachedError(Exception):
    """The time for one file is used up."""


class Collector:
    """The findings, names and coverage of one file."""

    def __init__(self, limits: ScanLimits) -> None:
        self.limits = limits
        self.inflate = InflateBudget(limits.inflated)
        self.pickles_left = limits.pickles
        self.members_left = limits.members
        self.text_left = limits.text
        self.coverage: Coverage = "complete"
        self.verdict: Verdict = "clean"
        self._deadline = None if limits.seconds is None else time.monotonic() + limits.seconds
        self._globals: dict[_Key, ScannedGlobal] = {}
        self._findings: list[ScanFinding] = []
        self._met: Counter[tuple[str, Verdict]] = Counter()

    def tick(self) -> None:
        """Look at the clock.

        Raises:
            LimitReachedError: the file has had its time.
        """
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise LimitReachedError

    def note(
        self,
        kind: str,
        verdict: Verdict,
        message: str,
        *,
        place: str = "",
        offset: int | None = None,
        severity: Severity | None = None,
    ) -> None:
        """Add a finding; of each kind the first dozen are kept, the verdict counts always."""
        self.verdict = worse(self.verdict, verdict)
        self._met[kind, verdict] += 1
        if self._met[kind, verdict] <= _FINDINGS_PER_KIND:
            level = severity or _SEVERITY_OF_VERDICT[verdict]
            self._findings.append(ScanFinding(kind, verdict, printable(message, 300), place, offset, level))

    def note_fault(self, fault: Fault, place: str = "") -> None:
        """Add what a reader found wrong; ``knowledge/scan.toml`` says what it makes of the file."""
        verdict, coverage = fault_meaning(fault.kind)
        self.cover(coverage)
        if verdict == "clean" and coverage == "complete":
            return
        inside = fault.place or ""
        self.note(fault.kind, verdict, fault.message, place=_join(place, inside), offset=fault.offset)

    @property
    def names(self) -> Mapping[_Key, ScannedGlobal]:
        """The names met so far, as (module, name)."""
        return self._globals

    def raise_verdict(self, verdict: Verdict) -> None:
        """Make the verdict at least this bad without a finding."""
        self.verdict = worse(self.verdict, verdict)

    def cover(self, coverage: Coverage) -> None:
        """Say that something was understood only this far."""
        self.coverage = less_covered(self.coverage, coverage)

    def name(self, found: Global, use: GlobalUse, standing: Standing, place: str) -> None:
        """Add a name; uses of the same name become one entry, with the strongest use."""
        key = (found.module, found.name)
        known = self._globals.get(key)
        if known is not None:
            stronger = use if _USE_RANK[use] > _USE_RANK[known.use] else known.use
            self._globals[key] = replace(known, use=stronger, count=known.count + 1)
        elif len(self._globals) < _GLOBALS:
            self._globals[key] = ScannedGlobal(
                found.dotted, use, standing.tier, place, found.offset, 1, standing.reason, standing.family
            )
        else:
            self.cover("partial")

    def result(
        self, path: str, format_: str, *, artifact: str | None, size: int, loads: bool | None, reason: str | None
    ) -> ScannedFile:
        """The file's answer. Without complete coverage nothing is called clean."""
        verdict = self.verdict
        if self.coverage != "complete" and rank(verdict) < rank("unknown"):
            verdict = "unknown"
        findings = list(self._findings)
        for (kind, level), count in self._met.items():
            if count > _FINDINGS_PER_KIND:
                more = f"{count - _FINDINGS_PER_KIND} more of this kind"
                findings.append(ScanFinding(kind, level, more, severity=_SEVERITY_OF_VERDICT[level]))
        findings.sort(key=lambda finding: -rank(finding.verdict))
        return ScannedFile(
            path,
            format_,
            verdict,
            self.coverage,
            tuple(self._globals.values()),
            tuple(findings),
            loads,
            reason,
            artifact,
            size,
        )


def fault_meaning(kind: str) -> tuple[Verdict, Coverage]:
    """What a reader's fault makes of a file, and of how far it was understood."""
    table = knowledge.load("scan")
    row = table["fault"].get(kind)
    if row is None:
        for prefix, default in table["default"].items():
            if kind.startswith(prefix):
                row = default
                break
    if row is None:
        return "known", "complete"
    return cast(Verdict, row.get("verdict", "known")), cast(Coverage, row.get("coverage", "complete"))


def _join(outer: str, inner: str) -> str:
    if not outer or not inner or outer == inner:
        return outer or inner
    return f"{outer}!{inner}"
