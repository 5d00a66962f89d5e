"""Whether the rows of new tokens moved: evidence from the values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ckpt_inspect.explain.new_token_rows import judge_rows
from ckpt_inspect.explain.new_tokens import explain_tokens
from ckpt_inspect.run import open_run

RANDOM = np.random.default_rng(0)
OTHERS = RANDOM.normal(0.1, 1, (200, 32))
MEAN, NORM = OTHERS.mean(axis=0), float(np.linalg.norm(OTHERS, axis=1).mean())


def bf16(values: np.ndarray) -> np.ndarray:
    raw = values.astype("<f4").view("<u4")
    return ((raw + 0x8000) & 0xFFFF0000).astype("<u4").view("<f4").astype(np.float64)


@pytest.mark.parametrize(
    ("rows", "base", "verdict", "words"),
    [
        (np.tile(MEAN, (3, 1)), None, "initial", "mean of the others"),
        (np.tile(MEAN, (3, 1)) * (1 + 1e-4), None, "initial", "mean of the others"),
        (OTHERS[:3] + 1, None, "unclear", "trained, or initialised at random"),
        (np.zeros((3, 32)), None, "initial", "are zero"),
        (OTHERS[:3], OTHERS[:3], "initial", "equal the base's"),
        (bf16(OTHERS[:3]), OTHERS[:3], "initial", "equal the base's"),
        (OTHERS[:3] * 1.1, OTHERS[:3], "moved", "differ from the base's"),
    ],
)
def test_verdict(rows: np.ndarray, base: np.ndarray | None, verdict: str, words: str) -> None:
    result = judge_rows("input", rows, MEAN, NORM, base)
    assert result.verdict == verdict
    assert words in result.statement


def test_rows_alone_without_the_base_are_not_judged() -> None:
    assert judge_rows("input", OTHERS[:2], None, None, None).verdict == "unclear"


def test_frozen_rows_of_a_resize_are_initial(fixtures: Path) -> None:
    answer = explain_tokens(open_run(fixtures / "lora-resized"), base=fixtures / "base-resized", deep=True)
    assert answer is not None
    assert [row.verdict for row in answer.rows] == ["initial", "initial"]
    assert "mean of the others" in answer.explanation


def test_trained_rows_in_the_padding_moved(fixtures: Path) -> None:
    answer = explain_tokens(open_run(fixtures / "lora-indices"), base=fixtures / "base-indices", deep=True)
    assert answer is not None
    assert [row.verdict for row in answer.rows] == ["moved", "moved"]


def test_values_are_read_on_request_only(fixtures: Path) -> None:
    answer = explain_tokens(open_run(fixtures / "lora-resized"), base=fixtures / "base-resized")
    assert answer is not None
    assert answer.rows == ()
