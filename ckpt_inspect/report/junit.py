"""JUnit XML as Jenkins, GitLab and GitHub actions read it: a suite per path, a case per finding or expectation."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from ckpt_inspect.rules.checked import CheckedRun, CheckReport
from ckpt_inspect.rules.finding import Finding, Severity


def junit(report: CheckReport, failing: tuple[Severity, ...]) -> str:
    """The report; findings whose severity is in `failing` are failures, the others skipped with their message."""
    suites = [_suite(run, failing) for run in report.runs]
    tests = sum(count for _, count, _, _ in suites)
    failures = sum(count for _, _, count, _ in suites)
    errors = sum(count for _, _, _, count in suites)
    body = "".join(text for text, *_ in suites)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<testsuites name="ckpt-inspect" tests="{tests}" failures="{failures}" errors="{errors}">\n{body}</testsuites>\n'
    )


def _suite(run: CheckedRun, failing: tuple[Severity, ...]) -> tuple[str, int, int, int]:
    cases: list[str] = []
    failures = errors = skipped = 0
    if run.unreadable:
        errors += 1
        cases.append(_case("readable", run.path, "error", "unreadable", str(run.unreadable), ""))
    for finding in run.findings:
        name = f"{finding.rule} {finding.name}"
        place = "/".join(part for part in (run.path, finding.path) if part)
        if finding.severity in failing:
            failures += 1
            cases.append(_case(name, place, "failure", finding.severity, finding.message, _body(finding)))
        else:
            skipped += 1
            cases.append(_case(name, place, "skipped", None, finding.message, None))
    for outcome in run.outcomes:
        kind = None if outcome.met else "failure"
        failures += kind is not None
        cases.append(_case(f"expect {outcome.expectation.text}", run.path, kind, "expectation", outcome.message, ""))
    if not cases:
        cases.append(_case("no findings", run.path, None, None, "", None))
    head = (
        f'  <testsuite name={_attribute(run.path)} tests="{len(cases)}" failures="{failures}" '
        f'errors="{errors}" skipped="{skipped}">\n'
    )
    return f"{head}{''.join(cases)}  </testsuite>\n", len(cases), failures, errors


def _case(name: str, place: str, kind: str | None, category: str | None, message: str, body: str | None) -> str:
    opening = f"    <testcase name={_attribute(name)} classname={_attribute(place)}"
    if kind is None:
        return f"{opening}/>\n"
    label = f" type={_attribute(category)}" if category else ""
    inner = f"<{kind}{label} message={_attribute(message)}"
    inner += f">{_text(body)}</{kind}>" if body is not None else "/>"
    return f"{opening}>\n      {inner}\n    </testcase>\n"


def _body(finding: Finding) -> str:
    tensor = f"tensor: {finding.tensor}\n" if finding.tensor else ""
    evidence = "".join(f"{key}: {value}\n" for key, value in finding.evidence.items())
    return f"{finding.message}\n{tensor}{evidence}{finding.remedy}"


def _attribute(text: str) -> str:
    return quoteattr(_legal(text), {"\n": "&#10;"})


def _text(text: str) -> str:
    return escape(_legal(text))


def _legal(text: str) -> str:
    """XML 1.0 has no way to write most control characters and lone surrogates."""
    return "".join(
        character
        if character in "\t\n\r"
        or " " <= character <= "\ud7ff"
        or "\ue000" <= character <= "\ufffd"
        or character > "\uffff"
        else f"\\u{{{ord(character):x}}}"
        for character in text
    )
