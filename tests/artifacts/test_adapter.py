from __future__ import annotations

import pytest
from builders.documents import json_source, kinds

from ckpt_inspect.artifacts.adapter import named_ids, read_adapter_config, version_bracket
from ckpt_inspect.artifacts.adapter_targets import is_target, pattern_key

Q0 = "model.layers.0.self_attn.q_proj"
Q5 = "model.layers.5.self_attn.q_proj"
GATE = "model.layers.5.mlp.experts.0.gate_proj"
KEYS_OF_07 = (
    *("modules_to_save", "revision", "layers_to_transform", "layers_pattern", "auto_mapping"),
    *("rank_pattern", "alpha_pattern", "loftq_config", "megatron_config", "megatron_core"),
)


def lora(**values: object):
    return read_adapter_config(json_source({"peft_type": "LORA", "r": 8, "lora_alpha": 16, **values}))


def test_the_fields_of_a_lora_are_read() -> None:
    config = lora(
        base_model_name_or_path="org/base",
        revision="abc",
        task_type="CAUSAL_LM",
        target_modules=["q_proj", "v_proj"],
        modules_to_save=["lm_head"],
        trainable_token_indices={"embed_tokens": [5, 6]},
        init_lora_weights="pissa",
        peft_version="0.21.2",
        inference_mode=True,
        bias="none",
    )
    assert (config.peft_type, config.base_model, config.revision, config.task_type) == (
        "LORA",
        "org/base",
        "abc",
        "CAUSAL_LM",
    )
    assert (config.r, config.alpha, config.use_rslora, config.use_dora) == (8, 16, False, False)
    assert config.target_modules == ("q_proj", "v_proj")
    assert config.modules_to_save == ("lm_head",)
    assert config.init_weights == config.init_lora_weights == "pissa"
    assert named_ids(config.trainable_token_indices) == {"embed_tokens": (5, 6)}
    assert config.faults == ()
    assert config.unknown_keys == ()


def test_the_rank_and_alpha_are_found_under_the_keys_of_each_type() -> None:
    adalora = read_adapter_config(json_source({"peft_type": "ADALORA", "r": 8, "init_r": 12, "lora_alpha": 32}))
    randlora = read_adapter_config(json_source({"peft_type": "RANDLORA", "r": 32, "randlora_alpha": 640}))
    loha = read_adapter_config(json_source({"peft_type": "LOHA", "r": 4, "alpha": 8}))
    assert [(c.r, c.alpha) for c in (adalora, randlora, loha)] == [(12, 32), (32, 640), (4, 8)]


def test_a_regular_expression_of_targets_stays_one_string() -> None:
    assert lora(target_modules=r".*\.q_proj").target_modules == r".*\.q_proj"


def test_scaling_is_alpha_over_rank() -> None:
    assert lora().scaling(Q0) == 2.0


def test_rank_stabilised_scaling_divides_by_the_root_of_the_rank() -> None:
    assert lora(r=16, use_rslora=True).scaling(Q0) == 4.0


def test_patterns_override_rank_and_alpha_module_by_module() -> None:
    config = lora(rank_pattern={"q_proj": 4}, alpha_pattern={r"layers\.5\..*": 64})
    assert config.scaling(Q0) == 16 / 4
    assert config.scaling(Q5) == 64 / 4
    assert config.scaling("model.layers.5.mlp.up_proj") == 64 / 8
    assert config.scaling("model.layers.0.mlp.up_proj") == 2.0


def test_a_pattern_matches_whole_path_components_from_the_end() -> None:
    assert pattern_key({"proj": 1}, Q0) is None
    assert pattern_key({"q_proj": 1}, Q0) == "q_proj"
    assert pattern_key({"self_attn.q_proj": 1}, Q0) == "self_attn.q_proj"
    assert pattern_key({"^model.layers.0.self_attn.q_proj": 1}, Q0) is not None


def test_the_first_matching_pattern_wins() -> None:
    assert pattern_key({".*q_proj": 1, "q_proj": 2}, Q0) == ".*q_proj"


