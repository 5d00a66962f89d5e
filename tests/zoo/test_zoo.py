"""Every rule fires on its fault, and nothing fires that does not follow from that fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_inspect.rules.registry import SECTIONS, all_rules
from zoo.frame import Case, all_cases, before, findings_of, specimen

RULES = all_rules()


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_the_rule_and_only_what_follows_from_its_fault_fires(case: Case, tmp_path: Path) -> None:
    known = before(case.base, case.deep, case.model)
    run = specimen(case, tmp_path)
    found = findings_of(run, deep=case.deep, model=case.model)
    exact = {(finding.fingerprint, finding.message) for finding in known}
    places = {finding.fingerprint for finding in known}
    assert any(f.rule == case.rule and (f.fingerprint, f.message) not in exact for f in found), _told(found)
    new = {finding.rule for finding in found if finding.fingerprint not in places} - {case.rule}
    assert new - case.also == set(), _told(f for f in found if f.rule in new - case.also)
    assert case.also - {finding.rule for finding in found} == set(), "named in `also` and did not fire"


def _told(findings) -> str:
    return "\n".join(f"{f.rule} {f.severity} {f.path}: {f.message}" for f in findings)


@pytest.mark.parametrize("code", RULES)
def test_every_rule_has_a_case(code: str) -> None:
    assert any(case.rule == code for case in all_cases()), f"{code} {RULES[code].name} has no case in the zoo"


@pytest.mark.parametrize("code", RULES)
def test_every_rule_has_a_complete_page(code: str) -> None:
    page = RULES[code]
    assert page.summary.endswith(".")
    assert [title for title in SECTIONS if not page.section(title)] == []


def test_cases_name_rules_that_exist() -> None:
    named = {code for case in all_cases() for code in (case.rule, *case.also)}
    assert named - set(RULES) == set()
