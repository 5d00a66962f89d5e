"""Whole pickled models name their classes; only classes that libraries define are known."""

from __future__ import annotations

import pytest
from builders.pickles import Called, Instance, Name, Persistent, dump

from ckpt_inspect.scan import scan_source
from ckpt_inspect.scan.tiers import standing_of
from ckpt_inspect.storage import BytesSource

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
PROTOCOL = b"\x80\x02M\xe9\x03."


@pytest.mark.parametrize(
    ("module", "name", "tier"),
    [
        ("transformers.models.llama.modeling_llama", "LlamaForCausalLM", "T1"),
        ("transformers.models.bert.modeling_bert", "BertSelfOutput", "T1"),
        ("transformers.models.qwen2.configuration_qwen2", "Qwen2Config", "T1"),
        ("peft.tuners.lora.model", "LoraModel", "T1"),
        ("transformers.models.llama.modeling_llama", "torch", "T2"),
        ("transformers.models.llama.modeling_llama", "Popen", "T2"),
        ("transformers.models.evil.modeling_evil", "LlamaForCausalLM", "T2"),
        ("transformers.models.llama.modeling_llama", "LlamaModel.forward", "T3"),
    ],
)
def test_classes_are_known_by_their_exact_names(module: str, name: str, tier: str) -> None:
    assert standing_of(module, name).tier == tier


def test_a_whole_model_is_known_and_calling_its_class_is_not() -> None:
    model = Name("transformers.models.llama.modeling_llama", "LlamaForCausalLM")
    assert scan_source(BytesSource(dump(Instance(model, {"a": 1}), 2)), "m.pkl").verdict == "known"
    assert scan_source(BytesSource(dump(Called(model, ()), 2)), "m.pkl").verdict == "suspicious"


def legacy(obj: object) -> bytes:
    return MAGIC + PROTOCOL + dump({"little_endian": True}, 2) + dump(obj, 2) + b"\x80\x02]q\x00."


def test_a_legacy_stream_may_name_a_class_with_its_source() -> None:
    module = Persistent(("module", Name("torch.nn.modules.linear", "Linear"), "linear.py", "class Linear: ..."))
    found = scan_source(BytesSource(legacy(Instance(module, {"a": 1}))), "model.bin")  # type: ignore[arg-type]
    assert (found.verdict, found.coverage) == ("known", "complete")
    # the same reference anywhere else, or with another class, is what it looks like
    assert scan_source(BytesSource(dump(module, 2)), "model.pkl").verdict == "suspicious"
    evil = Persistent(("module", Name("posix", "system"), "linear.py", "x"))
    assert scan_source(BytesSource(legacy(Instance(evil, {}))), "model.bin").verdict == "dangerous"  # type: ignore[arg-type]


def test_tensors_of_plain_pickles_bring_their_storage_as_a_nested_file() -> None:
    storage = Called(Name("torch.storage", "_load_from_bytes"), (legacy({}),))
    hooks = Called(Name("collections", "OrderedDict"))
    tensor = Called(Name("torch._utils", "_rebuild_tensor_v2"), (storage, 0, (2,), (1,), False, hooks))
    found = scan_source(BytesSource(dump({"w": tensor}, 4)), "weights.pkl")
    assert (found.verdict, found.coverage) == ("known", "complete")
