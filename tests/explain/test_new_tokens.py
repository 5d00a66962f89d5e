"""The verdict on new tokens, one case per way of adding them (peft 0.21.2, transformers 5.23)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from builders.documents import json_source

from ckpt_inspect.artifacts.adapter import read_adapter_config
from ckpt_inspect.artifacts.adapter_weights import adapter_weights
from ckpt_inspect.artifacts.embedding_names import embedding_side
from ckpt_inspect.explain.base_model import BaseFacts, published
from ckpt_inspect.explain.embedding_state import adapter_embeddings, model_embeddings
from ckpt_inspect.explain.new_tokens import Situation, answer

P = "base_model.model."
EMBED, HEAD = P + "model.embed_tokens", P + "lm_head"
LORA = [(P + "model.layers.0.self_attn.q_proj.lora_A.weight", (4, 64))]
THREE = ((100, "<a>"), (101, "<b>"), (102, "<c>"))
IDS = [100, 101, 102]


def adapter(keys: list[tuple[str, tuple[int, ...]]], **values: Any):
    config = read_adapter_config(json_source({"peft_type": "LORA", "r": 4, **values}))
    stored = [(name, "F32", shape, 4 * math.prod(shape)) for name, shape in [*LORA, *keys]]
    return adapter_embeddings(adapter_weights(stored, config).tensors, config)


def situation(
    keys,
    *,
    rows=100,
    length=100,
    tied=False,
    mts=(),
    ids=None,
    tokens=THREE,
    base=True,
    full=False,
    silent=False,
    **values,
):
    if full:
        sides = model_embeddings(keys, tied=tied)
    else:
        sides = adapter(keys, modules_to_save=list(mts), trainable_token_indices=ids, **values)
    return Situation(
        tokens=tokens,
        certain=base,
        tokenizer_length=length + len(tokens),
        max_token_id=max((number for number, _ in tokens), default=length - 1),
        base=BaseFacts("b", None, rows, length, tied, None, "--base") if base else None,
        input=sides["input"],
        output=sides["output"],
        tied=tied if base else None,
        full_model=full,
        silent=silent,
    )


BOTH = [(f"{EMBED}.weight", (103, 64)), (f"{HEAD}.weight", (103, 64))]
TRIPLE = [
    (f"{module}.{infix}weight", (103, 64))
    for module in (EMBED, HEAD)
    for infix in ("", "modules_to_save.", "original_module.")
]
DELTA = [(f"{EMBED}.token_adapter.trainable_tokens_delta", (3, 64))]
HEAD_DELTA = [(f"{HEAD}.token_adapter.trainable_tokens_delta", (3, 64))]
LOW_RANK = [
    (f"{EMBED}.base_layer.weight", (103, 64)),
    (f"{EMBED}.lora_embedding_A", (4, 103)),
    (f"{EMBED}.lora_embedding_B", (64, 4)),
    (f"{HEAD}.base_layer.weight", (103, 64)),
    (f"{HEAD}.lora_A.weight", (4, 64)),
    (f"{HEAD}.lora_B.weight", (103, 4)),
]

CASES = {
    "resized, saved by PEFT, never trained": (dict(keys=BOTH), "frozen_copy", "frozen_copy", "saved_but_frozen"),
    "resized and lost": (dict(keys=[]), "absent", "absent", "lost"),
    "padding rows, nothing saved": (dict(keys=[], rows=128), "absent", "absent", "in_padding_rows_untrained"),
    "modules_to_save": (dict(keys=BOTH, mts=("embed_tokens", "lm_head")), "trained", "trained", "trained"),
    "modules_to_save and resized, three copies": (
        dict(keys=TRIPLE, mts=("embed_tokens", "lm_head")), "trained", "trained", "trained",
    ),
    "input only, untied": (dict(keys=BOTH[:1], mts=("embed_tokens",)), "trained", "absent", "partly_trained"),
    "a copy of the input only, tied: the head keeps the base's matrix": (
        dict(keys=BOTH[:1], mts=("embed_tokens",), tied=True), "trained", "absent", "partly_trained",
    ),
    "a copy of the input, tied to the head by ensure_weight_tying": (
        dict(keys=BOTH, mts=("embed_tokens", "model.embed_tokens"), tied=True, ensure_weight_tying=True),
        "trained", "trained", "trained",
    ),
    "ensure_weight_tying on an untied base": (
        dict(keys=BOTH, mts=("embed_tokens",), ensure_weight_tying=True), "trained", "frozen_copy", "partly_trained",
    ),
    "low rank on the input only, tied": (
        dict(keys=LOW_RANK[:3], tied=True), "low_rank", "absent", "partly_trained",
    ),
    "a copy of the module encoder and decoder only borrow from": (
        dict(keys=[(f"{P}shared.weight", (103, 64))], mts=("shared",), tied=True),
        "frozen_copy", "absent", "saved_but_frozen",
    ),
    "a classifier needs no output row": (
        dict(keys=BOTH[:1], mts=("embed_tokens",), silent=True), "trained", "absent", "trained",
    ),
    "input trained, output a frozen copy": (dict(keys=BOTH, mts=("embed_tokens",)), "trained", "frozen_copy", "partly_trained"),
    "low rank on both": (dict(keys=LOW_RANK), "low_rank", "low_rank", "trained"),
    "token indices, untied": (
        dict(keys=DELTA, rows=128, ids=IDS), "selected_rows", "absent", "partly_trained",
    ),
    "token indices, tied": (
        dict(keys=DELTA, rows=128, ids=IDS, tied=True), "selected_rows", "absent", "trained",
    ),
    "token indices of other tokens": (
        dict(keys=DELTA, rows=128, ids=[7, 8, 9], tied=True), "selected_rows", "absent", "in_padding_rows_untrained",
    ),
    "token indices of other tokens, resized": (
        dict(keys=[*DELTA, *BOTH[1:]], ids=[7, 8, 9]), "selected_rows", "frozen_copy", "saved_but_frozen",
    ),
    "token indices of two of three": (
        dict(keys=[(DELTA[0][0], (2, 64)), *BOTH[1:]], ids=[100, 101]), "selected_rows", "frozen_copy", "partly_trained",
    ),
    "fewer token indices on the output side": (
        dict(keys=[*DELTA, (HEAD_DELTA[0][0], (1, 64))], ids={"embed_tokens": IDS, "lm_head": [100]}, rows=128),
        "selected_rows", "selected_rows", "partly_trained",
    ),
    "token indices on the output side only, tied": (
        dict(keys=HEAD_DELTA, ids={"lm_head": IDS}, rows=128, tied=True), "absent", "selected_rows", "partly_trained",
    ),
    "token indices, the tied head written again": (
        dict(keys=[*DELTA, *HEAD_DELTA], ids=IDS, rows=128, tied=True), "selected_rows", "selected_rows", "trained",
    ),
    "no new tokens": (dict(keys=[], tokens=()), "absent", "absent", "none"),
    "base unknown, nothing saved": (dict(keys=[], base=False), "absent", "absent", "unknown"),
    "base unknown, frozen copies": (dict(keys=BOTH, base=False), "frozen_copy", "frozen_copy", "saved_but_frozen"),
    "base unknown, input rows only": (dict(keys=DELTA, base=False), "selected_rows", "absent", "unknown"),
    "saved matrix too short": (
        dict(keys=[(f"{EMBED}.weight", (101, 64))], mts=("embed_tokens",)), "trained", "absent", "out_of_range",
    ),
    "full model": (
        dict(keys=[("model.embed_tokens.weight", (128, 64)), ("lm_head.weight", (128, 64))], full=True),
        "trained", "trained", "trained",
    ),
    "full model, one tied matrix": (
        dict(keys=[("transformer.shared.weight", (128, 64))], full=True, tied=True), "trained", "trained", "trained",
    ),
    "full model too short": (
        dict(keys=[("model.embed_tokens.weight", (100, 64)), ("lm_head.weight", (100, 64))], full=True),
        "trained", "trained", "out_of_range",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str) -> None:
    facts, input_state, output_state, verdict = CASES[name]
    result = answer(situation(**facts))
    assert (result.input_embedding, result.output_embedding, result.verdict) == (input_state, output_state, verdict)
    assert result.explanation.endswith(".")
    assert (result.remedy is None) == (verdict in ("none", "trained"))


def test_three_copies_are_said() -> None:
    result = answer(situation(TRIPLE, mts=("embed_tokens", "lm_head")))
    assert "3 times" in result.explanation


@pytest.mark.parametrize(
    ("path", "side"),
    [
        ("model.embed_tokens", "input"),
        ("lm_head", "output"),
        ("transformer.wte", "input"),
        ("bert.embeddings.word_embeddings", "input"),
        ("cls.predictions.decoder", "output"),
        ("lm_head.decoder", "output"),
        ("backbone.embeddings", "input"),
        ("bert.encoder.layer.0.attention.output.dense", None),
        ("bert.embeddings.position_embeddings", None),
        ("model.decoder", None),
        ("model.layers.0.self_attn.q_proj", None),
        ("model.language_model.embed_tokens", "input"),
    ],
)
def test_embeddings_are_known_by_name(path: str, side: str | None) -> None:
    assert embedding_side(path) == side


@pytest.mark.parametrize(
    ("name", "rows", "tokens"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", 152064, 151665),
        ("/data/models/Qwen2.5-1.5B", 151936, 151665),
        ("Qwen/Qwen3-8B", 151936, 151669),
        ("meta-llama/Llama-2-7b-hf", 32000, 32000),
    ],
)
def test_published_models(name: str, rows: int, tokens: int) -> None:
    facts = published(name)
    assert facts is not None
    assert (facts.rows, facts.tokens) == (rows, tokens)


def test_an_unpublished_model_is_unknown() -> None:
    assert published("me/my-own-7b") is None


def test_without_the_base_the_place_of_a_row_is_unknown() -> None:
    result = answer(situation(BOTH, base=False))
    assert {token.place for token in result.tokens} == {"unknown"}


def test_a_full_model_whose_embedding_is_not_found_is_not_called_untrained() -> None:
    facts = situation([("model.layers.0.mlp.up_proj.weight", (64, 64))], rows=128, full=True)
    assert answer(replace(facts, readable=False)).verdict == "unknown"


@pytest.mark.parametrize("words", ["ties its embeddings", "one side only"])
def test_a_tie_does_not_carry_a_low_rank_update_over(words: str) -> None:
    assert words in answer(situation(LOW_RANK[:3], tied=True)).explanation
