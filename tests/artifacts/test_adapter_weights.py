from __future__ import annotations

import pytest
from builders.documents import json_source, kinds

from ckpt_inspect.artifacts.adapter import read_adapter_config
from ckpt_inspect.artifacts.adapter_keys import parse_key
from ckpt_inspect.artifacts.adapter_weights import adapter_weights

P = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"
EMBED = "model.embed_tokens"


def weights(shapes: dict[str, tuple[int, ...]], dtype: str = "F32", **config: object):
    import math

    tensors = [(name, dtype, shape, 4 * math.prod(shape)) for name, shape in shapes.items()]
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}
    return adapter_weights(tensors, read_adapter_config(json_source(values)))


def lora_pair(module: str = Q, rank: int = 4, inputs: int = 16, outputs: int = 32) -> dict[str, tuple[int, ...]]:
    return {f"{P}{module}.lora_A.weight": (rank, inputs), f"{P}{module}.lora_B.weight": (outputs, rank)}


@pytest.mark.parametrize(
    ("name", "module", "suffix", "role"),
    [
        (f"{P}{Q}.lora_A.weight", Q, "lora_A.weight", "lora_A"),
        (f"{P}{Q}.lora_B.bias", Q, "lora_B.bias", "lora_bias"),
        (f"{P}{Q}.lora_magnitude_vector", Q, "lora_magnitude_vector", "magnitude"),
        (f"{P}{Q}.lora_E", Q, "lora_E", "lora_E"),
        (f"{P}{EMBED}.lora_embedding_A", EMBED, "lora_embedding_A", "lora_embedding_A"),
        (f"{P}{EMBED}.base_layer.weight", EMBED, "base_layer.weight", "base_layer"),
        (
            f"{P}{EMBED}.token_adapter.trainable_tokens_delta",
            EMBED,
            "token_adapter.trainable_tokens_delta",
            "token_delta",
        ),
        (f"{P}{EMBED}.token_adapter.base_layer.weight", EMBED, "token_adapter.base_layer.weight", "base_layer"),
        (f"{P}{EMBED}.trainable_tokens_delta", EMBED, "trainable_tokens_delta", "token_delta"),
        (f"{P}lm_head.original_module.weight", "lm_head", "original_module.weight", "original_module"),
        (f"{P}lm_head.modules_to_save.weight", "lm_head", "modules_to_save.weight", "modules_to_save"),
        (
            f"{P}model.layers.0.mlp.experts.base_layer.lora_A.weight",
            "model.layers.0.mlp.experts",
            "base_layer.lora_A.weight",
            "lora_A",
        ),
        ("base_model.vera_A", "", "vera_A", "projection"),
        (f"{P}{Q}.oft_R.weight", Q, "oft_R.weight", "adapter"),
        (f"{P}{Q}.glora_C.zeros", Q, "glora_C.zeros", "frozen"),
        (f"{P}{Q}.glora_A.Xd", Q, "glora_A.Xd", "adapter"),
        (f"{P}{Q}.shira_indices", Q, "shira_indices", "indices"),
        ("prompt_embeddings", "", "prompt_embeddings", "prompt"),
        ("base_model.tinylora_v.3", "", "tinylora_v.3", "adapter"),
        ("base_model.internal_xlora_classifier.last.weight", "", "internal_xlora_classifier.last.weight", "adapter"),
        ("layers.0.attn.q_proj.lora_a.weight", "layers.0.attn.q_proj", "lora_a.weight", "lora_A"),
        ("lora_unet_mid_block.lora_down.weight", "lora_unet_mid_block", "lora_down.weight", "lora_A"),
    ],
)
def test_a_name_is_taken_apart_at_the_parameter_of_the_adapter(name: str, module: str, suffix: str, role: str) -> None:
    parsed = parse_key(name)
    assert (parsed.module, parsed.suffix, parsed.role, parsed.adapter) == (module, suffix, role, None)


@pytest.mark.parametrize(
    ("name", "suffix", "adapter"),
    [
        (f"{P}{Q}.lora_A.default.weight", "lora_A.weight", "default"),
        (f"{P}{Q}.lora_A.policy.weight", "lora_A.weight", "policy"),
        (f"{P}{Q}.lora_magnitude_vector.default", "lora_magnitude_vector", "default"),
        (f"{P}{Q}.lora_magnitude_vector.default.weight", "lora_magnitude_vector.weight", "default"),
        (f"{P}lm_head.modules_to_save.default.weight", "modules_to_save.weight", "default"),
        (f"{P}model.layers.0.shadow_down.default.weight", "shadow_down.weight", "default"),
        (f"{P}{Q}.adamss_A.default.0", "adamss_A.0", "default"),
    ],
)
def test_an_adapter_name_left_in_a_key_is_found_and_taken_out(name: str, suffix: str, adapter: str) -> None:
    parsed = parse_key(name)
    assert (parsed.suffix, parsed.adapter) == (suffix, adapter)


