from __future__ import annotations

import math

import pytest
from builders.documents import json_source, kinds, text_source

from ckpt_inspect.artifacts.results import read_results, split_of


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("all_results.json", "all"),
        ("run/train_results.json", "train"),
        ("eval_results.json", "eval"),
        ("eval_results_mnli-mm.json", "eval"),
        ("predict_results.json", "predict"),
        ("test_results.json", "test"),
        ("eval_results_lm.txt", "eval"),
        ("results.json", "other"),
        ("metrics.json", "other"),
    ],
)
def test_the_split_is_read_off_the_file_name(name: str, split: str) -> None:
    assert split_of(name) == split


def test_metrics_keep_their_values_and_nan_is_a_number() -> None:
    read = read_results(json_source({"epoch": 2.0, "eval_loss": math.nan, "eval_accuracy": 0.5}, "eval_results.json"))
    assert read.split == "eval"
    assert read.number("eval_accuracy") == 0.5
    assert math.isnan(read.number("eval_loss") or 0)
    assert kinds(read) == ["json-nan-token"]


def test_all_results_are_split_by_prefix() -> None:
    read = read_results(json_source({"epoch": 1.0, "train_loss": 2.0, "predict_bleu-4": 9.1}, "all_results.json"))
    assert read.of_split("predict") == {"predict_bleu-4": 9.1}
    assert read.of_split("train") == {"train_loss": 2.0}


def test_lists_and_objects_are_kept_apart_from_metrics() -> None:
    read = read_results(json_source({"eval_loss": 1.0, "eval_confusion": [[1, 0], [0, 1]]}, "eval_results.json"))
    assert set(read.values) == {"eval_loss"}
    assert read.nested["eval_confusion"] == [[1, 0], [0, 1]]


def test_a_loss_that_is_text_is_a_fault_but_a_metric_of_a_user_may_be_text() -> None:
    read = read_results(json_source({"train_loss": "2.0", "eval_note": "ok"}, "all_results.json"))
    assert kinds(read) == ["field-type"]
    assert read.number("train_loss") is None


def test_the_text_form_of_old_example_scripts_is_read() -> None:
    read = read_results(text_source("epoch = 2.0\nHasAns_total = 5928\nname = bert\n\n", "eval_results.txt"))
    assert read.values == {"epoch": 2.0, "HasAns_total": 5928, "name": "bert"}
    assert read.faults == ()


def test_text_that_is_no_assignment_is_said() -> None:
    assert kinds(read_results(text_source("***** Eval results *****\nexact = 1.5\n", "eval_results.txt"))) == [
        "results-line"
    ]
