from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.artifacts.patterns import Pattern, PatternError, path_end

PATTERNS = [
    r"(.*\.)?(q_proj)$",
    r"^model\.layers\.([0-9]|1[0-9])\..*(q|v)_proj",
    r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|up_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp)\.(?:up_proj))",
    r"(?i)Model\.[A-L]ayers\.\d+\.[^.]+",
    r"a{2,3}b?c*\w+\W?\s?\S",
    r"[^a-c]+\Z",
    r"x*",
    r"",
    r"\Bq|\bv",
]
TEXTS = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.12.mlp.up_proj",
    "model.language_model.layers.3.mlp.up_proj",
    "MODEL.LAYERS.5.mlp",
    "aabccx. y",
    "ddd",
    "",
    "xxx",
    "v",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_pattern_matches_what_re_matches(pattern: str, text: str) -> None:
    assert Pattern(pattern).fullmatch(text) == bool(re.fullmatch(pattern, text))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@given(pattern=st.text("ab.*+?|()[]^$\\d{2},", max_size=12), text=st.text("ab1.,", max_size=8))
def test_any_pattern_matches_what_re_matches_or_is_refused(pattern: str, text: str) -> None:
    try:
        ours = Pattern(pattern).fullmatch(text)
    except PatternError:
        return
    assert ours == bool(re.fullmatch(pattern, text))


@pytest.mark.parametrize(
    "pattern", ["(", "a(?=b)", r"(a)\1", "(?<!x)a", "a{5000}", "((a{900}){900}){900}", "a" * 20_000, "(?>a)b"]
)
def test_what_is_not_regular_or_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        Pattern(pattern)


def test_nested_repeats_take_time_linear_in_the_text() -> None:
    assert not Pattern("((a*)*)*b").fullmatch("a" * 20_000)


@pytest.mark.parametrize(
    "pattern", ["q_proj", "^model.layers.1.q_proj", "proj$", "", ".", "layers.1", r"layers\.(1|2)\.q_proj", "x*"]
)
@pytest.mark.parametrize("path", ["model.layers.1.q_proj", "q_proj", "xq_proj", "model.layers.11.q_proj", "", "a.b"])
def test_the_end_of_a_path_is_matched_as_re_matches_it(pattern: str, path: str) -> None:
    assert path_end(pattern)(path) == bool(re.match(rf"(.*\.)?({pattern})$", path))


@given(pattern=st.text("ab._^$*(|)", max_size=8), path=st.text("ab._", max_size=10))
def test_the_end_of_any_path_is_matched_as_re_matches_it(pattern: str, path: str) -> None:
    try:
        ours = path_end(pattern)(path)
    except PatternError:
        return
    assert ours == bool(re.match(rf"(.*\.)?({pattern})$", path))
