"""GitHub workflow commands: ``::error file=...::message`` (docs.github.com, "Workflow commands for GitHub Actions")."""

from __future__ import annotations

from pathlib import PurePath

from ckpt_inspect.rules.checked import CheckReport

_LEVEL = {"error": "error", "warning": "warning", "note": "notice"}


def github(report: CheckReport) -> str:
    """One annotation per finding, missed expectation and unreadable path; '' when there is none."""
    lines: list[str] = []
    for run in report.runs:
        if run.unreadable:
            lines.append(_command("error", run.path, "unreadable", run.unreadable))
        for finding in run.findings:
            place = PurePath(run.path, finding.path).as_posix() if finding.path else run.path
            tensor = f" [{finding.tensor}]" if finding.tensor else ""
            text = f"{finding.message}{tensor} {finding.remedy}".strip()
            lines.append(_command(_LEVEL[finding.severity], place, f"{finding.rule} {finding.name}", text))
        lines.extend(
            _command("error", run.path, "expectation", outcome.message) for outcome in run.outcomes if not outcome.met
        )
    return "".join(f"{line}\n" for line in lines)


def _command(level: str, file: str, title: str, message: str) -> str:
    return f"::{level} file={_property(file)},title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
