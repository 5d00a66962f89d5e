from __future__ import annotations

import json
import math
import sys

import pytest
from builders.documents import json_source, kinds

from ckpt_inspect.artifacts.trainer_state import LossPoint, classify, read_trainer_state
from ckpt_inspect.storage import BytesSource

TRAIN = {"epoch": 0.5, "grad_norm": 1.2, "learning_rate": 1e-4, "loss": 2.0, "step": 5}
EVAL = {
    "epoch": 0.5,
    "eval_loss": 1.9,
    "eval_runtime": 1.0,
    "eval_samples_per_second": 8.0,
    "eval_steps_per_second": 4.0,
    "step": 5,
}
SUMMARY = {
    "epoch": 1.0,
    "step": 10,
    "total_flos": 1e9,
    "train_loss": 2.5,
    "train_runtime": 3.0,
    "train_samples_per_second": 7.0,
    "train_steps_per_second": 3.3,
}


def state(*entries: object, **fields: object):
    return read_trainer_state(json_source({"log_history": list(entries), **fields}))


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (TRAIN, "train"),
        (EVAL, "eval"),
        (SUMMARY, "summary"),
        ({**TRAIN, "train_runtime": 2.0, "train_tokens_per_second": 900.0, "num_input_tokens_seen": 80}, "train"),
        ({"epoch": 2.0, "step": 9, "total_flos": 1, "train_runtime": 3.0, "train_samples_per_second": 2.0}, "summary"),
        ({"eval_wer": 12.5, "epoch": 1.0, "step": 9}, "eval"),
        ({"test_loss": 1.0, "test_runtime": 1.0, "test_samples_per_second": 2.0, "step": 3}, "eval"),
        ({"loss_total": 1.0, "loss_data": 0.5, "step": 3}, "other"),
        ({"objective/kl": 0.1, "lr": 1e-6, "step": 3}, "other"),
        ({}, "other"),
    ],
)
def test_entries_are_told_apart_by_their_keys(entry: dict, kind: str) -> None:
    assert classify(entry) == kind


def test_first_final_and_minimum_loss_come_from_train_entries_only() -> None:
    read = state(
        {**TRAIN, "step": 1, "loss": 3.0},
        {**TRAIN, "step": 2, "loss": 1.0},
        EVAL,
        {**TRAIN, "step": 3, "loss": 2.0},
        SUMMARY,
    )
    assert read.first_loss == LossPoint(1, 3.0)
    assert read.minimum_loss == LossPoint(2, 1.0)
    assert read.final_loss == LossPoint(3, 2.0)
    assert [len(read.train), len(read.evals), len(read.summaries)] == [3, 1, 1]


def test_a_nan_loss_is_never_the_minimum_but_may_be_the_final_loss() -> None:
    read = state(
        {**TRAIN, "loss": 2.0}, {**TRAIN, "step": 6, "loss": math.nan}, {**TRAIN, "step": 7, "loss": -math.inf}
    )
    assert read.minimum_loss == LossPoint(5, 2.0)
    assert read.losses[1].step == 6
    assert math.isnan(read.losses[1].value)
    assert read.final_loss == LossPoint(7, -math.inf)
    assert kinds(read) == ["json-nan-token"]


def test_a_loss_of_exactly_zero_is_kept_and_pointed_at() -> None:
    read = state(TRAIN, {**TRAIN, "step": 6, "loss": 0.0, "grad_norm": math.nan})
    assert read.final_loss == LossPoint(6, 0.0)
    assert [entry.step for entry in read.masked_losses] == [6]


def test_a_run_without_logged_losses_has_no_loss_points() -> None:
    read = state(SUMMARY)
    assert read.first_loss is read.final_loss is read.minimum_loss is None
    assert read.summary is not None
    assert read.summary.number("train_loss") == 2.5


def test_a_loss_that_is_text_is_no_loss_point() -> None:
    assert state({**TRAIN, "loss": "2.0"}).first_loss is None


def test_evaluations_of_several_datasets_are_named() -> None:
    entry = {"eval_dev_loss": 1.0, "eval_dev_runtime": 1.0, "eval_dev_samples_per_second": 9.0, "step": 5, "epoch": 1.0}
    read = state(entry, EVAL)
    assert [(e.prefix, e.dataset) for e in read.evals] == [("eval_dev", "dev"), ("eval", None)]


