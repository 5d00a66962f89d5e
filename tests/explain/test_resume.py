"""What resuming does, row by row of the matrix measured with transformers 5.23."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ckpt_inspect.explain.resume import CheckpointParts, answer, complete, explain_resume, judge, ranks_allowed
from ckpt_inspect.run import open_run

WHOLE = CheckpointParts(
    name="checkpoint-10",
    step=10,
    backend="trainer",
    trainer_state="present",
    weights="present",
    optimizer="present",
    scheduler="present",
    rng_ranks=(0,),
    state_step=10,
    max_steps=30,
)
ZERO = replace(WHOLE, backend="deepspeed", optimizer="absent", ranks=2, zero_stage=2, rng_ranks=(0, 1))


def test_a_whole_checkpoint_resumes_exactly() -> None:
    assert judge(WHOLE) == ("will", ())
    assert complete(WHOLE)


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        (dict(trainer_state="absent"), "will_not", "FileNotFoundError"),
        (dict(trainer_state="it ends in the middle"), "will_not", "cannot be read"),
        (dict(weights="absent"), "will_not", "Can't find a valid checkpoint"),
        (dict(weights="truncated"), "will_not", "truncated"),
        (dict(optimizer="truncated zip"), "will_not", "optimizer state cannot be read"),
        (dict(optimizer="absent"), "will_differ", "silently ignores scheduler.pt too"),
        (dict(scheduler="absent"), "will_differ", "silently ignores the optimizer state too"),
        (dict(optimizer="absent", scheduler="absent"), "will_differ", "learning rate starts over"),
        (dict(rng_ranks=()), "will_differ", "dropout"),
        (dict(ranks=4, rng_ranks=(0, 1)), "will_differ", "rank 2, 3"),
        (dict(fp16=True), "will_differ", "scale 65536"),
        (dict(state_step=9), "will_differ", "says step 9"),
        (dict(lacks_fields=("train_batch_size",)), "will_not", "TypeError"),
        (dict(lacks_fields=("stateful_callbacks",)), "will", "first save"),
        (dict(state_step=30, step=30), "will", "at most one step"),
        (dict(state_step=30, step=30, epoch=2.5, num_train_epochs=3), "will", "one step more"),
        (dict(state_step=30, step=30, epoch=3.0, num_train_epochs=3), "will", "no step would be trained"),
        (dict(interrupted="checkpoint-is-incomplete.txt is present"), "will_not", "incomplete"),
    ],
)
def test_one_thing_missing_or_changed(change: dict[str, object], verdict: str, words: str) -> None:
    result, reasons = judge(replace(WHOLE, **change))
    assert result == verdict
    assert any(words in reason.text for reason in reasons)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (dict(), "will"),
        (dict(missing_zero_ranks=(1,)), "will_not"),
        (dict(zero_problem="latest names global_step9, which is not there"), "will_not"),
        (dict(weights="absent"), "will"),
        (dict(rng_ranks=(0,)), "will_differ"),
    ],
)
def test_a_deepspeed_checkpoint(change: dict[str, object], verdict: str) -> None:
    assert judge(replace(ZERO, **change))[0] == verdict


def test_zero_needs_the_same_number_of_ranks_and_ddp_does_not() -> None:
    assert ranks_allowed(ZERO).startswith("exactly 2 ranks")
    assert ranks_allowed(WHOLE).startswith("any number")


def test_save_only_model_is_complete_and_differs() -> None:
    parts = replace(WHOLE, optimizer="absent", scheduler="absent", rng_ranks=(), save_only_model=True)
    assert complete(parts)
    assert judge(parts)[0] == "will_differ"


def test_the_newest_usable_checkpoint_is_recommended_by_path() -> None:
    broken = replace(WHOLE, name="checkpoint-20", step=20, state_step=20, trainer_state="absent")
    result = answer([("checkpoint-20", broken), ("checkpoint-10", WHOLE)])
    assert result.recommended == "checkpoint-10"
    assert "pass the path" in result.explanation


def test_nothing_usable_is_said() -> None:
    result = answer([("checkpoint-10", replace(WHOLE, weights="absent"))])
    assert result.recommended is None
    assert "No checkpoint here can be resumed" in result.explanation


def test_the_newest_checkpoint_of_a_run_comes_first(fixtures: Path) -> None:
    answer = explain_resume(open_run(fixtures / "resumed"))
    assert answer is not None
    assert [item.path for item in answer.checkpoints] == ["checkpoint-16", "checkpoint-12"]
    assert "one step more would be trained" in answer.explanation


def test_a_checkpoint_of_another_training_is_not_recommended_over_the_runs_own() -> None:
    own, other = WHOLE, replace(WHOLE, foreign_since=3)
    found = answer([("checkpoint-20", other), ("checkpoint-12", own)])
    assert found.recommended == "checkpoint-12"
    assert "another training in the same directory" in found.explanation
