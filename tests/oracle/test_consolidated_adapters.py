"""Adapters of every common kind through ZeRO shards and back: PEFT's own save and load are the judges."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
from builders.deepspeed import Job, Model, Parameter, save_latest, save_zero3, save_zero12

from ckpt_inspect.consolidate.api import consolidate
from ckpt_inspect.consolidate.peft_names import adapter_of, file_name

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.judge

TOKENS = [[3, 1, 4, 1, 5, 9, 2, 6, 39, 38]]
SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip


def lora(**options):
    return peft.LoraConfig(task_type="CAUSAL_LM", r=3, **{"target_modules": ["q_proj", "v_proj"], **options})


CASES = {
    "lora": lambda: lora(),
    "lora-all-linear": lambda: lora(target_modules="all-linear"),
    "rslora-patterns": lambda: lora(use_rslora=True, rank_pattern={"layers.0.self_attn.q_proj": 5}),
    "dora": lambda: lora(use_dora=True),
    "lora-bias-all": lambda: lora(bias="all"),
    "lora-bias-only": lambda: lora(bias="lora_only"),
    "modules-to-save": lambda: lora(modules_to_save=["lm_head", "embed_tokens"]),
    "norms-to-save": lambda: lora(modules_to_save=["norm", "input_layernorm"]),
    "trainable-tokens": lambda: lora(trainable_token_indices={"embed_tokens": [38, 39]}),
    "lora-on-embeddings": lambda: lora(target_modules=["q_proj", "embed_tokens", "lm_head"]),
    "ia3": lambda: peft.IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "adalora": lambda: peft.AdaLoraConfig(
        task_type="CAUSAL_LM", init_r=4, target_r=2, total_step=10, target_modules=["q_proj"]
    ),
    "loha": lambda: peft.LoHaConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]),
    "lokr": lambda: peft.LoKrConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]),
    "oft": lambda: peft.OFTConfig(task_type="CAUSAL_LM", oft_block_size=4, target_modules=["q_proj"]),
    "vera": lambda: peft.VeraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"]),
    "prompt-tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "prefix-tuning": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "trainable-tokens-alone": lambda: peft.TrainableTokensConfig(
        task_type="CAUSAL_LM", target_modules=["embed_tokens"], token_indices=[38, 39]
    ),
    "layernorm-tuning": lambda: peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=["input_layernorm"]),
}


def base(tied: bool = False):
    torch.manual_seed(3)
    config = transformers.Qwen2Config(**SIZES, tie_word_embeddings=tied, attn_implementation="eager")
    return transformers.Qwen2ForCausalLM(config)


def trained(config, tied: bool = False, resize: int | None = None):
    """An adapter on the base, every trainable value moved."""
    inner = base(tied)
    if resize:
        inner.resize_token_embeddings(resize, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(inner, config)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                moved = parameter + 0.2 * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(moved.to(torch.bfloat16))  # as in the module: rounded masters must agree
    return model.eval()


def shards(model, directory: Path, stage: int) -> Path:
    """What DeepSpeed saves of the model with frozen parameters left out, and what the Trainer saves beside it."""
    checkpoint = directory / "checkpoint-8"
    parameters, ties, seen = [], {}, {}
    for name, value in model.named_parameters(remove_duplicate=False):
        if not value.requires_grad:
            continue
        if id(value) in seen:
            ties[name] = seen[id(value)]
            continue
        seen[id(value)] = name
        parameters.append(Parameter(name, value.detach().float().numpy().astype("<f4")))
    job = Job(stage=stage, world=3, exclude_frozen=True)
    save = save_zero3 if stage == 3 else save_zero12
    save(checkpoint / "global_step8", Model(parameters, {}, ties), job)
    save_latest(checkpoint, "global_step8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(checkpoint)
    return checkpoint


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor(TOKENS)).logits


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_the_output_loads_as_the_adapter_that_was_trained(case, stage, tmp_path, caplog):
    model = trained(CASES[case]())
    checkpoint = shards(model, tmp_path, stage)
    result = consolidate(checkpoint, tmp_path / "out")
    assert result.kind == "adapter"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded = peft.PeftModel.from_pretrained(base(), tmp_path / "out").eval()
    assert not [str(one.message) for one in said if "key" in str(one.message)]
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("prompt-tuning", "prefix-tuning")])
def test_trained_parameters_get_the_names_peft_saves_them_under(case):
    model = trained(CASES[case]())
    saved = set(peft.get_peft_model_state_dict(model, save_embedding_layers=False))
    names = {name for name, value in model.named_parameters() if value.requires_grad}
    ours = {file_name(name, adapter_of(name) or "default") for name in names if ".ranknum" not in name}
    assert ours <= saved
    frozen = set(saved - ours)
    state = dict(model.named_parameters())
    assert not {name for name in frozen if name in state and state[name].requires_grad}


def test_embeddings_of_a_resized_vocabulary_come_along_untrained(tmp_path):
    model = trained(lora(), resize=48)
    checkpoint = shards(model, tmp_path, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(checkpoint, save_embedding_layers=True)
    result = consolidate(checkpoint, tmp_path / "out")
    assert any("were not trained" in warning for warning in result.warnings)
    grown = base()
    grown.resize_token_embeddings(48)
    loaded = peft.PeftModel.from_pretrained(grown, tmp_path / "out").eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-6)


def test_values_come_from_the_shards_and_not_from_the_sixteen_bit_adapter_beside_them(tmp_path):
    model = trained(lora())
    checkpoint = shards(model, tmp_path, 2)
    expected = logits(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    shutil.rmtree(checkpoint / "x", ignore_errors=True)
    model.save_pretrained(checkpoint)
    consolidate(checkpoint, tmp_path / "out")
    loaded = peft.PeftModel.from_pretrained(base(), tmp_path / "out").eval()
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stage", [2, 3])
def test_modules_saved_from_a_tied_model_are_both_there(stage, tmp_path):
    model = trained(lora(modules_to_save=["embed_tokens", "lm_head"]), tied=True)
    checkpoint = shards(model, tmp_path, stage)
    consolidate(checkpoint, tmp_path / "out")
    loaded = peft.PeftModel.from_pretrained(base(tied=True), tmp_path / "out").eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-6)
