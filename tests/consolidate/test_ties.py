"""Tied weights are written once, under the name a loader looks for, and the config says what is true."""

from __future__ import annotations

import json

import numpy as np
import pytest

from consolidate.making import CONFIG, make_checkpoint, parameter, read_tensors, small_model

from builders.deepspeed import Model  # isort: skip
from safetensors.numpy import save_file

from ckpt_inspect.consolidate.api import consolidate

OWNER, ALIAS = "model.embed_tokens.weight", "lm_head.weight"


def run(tmp_path, config, *, saved=None, model=None, stage=2):
    checkpoint = make_checkpoint(tmp_path, model=model or small_model(ties={ALIAS: OWNER}), config=config, stage=stage)
    if saved is not None:
        save_file({name: np.zeros(1, "f4") for name in saved}, checkpoint / "model.safetensors")
    result = consolidate(checkpoint, tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    return result, read_tensors(tmp_path / "out"), json.loads(path.read_text()) if path.exists() else None


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("config", [{**CONFIG, "tie_word_embeddings": True}, {"model_type": "gpt2"}])
def test_a_tied_head_is_stored_once(stage, config, tmp_path):
    _, tensors, written = run(tmp_path, config, stage=stage)
    assert OWNER in tensors
    assert ALIAS not in tensors
    assert written.get("tie_word_embeddings", True) is True


def test_a_config_that_does_not_tie_gets_both(tmp_path):
    result, tensors, written = run(tmp_path, {**CONFIG, "tie_word_embeddings": False})
    assert tensors[OWNER].tobytes() == tensors[ALIAS].tobytes()
    assert written["tie_word_embeddings"] is False
    assert any("both are written" in warning for warning in result.warnings)


def test_the_saved_model_shows_which_name_a_loader_wants(tmp_path):
    config = {**CONFIG, "tie_word_embeddings": True}
    _, tensors, _ = run(tmp_path / "a", config, saved=[ALIAS, "model.layers.0.norm.weight"])
    assert ALIAS in tensors
    assert OWNER not in tensors
    _, tensors, _ = run(tmp_path / "b", config, saved=[ALIAS, OWNER])
    assert tensors[OWNER].tobytes() == tensors[ALIAS].tobytes()
    _, tensors, _ = run(tmp_path / "c", {**CONFIG, "tie_word_embeddings": False}, saved=[OWNER])
    assert ALIAS not in tensors


def test_without_a_config_the_file_says_what_is_tied_as_plain_torch_reads_it(tmp_path):
    run(tmp_path, None)
    data = (tmp_path / "out" / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"format": "pt", ALIAS: OWNER}


@pytest.mark.parametrize("nested", [False, True])
def test_embeddings_that_came_apart_are_not_tied_again(nested, tmp_path):
    config = {"text_config": {"tie_word_embeddings": True}} if nested else {"tie_word_embeddings": True}
    result, tensors, written = run(tmp_path, config, model=small_model())
    assert {OWNER, ALIAS} <= set(tensors)
    assert written["tie_word_embeddings"] is False
    assert written.get("text_config", {"tie_word_embeddings": False}) == {"tie_word_embeddings": False}
    assert any("separately" in warning for warning in result.warnings)


def test_lost_tensors_are_said(tmp_path):
    names = [*(p.name for p in small_model().parameters), "model.steps", "model.mask", "model.never.saved.weight"]
    result, _, _ = run(tmp_path, CONFIG, saved=names, model=small_model())
    assert any("1 tensors of the saved model are not in the shards" in warning for warning in result.warnings)


def test_a_value_head_has_a_file_of_its_own(tmp_path):
    model = Model(
        [parameter("pretrained_model.model.embed_tokens.weight", 31, 8), parameter("v_head.summary.weight", 1, 8)]
    )
    checkpoint = make_checkpoint(tmp_path, model=model, config=CONFIG)
    consolidate(checkpoint, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors")} == {
        "model.safetensors", "value_head.safetensors",
    }  # fmt: skip
    assert set(read_tensors(tmp_path / "out")) == {"model.embed_tokens.weight", "v_head.summary.weight"}