@pytest.mark.parametrize(
    ("name", "wrappers"),
    [
        (f"module.{P}{Q}.lora_A.weight", ("module",)),
        (f"_fsdp_wrapped_module.{P}{Q}.lora_A.weight", ("_fsdp_wrapped_module",)),
        (f"{P}model.layers.0._orig_mod.self_attn.q_proj.lora_A.weight", ("_orig_mod",)),
        (f"_orig_mod.module.{P}{Q}.lora_A.weight", ("_orig_mod", "module")),
    ],
)
def test_training_wrappers_left_in_a_key_are_named_and_do_not_hide_the_module(name: str, wrappers: tuple) -> None:
    parsed = parse_key(name)
    assert parsed.wrappers == wrappers
    assert parsed.module == Q


def test_ranks_targets_layers_and_counts_follow_from_names_and_shapes() -> None:
    read = weights({**lora_pair(), **lora_pair("model.layers.2.mlp.up_proj", rank=2)})
    assert read.ranks == {Q: 4, "model.layers.2.mlp.up_proj": 2}
    assert read.targets == ("q_proj", "up_proj")
    assert read.layers == {"model.layers": (0, 2)}
    assert read.layer_gaps == {"model.layers": (1,)}
    assert read.trainable_parameters == 4 * (16 + 32) + 2 * (16 + 32)
    assert (read.types, read.dialect, read.dtypes, read.faults) == (("LORA",), "peft", ("F32",), ())


def test_a_bare_embedding_is_a_frozen_copy_unless_modules_to_save_names_it() -> None:
    shapes = {**lora_pair(), f"{P}{EMBED}.weight": (100, 16), f"{P}lm_head.weight": (100, 16)}
    frozen, trained = weights(shapes), weights(shapes, modules_to_save=["lm_head"])
    assert [t.role for t in frozen.tensors[2:]] == ["embedding_copy", "embedding_copy"]
    assert [t.role for t in trained.tensors[2:]] == ["embedding_copy", "saved_module"]
    assert trained.trainable_parameters - frozen.trainable_parameters == 1600
    assert trained.saved_modules == ("lm_head",)


def test_three_copies_of_one_matrix_are_trained_once() -> None:
    shapes = {f"{P}lm_head.{infix}weight": (100, 16) for infix in ("", "modules_to_save.", "original_module.")}
    assert weights(shapes, modules_to_save=["lm_head"]).trainable_parameters == 1600


def test_a_raw_dump_that_holds_only_the_wrapped_copy_counts_it() -> None:
    shapes = {f"{P}lm_head.modules_to_save.default.weight": (100, 16), f"{P}lm_head.original_module.weight": (100, 16)}
    read = weights(shapes, modules_to_save=["lm_head"])
    assert read.trainable_parameters == 1600
    assert read.adapter_names == ("default",)


def test_the_base_weight_under_a_targeted_embedding_is_not_trained() -> None:
    shapes = {
        f"{P}{EMBED}.lora_embedding_A": (4, 100),
        f"{P}{EMBED}.lora_embedding_B": (16, 4),
        f"{P}{EMBED}.base_layer.weight": (100, 16),
    }
    read = weights(shapes)
    assert read.trainable_parameters == 4 * (100 + 16)
    assert read.ranks == {EMBED: 4}


def test_selected_token_rows_are_trained_and_are_no_target() -> None:
    read = weights({**lora_pair(), f"{P}{EMBED}.token_adapter.trainable_tokens_delta": (3, 16)})
    assert read.trainable_parameters == 4 * 48 + 3 * 16
    assert read.targets == ("q_proj",)


def test_a_magnitude_vector_and_a_bias_of_the_adapter_are_trained() -> None:
    read = weights({**lora_pair(), f"{P}{Q}.lora_magnitude_vector": (32,), f"{P}{Q}.lora_B.bias": (32,)})
    assert read.trainable_parameters == 4 * 48 + 64
    assert [t.rank for t in read.tensors] == [4, 4, None, None]


def test_a_bias_counts_only_where_the_configuration_trains_biases() -> None:
    shapes = {f"{P}{Q}.bias": (32,)}
    assert weights(shapes, bias="lora_only").trainable_parameters == 32
    assert weights(shapes, bias="none").tensors[0].role == "unknown"


def test_projections_and_index_tensors_are_not_trained() -> None:
    shapes = {
        "base_model.vera_A": (4, 16),
        "base_model.vera_B": (32, 4),
        f"{P}{Q}.vera_lambda_b": (32,),
        f"{P}{Q}.vera_lambda_d": (4,),
    }
    read = weights(shapes, peft_type="VERA")
    assert read.trainable_parameters == 36
    assert read.modules == (Q,)


