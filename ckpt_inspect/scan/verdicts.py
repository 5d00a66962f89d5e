"""The answers of a scan: how dangerous a file is, how much of it was understood, which names it calls and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ckpt_inspect.scan.tiers import Tier

Verdict: TypeAlias = Literal["clean", "known", "unknown", "suspicious", "dangerous"]
Coverage: TypeAlias = Literal["complete", "partial", "malformed"]
GlobalUse: TypeAlias = Literal["reference", "instance", "call"]
Severity: TypeAlias = Literal["error", "warning", "note"]

VERDICTS: tuple[Verdict, ...] = ("clean", "known", "unknown", "suspicious", "dangerous")
_RANK = {verdict: rank for rank, verdict in enumerate(VERDICTS)}
_COVERAGE_RANK = {"complete": 0, "partial": 1, "malformed": 2}


def worse(one: Verdict, other: Verdict) -> Verdict:
    """The worse of two verdicts."""
    return one if _RANK[one] >= _RANK[other] else other


def rank(verdict: Verdict) -> int:
    """0 for "clean" to 4 for "dangerous"."""
    return _RANK[verdict]


def less_covered(one: Coverage, other: Coverage) -> Coverage:
    """The poorer of two coverages."""
    return one if _COVERAGE_RANK[one] >= _COVERAGE_RANK[other] else other


@dataclass(frozen=True, slots=True)
class ScannedGlobal:
    """A name that loading a file would resolve: hostile text, print it only through `printable`.

    `use` is the strongest thing done with it: named, made an instance of without its constructor, or called.
    `place` is the member it stands in ("" for the file itself), `offset` its first byte there, `count` how often it is
    used.
    """

    name: str
    use: GlobalUse
    tier: Tier
    place: str = ""
    offset: int = 0
    count: int = 1
    reason: str = ""
    family: str = ""


@dataclass(frozen=True, slots=True)
class ScanFinding:
    """One thing worth knowing about a file. `kind` is a key of ``knowledge/faults``; `verdict` what it makes of the file.

    `message` is one plain clause that has passed `printable`; `place` is hostile text.
    """

    kind: str
    verdict: Verdict
    message: str
    place: str = ""
    offset: int | None = None
    severity: Severity = "note"


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """One file. `path` is relative to what was scanned; `format` is what its bytes are; `artifact` its kind by name.

    `loads_with_weights_only` says whether ``torch.load(weights_only=True)`` of torch 2.13 reads it, None for files that
    are not torch's; `reason` says why not. Never "clean" with a coverage that is not "complete".
    """

    path: str
    format: str
    verdict: Verdict
    coverage: Coverage
    globals: tuple[ScannedGlobal, ...] = ()
    findings: tuple[ScanFinding, ...] = ()
    loads_with_weights_only: bool | None = None
    reason: str | None = None
    artifact: str | None = None
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What a scan of a file or a directory found, files in path order."""

    path: str
    files: tuple[ScannedFile, ...]
    table_version: str = ""
    problems: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all files."""
        return max((file.verdict for file in self.files), key=rank, default="clean")

    @property
    def coverage(self) -> Coverage:
        """The poorest coverage of all files."""
        found: Coverage = "complete"
        for file in self.files:
            found = less_covered(found, file.coverage)
        return found
