from __future__ import annotations

import pytest
from builders.documents import json_source, kinds

from ckpt_inspect.artifacts.model import read_generation_config, read_model_config

QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
    "eos_token_id": 151645,
    "transformers_version": "5.23.0",
}


def config(**values: object):
    return read_model_config(json_source(values))


def test_a_plain_decoder_is_read() -> None:
    read = config(**QWEN)
    assert (read.architectures, read.model_type, read.vocab_size) == (("Qwen2ForCausalLM",), "qwen2", 151936)
    assert (read.hidden_size, read.num_layers, read.tie_word_embeddings) == (896, 24, True)
    assert (read.dtype, read.eos_token_ids, read.transformers_version) == ("bfloat16", (151645,), "5.23.0")
    assert (read.text_config, read.defaulted, read.faults) == (False, frozenset(), ())


@pytest.mark.parametrize("place", ["text_config", "llm_config", "language_config", "decoder"])
def test_the_text_model_inside_a_composite_one_gives_the_vocabulary(place: str) -> None:
    read = config(
        model_type="some_vl", vision_config={"hidden_size": 1}, **{place: {"vocab_size": 500, "hidden_size": 64}}
    )
    assert (read.vocab_size, read.hidden_size, read.text_place) == (500, 64, place)


def test_the_text_model_of_an_omni_thinker_is_two_levels_down() -> None:
    read = config(model_type="qwen2_5_omni", thinker_config={"text_config": {"vocab_size": 152064}})
    assert (read.vocab_size, read.text_place) == (152064, "thinker_config.text_config")


def test_a_resize_that_changed_only_part_of_a_composite_configuration_shows() -> None:
    read = config(vocab_size=520, text_config={"vocab_size": 500})
    assert read.vocab_size == 500
    assert read.vocab_sizes == {"": 520, "text_config": 500}


def test_what_a_nested_configuration_leaves_out_is_its_class_default() -> None:
    read = config(
        model_type="gemma3",
        text_config={"model_type": "gemma3_text", "hidden_size": 2560},
        transformers_version="4.50.0",
    )
    assert (read.vocab_size, read.hidden_size) == (262208, 2560)
    assert "vocab_size" in read.defaulted


def test_quantities_are_found_under_the_names_of_older_classes() -> None:
    gpt2 = config(model_type="gpt2", vocab_size=50257, n_embd=768, n_layer=12, n_positions=1024)
    glm = config(model_type="chatglm", padded_vocab_size=65024, hidden_size=4096, num_layers=28, seq_length=8192)
    assert (gpt2.vocab_size, gpt2.hidden_size, gpt2.num_layers, gpt2.max_positions) == (50257, 768, 12, 1024)
    assert (glm.vocab_size, glm.num_layers) == (65024, 28)


@pytest.mark.parametrize(
    ("values", "tied"),
    [
        ({"model_type": "bert", "transformers_version": "4.20.1"}, True),
        ({"model_type": "llama", "transformers_version": "5.0.0"}, False),
        ({"model_type": "gemma3", "transformers_version": "5.0.0"}, True),
        ({"model_type": "llama"}, None),
        ({"model_type": "never_heard_of", "transformers_version": "5.0.0"}, None),
        (
            {
                "tie_word_embeddings": False,
                "text_config": {"tie_word_embeddings": True},
                "transformers_version": "4.50.0",
            },
            True,
        ),
        (
            {
                "tie_word_embeddings": False,
                "text_config": {"tie_word_embeddings": True},
                "transformers_version": "5.1.0",
            },
            False,
        ),
    ],
)
def test_whether_embeddings_are_tied_follows_the_rule_of_the_release_that_saved(
    values: dict, tied: bool | None
) -> None:
    assert config(**values).tie_word_embeddings is tied


def test_the_element_type_is_found_under_its_old_name() -> None:
    assert config(torch_dtype="torch.float16").dtype == "float16"


@pytest.mark.parametrize(
    ("values", "method", "bits"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq", 4),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes", 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}, "bitsandbytes", 8),
        ({"quant_method": "fp8"}, "fp8", None),
    ],
)
def test_quantisation_is_named(values: dict, method: str, bits: int | None) -> None:
    read = config(quantization_config=values).quantization
    assert read is not None
    assert (read.method, read.bits) == (method, bits)


def test_wrong_types_are_faults_and_count_as_absent() -> None:
    read = config(vocab_size="512", architectures="X", tie_word_embeddings="yes", text_config=[])
    assert read.vocab_size is None
    assert read.architectures == ()
    assert kinds(read) == ["field-type"] * 3
    assert [fault.place for fault in read.faults] == ["vocab_size", "tie_word_embeddings", "architectures"]


def test_an_empty_object_is_read_without_a_fault() -> None:
    read = config()
    assert (read.vocab_size, read.model_type, read.faults) == (None, None, ())


def test_generation_stops_at_one_or_several_ids() -> None:
    one = read_generation_config(json_source({"eos_token_id": 2, "transformers_version": "4.51.3"}))
    many = read_generation_config(
        json_source({"eos_token_id": [1, 2], "pad_token_id": 0, "do_sample": True, "top_p": 0.8})
    )
    assert (one.eos_token_ids, one.transformers_version) == ((2,), "4.51.3")
    assert (many.eos_token_ids, many.pad_token_id, many.do_sample, many.top_p) == ((1, 2), 0, True, 0.8)


def test_a_generation_setting_of_the_wrong_type_is_a_fault() -> None:
    read = read_generation_config(json_source({"eos_token_id": "</s>", "temperature": "warm"}))
    assert read.eos_token_ids == ()
    assert [fault.place for fault in read.faults] == ["eos_token_id", "temperature"]
