"""The result of a check: what every report format renders, and what the exit code is decided from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ckpt_inspect.rules.expect import Outcome
from ckpt_inspect.rules.finding import SEVERITIES, Finding, Severity, Summary


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """One path: its findings worst first, the expectations held to it, or the one line why it could not be read.

    `known` counts findings left out because a baseline lists them, `cut` those beyond ``--max-findings``.
    """

    path: str
    findings: tuple[Finding, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    unreadable: str | None = None
    known: int = 0
    cut: int = 0

    @property
    def summary(self) -> Summary:
        """Findings by severity."""
        return Summary.of(self.findings)

    def fails(self, *, failing: Severity = "error") -> bool:
        """Whether a finding is at or above `failing`, or an expectation was missed."""
        levels = SEVERITIES[: SEVERITIES.index(failing) + 1]
        return any(finding.severity in levels for finding in self.findings) or any(
            not outcome.met for outcome in self.outcomes
        )


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All paths of one call."""

    runs: tuple[CheckedRun, ...]

    @property
    def summary(self) -> Summary:
        """Findings of all paths by severity."""
        return Summary.of(finding for run in self.runs for finding in run.findings)

    def exit_code(self, *, failing: Severity = "error") -> int:
        """0 when nothing is at or above `failing`; 1 for a finding or a missed expectation; 3 when a path is unreadable."""
        if any(run.unreadable for run in self.runs):
            return 3
        return 1 if any(run.fails(failing=failing) for run in self.runs) else 0


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sorted by severity, then place, then rule."""
    return tuple(sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), finding.path, finding.rule)))
