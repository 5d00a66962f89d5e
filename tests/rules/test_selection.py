"""Choosing rules: the more specific choice wins, and what does not exist is a usage error with a suggestion."""

from __future__ import annotations

import pytest

from ckpt_inspect.errors import UsageError
from ckpt_inspect.rules.registry import Rule, page
from ckpt_inspect.rules.selection import select_rules


def made(code: str, name: str, *, deep: bool = False) -> Rule:
    return Rule(code, name, "warning", "directory", deep, False, lambda subject: iter(()), "It finds.", ())


RULES = {
    rule.code: rule
    for rule in (
        made("CKP001", "no-weights"),
        made("CKP401", "missing-rank"),
        made("CKP402", "extra-rank"),
        made("CKP101", "nan-weights", deep=True),
    )
}


def chosen(**options: object) -> list[str]:
    return list(select_rules(RULES, **options).rules)


def test_all_cheap_rules_by_default() -> None:
    assert chosen() == ["CKP001", "CKP401", "CKP402"]


def test_deep_rules_on_request() -> None:
    assert "CKP101" in chosen(deep=True)


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        (dict(select=["CKP4"]), ["CKP401", "CKP402"]),
        (dict(select=["missing-rank"]), ["CKP401"]),
        (dict(select=["ckp401"]), ["CKP401"]),
        (dict(ignore=["CKP4"]), ["CKP001"]),
        (dict(select=["CKP4"], ignore=["CKP401"]), ["CKP402"]),
        (dict(select=["CKP401"], ignore=["CKP4"]), ["CKP401"]),
        (dict(select=["CKP"], ignore=["missing-rank"]), ["CKP001", "CKP402"]),
        (dict(severity={"CKP402": "off"}), ["CKP001", "CKP401"]),
    ],
)
def test_the_more_specific_choice_wins(options: dict[str, object], codes: list[str]) -> None:
    assert chosen(**options) == codes


def test_severity_by_prefix_then_by_code() -> None:
    selection = select_rules(RULES, severity={"CKP4": "note", "CKP401": "error"})
    assert selection.severities == {"CKP001": "warning", "CKP401": "error", "CKP402": "note"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(select=["mising-rank"]), "missing-rank"),
        (dict(ignore=["XYZ"]), "no rule"),
        (dict(select=[""]), "no rule"),
        (dict(severity={"CKP401": "fatal"}), "not one of error"),
    ],
)
def test_what_does_not_exist_is_a_usage_error(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        chosen(**options)
    assert words in str(caught.value)


def test_a_docstring_is_split_into_its_page() -> None:
    summary, sections = page("It finds\na thing.\n\nWhy it matters: because.\n\nHow to fix: do\nthat.\n\nSource: here.")
    assert summary == "It finds a thing."
    assert dict(sections) == {"Why it matters": "because.", "How to fix": "do\nthat.", "Source": "here."}
