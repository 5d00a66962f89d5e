"""The comparison language of `check --expect`."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.errors import UsageError
from ckpt_inspect.rules.expect import evaluate, parse_expectation

DOCUMENT = {
    "kind": "run",
    "progress": {"finished": True, "global_step": 30},
    "loss": {"final": {"step": 30, "value": 1.5}, "average": None},
    "checkpoints": [{"step": 10, "complete": True}, {"step": 20, "complete": False}],
    "new_tokens": {"verdict": "trained", "count": 3},
    "evaluation": {"kind": "loss", "metrics": {"eval_loss": 1.7, "eval_nan": "NaN", "eval_rewards/margins": 0.25}},
    "adapter": None,
}


def outcome(text: str):
    return evaluate(parse_expectation(text), DOCUMENT)


@pytest.mark.parametrize(
    "text",
    [
        "loss.final < 2.0",
        "loss.final >= 1.5",
        "loss.final == 1.5",
        "progress.finished",
        "progress.finished == true",
        "checkpoints >= 1",
        "checkpoints == 2",
        "checkpoints[-1].step == 20",
        "new_tokens.verdict == trained",
        "new_tokens.verdict == 'trained'",
        "new_tokens.verdict != lost",
        "new_tokens.verdict in [trained, partly_trained]",
        "new_tokens.verdict not in [lost, out_of_range]",
        "evaluation.eval_loss < 1.9",
        "evaluation.eval_rewards/margins > 20%",
        "adapter == null",
        "loss.average == null",
    ],
)
def test_holds(text: str) -> None:
    assert outcome(text).met


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("loss.final < 1.0", "it is 1.5 (step 30)"),
        ("checkpoints[1].complete", "it is false"),
        ("checkpoints[5].complete", "checkpoints has 2 entries"),
        ("adapter.rank == 8", "adapter is not known for this run"),
        ("loss.average.reported < 2", "loss.average is not known"),
        ("evaluation.eval_bleu > 3", "records no eval_bleu"),
        ("evaluation.eval_nan < 3", "it is NaN"),
        ("progress.global_step == true", "it is 30"),
        ("new_tokens.verdict == lost", "it is trained"),
    ],
)
def test_does_not_hold_and_says_what_was_met(text: str, words: str) -> None:
    result = outcome(text)
    assert not result.met
    assert words in result.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("< 3", "must begin with a path"),
        ("loss.", "a name or an index"),
        ("loss.final <", "a value must follow"),
        ("loss.final < 2 3", "nothing may follow"),
        ("loss.final ~ 2", "cannot read"),
        ("loss.final in 2", "needs a list"),
        ("loss.final in [1, 2", "not closed"),
        ("los.final < 2", "did you mean loss"),
        ("loss.finl < 2", "did you mean final"),
        ("kind < 3", "not a number"),
        ("kind.x", "nothing lies below"),
        ("kind[0]", "not a list"),
        ("__import__('os') == 1", "cannot read"),
    ],
)
def test_a_wrong_expectation_is_a_usage_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        outcome(text)
    assert words in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with suppress(UsageError):
        assert evaluate(parse_expectation(text), DOCUMENT).message.isprintable()
