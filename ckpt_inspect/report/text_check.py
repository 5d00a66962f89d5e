"""Findings for a terminal: worst first, each with its place, what is wrong, and what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ckpt_inspect.printable import printable
from ckpt_inspect.report.markdown import counted
from ckpt_inspect.rules.checked import CheckedRun, CheckReport
from ckpt_inspect.rules.finding import Finding

_COLOURS = {"error": "31;1", "warning": "33;1", "note": "36"}


def check_text(report: CheckReport, *, width: int, color: bool) -> str:
    """The report as text of at most `width` columns, with a table of the paths when there are several."""
    blocks = [_run(run, width, color, several=len(report.runs) > 1) for run in report.runs]
    if len(report.runs) > 1:
        quiet = [run for run in report.runs if not (run.findings or run.outcomes or run.unreadable)]
        blocks = [block for run, block in zip(report.runs, blocks, strict=True) if run not in quiet]
        blocks.append(_table(report.runs, width, color))
    return "\n".join(blocks)


def _run(run: CheckedRun, width: int, color: bool, *, several: bool) -> str:
    name = printable(run.path, 200)
    if run.unreadable:
        return f"{_paint('unreadable', 'error', color)} {printable(run.unreadable, 300)}\n"
    lines = [f"{name}:"] if several else []
    for finding in run.findings:
        lines += _finding(finding, width, color)
    for outcome in run.outcomes:
        mark = _paint("met", "note", color) if outcome.met else _paint("not met", "error", color)
        lines.append(f"{mark}  {outcome.message}")
    if run.cut:
        lines.append(f"... and {run.cut} more (--max-findings)")
    known = f", {run.known} known left out" if run.known else ""
    lines.append(f"{name}: {counted(run.summary)}{known}.")
    return "\n".join(lines) + "\n"


def _finding(finding: Finding, width: int, color: bool) -> list[str]:
    place = printable(finding.path or ".", 120) + (f" [{printable(finding.tensor, 80)}]" if finding.tensor else "")
    head = f"{_paint(finding.severity, finding.severity, color)} {finding.rule} {finding.name}: {place}"
    body = textwrap.wrap(finding.message, max(width - 2, 38), initial_indent="  ", subsequent_indent="  ")
    remedy = textwrap.wrap(f"-> {finding.remedy}", max(width - 2, 38), initial_indent="  ", subsequent_indent="     ")
    return [head, *body, *(remedy if finding.remedy else []), ""]


def _table(runs: Sequence[CheckedRun], width: int, color: bool) -> str:
    room = max(width - 40, 20)
    names = [printable(run.path, 300) for run in runs]
    column = min(max((len(name) for name in names), default=0), room)
    lines = []
    for run, name in zip(runs, names, strict=True):
        shown = name if len(name) <= column else f"...{name[3 - column :]}"
        missed = sum(not outcome.met for outcome in run.outcomes)
        text = "unreadable" if run.unreadable else counted(run.summary)
        text += f", {missed} expectations not met" if missed else ""
        worst = "error" if run.unreadable or run.summary.errors or missed else "warning" if run.summary.warnings else ""
        lines.append(f"{shown:<{column}}  {_paint(text, worst, color) if worst else text}")
    return "\n".join(lines) + "\n"


def _paint(text: str, severity: str, color: bool) -> str:
    return f"\x1b[{_COLOURS[severity]}m{text}\x1b[0m" if color else text
