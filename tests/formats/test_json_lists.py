from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.formats.json_lists import without_last_list

STRINGS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=1, max_size=6)
PAIRS = st.lists(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), min_size=2, max_size=2),
    min_size=1,
    max_size=6,
)


@given(merges=STRINGS | PAIRS, indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans())
def test_the_list_is_left_out_and_counted_whatever_its_strings_hold(
    merges: list, indent: int | None, ascii_only: bool
) -> None:
    document = {"vocab": {"merges": 1}, "model": {"a": [1], "merges": merges}}
    cut = without_last_list(json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode(), "merges")
    assert cut is not None
    assert cut.elements == len(merges)
    assert json.loads(cut.data) == {"vocab": {"merges": 1}, "model": {"a": [1], "merges": None}}


@pytest.mark.parametrize(
    "value",
    [[], [1], ["a", 1], ["a", ["b", "c"]], [["a"]], [["a", "b", "c"]], [{"a": "b"}], [["a", ["b"]]], "x", None, {}],
)
def test_other_lists_are_left_to_the_decoder(value: Any) -> None:
    assert without_last_list(json.dumps({"merges": value}).encode(), "merges") is None


@pytest.mark.parametrize(
    "text",
    [
        '{"merges": ["a", "b"], "tail": [1]}',
        '{"merges": ["a"], "x": {"merges": ["b"]}}',
        '{"merges": ["a", "b"',
        '{"merges": ["a\x00", "b"]}',
        '{"other": ["a"]}',
        '{"x": "\\"merges\\": [", "y": ["a"]}',
    ],
)
def test_what_is_not_the_last_whole_list_is_left_to_the_decoder(text: str) -> None:
    assert without_last_list(text.encode(), "merges") is None
