"""Runs the chosen rules over a run. A rule that fails on odd input becomes a finding of its own, never an end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_inspect.errors import CkptInspectError
from ckpt_inspect.printable import printable
from ckpt_inspect.progress import NullProgress, Progress
from ckpt_inspect.rules.checked import worst_first
from ckpt_inspect.rules.finding import Finding, Hit, Severity
from ckpt_inspect.rules.registry import Rule
from ckpt_inspect.rules.selection import Selection
from ckpt_inspect.rules.subject import Answers, Subject

if TYPE_CHECKING:
    from ckpt_inspect.run import Run

UNDECIDED = "CKP000"


def run_rules(
    run: Run, selection: Selection, *, base: Path | None = None, progress: Progress | None = None
) -> tuple[Finding, ...]:
    """Every finding of the selected rules, worst first."""
    answers = Answers(run, base)
    observer = progress or NullProgress()
    findings: dict[tuple[str, str, str | None, str], Finding] = {}
    for rule in selection.rules.values():
        for subject in _subjects(run, rule, answers, observer, thorough=selection.thorough):
            for finding in _apply(rule, subject, selection.severities[rule.code]):
                findings.setdefault((finding.rule, finding.path, finding.tensor, finding.message), finding)
    return worst_first(findings.values())


def _subjects(run: Run, rule: Rule, answers: Answers, progress: Progress, *, thorough: bool) -> Iterator[Subject]:
    places = {"run": (run,), "directory": run.states, "checkpoint": run.checkpoints}[rule.scope]
    for place in places:
        yield Subject(run, place, answers, progress, thorough)


def _apply(rule: Rule, subject: Subject, severity: Severity) -> Iterator[Finding]:
    try:
        for hit in rule.check(subject):
            yield _finding(rule, hit, severity)
    except CkptInspectError as error:
        yield _undecided(rule, subject, str(error))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        yield _undecided(rule, subject, f"{type(error).__name__}: {error}")


def _finding(rule: Rule, hit: Hit, severity: Severity) -> Finding:
    # A severity chosen by the user outranks the case's own; the rule's default does not.
    level = hit.severity if hit.severity is not None and severity == rule.severity else severity
    remedy = hit.remedy if hit.remedy is not None else " ".join(rule.section("How to fix").split())
    return Finding(rule.code, rule.name, level, hit.path, hit.tensor, hit.message, remedy, hit.evidence)


def _undecided(rule: Rule, subject: Subject, why: str) -> Finding:
    return Finding(
        UNDECIDED,
        "rule-undecided",
        "note",
        subject.place.path,
        None,
        f"{rule.code} {rule.name} could not be decided: {printable(why, 200)}",
        "Please report it with the file that causes it.",
        {"rule": rule.code},
    )
