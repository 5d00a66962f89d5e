"""Wrapping, columns and colour; how numbers are said; JSON that every reader takes."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.report.json_text import json_text, jsonable
from ckpt_inspect.report.numbers import counted, listed, loss, number, short_count, size
from ckpt_inspect.report.screen import Screen, Span, shorten, text_width

WORDS = st.text(alphabet="abc -_/漢é", max_size=120)


@given(st.lists(WORDS, max_size=6), st.integers(30, 120))
def test_no_line_is_wider_than_the_screen(parts: list[str], width: int) -> None:
    screen = Screen(width, color=False)
    screen.field("Label", *parts)
    screen.line(*parts, indent=2, hang=6)
    screen.table([[part[:60], "1", part[60:]] for part in parts], right=[1])
    for line in str(screen).splitlines():
        assert text_width(line) <= width


@given(st.lists(WORDS, max_size=6), st.integers(30, 120))
def test_wrapping_loses_no_word(parts: list[str], width: int) -> None:
    screen = Screen(width, color=False)
    screen.line(*parts)
    assert re.sub(r"\s", "", str(screen)) == re.sub(r"\s", "", "".join(parts))


@given(st.lists(WORDS, max_size=6), st.integers(30, 120))
def test_colour_changes_nothing_but_escapes(parts: list[str], width: int) -> None:
    texts = []
    for color in (False, True):
        screen = Screen(width, color=color)
        screen.heading("Title")
        screen.field("Label", *[Span(part, "warn") if index % 2 else part for index, part in enumerate(parts)])
        screen.table([[Span(part, "good"), "x"] for part in parts], head=False)
        texts.append(str(screen))
    assert re.sub(r"\x1b\[\d*m", "", texts[1]).split() == texts[0].split()


def test_a_word_in_two_styles_is_not_torn() -> None:
    screen = Screen(20, color=True)
    screen.line("aaaa aaaa aaaaaa (", Span("bbbb", "bold"), ")")
    assert str(screen).splitlines() == ["aaaa aaaa aaaaaa", "(\x1b[1mbbbb\x1b[0m)"]


def test_wide_characters_take_two_columns() -> None:
    assert text_width("漢字") == 4
    assert text_width("é") == 1
    assert text_width(shorten("漢" * 50, 21)) <= 21


@given(WORDS, st.integers(3, 60))
def test_a_shortened_text_fits_and_keeps_its_ends(text: str, width: int) -> None:
    short = shorten(text, width)
    assert text_width(short) <= width
    if text_width(text) > width > 8:
        assert short[0] == text[0]
        assert short[-1] == text[-1]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_499, "99.5 kB"), (717_000, "717 kB"), (5_030_000, "5.0 MB")],
)
def test_sizes_are_decimal(count: int, text: str) -> None:
    assert size(count) == text


@given(st.integers(0, 10**20))
def test_a_size_is_short_for_any_count(count: int) -> None:
    assert len(size(count)) <= 8 or count >= 10**21


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0794415, "2.0794"),
        (0.0, "0"),
        (12345.6, "12,346"),
        (1e-7, "1e-07"),
        (None, "-"),
        ("NaN", "NaN"),
        (0.25, "0.2500"),
    ],
)
def test_losses_keep_four_decimals(value: object, text: str) -> None:
    assert loss(value) == text


def test_numbers_are_said_as_people_write_them() -> None:
    assert number(1234567) == "1,234,567"
    assert number(1.2345678e-5, 3) == "1.23e-05"
    assert short_count(7_615_616_512) == "7.62 B"
    assert counted(1, "file") == "1 file"
    assert counted(2, "process", "processes") == "2 processes"
    assert listed(["a", "b", "c", "d"], 3) == "a, b and 2 more"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_documents_are_strict_ascii_json(document: dict[str, object]) -> None:
    text = json_text(document)
    assert text.isascii()
    parsed = json.loads(text, parse_constant=lambda token: pytest.fail(token))
    assert parsed == jsonable(document)


def test_nan_and_infinities_are_strings() -> None:
    assert jsonable([math.nan, math.inf, -math.inf, 1.5]) == ["NaN", "Infinity", "-Infinity", 1.5]
