"""The planner's own checks of DeepSpeed's shards (:mod:`ckpt_inspect.consolidate`), as hits of rules; read once for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ckpt_inspect.consolidate.problems import Problem
from ckpt_inspect.rules.finding import Hit, Severity, capitalised
from ckpt_inspect.rules.subject import Subject


def survey(subject: Subject, *, complete: bool = False) -> tuple[Problem, ...]:
    """Everything the planner finds, without the weights' values unless `complete`."""
    place = subject.checkpoint
    if not place.tags and not place.has("latest"):
        return ()
    memo, key = place.memo, "survey_complete" if complete else "survey"
    if key not in memo:
        from ckpt_inspect.consolidate.planning import find_problems

        memo[key] = find_problems(place.tree.root / place.path, depth="complete" if complete else "none")
    found: tuple[Problem, ...] = memo[key]
    return found


def planned(subject: Subject, *checks: str, complete: bool = False) -> Iterator[Hit]:
    """The problems of some checks, as hits. The shards' headers are read once for all rules."""
    place = subject.checkpoint
    merged: dict[tuple[str, str], list[Problem]] = {}
    for problem in survey(subject, complete=complete):
        if problem.check in checks:
            merged.setdefault((problem.check, problem.file or ""), []).append(problem)
    for (check, _), problems in merged.items():
        yield _hit(subject, place.path, check, problems)


def _hit(subject: Subject, path: str, check: str, problems: list[Problem]) -> Hit:
    first = problems[0]
    severity: Severity = first.level if first.level in ("error", "warning") else "note"
    text = capitalised(first.message)
    more = f" And {len(problems) - 1} more like it." if len(problems) > 1 else ""
    where = _below(subject.run.tree.root, path, first.file)
    evidence = {"check": check, "rank": first.rank}
    remedy = f"{capitalised(first.remedy)}." if first.remedy else None
    return Hit(where, f"{text}.{more}", remedy, first.tensor, severity, evidence)


def _below(root: Path, place: str, file: str | None) -> str:
    """The path of a problem's file below the run: the survey states it relative to the checkpoint it opened."""
    if not file:
        return place
    for candidate in (f"{place}/{file}".lstrip("/"), file):
        if (root / candidate).exists():
            return candidate
    return place
