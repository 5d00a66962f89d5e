"""SARIF, JUnit, GitHub annotations and Markdown of the same report, with hostile text in it."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

from ckpt_inspect.printable import printable
from ckpt_inspect.report.github import github
from ckpt_inspect.report.junit import junit
from ckpt_inspect.report.markdown import markdown
from ckpt_inspect.report.sarif import sarif
from ckpt_inspect.rules.checked import CheckedRun, CheckReport
from ckpt_inspect.rules.expect import evaluate, parse_expectation
from ckpt_inspect.rules.finding import Finding
from ckpt_inspect.rules.registry import Rule

EVIL = printable("x\x1b]0;t\x07\r\n::error::<script>|`]]>&amp;\u202e@all \ud800 https://evil.example [a](b)")
RULE = Rule("CKP001", "no-weights", "error", "checkpoint", False, False, lambda subject: iter(()), "No weights.", ())
FINDINGS = (
    Finding("CKP001", "no-weights", "error", "checkpoint-4/a, b:c%.bin", EVIL, f"Odd {EVIL}.", "Fix it.", {"n": EVIL}),
    Finding("CKP999", "a-note", "note", "", None, "Only a note.", "", {"value": float("nan")}),
)
DOCUMENT = {"loss": {"final": {"step": 3, "value": 2.5}}}
OUTCOMES = tuple(evaluate(parse_expectation(text), DOCUMENT) for text in ("loss.final < 3", "loss.final < 2"))
REPORT = CheckReport(
    (CheckedRun("out/run one", FINDINGS, OUTCOMES), CheckedRun("gone", unreadable="gone: no such directory"))
)
CLEAN = CheckReport((CheckedRun("out"),))


def test_sarif_places_each_finding_on_its_file_and_tensor() -> None:
    document = json.loads(sarif(REPORT, {"CKP001": RULE}, "1.0"))
    results = document["runs"][0]["results"]
    assert [result["level"] for result in results] == ["error", "note"]
    location = results[0]["locations"][0]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "out/run%20one/checkpoint-4/a%2C%20b:c%25.bin"
    assert location["logicalLocations"][0]["fullyQualifiedName"] == EVIL
    assert document["runs"][0]["invocations"][0]["executionSuccessful"] is False
    assert results[1]["properties"]["evidence"]["value"] == "NaN"


def test_sarif_is_ascii() -> None:
    assert sarif(REPORT, {"CKP001": RULE}, "1.0").isascii()


def test_junit_counts_agree_with_its_cases() -> None:
    root = ElementTree.fromstring(junit(REPORT, ("error",)))
    suites = root.findall("testsuite")
    assert [suite.get("failures") for suite in suites] == ["2", "0"]
    assert [suite.get("errors") for suite in suites] == ["0", "1"]
    for suite in suites:
        assert int(suite.get("tests", "")) == len(suite.findall("testcase"))
        assert int(suite.get("failures", "")) == len(suite.findall("testcase/failure"))
        assert int(suite.get("skipped", "")) == len(suite.findall("testcase/skipped"))


def test_junit_of_a_clean_run_has_one_passing_case() -> None:
    root = ElementTree.fromstring(junit(CLEAN, ("error",)))
    assert len(root.findall("testsuite/testcase")) == 1
    assert root.get("failures") == "0"


def test_github_commands_stay_on_their_lines() -> None:
    lines = github(REPORT).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::error", "::notice", "::error", "::error"]
    assert "file=out/run one/checkpoint-4/a%2C b%3Ac%25.bin," in lines[0]


def test_github_says_nothing_about_a_clean_run() -> None:
    assert github(CLEAN) == ""


def test_markdown_neutralises_what_a_file_says() -> None:
    text = markdown(REPORT)
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)  # code spans are shown as they are
    assert "<script>" in text
    for syntax in ("<script>", "@all", "](b)", "https://"):
        assert syntax not in outside
    rows = [line for line in text.splitlines() if line.startswith("| CKP")]
    assert len(rows) == 2
    assert "1 of 2 expectations not met" in text


def test_exit_codes() -> None:
    assert CLEAN.exit_code() == 0
    assert REPORT.exit_code() == 3
    assert CheckReport(REPORT.runs[:1]).exit_code() == 1
    only_note = CheckReport((CheckedRun("a", FINDINGS[1:]),))
    assert only_note.exit_code() == 0
    assert only_note.exit_code(failing="note") == 1
