"""The loss of whole directories: what is said of each, with its numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from builders.run_directories import (
    fields_of,
    summary,
    train_entries,
    write_arguments,
    write_log,
    write_results,
    write_state,
)
from builders.trainer_runs import history, train_call

from ckpt_inspect.explain.answer import plain
from ckpt_inspect.explain.loss import LossAnswer, explain_loss
from ckpt_inspect.run import open_run

CURVE = [6 - 0.1 * step + 0.03 * math.sin(3 * step) for step in range(40)]


def explained(path: Path) -> LossAnswer:
    found = explain_loss(open_run(path))
    assert found is not None
    return found


def test_a_whole_run_is_told_with_its_numbers(tmp_path: Path) -> None:
    call = train_call(CURVE, end=30, every=2)
    write_state(tmp_path, [*train_entries(call.entries), summary(30, call.train_loss)])
    found = explained(tmp_path)
    assert found.average is not None
    assert found.average.verdict == "average_of_all_steps"
    assert found.average.relative_error == pytest.approx(0.0, abs=1e-12)
    assert found.average.source == "trainer_state.json"
    assert (found.first, found.final) == (
        (found.first and type(found.first)(2, call.entries[0][1])),
        (found.final and type(found.final)(30, call.entries[-1][1])),
    )
    assert "mean over all 30 steps" in found.paragraph
    assert "had not flattened" in found.paragraph
    assert "above the final loss because it counts the higher losses of the beginning" in found.paragraph


def test_an_average_below_the_final_loss_says_that_the_end_is_worse(tmp_path: Path) -> None:
    rising = [2.0 - 0.05 * step for step in range(10)] + [1.5 + 0.1 * step for step in range(10)]
    call = train_call(rising, every=1)
    write_state(tmp_path, [*train_entries(call.entries), summary(20, call.train_loss)])
    assert "LOWER than the final loss: the loss rose after its lowest entry" in explained(tmp_path).paragraph


def test_a_checkpoint_that_says_its_session_ended_gives_the_resume_away(tmp_path: Path) -> None:
    call = train_call(CURVE, start=10, end=20, every=3)
    entries = train_entries([*history(CURVE, 10, every=3), *call.entries])
    write_state(tmp_path, [*entries, summary(20, call.train_loss)], save_steps=5, best_global_step=None)
    stopped = {"TrainerControl": {"args": {"should_training_stop": True}, "attributes": {}}}
    for step in (5, 10, 15, 20):
        kept = [entry for entry in entries if entry["step"] <= step]
        write_state(
            tmp_path / f"checkpoint-{step}",
            kept,
            global_step=step,
            max_steps=20 if step > 10 else 10,
            stateful_callbacks=stopped if step in (10, 20) else {},
        )
    found = explained(tmp_path).average
    assert found is not None
    assert (found.verdict, found.resumed_at) == ("average_since_resume", 10)
    assert found.session_mean == pytest.approx(sum(CURVE[10:20]) / 10)
    assert "resumed at step 10" in found.explanation


def test_arguments_of_another_session_give_the_resume_away(tmp_path: Path) -> None:
    call = train_call(CURVE, start=8, end=17, every=4, session_divisor=False, rounded=True)
    entries = train_entries([*history(CURVE, 8, every=4, rounded=True), *call.entries])
    write_state(tmp_path, [*entries, summary(17, call.train_loss)])
    write_arguments(tmp_path, logging_dir="runs/Nov02_10-00-00_host", save_safetensors=True, dispatch_batches=None)
    for step, started in ((8, "Nov01_09-00-00"), (16, "Nov02_10-00-00")):
        write_state(tmp_path / f"checkpoint-{step}", [], global_step=step, max_steps=17)
        write_arguments(tmp_path / f"checkpoint-{step}", logging_dir=f"runs/{started}_host", dispatch_batches=None)
    found = explained(tmp_path)
    assert found.average is not None
    assert (found.average.verdict, found.average.resumed_at) == ("resumed_sum_over_all_steps", 8)
    assert "is too small" in found.average.explanation
    assert any(item.value and "logging_dir" in str(item.value) for item in found.evidence)


def test_results_of_another_run_in_the_same_directory_are_named(tmp_path: Path) -> None:
    call = train_call(CURVE, every=2)
    write_state(tmp_path, [*train_entries(call.entries), summary(40, call.train_loss)])
    write_results(tmp_path, "all", train_loss=1.25)
    found = explained(tmp_path).average
    assert found is not None
    assert found.verdict == "average_of_all_steps"
    assert found.sources == {"trainer_state.json": call.train_loss, "all_results.json": 1.25}
    assert "different runs" in found.explanation


def test_a_results_file_alone_cannot_be_recomputed(tmp_path: Path) -> None:
    write_results(tmp_path, "all", train_loss=1.25)
    found = explained(tmp_path)
    assert found.average is not None
    assert (found.average.verdict, found.average.recomputed, found.average.source) == (
        "not_logged",
        None,
        "all_results.json",
    )


def test_the_progress_log_alone_is_enough(tmp_path: Path) -> None:
    call = train_call(CURVE, every=4)
    rows = [{"current_steps": step, "total_steps": 40, "loss": loss, "epoch": step / 40} for step, loss in call.entries]
    write_log(tmp_path, [*rows, {"current_steps": 40, "total_steps": 40, "epoch": 1.0}])
    write_results(tmp_path, "all", train_loss=call.train_loss, epoch=1.0)
    found = explained(tmp_path)
    assert found.average is not None
    assert found.average.verdict == "average_of_all_steps"
    assert "trainer_log.jsonl" in found.arithmetic[0]


def test_an_excerpt_of_the_progress_log_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    rows = [
        {"current_steps": step, "total_steps": 1000, "loss": 2.0, "epoch": step / 1000}
        for step in (10, 20, 30, 490, 500)
    ]
    write_log(tmp_path, rows)
    write_results(tmp_path, "all", train_loss=1.8, epoch=1.0)
    found = explained(tmp_path).average
    assert found is not None
    assert found.verdict == "average_with_unlogged_tail"
    assert found.tail is not None
    assert found.tail.steps == 1000 - 50


def test_a_progress_log_that_disagrees_is_named(tmp_path: Path) -> None:
    call = train_call(CURVE, every=4)
    write_state(tmp_path, [*train_entries(call.entries), summary(40, call.train_loss)])
    write_log(tmp_path, [{"current_steps": step, "total_steps": 40, "loss": loss + 0.5} for step, loss in call.entries])
    assert "trainer_log.jsonl disagrees with trainer_state.json at 10 of 10 steps" in explained(tmp_path).paragraph


def test_a_killed_run_has_no_average(tmp_path: Path) -> None:
    write_state(tmp_path / "checkpoint-10", train_entries(history(CURVE, 10, every=2)), max_steps=40)
    found = explained(tmp_path)
    assert found.average is None
    assert "before train() ended" in found.paragraph
    assert found.mean_of_logged == pytest.approx(sum(CURVE[:10]) / 10)


def test_a_log_that_goes_back_counts_the_second_time(tmp_path: Path) -> None:
    first = history(CURVE, 20, every=5)
    second = [(step, 1.0) for step in (15, 20)]
    write_state(tmp_path, [*train_entries(first), *train_entries(second)], max_steps=40)
    found = explained(tmp_path)
    assert found.final is not None
    assert (found.final.step, found.final.value) == (20, 1.0)
    assert "goes back from step 20 to step 15" in found.paragraph


def test_a_second_call_in_the_same_history_is_judged_by_itself(tmp_path: Path) -> None:
    first, second = train_call(CURVE, end=20, every=5), train_call(CURVE[20:], end=10, every=5)
    entries = [*train_entries(first.entries), summary(20, first.train_loss)]
    entries += [*train_entries(second.entries), summary(10, second.train_loss)]
    write_state(tmp_path, entries, global_step=10)
    found = explained(tmp_path).average
    assert found is not None
    assert (found.verdict, found.reported) == ("average_of_all_steps", second.train_loss)


# ------------------------------------------------------------------------------------------------- distortions


def test_masked_nan_windows_are_named_with_the_mean_of_the_rest(tmp_path: Path) -> None:
    losses = [*CURVE[:10], *([0.0] * 10)]
    call = train_call(losses, every=2)
    norms = {step: 1.0 if step <= 10 else math.nan for step in range(21)}
    write_state(tmp_path, [*train_entries(call.entries, grad_norm=norms.get), summary(20, call.train_loss)])
    found = explained(tmp_path)
    assert [item.name for item in found.distortions] == ["masked_nan"]
    assert found.distortions[0].steps == (12, 14, 16, 18, 20)
    assert found.minimum is not None
    assert found.minimum.value > 0
    assert "use a checkpoint from before" in found.paragraph
    assert any("not masked" in line and "5.5" in line for line in found.arithmetic)


def test_a_zero_loss_of_policy_training_is_no_mask(tmp_path: Path) -> None:
    call = train_call([0.01, 0.02, 0.0, 0.0], every=1)
    write_state(tmp_path, [*train_entries(call.entries, reward=1.0), summary(4, call.train_loss)])
    assert explained(tmp_path).distortions == ()


STATE_OF_4_46, ARGUMENTS_OF_4_46 = fields_of((4, 46, 0))


def test_losses_times_the_accumulation_steps_are_named_where_release_and_numbers_agree(tmp_path: Path) -> None:
    call = train_call([4 * value for value in CURVE], every=10, rounded=True)
    evals = [{"step": step, "eval_loss": CURVE[step - 1]} for step in (10, 20, 30, 40)]
    write_state(tmp_path, [*train_entries(call.entries), *evals, summary(40, call.train_loss)], **STATE_OF_4_46)
    write_arguments(tmp_path, **ARGUMENTS_OF_4_46, gradient_accumulation_steps=4)
    found = explained(tmp_path).distortions
    assert [(item.name, item.factor) for item in found] == [("accumulation_not_divided", 4.0)]


def test_high_losses_of_a_release_without_the_bug_are_left_alone(tmp_path: Path) -> None:
    call = train_call([4 * value for value in CURVE], every=10)
    evals = [{"step": step, "eval_loss": CURVE[step - 1]} for step in (10, 20, 30, 40)]
    state, arguments = fields_of((5, 4, 0))
    write_state(tmp_path, [*train_entries(call.entries), *evals, summary(40, call.train_loss)], **state)
    write_arguments(tmp_path, **arguments, gradient_accumulation_steps=4)
    assert explained(tmp_path).distortions == ()


def test_losses_of_the_right_size_in_a_release_with_the_bug_are_left_alone(tmp_path: Path) -> None:
    call = train_call(CURVE, every=10, rounded=True)
    evals = [{"step": step, "eval_loss": CURVE[step - 1]} for step in (10, 20, 30, 40)]
    write_state(tmp_path, [*train_entries(call.entries), *evals, summary(40, call.train_loss)], **STATE_OF_4_46)
    write_arguments(tmp_path, **ARGUMENTS_OF_4_46, gradient_accumulation_steps=4)
    assert explained(tmp_path).distortions == ()


def test_spikes_at_epoch_ends_are_named(tmp_path: Path) -> None:
    losses = [3.0 + 0.01 * (step % 3) for step in range(40)]
    for end in (9, 19, 29, 39):
        losses[end] *= 1.5
    call = train_call(losses, every=1, rounded=True)
    entries = train_entries(call.entries, epoch=lambda step: step / 10)
    write_state(tmp_path, [*entries, summary(40, call.train_loss)], **STATE_OF_4_46)
    write_arguments(tmp_path, **ARGUMENTS_OF_4_46, gradient_accumulation_steps=4)
    found = explained(tmp_path).distortions
    assert [(item.name, item.steps) for item in found] == [("epoch_boundary", (10, 20, 30, 40))]


# ------------------------------------------------------------------------------------------------- form


def test_hostile_values_do_not_break_the_answer(tmp_path: Path) -> None:
    entries = [
        {"step": 2, "loss": "low"},
        {"step": "four", "loss": 1.0},
        {"step": -3, "loss": 1.0},
        {"loss": 2.0},
        {"step": 10**30, "loss": 1e308},
        {"step": 6, "loss": 1.5},
        {"step": 6, "train_loss": True},
        "nonsense",
    ]
    (tmp_path / "trainer_state.json").write_text(
        __import__("json").dumps({"log_history": entries, "global_step": "many", "max_steps": None})
    )
    found = explain_loss(open_run(tmp_path))
    assert found is None or isinstance(found.paragraph, str)


def test_nan_is_a_string_in_json(tmp_path: Path) -> None:
    write_state(tmp_path, [*train_entries([(2, math.nan)]), summary(2, math.nan)])
    document = plain(explained(tmp_path))
    assert isinstance(document, dict)
    assert document["final"] == {"step": 2, "value": "NaN"}
    assert document["average"]["reported"] == "NaN"


def test_a_directory_without_losses_has_no_answer(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    assert explain_loss(open_run(tmp_path)) is None


SCATTERED = [0.24, 0.39, 0.31, 0.13, 0.02, 0.06, 1.36, 1.7, 0.2, 2.1, 0.3, 1.1, 0.1, 0.9, 0.01, 1.6, 0.4, 1.2, 1.3, 0.1]


def test_a_low_last_entry_of_a_scattered_log_is_not_laid_to_higher_losses_of_the_beginning(tmp_path: Path) -> None:
    call = train_call(SCATTERED)
    write_state(tmp_path, [*train_entries(call.entries), summary(20, call.train_loss)])
    found = explained(tmp_path).paragraph
    assert "beginning" not in found
    assert (
        "is 6.8 times the final loss, a single entry of a log that scatters: the last quarter averaged 0.9200." in found
    )
    assert "How the loss moved at the end is lost in the scatter of the log" in found


def test_a_high_last_entry_of_a_scattered_log_does_not_make_the_end_worse(tmp_path: Path) -> None:
    call = train_call([*SCATTERED[:-1], 2.5])
    write_state(tmp_path, [*train_entries(call.entries), summary(20, call.train_loss)])
    found = explained(tmp_path).paragraph
    assert "LOWER than the final loss, a single entry of a log that scatters" in found
    assert "worse" not in found


def test_a_run_that_fell_evenly_and_slowly_had_not_flattened(tmp_path: Path) -> None:
    call = train_call([4.15 - 0.0012 * step for step in range(40)])
    write_state(tmp_path, [*train_entries(call.entries), summary(40, call.train_loss)])
    assert "had not flattened but was still falling" in explained(tmp_path).paragraph


def test_a_run_of_one_step_has_no_curve(tmp_path: Path) -> None:
    write_state(tmp_path, [*train_entries([(1, 2.5)]), summary(1, 2.5)])
    assert (
        explained(tmp_path).paragraph
        == "One training loss was logged: 2.500 at step 1. train_loss 2.500 is the loss of its only step."
    )


def test_a_run_that_was_nan_from_the_start_has_no_checkpoint_before_it(tmp_path: Path) -> None:
    entries = train_entries([(step, 0.0) for step in range(1, 9)], grad_norm=math.nan)
    write_state(tmp_path, [*entries, summary(8, 0.0)])
    found = explained(tmp_path).paragraph
    assert "NaN from the first step on" in found
    assert "from before" not in found


def test_the_range_of_an_unlogged_tail_is_not_widened_below_zero(tmp_path: Path) -> None:
    losses = [2.0, 0.001, 3.0, 0.002, 2.5, 0.001, 1.0]
    call = train_call(losses, every=2)
    write_state(tmp_path, [*train_entries(call.entries), summary(7, call.train_loss)])
    found = explained(tmp_path).average
    assert found is not None
    assert found.tail is not None
    assert found.tail.low >= 0


def test_a_checkpoint_of_another_training_in_the_directory_is_no_sign_of_a_resume(tmp_path: Path) -> None:
    call = train_call(CURVE, end=20, every=3)
    write_state(tmp_path, [*train_entries(call.entries), summary(20, call.train_loss)], max_steps=20)
    other = train_call([loss + 1 for loss in CURVE], end=14, every=3)
    write_state(tmp_path / "checkpoint-14", train_entries(other.entries), global_step=14, max_steps=30)
    found = explained(tmp_path).average
    assert found is not None
    assert (found.verdict, found.resumed_at) == ("average_with_unlogged_tail", None)


def test_an_end_whose_unlogged_steps_lie_below_the_average_is_not_called_worse(tmp_path: Path) -> None:
    write_state(tmp_path, [*train_entries([(3, 4.17), (6, 4.11), (9, 4.12)]), summary(10, 4.09)])
    found = explained(tmp_path).paragraph
    assert "LOWER than the final loss." in found
    assert "worse" not in found