def test_convolutions_and_transposed_mlx_matrices_show_their_rank() -> None:
    conv = weights({f"{P}conv.lora_A.weight": (4, 3, 3, 3), f"{P}conv.lora_B.weight": (8, 4, 1, 1)})
    mlx = weights({"model.layers.0.q_proj.lora_a": (16, 4), "model.layers.0.q_proj.lora_b": (4, 32)})
    torchtune = weights({"layers.0.q_proj.lora_a.weight": (4, 16), "layers.0.q_proj.lora_b.weight": (32, 4)})
    assert [set(read.ranks.values()) for read in (conv, mlx, torchtune)] == [{4}, {4}, {4}]
    assert [read.dialect for read in (conv, mlx, torchtune)] == ["peft", "mlx", "torchtune"]


def test_a_shard_that_was_not_gathered_is_a_fault() -> None:
    read = weights({f"{P}{Q}.lora_A.weight": (0,), f"{P}{Q}.lora_B.weight": (32, 4)})
    assert kinds(read) == ["adapter-not-gathered"]


def test_a_missing_half_is_a_fault() -> None:
    shapes = lora_pair()
    del shapes[f"{P}{Q}.lora_B.weight"]
    assert kinds(weights(shapes)) == ["adapter-half-missing"]


def test_halves_of_different_rank_are_a_fault() -> None:
    assert kinds(weights({**lora_pair(), f"{P}{Q}.lora_B.weight": (32, 8)})) == ["adapter-rank-differs"]


def test_nested_expert_parameters_are_separate_pairs() -> None:
    experts = "model.layers.0.mlp.experts"
    shapes = {
        f"{P}{experts}.lora_A.weight": (16, 32),
        f"{P}{experts}.lora_B.weight": (64, 16),
        f"{P}{experts}.base_layer.lora_A.weight": (8, 32),
        f"{P}{experts}.base_layer.lora_B.weight": (64, 8),
    }
    assert weights(shapes).faults == ()


def test_a_prompt_encoder_that_is_not_saved_is_counted_from_the_configuration() -> None:
    config = {
        "peft_type": "P_TUNING",
        "num_virtual_tokens": 5,
        "token_dim": 32,
        "encoder_hidden_size": 16,
        "encoder_num_layers": 2,
        "encoder_reparameterization_type": "MLP",
    }
    assert weights({"prompt_embeddings": (5, 32)}, **config).trainable_parameters == 1504


def test_the_first_rows_of_a_cartridge_are_fixed() -> None:
    config = {"peft_type": "CARTRIDGE", "num_virtual_tokens": 5, "num_frozen_tokens": 1}
    assert weights({"prompt_embeddings": (5, 128)}, **config).trainable_parameters == 512


def test_a_parameter_lily_shares_between_layers_is_counted_once() -> None:
    shapes = {}
    for layer in range(4):
        module = f"{P}model.layers.{layer}.self_attn.q_proj"
        shapes |= {
            f"{module}.lily_A.weight": (4, 16),
            f"{module}.lily_B.weight": (8, 32),
            f"{module}.lily_router.weight": (2, 4),
        }
    assert weights(shapes, peft_type="LILY", stride_A=2).trainable_parameters == 2 * 64 + 256 + 4 * 8


def test_an_empty_file_has_nothing_trained() -> None:
    read = weights({})
    assert (read.trainable_parameters, read.targets, read.dialect) == (0, (), "unknown")


def test_a_copy_made_by_the_tie_is_neither_frozen_nor_counted_twice() -> None:
    shapes = {**lora_pair(), f"{P}{EMBED}.weight": (10, 4), f"{P}lm_head.weight": (10, 4)}
    found = weights(shapes, modules_to_save=["embed_tokens", "model.embed_tokens"], ensure_weight_tying=True)
    assert [t.role for t in found.tensors[2:]] == ["saved_module", "tied_copy"]
    assert found.trainable_parameters == 4 * (16 + 32) + 40


def test_token_rows_the_tie_repeats_are_counted_once() -> None:
    rows = {f"{P}{name}.token_adapter.trainable_tokens_delta": (3, 4) for name in (EMBED, "lm_head")}
    assert weights(rows, trainable_token_indices=[7, 8, 9]).trainable_parameters == 12
    both = {"embed_tokens": [7, 8, 9], "lm_head": [7, 8, 9]}
    assert weights(rows, trainable_token_indices=both).trainable_parameters == 24


def test_a_bert_layer_called_output_is_no_embedding() -> None:
    dense = "bert.encoder.layer.0.attention.output.dense"
    found = weights({f"{P}{dense}.bias": (4,)}, bias="all")
    assert [t.role for t in found.tensors] == ["bias"]