@pytest.mark.parametrize(
    ("values", "scaling"),
    [
        ({"peft_type": "GRALORA", "r": 32, "hybrid_r": 32, "alpha": 64}, 1.0),
        ({"peft_type": "DEFT", "r": 4}, 1.0),
        ({"peft_type": "FOURIERFT", "scaling": 150}, 150.0),
        ({"peft_type": "IA3"}, None),
        ({"peft_type": "LORA"}, None),
        ({"peft_type": "LORA", "r": 0, "lora_alpha": 4}, None),
        ({"peft_type": "LORA", "r": "8", "lora_alpha": 4}, None),
    ],
)
def test_scaling_follows_the_formula_of_the_type_or_is_unknown(values: dict, scaling: float | None) -> None:
    assert read_adapter_config(json_source(values)).scaling(Q0) == scaling


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"r": 8}, "adapter-type-missing"),
        ({"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}, "adapter-type-missing"),
        ({"peft_type": "LORA2"}, "adapter-type-unknown"),
        ({"peft_type": "BONE", "r": 64}, "adapter-type-removed"),
        ({"peft_type": "LORA", "task_type": "CHAT"}, "adapter-task-unknown"),
        ({"peft_type": "LORA", "r": 0}, "adapter-rank"),
        ({"peft_type": "LORA", "r": "8"}, "field-type"),
        ({"peft_type": "LORA", "target_modules": 5}, "field-type"),
        ({"peft_type": "LORA", "target_modules": ["q_proj", 5]}, "field-type"),
        ({"peft_type": "LORA", "rank_pattern": {"q_proj": "8"}}, "field-type"),
        ({"peft_type": "LORA", "trainable_token_indices": "1,2"}, "field-type"),
        ({"peft_type": "LORA", "target_modules": "(q_proj"}, "adapter-pattern"),
        ({"peft_type": "LORA", "rank_pattern": {"(?=q)q_proj": 4}}, "adapter-pattern"),
    ],
)
def test_what_peft_would_refuse_or_drop_is_a_fault(values: dict, kind: str) -> None:
    assert kinds(read_adapter_config(json_source(values))) == [kind]


def test_the_masks_of_adalora_are_no_ranks() -> None:
    config = read_adapter_config(
        json_source(
            {"peft_type": "ADALORA", "init_r": 2, "lora_alpha": 4, "rank_pattern": {Q0 + ".lora_E": [True, False]}}
        )
    )
    assert config.faults == ()
    assert config.scaling(Q0) == 2.0


def test_keys_no_release_knows_are_named() -> None:
    assert lora(use_warp=True).unknown_keys == ("use_warp",)


def test_prompt_learning_is_told_apart() -> None:
    assert read_adapter_config(json_source({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 20})).prompt
    assert not lora().prompt


@pytest.mark.parametrize(
    ("keys", "bracket"),
    [
        (("modules_to_save",), ("0.2", "0.4")),
        (
            KEYS_OF_07,
            ("0.7", "0.8"),
        ),
        (("modules_to_save", "kasa_config"), ("0.21", None)),
    ],
)
def test_the_keys_present_bracket_the_release_that_wrote_them(keys: tuple[str, ...], bracket: tuple) -> None:
    assert version_bracket(lora(**dict.fromkeys(keys))) == bracket


def test_targets_are_path_ends_and_never_modules_saved_whole() -> None:
    config = lora(
        target_modules=["q_proj", "lm_head"], modules_to_save=["lm_head"], exclude_modules=["layers.5.self_attn.q_proj"]
    )
    assert is_target(config, Q0) is True
    assert is_target(config, Q5) is False
    assert is_target(config, "lm_head") is False
    assert is_target(config, "model.layers.0.self_attn.xq_proj") is False


def test_layers_to_transform_looks_at_the_first_number_of_the_path() -> None:
    config = lora(target_modules=["q_proj", "gate_proj"], layers_to_transform=[5])
    assert is_target(config, Q0) is False
    assert is_target(config, Q5) is True
    assert is_target(config, GATE) is True
    assert is_target(lora(target_modules=["q_proj"], layers_to_transform=5, layers_pattern="blocks"), Q5) is False


def test_a_target_expression_has_to_match_the_whole_path() -> None:
    assert is_target(lora(target_modules="q_proj"), Q0) is False
    assert is_target(lora(target_modules=r".*\.q_proj"), Q0) is True
    assert is_target(lora(), Q0) is None
    assert is_target(lora(target_parameters=["mlp.experts.gate_up_proj"]), Q0) is False


def test_an_expression_built_to_backtrack_for_ever_is_matched_in_bounded_time() -> None:
    config = lora(rank_pattern={"(a|aa)+(a|aa)+(a|aa)+!": 4})
    assert config.scaling("a" * 5000) == 2.0


def test_a_tied_head_is_a_target_where_its_embedding_is() -> None:
    tied = lora(target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True)
    assert is_target(tied, "lm_head")
    assert not is_target(lora(target_modules=["q_proj", "embed_tokens"]), "lm_head")


def test_the_string_of_an_adaption_prompt_is_a_name() -> None:
    assert is_target(lora(peft_type="ADAPTION_PROMPT", target_modules="self_attn"), "model.layers.0.self_attn")