def test_several_summaries_are_kept_and_the_last_one_counts() -> None:
    read = state(TRAIN, SUMMARY, {**TRAIN, "step": 11}, {**SUMMARY, "step": 20, "train_loss": 1.1})
    assert [entry.step for entry in read.summaries] == [10, 20]
    assert read.summary is not None
    assert read.summary.step == 20


def test_entries_that_are_not_objects_are_left_out_and_said() -> None:
    read = state(TRAIN, 3, None, [TRAIN], TRAIN)
    assert len(read.log_history) == 2
    assert [fault.place for fault in read.faults] == ["log_history[1]", "log_history[2]", "log_history[3]"]


def test_an_entry_without_a_step_keeps_its_loss() -> None:
    read = state({"loss": 1.5})
    assert read.first_loss == LossPoint(None, 1.5)
    assert kinds(read) == ["log-entry-without-step"]


def test_a_value_of_the_wrong_type_is_a_fault_and_counts_as_absent() -> None:
    read = state(
        {**TRAIN, "step": "5", "epoch": [1]}, global_step="10", max_steps=True, best_model_checkpoint=7, epoch=1
    )
    assert (read.global_step, read.max_steps, read.best_model_checkpoint, read.epoch) == (None, None, None, 1)
    assert read.log_history[0].step is None
    assert [fault.place for fault in read.faults] == [
        "global_step",
        "max_steps",
        "best_model_checkpoint",
        "log_history[0].step",
        "log_history[0].epoch",
    ]


def test_whole_floats_count_as_steps() -> None:
    read = state({**TRAIN, "step": 5.0}, global_step=10.0, save_steps=0.1)
    assert (read.global_step, read.log_history[0].step, read.save_steps) == (10, 5, 0.1)
    assert read.faults == ()


def test_a_history_that_is_an_object_is_a_fault() -> None:
    read = read_trainer_state(json_source({"log_history": {"0": TRAIN}, "global_step": 3}))
    assert read.log_history == ()
    assert read.global_step == 3
    assert kinds(read) == ["field-type"]


def test_a_state_cut_in_the_middle_keeps_what_precedes_the_cut() -> None:
    whole = json.dumps({"global_step": 9, "log_history": [TRAIN, {**TRAIN, "step": 6}], "max_steps": 9}).encode()
    read = read_trainer_state(BytesSource(whole[: whole.index(b'"step": 6')]))
    assert read.complete is False
    assert read.global_step == 9
    assert [entry.step for entry in read.log_history] == [5]
    assert read.max_steps is None


def test_a_list_where_the_state_should_be_is_a_fault() -> None:
    read = read_trainer_state(json_source([1, 2]))
    assert read.global_step is None
    assert kinds(read) == ["json-not-object"]


def test_token_counts_given_as_a_list_are_summed() -> None:
    assert state(num_input_tokens_seen=[100, 28]).num_input_tokens_seen == 128
    assert state(num_input_tokens_seen=77).num_input_tokens_seen == 77


def test_a_null_batch_size_is_unknown_without_a_fault() -> None:
    read = state(train_batch_size=None)
    assert read.train_batch_size is None
    assert read.faults == ()


def test_a_dataset_without_length_shows_as_the_largest_integer_of_epochs() -> None:
    assert state(num_train_epochs=sys.maxsize).iterable_dataset
    assert not state(num_train_epochs=3).iterable_dataset


def test_keys_no_release_knows_and_keys_a_newer_release_writes_are_named() -> None:
    read = state(TRAIN, global_step=1, flux_capacitor=True)
    assert read.unknown_keys == ("flux_capacitor",)
    assert "stateful_callbacks" in read.missing_keys
    assert "global_step" not in read.missing_keys


def test_whether_training_was_told_to_stop_is_read_from_the_trainer_control() -> None:
    control = {"TrainerControl": {"args": {"should_training_stop": True}, "attributes": {}}}
    assert state(stateful_callbacks=control).should_stop is True
    assert state(stateful_callbacks={"TrainerControl": [1]}).should_stop is None
    assert state().should_stop is None
