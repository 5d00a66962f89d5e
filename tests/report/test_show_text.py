"""The words of `show`: the headline of every kind of path, the lines of a run, the checkpoints table, the file list."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest

from ckpt_inspect.report.show_document import show_document
from ckpt_inspect.report.text_show import show_text
from ckpt_inspect.run import open_run

Json = dict[str, Any]


def shown(path: Path, width: int = 100, **options: bool) -> str:
    return show_text(show_document(open_run(path)), width=width, **options)


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("place", "headline"),
    [
        ("lora-resized", "lora-resized: LoRA training run on "),
        ("lora-resized/checkpoint-6", "checkpoint-6: LoRA checkpoint on "),
        ("zero3", "zero3: Qwen2ForCausalLM training run, ZeRO stage 3 of 2 ranks"),
        ("zero2/checkpoint-4", "checkpoint-4: Qwen2ForCausalLM checkpoint, ZeRO stage 2 of 2 ranks"),
        ("zero2/checkpoint-4/global_step4", "global_step4: DeepSpeed ZeRO stage 2 checkpoint of 2 ranks"),
        ("base-resized", "base-resized: Qwen2ForCausalLM weights"),
        ("zero2/model.safetensors", "model.safetensors: model weights. The model's weights, ready to load."),
        ("", "fixtures: a directory of 8 training outputs"),
    ],
)
def test_the_headline_says_what_a_path_is(fixtures: Path, place: str, headline: str) -> None:
    assert shown(fixtures / place).startswith(headline)


def test_an_empty_directory_and_one_of_strangers_are_said_to_be_that(tmp_path: Path) -> None:
    assert shown(tmp_path).startswith(f"{tmp_path.name}: an empty directory")
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    text = shown(tmp_path)
    assert text.startswith(f"{tmp_path.name}: no training output recognised")
    assert "holiday.jpg" in text


def test_a_run_is_told_by_its_numbers(fixtures: Path) -> None:
    text = flat(shown(fixtures / "llamafactory"))
    for words in (
        "Written by LLaMA-Factory, transformers 5.6.0, peft 0.18.1.",
        "Training finished at step 16 of 16, 2 epochs.",
        "Loss 6.0851 at step 2 to 5.5416 at step 16",
        "Learning rate cosine",
        "Batches 4 rows per step (2 per device x 2 accumulated x 1 process), 8 steps per epoch",
        "Adapter LoRA rank 4, alpha 8 (scaling 2) on",
        "New tokens trained.",
    ):
        assert words in text, words


def test_zero_facts_are_in_words(fixtures: Path) -> None:
    text = flat(shown(fixtures / "zero3"))
    assert "Shards: ZeRO stage 3, 2 ranks, bfloat16" in text or "Shards: ZeRO stage 3, 2 ranks, float32" in text


def test_every_file_is_listed_with_its_purpose_and_need(fixtures: Path) -> None:
    for width in (80, 160):
        text = flat(shown(fixtures / "zero2", width=width, files=True))
        run = open_run(fixtures / "zero2")
        for artifact in run.all_artifacts:
            assert artifact.path in text
            assert flat(artifact.purpose) in text
        assert "Needed for resume, consolidate." in text


@pytest.fixture
def document(fixtures: Path) -> Json:
    return copy.deepcopy(show_document(open_run(fixtures / "resumed")))


def checkpoint(document: Json, step: int, **changes: Any) -> Json:
    return {**document["checkpoints"][0], "step": step, "path": f"checkpoint-{step}", **changes}


def test_many_checkpoints_are_shortened_but_never_the_best_or_a_broken_one(document: Json) -> None:
    broken = {"complete": False, "resume": "will_not", "reasons": ["trainer_state.json is missing"]}
    document["checkpoints"] = [checkpoint(document, step, **(broken if step == 33 else {})) for step in range(1, 101)]
    document["best"] = {"metric": "eval_loss", "value": 1.0, "step": 50, "checkpoint": "checkpoint-50", "exists": True}
    text = show_text(document, width=100)
    for name in ("checkpoint-1 ", "checkpoint-33 ", "checkpoint-50 ", "checkpoint-100 "):
        assert name in text, name
    assert "and 89 more between them" in text
    assert "checkpoint-33: trainer_state.json is missing." in text


def test_equal_reasons_are_said_once(document: Json) -> None:
    worse = {"resume": "will_differ", "reasons": ["no optimizer state"]}
    document["checkpoints"] = [checkpoint(document, step, **worse) for step in range(1, 6)]
    assert show_text(document, width=100).count("no optimizer state") == 1


def test_a_run_that_stopped_early_and_one_that_goes_on_are_told_apart(document: Json) -> None:
    document["progress"] = {"global_step": 5, "max_steps": 20, "epoch": 0.5, "num_train_epochs": 1, "finished": True}
    assert "ended early at step 5 of 20" in show_text(document)
    document["progress"]["finished"] = False
    assert "not finished at step 5 of 20" in show_text(document)
    assert "checkpoint-16 was begun later" in flat(show_text(document))


def test_one_epoch_is_no_plural(document: Json) -> None:
    document["progress"] = {"global_step": 16, "max_steps": 16, "epoch": 1.0, "num_train_epochs": 1, "finished": True}
    assert "step 16 of 16, 1 epoch." in flat(show_text(document))


def test_a_best_checkpoint_that_is_gone_is_said_to_be_gone(document: Json) -> None:
    document["best"] = {"metric": "eval_loss", "value": 1.0, "step": 4, "checkpoint": "checkpoint-4", "exists": False}
    assert "eval_loss 1.0000 at step 4: checkpoint-4, not here" in flat(show_text(document))


def test_hostile_text_of_any_field_is_escaped(document: Json) -> None:
    evil = "x\x1b[31m\u202e\n"

    def poisoned(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: poisoned(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [poisoned(item, key) for item in value]
        # words of our own, and those that passed the gate in `explain`
        ours = (
            "kind",
            "verdict",
            "resume",
            "explanation",
            "purpose",
            "group",
            "needed_for",
            "reasons",
            "message",
            "rule",
            "severity",
            "of",
        )
        return value + evil if isinstance(value, str) and key not in ours else value

    for files in (False, True):
        text = show_text(poisoned(document), width=100, files=files)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\\u{1b}" in text


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "optimizer.pt")
    os.symlink("/etc/passwd", tmp_path / "config.json")
    (tmp_path / "trainer_state.json").write_text('{"global_step": 1, "max_steps": 2, "log_history": []}')
    text = shown(tmp_path, files=True)
    assert "config.json" in text
    assert "the link leads out of the directory" in flat(text)
    assert "a FIFO, socket or device is never opened" in flat(text)
