"""Random checkpoints in DeepSpeed's true format: every tensor comes back byte for byte, whoever's layout it is."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.deepspeed import (
    Job,
    Model,
    expected,
    save_latest,
    save_stage0,
    save_zero3,
    save_zero12,
)
from builders.deepspeed_random import jobs, models
from consolidate.gathering import arrays
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ckpt_inspect.consolidate.layouts import flat_pieces, partition_share, shared_pieces
from ckpt_inspect.consolidate.planning import plan_consolidation

_LESS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def recover(write: Any, model: Model, job: Job) -> tuple[Any, dict[str, Any]]:
    """Write a checkpoint, plan it with every value compared, and gather it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write(directory / "global_step8")
        save_latest(directory, "global_step8")
        plan = plan_consolidation(directory, depth="complete")
        return plan, arrays(plan)


def assert_same(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert set(got) == set(wanted)
    for name, values in wanted.items():
        assert got[name].dtype == values.dtype, name
        assert got[name].shape == values.shape, name
        assert got[name].tobytes() == values.tobytes(), name


@settings(_LESS, max_examples=250)
@given(model=models(), job=jobs(stages=(1, 2)))
def test_stages_one_and_two_come_back_whole(model: Model, job: Job) -> None:
    plan, got = recover(lambda directory: save_zero12(directory, model, job), model, job)
    assert_same(got, expected(model, job))
    assert plan.layout == f"zero{job.stage}"
    assert plan.world_size == job.world


@settings(_LESS, max_examples=250)
@given(model=models(), job=jobs(stages=(3,)))
def test_stage_three_comes_back_whole(model: Model, job: Job) -> None:
    plan, got = recover(lambda directory: save_zero3(directory, model, job), model, job)
    assert_same(got, expected(model, job))
    assert plan.layout == "zero3"
    assert all(len(tensor.ranges) <= job.world for tensor in plan.tensors)


@settings(_LESS, max_examples=80)
@given(model=models(), job=jobs(stages=(1,)))
def test_bf16_optimizer_shards_without_a_stage_come_back_whole(model: Model, job: Job) -> None:
    job = replace(job, alignment=False, round_robin=False, elastic=False, dtype="BF16", version="0.19.8")
    plan, got = recover(lambda directory: save_zero12(directory, model, job, bf16_optimizer=True), model, job)
    assert_same(got, expected(model, job))
    assert plan.layout == "bf16_optimizer"


@settings(_LESS, max_examples=80)
@given(model=models(), job=jobs(stages=(0,)), fused=st.booleans())
def test_stage_zero_masters_find_their_names(model: Model, job: Job, fused: bool) -> None:
    values = [bytes(np.ascontiguousarray(p.values).tobytes()) for p in model.parameters if p.values.size]
    assume(len(set(values)) == len(values))
    job = replace(job, exclude_frozen=False)
    plan, got = recover(lambda directory: save_stage0(directory, model, job, fused=fused), model, job)
    assert_same(got, expected(model, job))
    assert plan.facts["masters"] == "matched"


@settings(_LESS, max_examples=60)
@given(model=models(), job=jobs(stages=(1, 2, 3)), master=st.sampled_from(["BF16", "F16"]))
def test_sixteen_bit_masters_are_widened_exactly(model: Model, job: Job, master: str) -> None:
    job = replace(job, master=master, dtype=master, nvme=False)
    save = save_zero3 if job.stage == 3 else save_zero12
    plan, got = recover(lambda directory: save(directory, model, job), model, job)
    assert_same(got, expected(model, job))
    assert any("not F32" in warning for warning in plan.warnings)


@settings(_LESS, max_examples=60)
@given(model=models(frozen=False), job=jobs(stages=(1, 2)))
def test_one_mapping_of_shapes_in_the_optimizer_file_is_cut_at_the_groups(model: Model, job: Job) -> None:
    job = replace(
        job,
        version="0.4.4",
        trim="last",
        alignment=False,
        single_shapes=True,
        shapes_in_optimizer=True,
        drop=("shared_params", "frozen_param_shapes", "frozen_param_fragments"),
        drop_optimizer=("param_alignment_paddings", "param_slice_mappings", "group_paddings", "ds_version"),
    )
    sizes = {parameter.group for parameter in model.parameters}
    assume(len(sizes) == 1 or job.world == 1)  # padding hides where a group of tiny parameters ends
    _, got = recover(lambda directory: save_zero12(directory, model, job), model, job)
    assert_same(got, expected(model, job))


@given(
    numels=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 50), min_size=1, max_size=9),
    data=st.data(),
)
def test_flat_pieces_tile_every_parameter_in_order(numels: list[int], cuts: list[int], data: st.DataObject) -> None:
    paddings = data.draw(st.lists(st.integers(0, 7), min_size=len(numels), max_size=len(numels)))
    total = sum(numels) + sum(paddings)
    cuts.append(max(0, total - sum(cuts)))
    flat = np.concatenate([np.arange(sum(cuts[:rank]), sum(cuts[: rank + 1])) for rank in range(len(cuts))])
    partitions = np.split(flat, np.cumsum(cuts)[:-1])
    position = 0
    for numel, padding, pieces in zip(numels, paddings, flat_pieces(numels, cuts, paddings), strict=True):
        parts = [partitions[piece.rank][piece.start : piece.start + piece.elements] for piece in pieces]
        joined = np.concatenate(parts) if parts else np.array([], dtype=int)
        assert joined.tolist() == list(range(position, position + numel))
        assert all(piece.elements > 0 for piece in pieces)
        position += numel + padding


@given(numel=st.integers(0, 200), world=st.integers(1, 300))
def test_shares_cover_a_parameter_once_and_no_rank_gives_padding(numel: int, world: int) -> None:
    pieces = shared_pieces(numel, 11, world)
    assert sum(piece.elements for piece in pieces) == numel
    assert all(piece.start == 11 and 0 < piece.elements <= partition_share(numel, world) for piece in pieces)
    assert [piece.rank for piece in pieces] == list(range(len(pieces)))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_a_single_scalar_parameter_survives_any_number_of_ranks(world: int) -> None:
    from builders.deepspeed import Parameter

    model = Model([Parameter("scale", np.array(1.5, dtype="<f4"))])
    for stage, save in ((1, save_zero12), (2, save_zero12), (3, save_zero3)):
        job = Job(stage=stage, world=world, garbage=True)
        _, got = recover(lambda directory, save=save, job=job: save(directory, model, job), model, job)
        assert_same(got, expected(model, job))
