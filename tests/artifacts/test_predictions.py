from __future__ import annotations

import json

import pytest
from builders.documents import kinds, text_source

from ckpt_inspect.artifacts import predictions
from ckpt_inspect.artifacts.predictions import has_template_leftovers, read_predictions


def read(*rows: object, end: str = "\n"):
    return read_predictions(
        text_source("\n".join(json.dumps(row) for row in rows) + end, "generated_predictions.jsonl")
    )


def row(predict: str, label: str = "yes", prompt: str = "<|im_start|>user\nIs water wet at night?<|im_end|>\n") -> dict:
    return {"prompt": prompt, "predict": predict, "label": label}


def test_exact_matches_ignore_blanks_at_the_ends() -> None:
    assert read(row("yes"), row(" yes\n"), row("Yes"), row("")).exact == 2


def test_empty_answers_and_labels_are_counted_with_their_lines() -> None:
    found = read(row("a"), row(" \n"), row("", label=""))
    assert (found.lines, found.empty, found.empty_lines, found.empty_labels, found.exact) == (3, 2, (2, 3), 1, 0)


@pytest.mark.parametrize(
    "text",
    [
        "yes<|im_end|>",
        "<|im_start|>assistant\nyes",
        "assistant\nyes",
        "assistant: yes",
        "[INST] yes",
        "yes</s>",
        "model\nyes",
        "### Response: yes",
    ],
)
def test_remains_of_a_template_are_seen(text: str) -> None:
    assert has_template_leftovers(text)


@pytest.mark.parametrize(
    "text", ["yes", "The assistant said yes", "a < b | c > d", "<think>hm</think> yes", "user friendly"]
)
def test_ordinary_text_is_no_remains_of_a_template(text: str) -> None:
    assert not has_template_leftovers(text)


def test_an_answer_that_begins_with_its_prompt_is_an_echo() -> None:
    found = read(row("user\nIs water wet at night? yes"), row("Is water wet?"), row("yes"))
    assert (found.echoes, found.echo_lines) == (1, (1,))


def test_a_short_prompt_is_never_an_echo() -> None:
    assert read(row("Hi there", prompt="Hi")).echoes == 0


def test_the_same_answer_twice_in_a_row_is_counted() -> None:
    assert read(row("a"), row("a"), row("a"), row("b"), row(""), row("")).repeated == 2


def test_scores_of_a_reward_model_are_counted() -> None:
    found = read({"chosen": 1.5, "rejected": 0.5}, {"chosen": 0.1, "rejected": 0.5})
    assert (found.kind, found.lines, found.preferred) == ("scores", 2, 1)


def test_one_answer_per_line_of_a_text_file() -> None:
    found = read_predictions(text_source("one\n\nthree\n", "generated_predictions.txt"))
    assert (found.kind, found.lines, found.empty, found.empty_lines) == ("generated", 3, 1, (2,))


def test_a_cut_last_line_is_left_out_and_said() -> None:
    found = read(row("a"), end='\n{"prompt": "x", "pre')
    assert (found.lines, found.complete, kinds(found)) == (1, False, ["json-truncated"])


def test_rows_of_another_shape_are_counted_and_said() -> None:
    found = read([1], {"predict": 5}, {"text": "x"})
    assert (found.kind, found.lines) == ("other", 2)
    assert kinds(found) == ["log-entry-not-object", "field-type"]


def test_a_file_longer_than_one_window_is_counted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "_WINDOW", 200)
    found = read(*(row("" if number == 17 else f"answer {number}") for number in range(1, 31)))
    assert (found.lines, found.empty_lines, found.complete) == (30, (17,), True)


def test_reading_stops_at_the_limit_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "MAX_BYTES", 500)
    found = read(*(row(f"answer {number}") for number in range(30)))
    assert 0 < found.lines < 30
    assert found.complete is False
    assert "json-too-large" in kinds(found)
