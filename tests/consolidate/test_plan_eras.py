"""Checkpoints of every era of DeepSpeed: keys that moved, keys that came, keys that are not there yet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.deepspeed import (
    Job,
    Model,
    Parameter,
    expected,
    save_latest,
    save_stage0,
    save_zero3,
    save_zero12,
    spec,
)
from builders.deepspeed import (
    write as write_file,
)
from builders.torch_files import save_zip, view

from ckpt_inspect.consolidate import problems as p
from ckpt_inspect.consolidate.planning import plan_consolidation
from ckpt_inspect.errors import UsageError
from consolidate.conftest import Written, small_model
from consolidate.gathering import arrays

Write = Callable[..., Written]

ALL_NEW_KEYS = ("buffer_names", "frozen_param_shapes", "frozen_param_fragments", "shared_params", "dp_world_size",
                "mp_world_size", "global_samples", "random_ltd", "data_sampler", "ds_config")  # fmt: skip


def assert_recovers(made: Written, **options: Any) -> Any:
    plan = plan_consolidation(made.directory, depth="complete", **options)
    got, wanted = arrays(plan), expected(made.model, made.job)
    assert set(got) == set(wanted)
    for name, values in wanted.items():
        assert (got[name].dtype, got[name].shape) == (values.dtype, values.shape), name
        assert got[name].tobytes() == values.tobytes(), name
    return plan


@pytest.mark.parametrize("world", [1, 2, 5])
@pytest.mark.parametrize("shapes_in_optimizer", [False, True])
def test_stage_two_of_0_4_without_any_later_key(write: Write, world: int, shapes_in_optimizer: bool) -> None:
    made = write(
        world=world,
        version="0.4.4",
        trim="last",
        plain_stage=True,
        single_shapes=True,
        shapes_in_optimizer=shapes_in_optimizer,
        drop=ALL_NEW_KEYS,
        drop_optimizer=("group_paddings", "param_alignment_paddings", "param_slice_mappings", "ds_version"),
    )
    plan = assert_recovers(made)
    assert any("taken from the module" in warning for warning in plan.warnings)


def test_stage_three_of_0_8_finds_buffers_and_misses_frozen_parameters(write: Write) -> None:
    made = write(stage=3, world=3, version="0.8.0", plain_stage=True, drop=ALL_NEW_KEYS)
    plan = plan_consolidation(made.directory)
    got, wanted = arrays(plan), expected(made.model, made.job)
    assert set(got) == set(wanted) - {"frozen.weight"}
    assert got["steps"].dtype == np.dtype("<i8")
    assert any("no values in any shard: frozen.weight" in warning for warning in plan.warnings)


def test_two_groups_in_one_mapping_are_cut_by_their_sums(tmp_path: Path) -> None:
    model = Model([Parameter(f"p{i}", np.arange(40 + i, dtype="<f4"), group=i % 2) for i in range(6)])
    job = Job(world=2, single_shapes=True, version="0.5.3", trim="last")
    save_zero12(tmp_path / "t", model, job)
    plan = plan_consolidation(tmp_path)
    wanted = expected(model, job)
    assert {name: array.tobytes() for name, array in arrays(plan).items()} == {
        n: v.tobytes() for n, v in wanted.items()
    }


def test_optimizer_files_of_0_3_13_lack_an_underscore(write: Write) -> None:
    made = write(world=2, dtype="F16")
    for rank in (0, 1):
        made.optimizer(rank).rename(made.tag / made.optimizer(rank).name.replace("_optim_states", "optim_states"))
    assert_recovers(made)


@pytest.mark.parametrize("world", [3, 4, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, 29])
def test_padding_trimmed_on_the_last_rank_only_is_skipped(tmp_path: Path, world: int, size: int) -> None:
    """Before 0.16.4 earlier ranks kept their padding; it is at the end of the vector and never written."""
    model = Model([Parameter("a", np.arange(1, size + 1, dtype="<f4")), Parameter("b", np.array([-1], dtype="<f4"))])
    job = Job(world=world, trim="last", version="0.15.0", garbage=True, drop_optimizer=("param_alignment_paddings",))
    save_zero12(tmp_path / "t", model, job)
    assert {n: a.tobytes() for n, a in arrays(plan_consolidation(tmp_path, depth="complete")).items()} == {
        n: v.tobytes() for n, v in expected(model, job).items()
    }


def test_excess_no_padding_explains_is_refused(write: Write) -> None:
    made = write(world=2, model=Model([Parameter("a", np.ones(40, dtype="<f4"))]))
    other = write(world=2, model=Model([Parameter("a", np.ones(30, dtype="<f4"))]))
    made.model_file().write_bytes(other.model_file().read_bytes())
    with pytest.raises(p.SumError, match="more than padding explains"):
        plan_consolidation(made.directory)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_ties_without_shared_params_are_seen_in_the_module_storage(write: Write, stage: int) -> None:
    """A module that one ModuleList holds twice: `_get_shared_params` misses it, stage 3 has placeholders only."""
    model = small_model()
    model.ties["head.weight"] = "layers.0.weight"
    made = write(stage=stage, world=2, model=model, drop=("shared_params",))
    plan = assert_recovers(made)
    assert plan.aliases == {"head.weight": "layers.0.weight"}
    assert not [warning for warning in plan.warnings if "head.weight" in warning]


def test_an_alias_of_a_frozen_parameter_that_stage_one_keeps_in_the_module_is_no_loss(write: Write) -> None:
    model = small_model()
    model.ties["frozen.alias"] = "frozen.weight"
    plan = assert_recovers(write(stage=1, world=2, model=model))
    assert plan.aliases == {"frozen.alias": "frozen.weight"}
    assert not any("Z41" in warning for warning in plan.warnings)


def test_an_alias_of_an_excluded_frozen_owner_vanishes_with_it(write: Write) -> None:
    model = small_model()
    model.ties["frozen.alias"] = "frozen.weight"
    made = write(world=2, model=model, exclude_frozen=True)
    plan = assert_recovers(made)
    assert any("Z41" in warning for warning in plan.warnings)
    whole = write(world=2, model=model)
    plan = plan_consolidation(whole.directory, exclude_frozen=True)
    assert not {"frozen.weight", "frozen.alias"} & {*arrays(plan)}
    assert not any("Z41" in warning for warning in plan.warnings)


def test_shared_parameters_come_from_rank_zero_alone(write: Write) -> None:
    model = small_model()
    model.ties["head.weight"] = "layers.0.weight"
    plan = assert_recovers(write(stage=3, world=3, model=model))
    assert plan.aliases == {"head.weight": "layers.0.weight"}
    assert not plan.warnings


def test_listed_buffers_that_were_not_saved_are_told(write: Write) -> None:
    made = write(world=2, extra={"buffer_names": ["steps", "rope.inv_freq"]})
    plan = assert_recovers(made)
    assert any("Z43" in warning and "rope.inv_freq" in warning for warning in plan.warnings)


def test_a_frozen_parameter_that_is_a_transposed_view_is_written_row_major(tmp_path: Path) -> None:
    model, job = small_model(), Job(world=2)
    save_zero12(tmp_path / "t", model, job)
    weights = np.arange(12, dtype="<f4").reshape(3, 4)
    whole = spec(weights.astype("<f4"), job)
    module: OrderedDict[str, Any] = OrderedDict(turned=view(whole, (4, 3), stride=(1, 4)))
    shapes = [OrderedDict((q.name, q.shape) for q in model.parameters if q.optimized)]
    state = {
        "module": module, "buffer_names": [], "param_shapes": shapes, "frozen_param_shapes": OrderedDict(turned=(4, 3)),
        "frozen_param_fragments": OrderedDict(turned=module["turned"]), "shared_params": {}, "dp_world_size": 2,
    }  # fmt: skip
    save_zip(tmp_path / "t" / "mp_rank_00_model_states.pt", state)
    plan = plan_consolidation(tmp_path)
    assert arrays(plan)["turned"].tolist() == weights.T.tolist()


@pytest.mark.parametrize("fused", [False, True])
def test_stage_zero_masters_that_fit_no_parameter_fall_back_to_the_module_aloud(tmp_path: Path, fused: bool) -> None:
    model, job = small_model(), Job(stage=0)
    save_stage0(tmp_path / "t", model, job, fused=fused)
    other = small_model(seed=9)
    save_stage0(tmp_path / "other", other, job, fused=fused)
    from ckpt_inspect.formats.torch_archive import open_torch  # the module of one save, the masters of another
    from ckpt_inspect.storage import LocalFile

    def span(path: Path, wanted: str) -> tuple[int, int]:
        with LocalFile(path) as file:
            found = [t for n, t in open_torch(file).tensors() if n.startswith(wanted) and t.dtype == "F32"]
        return min(t.file_offset or 0 for t in found), max((t.file_offset or 0) + t.nbytes for t in found)

    name = "mp_rank_00_model_states.pt"
    start, end = span(tmp_path / "t" / name, "optimizer")
    data = bytearray((tmp_path / "t" / name).read_bytes())
    data[start:end] = (tmp_path / "other" / name).read_bytes()[start:end]
    (tmp_path / "t" / name).write_bytes(data)
    plan = plan_consolidation(tmp_path / "t")
    assert plan.facts["masters"] == "not matched"
    assert any("do not agree with the module" in warning for warning in plan.warnings)
    got = arrays(plan)
    assert got["layers.0.weight"].tobytes() == model.parameters[0].values.astype("bfloat16").astype("<f4").tobytes()


def test_stage_zero_without_masters_says_that_precision_is_lost(tmp_path: Path) -> None:
    save_stage0(tmp_path / "t", small_model(), Job(stage=0), masters=False)
    plan = plan_consolidation(tmp_path)
    assert any("no more precision" in warning for warning in plan.warnings)
    assert {tensor.origin for tensor in plan.tensors} == {"module", "buffer"}
    assert plan.tensors[1].source_dtype == "BF16"


def test_stage_zero_in_float32_needs_no_masters_and_keeps_ties(tmp_path: Path) -> None:
    model, job = small_model(), Job(stage=0, dtype="F32")
    model.ties["head.weight"] = "layers.0.weight"
    save_stage0(tmp_path / "t", model, job, masters=False)
    plan = plan_consolidation(tmp_path)
    assert not plan.warnings
    assert plan.aliases == {"head.weight": "layers.0.weight"}
    assert {n: a.tobytes() for n, a in arrays(plan).items()} == {
        n: v.tobytes() for n, v in expected(model, job).items()
    }


def test_equal_parameters_of_stage_zero_keep_their_order(tmp_path: Path) -> None:
    """Norm weights are all ones in 16 bit and differ below: the order of the group decides."""
    ones = [Parameter(f"norm{i}.weight", np.full(8, 1 + i * 1e-5, dtype="<f4"), group=1) for i in range(4)]
    model = Model([Parameter("w", np.arange(64, dtype="<f4").reshape(8, 8)), *ones])
    for fused in (False, True):
        save_stage0(tmp_path / str(fused) / "t", model, Job(stage=0), fused=fused)
        got = arrays(plan_consolidation(tmp_path / str(fused)))
        assert {n: a.tobytes() for n, a in got.items()} == {
            n: v.tobytes() for n, v in expected(model, Job(stage=0)).items()
        }


def test_lora_shards_of_the_trainer_are_an_adapter_and_a_saved_base_makes_them_a_model(write: Write) -> None:
    random = np.random.default_rng(0)
    base = "base_model.model.model.layers.0.self_attn.q_proj"

    def values(*shape: int) -> Any:
        return np.asarray(random.standard_normal(shape), dtype="<f4")

    model = Model(
        [
            Parameter(f"{base}.base_layer.weight", values(8, 8), frozen=True),
            Parameter(f"{base}.lora_A.default.weight", values(2, 8)),
            Parameter(f"{base}.lora_B.default.weight", values(8, 2)),
            Parameter("base_model.model.lm_head.modules_to_save.default.weight", values(9, 8)),
        ]
    )
    for stage in (1, 2, 3):
        assert assert_recovers(write(stage=stage, world=2, model=model, exclude_frozen=True)).adapter_only
        whole = write(stage=stage, world=2, model=model)
        assert not assert_recovers(whole).adapter_only
        assert plan_consolidation(whole.directory, exclude_frozen=True).adapter_only


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.float16", "fp16", "BF16"])
def test_target_types_apply_to_floating_tensors_only(write: Write, dtype: str) -> None:
    made = write(world=2)
    plan = plan_consolidation(made.directory, dtype=dtype)
    kinds = {tensor.name: (tensor.source_dtype, tensor.dtype) for tensor in plan.tensors}
    target = "F16" if "16" in dtype and "b" not in dtype.lower() else "BF16"
    assert kinds["steps"] == ("I64", "I64")
    assert kinds["layers.0.weight"] == ("F32", target)
    assert kinds["frozen.weight"] == ("BF16", target)


def test_order_of_tensors_is_that_of_deepspeed(write: Write) -> None:
    names = [tensor.name for tensor in plan_consolidation(write(world=2).directory).tensors]
    assert names == ["steps", "frozen.weight", *(f"layers.{index}.weight" for index in range(6))]


def test_client_state_may_hold_anything(write: Write) -> None:
    from builders.pickles import Called, Instance, Name

    extra = {
        "args": Instance(Name("argparse", "Namespace"), {"lr": 1.0}),
        "rng": Called(Name("numpy.core.multiarray", "_reconstruct"), (Name("numpy", "ndarray"), (0,), b"b")),
        "note": "ünïcödé",
        "cycle": [],
    }
    extra["cycle"].append(extra["cycle"])  # type: ignore[attr-defined]
    assert_recovers(write(world=2, extra=extra))


def test_files_of_a_big_endian_machine_are_swapped(write: Write) -> None:
    plan = assert_recovers(write(world=3, order="big"))
    assert any(part.swap for tensor in plan.tensors for part in tensor.ranges)
    assert_recovers(write(stage=3, world=3, order="big", dtype="F16"))


def test_a_mistyped_dtype_is_wrong_usage(write: Write) -> None:
    with pytest.raises(UsageError):
        plan_consolidation(write(world=1).directory, dtype="float8")


def test_sub_groups_merged_into_one_mapping_are_cut_where_they_end(tmp_path: Path) -> None:
    model = small_model()
    job = Job(stage=3, world=3, sub_group=150, single_shapes=True)
    save_zero3(tmp_path / "t", model, job)
    save_latest(tmp_path, "t")
    plan = plan_consolidation(tmp_path)
    assert {n: a.tobytes() for n, a in arrays(plan).items()} == {
        n: v.tobytes() for n, v in expected(model, job).items()
    }
    assert len(plan.facts["groups"]) == 3


def test_a_second_file_of_the_same_name_pattern_is_not_a_shard(write: Write) -> None:
    made = write(world=2)
    write_file(made.tag / "layer_0_expert_backup.pt", {}, made.job)
    (made.tag / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt.bak").write_bytes(b"x")
    assert_recovers(made)
