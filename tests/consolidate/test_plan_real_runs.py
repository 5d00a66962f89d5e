"""Every ZeRO run of the collection: the planned bytes are those DeepSpeed's own scripts gave, or are proved otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_inspect.consolidate.plan import Plan, PlannedTensor
from ckpt_inspect.consolidate.planning import plan_consolidation
from ckpt_inspect.errors import UnsupportedLayoutError
from ckpt_inspect.formats.safetensors_header import read_safetensors_header
from ckpt_inspect.storage import LocalFile
from consolidate.gathering import gathered, sha256

pytestmark = pytest.mark.shared

# Scripts before 0.19.8 cast integer and bool buffers to float32 and left frozen parameters in bf16 (PR 8515, 8378).
_NAMES = {"F32": "float32", "BF16": "bfloat16", "I64": "int64", "BOOL": "bool"}


def reference(shared: Path) -> list[tuple[str, str, dict[str, Any]]]:
    document = json.loads((shared / "runs" / "REFERENCE.json").read_text())
    return [(run, where, held["tensors"]) for run, places in document.items() for where, held in places.items()]


def as_old_script(tensor: PlannedTensor, data: bytes, wanted: str) -> bytes:
    """The bytes as the script of an older version wrote them."""
    if _NAMES[tensor.dtype] == wanted:
        return data
    if tensor.origin == "buffer" and wanted == "float32":
        kind = {"I64": "<i8", "BOOL": "?"}[tensor.dtype]
        return np.frombuffer(data, dtype=kind).astype("<f4").tobytes()
    assert (tensor.origin, tensor.source_dtype, wanted) == ("frozen", "BF16", "bfloat16")
    return (np.frombuffer(data, dtype="<u4") >> 16).astype("<u2").tobytes()


def test_every_referenced_run_gives_the_recorded_bytes(shared: Path) -> None:
    judged = 0
    for run, where, wanted in reference(shared):
        plan = plan_consolidation(shared / "runs" / run / where, depth="complete")
        got = gathered(plan)
        extra = {name for name in got if name not in wanted}
        assert set(wanted) <= set(got), run
        assert not extra or (plan.layout == "zero1" and {got[name][0].origin for name in extra} == {"module"}), run
        for name, facts in wanted.items():
            tensor, data = got[name]
            assert list(tensor.shape) == facts["shape"], (run, name)
            assert sha256(as_old_script(tensor, data, facts["dtype"])) == facts["sha256"], (run, name)
        judged += 1
    assert judged >= 26


def sixteen_bit(data: bytes) -> bytes:
    """float32 bytes rounded to bf16, by numpy on the bits."""
    bits = np.frombuffer(data, dtype="<u4").astype("<u8")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def assert_equals_gathered_model(plan: Plan, model: Path) -> None:
    """Every tensor, rounded, is what the trainer saved as model.safetensors at the same step."""
    got = gathered(plan)
    with LocalFile(model) as file:
        header = read_safetensors_header(file)
        names = {tensor.name for tensor in header.tensors}
        assert names <= set(got)
        assert set(got) - names <= set(plan.aliases)
        for tensor in header.tensors:
            data = file.read_at(tensor.file_offset, tensor.nbytes)
            assert tensor.dtype == "BF16"
            assert sixteen_bit(got[tensor.name][1]) == data, tensor.name


@pytest.mark.parametrize(
    "run",
    [
        "hf-z0-2r-bf16",
        "hf-z1-2r-gradfp32",
        "hf-z1-4r-odd",
        "hf-z2-2r-bf16",
        "hf-z2-2r-rr",
        "hf-z2-2r-master",
        "hf-z3-2r-bf16",
        "hf-z3-2r-subgroup",
        "hf-z3-2r-tied",
        "hf-z3-3r-odd",
        "tf451-z3-2r-bf16",
    ],
)
def test_master_weights_round_to_the_model_the_trainer_saved(shared: Path, run: str) -> None:
    checkpoint = shared / "runs" / run / "checkpoint-8"
    assert_equals_gathered_model(plan_consolidation(checkpoint), checkpoint / "model.safetensors")


def test_shards_of_bf16_optimizer_are_float32_and_not_their_rounded_copy(shared: Path) -> None:
    plan = plan_consolidation(shared / "runs" / "hf-z1-2r-gradfp32")
    assert (plan.layout, plan.stage, plan.world_size) == ("bf16_optimizer", 1, 2)
    assert all(tensor.source_dtype == "F32" and tensor.origin == "master" for tensor in plan.tensors)
    low_bits = b"".join(data[0::4] + data[1::4] for _, data in gathered(plan).values())
    assert any(low_bits)


def test_stage_zero_gives_float32_masters_by_name(shared: Path) -> None:
    plan = plan_consolidation(shared / "runs" / "ds-z0-2r")
    assert plan.layout == "stage0"
    assert {tensor.name for tensor in plan.tensors if tensor.origin == "master"} == {
        "scale", "one", "emb.weight", "l1.weight", "l1.bias", "bn.weight", "bn.bias", "l2.weight", "norm.weight",
        "norm.bias", "head.weight",
    }  # fmt: skip
    assert {tensor.name for tensor in plan.tensors if tensor.origin == "module"} == {
        "temp", "frozen.weight", "frozen.bias",
    }  # fmt: skip


def test_frozen_parameters_lost_by_stage_one_are_those_stage_two_saved(shared: Path) -> None:
    one = gathered(plan_consolidation(shared / "runs" / "ds-z1-2r"))
    two = gathered(plan_consolidation(shared / "runs" / "ds-z2-2r"))
    assert set(one) == set(two)
    for name in ("temp", "frozen.weight", "frozen.bias"):
        assert one[name][0].origin == "module"
        assert two[name][0].origin == "frozen"
        assert one[name][1] == two[name][1]


def test_a_universal_checkpoint_gives_what_its_source_gives(shared: Path) -> None:
    universal = gathered(plan_consolidation(shared / "runs" / "universal-z2"))
    source = gathered(plan_consolidation(shared / "runs" / "ds-z2-2r", tag="global_step4"))
    assert {name: (t.shape, t.dtype, data) for name, (t, data) in universal.items()} == {
        name: (t.shape, t.dtype, data) for name, (t, data) in source.items()
    }


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("ds-moe-z0-2r", "mixture-of-experts"),
        ("ds-moe-z1-2r", "mixture-of-experts"),
        ("ds-moe-z1-4r-ep2", "mixture-of-experts"),
        ("ds-pipe-z0-2r", "pipeline"),
        ("ds-pipe-z1-2r", "pipeline"),
    ],
)
def test_experts_and_pipelines_are_refused_with_the_way_out(shared: Path, run: str, words: str) -> None:
    with pytest.raises(UnsupportedLayoutError, match=words) as caught:
        plan_consolidation(shared / "runs" / run)
    assert "ds_to_universal" in str(caught.value.remedy)


def test_a_lora_run_is_an_adapter(shared: Path) -> None:
    for run in ("hf-z2-2r-lora", "hf-z3-2r-lora", "lf-sft-z2"):
        plan = plan_consolidation(shared / "runs" / run)
        assert plan.adapter_only
        assert len(plan.tensors) == 8


def test_a_run_says_which_checkpoint_it_took_and_why_not_the_newest(shared: Path) -> None:
    plan = plan_consolidation(shared / "runs" / "diskfull-z2")
    assert plan.tag == "global_step3"
    assert any("checkpoint-3" in text and "newest complete" in text for text in plan.warnings)
    assert any("checkpoint-6 was passed over" in text for text in plan.warnings)


def test_a_plan_survives_json(shared: Path) -> None:
    plan = plan_consolidation(shared / "runs" / "hf-z3-2r-tied")
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
