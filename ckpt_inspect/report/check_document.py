"""The `check` document: findings as data, one object for one path, a list of them for several."""

from __future__ import annotations

from typing import Any

from ckpt_inspect import __version__
from ckpt_inspect.explain.answer import plain
from ckpt_inspect.rules.checked import CheckedRun, CheckReport
from ckpt_inspect.rules.finding import Finding, Summary


def check_document(report: CheckReport) -> dict[str, Any]:
    """The report in the keys of the contract; with several paths `findings` is all of them and `runs` tells them apart."""
    single = report.runs[0] if len(report.runs) == 1 else None
    document: dict[str, Any] = {
        "schema": "ckpt-inspect/check/1",
        "tool_version": __version__,
        "path": single.path if single is not None else [run.path for run in report.runs],
        "summary": _summary(report.summary),
        "findings": [_finding(finding) for run in report.runs for finding in run.findings],
        "runs": [_run(run) for run in report.runs],
    }
    return document


def _run(run: CheckedRun) -> dict[str, Any]:
    return {
        "path": run.path,
        "summary": _summary(run.summary),
        "unreadable": run.unreadable,
        "findings": [_finding(finding) for finding in run.findings],
        "expectations": [
            {"expression": outcome.expectation.text, "met": outcome.met, "message": outcome.message}
            for outcome in run.outcomes
        ],
        "known": run.known,
        "not_shown": run.cut,
    }


def _summary(summary: Summary) -> dict[str, int]:
    return {"errors": summary.errors, "warnings": summary.warnings, "notes": summary.notes}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "name": finding.name,
        "severity": finding.severity,
        "path": finding.path,
        "tensor": finding.tensor,
        "message": finding.message,
        "remedy": finding.remedy,
        "evidence": plain(finding.evidence),
    }
