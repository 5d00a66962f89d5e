"""No content makes an artifact reader raise, and every fault it states is in the table."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckpt_inspect.artifacts.adapter import named_ids, read_adapter_config
from ckpt_inspect.artifacts.adapter import version_bracket as adapter_bracket
from ckpt_inspect.artifacts.adapter_targets import is_target
from ckpt_inspect.artifacts.adapter_weights import adapter_weights
from ckpt_inspect.artifacts.chat_template import read_chat_templates
from ckpt_inspect.artifacts.completions import read_completions
from ckpt_inspect.artifacts.events import read_events
from ckpt_inspect.artifacts.images import read_png
from ckpt_inspect.artifacts.launch_args import read_launch_args
from ckpt_inspect.artifacts.lf_yaml import read_llamaboard_config
from ckpt_inspect.artifacts.model import read_generation_config, read_model_config
from ckpt_inspect.artifacts.model_card import read_model_card
from ckpt_inspect.artifacts.predictions import read_predictions
from ckpt_inspect.artifacts.processor import read_processor
from ckpt_inspect.artifacts.results import read_results
from ckpt_inspect.artifacts.template_syntax import template_facts
from ckpt_inspect.artifacts.tokenizer import read_tokenizer
from ckpt_inspect.artifacts.trainer_log import read_trainer_log
from ckpt_inspect.artifacts.trainer_state import read_trainer_state
from ckpt_inspect.knowledge import faults as fault_table
from ckpt_inspect.storage import BytesSource, LocalTree

KEYS = {
    "trainer_state.json": (
        "log_history global_step max_steps epoch num_train_epochs best_metric best_model_checkpoint stateful_callbacks "
        "TrainerControl args should_training_stop num_input_tokens_seen loss eval_loss train_loss step grad_norm"
    ),
    "all_results.json": "epoch train_loss eval_loss eval_runtime train_samples predict_bleu-4",
    "config.json": (
        "architectures model_type vocab_size text_config thinker_config llm_config decoder hidden_size num_hidden_layers "
        "tie_word_embeddings torch_dtype dtype quantization_config eos_token_id transformers_version auto_map _name_or_path"
    ),
    "generation_config.json": "eos_token_id pad_token_id bos_token_id max_length do_sample temperature top_p",
    "adapter_config.json": (
        "peft_type r lora_alpha target_modules modules_to_save rank_pattern alpha_pattern use_rslora trainable_token_indices "
        "task_type base_model_name_or_path layers_to_transform layers_pattern exclude_modules bias init_lora_weights scaling"
    ),
    "args.json": "model train_type swift_version hub_token api_key output_dir template",
    "preprocessor_config.json": "image_processor_type size patch_size image_processor feature_extractor sampling_rate do_resize",
    "trainer_log.jsonl": "current_steps total_steps loss lr epoch elapsed_time global_step/max_steps eval_loss",
    "generated_predictions.jsonl": "prompt predict label chosen rejected",
}
READERS: dict[str, Any] = {
    "trainer_state.json": read_trainer_state,
    "all_results.json": read_results,
    "config.json": read_model_config,
    "generation_config.json": read_generation_config,
    "adapter_config.json": read_adapter_config,
    "args.json": read_launch_args,
    "preprocessor_config.json": read_processor,
    "trainer_log.jsonl": read_trainer_log,
    "generated_predictions.jsonl": read_predictions,
    "events.out.tfevents.1.host.2.0": read_events,
    "training_loss.png": read_png,
    "completions_1.parquet": read_completions,
    "README.md": read_model_card,
    "llamaboard_config.yaml": read_llamaboard_config,
}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["LORA", "ADALORA", "P_TUNING", "CAUSAL_LM", "(", ".*", "q_proj", "5.23.0", "llama", "10/20", "1:02:03", "-1"]
    )
)


def documents(name: str) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(KEYS[name].split()) | st.text(max_size=5)
    return st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6), max_leaves=20
    ) | st.dictionaries(keys, SCALARS | st.dictionaries(keys, SCALARS, max_size=4), max_size=10)


def checked(facts: Any) -> Any:
    table = fault_table()
    for fault in facts.faults:
        assert fault.kind in table
        assert isinstance(fault.message, str)
    return facts


@pytest.mark.parametrize("name", KEYS)
@given(data=st.data())
def test_any_json_is_read(name: str, data: st.DataObject) -> None:
    value = data.draw(documents(name))
    text = json.dumps(value, indent=None if name.endswith("l") else 2)
    facts = checked(READERS[name](BytesSource(text.encode(), name=name)))
    if name == "trainer_state.json":
        for entry in facts.log_history:
            assert entry.dataset is None or entry.prefix
            assert not entry.masked or entry.number("loss") == 0
        losses = [point.value for point in facts.losses]
        assert (facts.first_loss is None) == (not losses)
        assert facts.minimum_loss is None or facts.minimum_loss.value in losses
        assert facts.final_loss is None or facts.final_loss == facts.losses[-1] or math.isnan(losses[-1])
    if name == "adapter_config.json":
        adapter_bracket(facts)
        named_ids(facts.trainable_token_indices)
        facts.scaling("model.layers.0.self_attn.q_proj")
        is_target(facts, "model.layers.0.self_attn.q_proj")


@pytest.mark.parametrize("name", READERS)
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_read(name: str, data: bytes) -> None:
    checked(READERS[name](BytesSource(data, name=name)))


PARTS = (
    "base_model model layers 0 default lora_A lora_B lora_embedding_A weight bias base_layer token_adapter modules_to_save "
    "original_module embed_tokens lm_head trainable_tokens_delta module _orig_mod vera_A lily_B tinylora_v prompt_embeddings"
)
NAMES = st.lists(st.sampled_from(PARTS.split()) | st.text(max_size=3), max_size=8).map(".".join)


@given(
    tensors=st.lists(
        st.tuples(NAMES, st.just("F32"), st.lists(st.integers(0, 1 << 40), max_size=4).map(tuple), st.integers(0, 99))
    ),
    values=documents("adapter_config.json"),
)
def test_any_tensor_names_and_shapes_are_judged(tensors: list, values: Any) -> None:
    config = read_adapter_config(BytesSource(json.dumps(values).encode()))
    weights = checked(adapter_weights(tensors, config))
    assert weights.trainable_parameters is not None
    assert (
        weights.targets,
        weights.ranks,
        weights.layers,
        weights.layer_gaps,
        weights.dtypes,
        weights.dialect,
    ) is not None
    assert [tensor.name for tensor in weights.tensors] == [name for name, *_ in tensors]


TOKEN_KEYS = (
    "content id special added_tokens model vocab merges type eos_token pad_token extra_special_tokens 5 7 name template "
    "additional_special_tokens added_tokens_decoder chat_template config default_vocab_size"
)
TOKENS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(TOKEN_KEYS.split()), inner, max_size=5),
    max_leaves=25,
)
TOKENIZER_FILES = [
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "tekken.json",
    ),
    *("chat_template.json", "processor_config.json", "tokenizer.model", "vocab.txt", "chat_template.jinja"),
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(files=st.dictionaries(st.sampled_from(TOKENIZER_FILES), TOKENS | st.binary(max_size=60), min_size=1, max_size=5))
def test_any_tokenizer_files_are_read(files: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for name, value in files.items():
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            (Path(directory) / name).write_bytes(content)
        tree = LocalTree(Path(directory))
        tokenizer = read_tokenizer(tree)
        if tokenizer is not None:
            checked(tokenizer)
            assert tokenizer.special_ids.keys() == tokenizer.special.keys()
            assert len(tokenizer.holes) <= 100
        templates = read_chat_templates(tree)
        for template in checked(templates).templates if templates is not None else ():
            assert template.facts is not None


@given(st.text("{%}|-.# abif0'\"()[]\n*~set=for in endfor", max_size=60))
def test_any_template_parses_or_says_why_not(text: str) -> None:
    facts = template_facts(text)
    assert (facts.error is None) or facts.error


@pytest.mark.parametrize("name", ["trainer_state.json", "adapter_config.json", "config.json"])
def test_a_file_cut_at_any_byte_is_read_up_to_there(name: str) -> None:
    entries = [{"loss": 1.5, "step": 5, "epoch": 0.5}, {"eval_loss": 2.0, "step": 5}]
    values: dict[str, Any] = {
        "global_step": 5,
        "log_history": entries,
        "r": 8,
        "peft_type": "LORA",
        "text_config": {"vocab_size": 9},
    }
    whole = json.dumps(values, indent=2).encode()
    for end in range(len(whole)):
        facts = checked(READERS[name](BytesSource(whole[:end], name=name)))
        assert not facts.complete or end >= len(whole) - 1
