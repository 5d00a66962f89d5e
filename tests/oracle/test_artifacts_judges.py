"""The libraries that write the files are the judges of what their readers say."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.tokenizer_files import added, tokenizer_json, write

from ckpt_inspect.artifacts.adapter import AdapterConfig, read_adapter_config
from ckpt_inspect.artifacts.adapter_targets import is_target, pattern_key
from ckpt_inspect.artifacts.adapter_weights import AdapterWeights, read_adapter_weights
from ckpt_inspect.artifacts.model import read_generation_config, read_model_config
from ckpt_inspect.artifacts.tokenizer import read_tokenizer
from ckpt_inspect.artifacts.tokenizer_copies import compare_copies
from ckpt_inspect.storage import LocalFile, LocalTree

pytestmark = pytest.mark.judge
os.environ["HF_HUB_OFFLINE"] = "1"


def read(path: Path, reader: Any) -> Any:
    with LocalFile(path) as source:
        return reader(source)


def adapter(directory: Path) -> tuple[AdapterConfig, AdapterWeights]:
    config = read(directory / "adapter_config.json", read_adapter_config)
    return config, read(directory / "adapter_model.safetensors", lambda source: read_adapter_weights(source, config))


# ------------------------------------------------------------------------------------------------------- tokenizers


def tokenizer_directories(shared: Path) -> Iterator[Path]:
    """One directory for each different set of tokenizer files."""
    seen: set[tuple[Any, ...]] = set()
    for place in ("runs", "base", "corpus"):
        for file in sorted((shared / place).rglob("tokenizer.json")) + sorted((shared / place).rglob("vocab.txt")):
            size = sum(f.stat().st_size for f in file.parent.iterdir() if "token" in f.name or "vocab" in f.name)
            if (file.name, size) not in seen:
                seen.add((file.name, size))
                yield file.parent


@pytest.mark.shared
def test_lengths_ids_and_special_tokens_are_those_of_transformers(shared: Path) -> None:
    transformers = pytest.importorskip("transformers")
    compared = 0
    for directory in tokenizer_directories(shared):
        ours = read_tokenizer(LocalTree(directory))
        assert ours is not None
        if "auto_map" in ours.config:
            continue
        theirs = transformers.AutoTokenizer.from_pretrained(directory)
        assert ours.length == len(theirs), directory
        assert ours.vocab_size == theirs.vocab_size, directory
        assert ours.max_id == max(theirs.get_vocab().values()), directory
        named = {role: token for role, token in theirs.special_tokens_map.items() if isinstance(token, str)}
        assert {role: ours.special.get(role) for role in named} == named, directory
        assert {t.id: t.content for t in ours.added} == {i: str(t) for i, t in theirs.added_tokens_decoder.items()}, (
            directory
        )
        compared += 1
    assert compared >= 5


@pytest.mark.parametrize(
    ("vocab", "tokens"),
    [
        ({"a": 0, "b": 1}, [(2, "<x>"), (5, "<y>")]),
        ({"a": 0, "b": 1, "c": 9}, [(10, "<x>")]),
        ({"a": 0, "b": 1}, [(1, "<x>"), (2, "<y>")]),
        ({"a": 0, "b": 1}, [(1, "b"), (2, "<y>"), (3, "<y>")]),
        ({"a": 0, "b": 1}, [(5, "b"), (7, "<y>")]),
        ({"a": 0, "b": 0}, [(2, "<y>")]),
        ({"a": 0, "b": 1}, [(3, "<x>"), (2, "<y>")]),
        ({"a": 0, "b": 1}, [(2, ""), (3, "<y>")]),
        ([["<unk>", 0.0], ["a", -1.0], ["a", -2.0]], [(3, "<y>")]),
        ([["<unk>", 0.0], ["a", -1.0]], [(0, "<unk>"), (2, "<y>")]),
    ],
)
def test_added_tokens_get_the_ids_the_library_gives_them(tmp_path: Path, vocab: Any, tokens: list) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    kind = "Unigram" if isinstance(vocab, list) else "BPE"
    document = tokenizer_json(vocab, [added(number, text) for number, text in tokens], kind=kind)
    if kind == "Unigram":
        document["model"]["unk_id"] = 0
    theirs = tokenizers.Tokenizer.from_str(json.dumps(document))
    ours = read_tokenizer(LocalTree(write(tmp_path, {"tokenizer.json": document})))
    assert ours is not None
    assert (ours.length, ours.vocab_size) == (theirs.get_vocab_size(), theirs.get_vocab_size(with_added_tokens=False))
    assert {text: ours.id_of(text) for _, text in tokens if text} == {t: theirs.token_to_id(t) for _, t in tokens if t}
    assert ours.max_id == max(theirs.get_vocab().values())


@pytest.mark.parametrize("merges", [[["a", "b"]], [["a", "c"]], [["b", "a"]], [["a", "b"], ["ab", "a"]]])
def test_a_merge_the_reader_calls_unknown_is_one_the_library_refuses(tmp_path: Path, merges: list) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    document = tokenizer_json({"a": 0, "b": 1, "ab": 2}, [], merges)
    found = compare_copies(LocalTree(write(tmp_path, {"tokenizer.json": document})))
    assert found is not None
    if found.unknown_merges:
        with pytest.raises(BaseException, match=r"\w"):  # a panic of the library is no Exception
            tokenizers.Tokenizer.from_str(json.dumps(document))
    else:
        tokenizers.Tokenizer.from_str(json.dumps(document))


def test_special_tokens_nobody_listed_are_added_as_transformers_adds_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    files = {
        "tokenizer.json": tokenizer_json({"a": 0, "b": 1}, [added(2, "<x>", special=True)]),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "added_tokens_decoder": {"2": added(2, "<x>", special=True), "7": added(7, "<z>")},
            "pad_token": "[PAD]",
            "eos_token": "b",
            "additional_special_tokens": ["<new>"],
        },
    }
    ours = read_tokenizer(LocalTree(write(tmp_path, files)))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours is not None
    assert ours.length == len(theirs)
    for content in ("<z>", "[PAD]", "b", "<new>"):
        assert ours.id_of(content) == theirs.convert_tokens_to_ids(content), content


# ---------------------------------------------------------------------------------------------------- configurations


def test_every_configuration_class_saves_what_the_reader_resolves(tmp_path: Path) -> None:
    """Saved with its defaults, a configuration leaves most of its values out; the reader has to know them."""
    pytest.importorskip("transformers")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    compared = 0
    for model_type in list(CONFIG_MAPPING.keys()):
        try:
            config = CONFIG_MAPPING[model_type]()
            text = config.get_text_config(decoder=True)
            config.save_pretrained(tmp_path)
        except Exception:  # noqa: BLE001  # classes that need arguments or optional packages
            continue
        ours = read(tmp_path / "config.json", read_model_config)
        vocabulary = getattr(text, "vocab_size", None)
        if isinstance(vocabulary, int):
            assert ours.vocab_size == vocabulary, model_type
            compared += 1
        tied = getattr(config, "tie_word_embeddings", None)
        if isinstance(tied, bool):
            assert ours.tie_word_embeddings is tied, model_type
    assert compared > 200


@pytest.mark.shared
def test_configurations_of_real_runs_agree_with_transformers(shared: Path) -> None:
    transformers = pytest.importorskip("transformers")
    compared = 0
    for file in sorted(shared.rglob("config.json")):
        ours = read(file, read_model_config)
        if ours.model_type not in transformers.CONFIG_MAPPING or ours.remote_code or ours.faults:
            continue
        theirs = transformers.AutoConfig.from_pretrained(file.parent)
        text = theirs.get_text_config(decoder=True)
        assert ours.vocab_size == text.vocab_size, file
        assert ours.hidden_size == text.hidden_size, file
        assert ours.architectures == tuple(theirs.architectures or ()), file
        if ours.transformers_version and ours.transformers_version.startswith("5"):
            assert ours.tie_word_embeddings == theirs.tie_word_embeddings, file
        compared += 1
    assert compared > 30


@pytest.mark.shared
def test_generation_settings_of_real_runs_agree_with_transformers(shared: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for file in sorted(shared.rglob("generation_config.json")):
        ours = read(file, read_generation_config)
        theirs = transformers.GenerationConfig.from_pretrained(file.parent)
        eos = theirs.eos_token_id
        assert ours.eos_token_ids == (() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,)), file
        assert ours.pad_token_id == theirs.pad_token_id, file


# ----------------------------------------------------------------------------------------------------------- adapters

TARGETS = ["q_proj", "v_proj"]
TYPES: dict[str, dict[str, Any]] = {
    "LORA": {"r": 4, "target_modules": TARGETS},
    "ADALORA": {"init_r": 6, "target_r": 4, "total_step": 10, "target_modules": TARGETS},
    "ADAMSS": {"r": 4, "num_subspaces": 2, "subspace_rank": 1, "target_modules": TARGETS},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 1, "task_type": "CAUSAL_LM"},
    "BEFT": {"target_modules": TARGETS},
    "BOFT": {"boft_block_size": 4, "target_modules": TARGETS},
    "C3A": {"block_size": 8, "target_modules": TARGETS},
    "CARTRIDGE": {"num_virtual_tokens": 5, "task_type": "CAUSAL_LM"},
    "CPT": {
        "cpt_token_ids": [1, 2, 3],
        "cpt_mask": [1, 1, 1],
        "cpt_tokens_type_mask": [1, 2, 2],
        "task_type": "CAUSAL_LM",
    },
    "DEFT": {"r": 4, "target_modules": TARGETS},
    "DELORA": {"r": 4, "target_modules": TARGETS},
    "FOURIERFT": {"n_frequency": 10, "target_modules": TARGETS},
    "FROD": {"target_modules": TARGETS},
    "GLORA": {"r": 4, "target_modules": TARGETS},
    "GRALORA": {"r": 4, "gralora_k": 2, "hybrid_r": 2, "target_modules": TARGETS},
    "HIRA": {"r": 4, "target_modules": TARGETS},
    "HRA": {"r": 4, "target_modules": TARGETS},
    "IA3": {"target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LILY": {"r": 4, "target_modules": TARGETS, "stride_A": 1, "num_B": 2},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "LOHA": {"r": 4, "target_modules": TARGETS},
    "LOKR": {"r": 4, "target_modules": TARGETS},
    "MISS": {"r": 4, "target_modules": TARGETS},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 5, "num_tasks": 2, "task_type": "CAUSAL_LM"},
    "OFT": {"oft_block_size": 4, "target_modules": TARGETS},
    "OSF": {"target_modules": TARGETS},
    "P_TUNING": {"num_virtual_tokens": 5, "task_type": "CAUSAL_LM", "encoder_hidden_size": 16},
    "PEANUT": {"r": 4, "depth": 2, "target_modules": TARGETS},
    "POLY": {"r": 4, "n_tasks": 2, "target_modules": TARGETS},
    "PREFIX_TUNING": {"num_virtual_tokens": 5, "task_type": "CAUSAL_LM"},
    "PROMPT_TUNING": {"num_virtual_tokens": 5, "task_type": "CAUSAL_LM"},
    "PSOFT": {"r": 4, "target_modules": TARGETS},
    "PVERA": {"r": 4, "target_modules": TARGETS},
    "RANDLORA": {"r": 4, "target_modules": TARGETS},
    "ROAD": {"variant": "road_1", "group_size": 8, "target_modules": TARGETS},
    "SHADOW": {"task_type": "CAUSAL_LM"},
    "SHIRA": {"r": 4, "target_modules": TARGETS},
    "SUPERTUNING": {"target_modules": TARGETS, "sparsity": 0.9, "r": 4, "lora_alpha": 8},
    "TINYLORA": {"r": 2, "u": 4, "target_modules": TARGETS},
    "TRAINABLE_TOKENS": {"token_indices": [1, 2, 3], "target_modules": ["embed_tokens"]},
    "UNILORA": {"r": 4, "theta_d_length": 16, "target_modules": TARGETS},
    "VBLORA": {"r": 4, "num_vectors": 8, "vector_length": 8, "topk": 2, "target_modules": TARGETS},
    "VERA": {"r": 4, "target_modules": TARGETS},
    "WAVEFT": {"n_frequency": 10, "target_modules": TARGETS},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"r": 8, "use_rslora": True, "target_modules": TARGETS},
    "dora": {"r": 4, "use_dora": True, "target_modules": TARGETS},
    "bias of lora_B": {"r": 4, "lora_bias": True, "target_modules": TARGETS},
    "biases": {"r": 4, "bias": "all", "target_modules": TARGETS},
    "patterns": {
        "r": 4,
        "target_modules": TARGETS,
        "rank_pattern": {"v_proj": 2, "^model.layers.0.self_attn.q_proj": 6},
        "alpha_pattern": {r"layers\.1\.self_attn\.(q|v)_proj": 32},
    },
    "regular expression": {"r": 4, "target_modules": r".*layers\.1\.mlp\.(up|down)_proj"},
    "layers": {"r": 4, "target_modules": TARGETS, "layers_to_transform": [1]},
    "excluded": {"r": 4, "target_modules": TARGETS, "exclude_modules": ["layers.0.self_attn.q_proj"]},
    "all linear": {"r": 4, "target_modules": "all-linear"},
    "module saved whole": {"r": 4, "target_modules": TARGETS, "modules_to_save": ["lm_head", "norm"]},
    "embedding": {"r": 4, "target_modules": ["embed_tokens", "q_proj"]},
    "tokens": {"r": 4, "target_modules": TARGETS, "trainable_token_indices": [1, 2, 3]},
    "tokens of both": {
        "r": 4,
        "target_modules": TARGETS,
        "trainable_token_indices": {"embed_tokens": [1], "lm_head": [1]},
    },
    "orthogonal": {"r": 4, "target_modules": TARGETS, "init_lora_weights": "orthogonal"},
}


def small_llama() -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, max_position_embeddings=64))


def peft_model(peft_type: str, settings: dict[str, Any]) -> Any:
    peft = pytest.importorskip("peft")
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return peft.get_peft_model(small_llama(), PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(peft_type)](**settings))


def test_every_type_of_the_library_is_in_the_table() -> None:
    peft = pytest.importorskip("peft")
    import dataclasses

    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    from ckpt_inspect.knowledge import load

    table = load("peft_types")
    assert {item.value for item in peft.PeftType} <= table["type"].keys()
    for peft_type, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        known = {*table["type"][peft_type.value]["fields"], *table["common"]["fields"]}
        assert {field.name for field in dataclasses.fields(config)} <= known, peft_type
    assert TYPES.keys() | {"XLORA"} == {item.value for item in peft.PeftType}


@pytest.mark.parametrize("peft_type", TYPES)
def test_trained_parameters_targets_and_ranks_of_every_type_are_those_of_the_library(
    tmp_path: Path, peft_type: str
) -> None:
    try:
        model = peft_model(peft_type, TYPES[peft_type])
    except ImportError as error:
        pytest.skip(str(error))
    model.save_pretrained(tmp_path)
    config, weights = adapter(tmp_path)
    assert weights.trainable_parameters == model.get_nb_trainable_parameters()[0]
    assert (config.faults, config.unknown_keys, weights.faults) == ((), (), ())
    assert "unknown" not in {tensor.role for tensor in weights.tensors}
    if peft_type not in ("SHADOW", "ADAPTION_PROMPT", "UNILORA") and not config.prompt:
        assert set(weights.targets) == set(TYPES[peft_type]["target_modules"])
    rank = TYPES[peft_type].get("init_r", TYPES[peft_type].get("r"))
    if rank is not None and weights.ranks and peft_type != "GRALORA":  # GraLoRA splits its rank in two parts
        assert set(weights.ranks.values()) == {rank}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_lora_agree_with_the_library(tmp_path: Path, variant: str) -> None:
    model = peft_model("LORA", VARIANTS[variant])
    model.save_pretrained(tmp_path)
    config, weights = adapter(tmp_path)
    from peft.tuners.lora import LoraLayer

    layers = {name: module for name, module in model.base_model.model.named_modules() if isinstance(module, LoraLayer)}
    assert weights.trainable_parameters == model.get_nb_trainable_parameters()[0]
    assert weights.ranks == {name: module.r["default"] for name, module in layers.items()}
    for name, module in layers.items():
        assert config.scaling(name) == module.scaling["default"], name
    assert set(weights.modules) == layers.keys()
    plain = small_llama()
    leaves = [name for name, module in plain.named_modules() if not list(module.children())]
    assert {name for name in leaves if is_target(config, name)} == layers.keys()
    assert "unknown" not in {tensor.role for tensor in weights.tensors}


@pytest.mark.parametrize("ranks", [{}, {"experts.down_proj": 3, "experts.gate_up_proj": 2}])
@pytest.mark.parametrize(
    "parameters", [["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], ["mlp.experts.down_proj"]]
)
def test_adapters_of_fused_experts_have_the_ranks_of_the_library(tmp_path: Path, parameters: list, ranks: dict) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    from peft.tuners.lora import LoraLayer

    sizes = {"vocab_size": 64, "hidden_size": 32, "moe_intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8}
    config = transformers.Qwen3MoeConfig(
        **sizes, num_attention_heads=4, num_key_value_heads=4, num_experts=4, num_experts_per_tok=2
    )
    settings = peft.LoraConfig(r=4, target_parameters=parameters, target_modules=["q_proj"], rank_pattern=ranks)
    model = peft.get_peft_model(transformers.Qwen3MoeForCausalLM(config), settings)
    model.save_pretrained(tmp_path)
    _, weights = adapter(tmp_path)
    layers = {n: m for n, m in model.base_model.model.named_modules() if isinstance(m, LoraLayer)}
    assert weights.ranks == {name: module.r["default"] for name, module in layers.items()}
    assert set(weights.experts.values()) == {4}
    assert weights.trainable_parameters == model.get_nb_trainable_parameters()[0]
    assert weights.faults == ()


def test_logits_vblora_saved_in_part_are_counted_whole(tmp_path: Path) -> None:
    model = peft_model("VBLORA", {**TYPES["VBLORA"], "save_only_topk_weights": True})
    model.save_pretrained(tmp_path)
    _, weights = adapter(tmp_path)
    # the library's own count is of the model in memory
    assert weights.trainable_parameters == model.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("formula", ["LOHA", "LOKR", "GRALORA", "RANDLORA", "PSOFT", "LILY", "PEANUT"])
def test_the_scaling_of_other_types_is_that_of_the_library(tmp_path: Path, formula: str) -> None:
    model = peft_model(formula, TYPES[formula])
    model.save_pretrained(tmp_path)
    config, _ = adapter(tmp_path)
    found = {m.scaling["default"] for m in model.modules() if isinstance(getattr(m, "scaling", None), dict)}
    assert {config.scaling("model.layers.0.self_attn.q_proj")} == found


@pytest.mark.parametrize("module", ["model.layers.0.self_attn.q_proj", "model.layers.10.mlp.up_proj", "lm_head", ""])
@pytest.mark.parametrize(
    "patterns",
    [["q_proj"], ["self_attn.q_proj"], [".*proj"], ["layers.1", "proj"], [r"layers\.(0|10)\..*"], ["^lm_head"], []],
)
def test_patterns_match_as_the_library_matches_them(patterns: list[str], module: str) -> None:
    pytest.importorskip("peft")
    from peft.utils.other import get_pattern_key

    theirs = get_pattern_key(patterns, module)
    assert pattern_key(patterns, module) == (theirs if theirs in patterns else None)


@pytest.mark.shared
def test_adapter_configurations_of_other_people_agree_with_the_library(shared: Path) -> None:
    peft = pytest.importorskip("peft")
    compared = 0
    for file in sorted(shared.rglob("adapter_config*.json")):
        ours = read(file, read_adapter_config)
        raw = json.loads(file.read_text())
        if raw.get("peft_type") not in {item.value for item in peft.PeftType}:
            continue
        try:
            theirs = peft.PeftConfig.from_peft_type(**{k: v for k, v in raw.items() if k not in ours.unknown_keys})
        except ImportError:  # a type that needs another package
            continue
        assert ours.peft_type == theirs.peft_type.value, file
        assert ours.base_model == theirs.base_model_name_or_path, file
        for ours_name, theirs_name in (("r", "r"), ("use_rslora", "use_rslora"), ("use_dora", "use_dora")):
            if theirs_name in raw and ours.peft_type == "LORA":
                assert getattr(ours, ours_name) == getattr(theirs, theirs_name), file
        targets = getattr(theirs, "target_modules", None)
        if "target_modules" in raw and targets is not None and not isinstance(targets, str):
            assert set(ours.target_modules or ()) == set(targets), file
        compared += 1
    assert compared > 150


@pytest.mark.shared
def test_adapters_of_real_runs_load_with_the_numbers_the_reader_gives(shared: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    from peft.tuners.lora import LoraLayer

    compared = 0
    for file in sorted((shared / "runs").glob("*/adapter_model.safetensors")):
        config, weights = adapter(file.parent)
        base_directory = shared / "base" / Path(config.base_model or "").name
        if not (base_directory / "model.safetensors").is_file():
            continue
        base = transformers.AutoModelForCausalLM.from_pretrained(base_directory)
        rows = {
            t.shape[0] for t in weights.tensors if t.module.endswith("embed_tokens") and t.suffix.endswith("weight")
        }
        if rows:
            base.resize_token_embeddings(rows.pop(), mean_resizing=False)
        model = peft.PeftModel.from_pretrained(base, file.parent, is_trainable=True)
        trained = model.get_nb_trainable_parameters()[0]
        assert weights.trainable_parameters == trained, file
        layers = {n: m for n, m in model.base_model.model.named_modules() if isinstance(m, LoraLayer)}
        assert weights.ranks == {name: module.r["default"] for name, module in layers.items()}, file
        assert {config.scaling(name) for name in layers} == {m.scaling["default"] for m in layers.values()}, file
        compared += 1
    assert compared >= 20


def test_an_unknown_key_is_one_the_library_would_drop(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    peft.LoraConfig(r=4).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_warp": True, "runtime_config": {}}))
    with pytest.warns(UserWarning, match="use_warp"):
        peft.PeftConfig.from_pretrained(tmp_path)
    assert read(file, read_adapter_config).unknown_keys == ("use_warp",)


def test_the_header_is_all_the_reader_needs(tmp_path: Path) -> None:
    model = peft_model("LORA", TYPES["LORA"])
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    data = file.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    file.write_bytes(data[:header] + b"\xff" * (len(data) - header))
    _, weights = adapter(tmp_path)
    assert weights.trainable_parameters == model.get_nb_trainable_parameters()[0]


def test_a_file_of_torch_has_the_facts_of_the_same_file_as_safetensors(tmp_path: Path) -> None:
    model = peft_model("LORA", VARIANTS["dora"])
    model.save_pretrained(tmp_path)
    _, weights = adapter(tmp_path)
    model.save_pretrained(tmp_path / "bin", safe_serialization=False)
    binary = read(tmp_path / "bin" / "adapter_model.bin", read_adapter_weights)
    assert binary.format == "torch"
    assert {(t.name, t.shape, t.dtype, t.nbytes) for t in binary.tensors} == {
        (t.name, t.shape, t.dtype, t.nbytes) for t in weights.tensors
    }
