"""Whether the rows of new tokens moved: evidence from the values."""

from __future__ import annotations

import json
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


def adapter_directory(path: Path, tensors: dict[str, np.ndarray], **config: object) -> Path:
    from safetensors.numpy import save_file

    save_file(
        {f"base_model.model.{name}": values for name, values in tensors.items()}, path / "adapter_model.safetensors"
    )
    values = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "init_lora_weights": True, **config}
    (path / "adapter_config.json").write_text(json.dumps(values))
    added = [{"id": number, "content": f"<{number}>", "special": False} for number in (7, 8, 9)]
    model = {"type": "WordLevel", "vocab": {str(number): number for number in range(7)}, "unk_token": "0"}
    (path / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added}))
    return path


def rows_of(path: Path) -> list[tuple[str, str, int | None]]:
    answer = explain_tokens(open_run(path), deep=True)
    assert answer is not None
    return [(row.side, row.verdict, row.unmoved) for row in answer.rows]


def test_rows_beyond_the_base_are_compared_with_those_saved_from_before_training(tmp_path: Path) -> None:
    before = RANDOM.normal(0, 1, (10, 8)).astype("f4")
    after = before.copy()
    after[8] += 1
    tensors = {"model.embed_tokens.weight": after, "model.embed_tokens.original_module.weight": before}
    found = adapter_directory(tmp_path, tensors, modules_to_save=["embed_tokens"])
    assert rows_of(found) == [("input", "moved", 2)]


def test_rows_of_unequal_indices_are_compared_with_their_own(tmp_path: Path) -> None:
    before = RANDOM.normal(0, 1, (10, 8)).astype("f4")
    tensors = {
        "model.embed_tokens.token_adapter.trainable_tokens_delta": before[[9, 7, 8]] + np.float32(1),
        "model.embed_tokens.token_adapter.base_layer.weight": before,
        "lm_head.token_adapter.trainable_tokens_delta": before[[8]],
        "lm_head.token_adapter.base_layer.weight": before,
    }
    indices = {"embed_tokens": [9, 7, 8], "lm_head": [8]}
    found = adapter_directory(tmp_path, tensors, trainable_token_indices=indices)
    assert rows_of(found) == [("input", "moved", 0), ("output", "initial", 1)]


def test_a_low_rank_update_that_stayed_zero_learned_nothing(tmp_path: Path) -> None:
    columns = np.zeros((2, 10), dtype="f4")
    columns[:, 7] = 1
    tensors = {
        "model.embed_tokens.lora_embedding_A": columns,
        "model.embed_tokens.lora_embedding_B": np.ones((8, 2), dtype="f4"),
        "lm_head.lora_A.weight": np.ones((2, 8), dtype="f4"),
        "lm_head.lora_B.weight": np.zeros((10, 2), dtype="f4"),
    }
    found = adapter_directory(tmp_path, tensors, target_modules=["embed_tokens", "lm_head"])
    assert rows_of(found) == [("input", "moved", 2), ("output", "initial", 3)]


def test_a_full_model_whose_new_rows_equal_the_bases_was_frozen(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    matrix = RANDOM.normal(0, 1, (10, 8)).astype("f4")
    tuned, base = adapter_directory(tmp_path, {"a": matrix}), tmp_path / "base"
    base.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tuned / name).unlink()
    for place in (tuned, base):
        (place / "config.json").write_text(json.dumps({"vocab_size": 10, "tie_word_embeddings": True}))
        save_file({"model.embed_tokens.weight": matrix}, place / "model.safetensors")
    (base / "tokenizer.json").write_text((tuned / "tokenizer.json").read_text().replace('"added_tokens"', '"none"'))
    shallow = explain_tokens(open_run(tuned), base=base)
    deep = explain_tokens(open_run(tuned), base=base, deep=True)
    assert shallow is not None
    assert deep is not None
    assert (shallow.verdict, deep.verdict, deep.output_embedding) == ("trained", "saved_but_frozen", "frozen_copy")
