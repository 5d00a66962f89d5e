from __future__ import annotations

import json

import pytest
from builders.documents import kinds, text_source

from ckpt_inspect.artifacts.trainer_log import read_trainer_log, seconds


def log(*rows: object, end: str = "\n"):
    return read_trainer_log(text_source("\n".join(json.dumps(row) for row in rows) + end, "trainer_log.jsonl"))


def train(step: int, loss: float = 1.0) -> dict:
    return {"current_steps": step, "total_steps": 20, "loss": loss, "lr": 1e-4, "epoch": 0.1, "elapsed_time": "0:00:05"}


def test_rows_are_told_apart_by_their_metrics() -> None:
    read = log(
        train(5),
        {"current_steps": 5, "total_steps": 20, "eval_loss": 2.0},
        {"current_steps": 5, "total_steps": 20, "predict_loss": 2.0},
        {"current_steps": 20, "total_steps": 20, "epoch": 1.0, "percentage": 100.0},
    )
    assert [row.kind for row in read.rows] == ["train", "eval", "predict", "progress"]
    assert [row.line for row in read.rows] == [1, 2, 3, 4]


def test_a_step_that_goes_back_begins_a_new_session() -> None:
    read = log(train(5), train(10), train(15), train(10, 0.9), train(15, 0.8), train(20, 0.7))
    assert read.sessions == (range(3), range(3, 6))
    assert [(row.current_steps, row.number("loss")) for row in read.latest] == [
        (5, 1.0),
        (10, 0.9),
        (15, 0.8),
        (20, 0.7),
    ]


def test_several_processes_writing_the_same_step_are_one_session() -> None:
    assert log(train(5), train(5), train(10), train(10)).sessions == (range(4),)


def test_the_closing_line_of_an_evaluation_at_step_zero_begins_no_session() -> None:
    closing = {"current_steps": 0, "total_steps": 0, "eval_loss": 2.0, "percentage": 0.0}
    assert log({"current_steps": 5, "total_steps": 9}, closing).sessions == (range(2),)


def test_the_learning_rate_is_found_under_its_old_name_too() -> None:
    assert log({"current_steps": 1, "loss": 1.0, "learning_rate": 3e-5}).rows[0].learning_rate == 3e-5
    assert log(train(1)).rows[0].learning_rate == 1e-4


def test_a_line_cut_off_by_a_kill_is_left_out_and_said() -> None:
    read = log(train(5), train(10), end='\n{"current_steps": 15, "total')
    assert len(read.rows) == 2
    assert read.complete is False
    assert kinds(read) == ["json-truncated"]


def test_a_line_that_is_no_object_is_left_out_and_said() -> None:
    read = log(train(5), [1, 2])
    assert len(read.rows) == 1
    assert [fault.place for fault in read.faults] == ["line 2"]


def test_a_step_of_the_wrong_type_is_a_fault() -> None:
    read = log({"current_steps": "5", "total_steps": 20, "loss": 1.0})
    assert read.rows[0].current_steps is None
    assert kinds(read) == ["field-type"]


def test_the_log_of_ms_swift_is_read() -> None:
    read = log(
        {"loss": 1.5, "learning_rate": 1e-5, "epoch": 0.1, "global_step/max_steps": "10/93", "elapsed_time": "1m 12s"},
        {"eval_loss": 1.2, "eval_runtime": 3.0, "global_step/max_steps": "93/93"},
        {"train_runtime": 80.0, "train_loss": 1.3, "global_step/max_steps": "93/93"},
        {"last_model_checkpoint": "/x/checkpoint-93", "best_metric": 1.2, "global_step": 93, "log_history": []},
    )
    assert [(row.current_steps, row.total_steps) for row in read.rows] == [(10, 93), (93, 93), (93, 93), (93, None)]
    assert [row.kind for row in read.rows] == ["train", "eval", "summary", "progress"]
    assert read.rows[0].elapsed_seconds == 72


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0:00:05", 5),
        ("1:02:03", 3723),
        ("1 day, 0:08:23", 86903),
        ("2 days, 1:00:00", 176400),
        ("45s", 45),
        ("2h 0m 1s", 7201),
    ],
)
def test_durations_are_read_in_both_notations(text: str, value: int) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", None, 5, "1:2"])
def test_what_is_no_duration_has_no_seconds(text: object) -> None:
    assert seconds(text) is None
