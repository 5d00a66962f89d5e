"""The verdict on new tokens, one case per way of adding them (peft 0.21.2, transformers 5.23)."""

from __future__ import annotations

import pytest

from ckpt_inspect.explain.base_model import BaseFacts, published
from ckpt_inspect.explain.embedding_state import adapter_embeddings, embedding_side, model_embeddings, split_key
from ckpt_inspect.explain.new_tokens import Situation, answer

P = "base_model.model."
EMBED, HEAD = P + "model.embed_tokens", P + "lm_head"
LORA = [(P + "model.layers.0.self_attn.q_proj.lora_A.weight", (4, 64))]
THREE = ((100, "<a>"), (101, "<b>"), (102, "<c>"))


def situation(keys, *, rows=100, length=100, tied=False, mts=(), ids=None, tokens=THREE, base=True, full=False):
    sides = model_embeddings(keys) if full else adapter_embeddings([*LORA, *keys], mts)
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
        trained_ids=ids,
    )


BOTH = [(f"{EMBED}.weight", (103, 64)), (f"{HEAD}.weight", (103, 64))]
TRIPLE = [
    (f"{module}.{infix}weight", (103, 64))
    for module in (EMBED, HEAD)
    for infix in ("", "modules_to_save.", "original_module.")
]
DELTA = [(f"{EMBED}.token_adapter.trainable_tokens_delta", (3, 64))]
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
    "input only, tied": (dict(keys=BOTH[:1], mts=("embed_tokens",), tied=True), "trained", "absent", "trained"),
    "input trained, output a frozen copy": (dict(keys=BOTH, mts=("embed_tokens",)), "trained", "frozen_copy", "partly_trained"),
    "low rank on both": (dict(keys=LOW_RANK), "low_rank", "low_rank", "trained"),
    "token indices, untied": (
        dict(keys=DELTA, rows=128, ids=(100, 101, 102)), "selected_rows", "absent", "partly_trained",
    ),
    "token indices, tied": (
        dict(keys=DELTA, rows=128, ids=(100, 101, 102), tied=True), "selected_rows", "absent", "trained",
    ),
    "token indices of other tokens": (
        dict(keys=DELTA, rows=128, ids=(7, 8, 9), tied=True), "selected_rows", "absent", "partly_trained",
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
        ("model.layers.0.self_attn.q_proj", None),
        ("model.language_model.embed_tokens", "input"),
    ],
)
def test_embeddings_are_known_by_name(path: str, side: str | None) -> None:
    assert embedding_side(path) == side


def test_a_key_is_split_at_its_embedding() -> None:
    assert split_key(f"{EMBED}.token_adapter.trainable_tokens_delta") == (
        "model.embed_tokens",
        "token_adapter.trainable_tokens_delta",
    )


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
