"""Markdown for a job summary or a pull request comment (GitHub flavoured)."""

from __future__ import annotations

import re

from ckpt_inspect.rules.checked import CheckedRun, CheckReport
from ckpt_inspect.rules.finding import SEVERITIES, Summary

_HEADING = {"error": "Errors", "warning": "Warnings", "note": "Notes"}


def markdown(report: CheckReport) -> str:
    """A table of paths when there are several, then each path's findings worst first."""
    parts = ["## ckpt-inspect\n"]
    if len(report.runs) > 1:
        rows = [f"| {code(run.path)} | {_verdict(run)} |" for run in report.runs]
        parts.append("| run | result |\n| --- | --- |\n" + "\n".join(rows) + "\n")
    parts.extend(_run(run) for run in report.runs)
    return "\n".join(parts)


def _run(run: CheckedRun) -> str:
    lines = [f"### {code(run.path)}\n", f"{_verdict(run)}\n"]
    for severity in SEVERITIES:
        findings = [finding for finding in run.findings if finding.severity == severity]
        if not findings:
            continue
        lines += [f"#### {_HEADING[severity]}\n", "| rule | where | what | what to do |", "| --- | --- | --- | --- |"]
        for finding in findings:
            where = code(finding.path or ".") + (f" {code(finding.tensor)}" if finding.tensor else "")
            lines.append(
                f"| {finding.rule} {finding.name} | {where} | {plain(finding.message)} | {plain(finding.remedy)} |"
            )
        lines.append("")
    missed = [outcome for outcome in run.outcomes if not outcome.met]
    if missed:
        lines += ["#### Expectations not met\n", *(f"- {plain(outcome.message)}" for outcome in missed), ""]
    return "\n".join(lines)


def _verdict(run: CheckedRun) -> str:
    if run.unreadable:
        return f"cannot be read: {plain(run.unreadable)}"
    text = counted(run.summary)
    missed = sum(not outcome.met for outcome in run.outcomes)
    return f"{text}, {missed} of {len(run.outcomes)} expectations not met" if missed else text


def counted(summary: Summary) -> str:
    """The counts in words."""
    pairs = ((summary.errors, "error"), (summary.warnings, "warning"), (summary.notes, "note"))
    named = [f"{number} {word}{'' if number == 1 else 's'}" for number, word in pairs if number]
    return ", ".join(named) or "no findings"


def plain(text: str) -> str:
    """Text that Markdown renders as itself, on one line, inside a table cell."""
    text = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([`*_\[\]()#|~!{}])", r"\\\1", text)
    text = text.replace("@", "&#64;").replace("://", ":&#8203;//")
    return " ".join(text.split())


def code(text: str) -> str:
    """A code span: its fence is longer than any run of backticks inside, pipes stay in their cell."""
    text = " ".join(text.split()).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{pad}{text}{pad}{fence}"
