"""SARIF, JUnit, GitHub annotations and Markdown of the same report, with hostile text in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

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
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "out/run%20one/checkpoint-4/a%2C%20b%3Ac%25.bin"
    assert location["logicalLocations"][0]["fullyQualifiedName"] == EVIL
    assert document["runs"][0]["invocations"][0]["executionSuccessful"] is False
    assert results[1]["properties"]["evidence"]["value"] == "NaN"


SCHEMA = json.loads((Path(__file__).parent / "schemas" / "sarif-2.1.0-rtm.5.json").read_text())


@pytest.mark.parametrize("report", [REPORT, CLEAN])
def test_sarif_is_valid_against_the_schema(report: CheckReport) -> None:
    jsonschema.Draft4Validator.check_schema(SCHEMA)
    document = json.loads(sarif(report, {"CKP001": RULE}, "1.0"))
    errors = [error.message for error in jsonschema.Draft4Validator(SCHEMA).iter_errors(document)]
    assert errors == []


def test_the_schema_refuses_what_is_not_sarif() -> None:
    document = json.loads(sarif(REPORT, {"CKP001": RULE}, "1.0"))
    document["runs"][0]["results"][0]["level"] = "fatal"
    assert not jsonschema.Draft4Validator(SCHEMA).is_valid(document)


def test_sarif_rule_indexes_point_at_the_rule() -> None:
    document = json.loads(sarif(REPORT, {"CKP999": RULE}, "1.0"))  # the first finding's rule is not described
    run = document["runs"][0]
    assert ["ruleIndex" in result for result in run["results"]] == [False, True]
    assert len(run["tool"]["driver"]["rules"]) == run["results"][1]["ruleIndex"] + 1


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


# Element -> its attributes and children, as Jenkins' xunit plugin (junit-10.xsd) and GitLab read them.
JUNIT = {
    "testsuites": ({"name", "tests", "failures", "errors", "time"}, {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors", "skipped", "time"}, {"testcase"}),
    "testcase": ({"name", "classname", "time"}, {"skipped", "error", "failure"}),
    "skipped": ({"message", "type"}, set()),
    "error": ({"message", "type"}, set()),
    "failure": ({"message", "type"}, set()),
}
REQUIRED = {"testsuite": {"name", "tests"}, "testcase": {"name", "classname"}}


@pytest.mark.parametrize("report", [REPORT, CLEAN])
def test_junit_has_only_elements_and_attributes_of_its_schema(report: CheckReport) -> None:
    root = ElementTree.fromstring(junit(report, ("error", "warning")))
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, children = JUNIT[element.tag]
        assert set(element.keys()) <= attributes
        assert REQUIRED.get(element.tag, set()) <= set(element.keys())
        assert {child.tag for child in element} <= children
        assert element.tag != "testcase" or len(element) <= 1
    for name in ("tests", "failures", "errors"):
        assert root.get(name) == str(sum(int(suite.get(name, "")) for suite in root))


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
