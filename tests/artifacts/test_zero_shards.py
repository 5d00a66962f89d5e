"""A tag directory told from two files, whatever the number of ranks; every file read once when all are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.deepspeed import Job, Model, Parameter, save_stage0, save_zero3, save_zero12

from ckpt_inspect.artifacts import zero_shards, zero_states, zero_twins
from ckpt_inspect.artifacts.zero_files import classify, group_files
from ckpt_inspect.artifacts.zero_shards import read_all_ranks, read_models, read_zero_tag, tag_files
from ckpt_inspect.storage import Entry, LocalTree


def model(*, frozen: bool = True) -> Model:
    random = np.random.default_rng(0)
    parameters = [Parameter(f"w{i}", np.asarray(random.standard_normal((3, 5)), dtype="<f4")) for i in range(4)]
    if frozen:
        parameters.append(Parameter("f", np.asarray(random.standard_normal(7), dtype="<f4"), frozen=True))
    return Model(parameters, {"b": np.ones(2, dtype="<f4")}, {"tied": "w0"})


@pytest.mark.parametrize(
    ("name", "kind", "rank", "mp", "prefix"),
    [
        ("mp_rank_00_model_states.pt", "model", None, 0, ""),
        ("mp_rank_13_model_states.pt", "model", None, 13, ""),
        ("zero_pp_rank_127_mp_rank_03_model_states.pt", "model_partition", 127, 3, ""),
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "optimizer", 0, 0, ""),
        ("bf16_zero_pp_rank_10_mp_rank_00_optim_states.pt", "optimizer", 10, 0, "bf16_"),
        ("fp16_zero_pp_rank_1_mp_rank_00_optim_states.pt", "optimizer", 1, 0, "fp16_"),
        ("zero_pp_rank_2_mp_rank_00optim_states.pt", "optimizer", 2, 0, ""),
        ("layer_3_expert_12_mp_rank_00_model_states.pt", "expert", None, 0, ""),
        ("expert_7_mp_rank_01_model_states.pt", "expert", None, 1, ""),
        ("expp_rank_2_mp_rank_00_optim_states.pt", "expert_optimizer", 2, 0, ""),
        ("layer_03-model_states.pt", "layer", None, 0, ""),
        ("layer_03-model_01-model_states.pt", "layer", None, 1, ""),
        ("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt-0.4", "part", 0, 0, ""),
    ],
)
def test_every_name_deepspeed_gives_is_known(name: str, kind: str, rank: int | None, mp: int, prefix: str) -> None:
    file = classify(Entry(f"global_step8/{name}", "file", 10, 0))
    assert file is not None
    assert (file.kind, file.rank, file.mp_rank, file.prefix, file.name) == (kind, rank, mp, prefix, name)


@pytest.mark.parametrize(
    "name",
    ["optimizer.pt", "pytorch_model.bin", "mp_rank_00_model_states.pt.tmp", "scheduler.pt", "rank_0_model_states.pt"],
)
def test_other_names_are_not(name: str) -> None:
    assert classify(Entry(name, "file", 10, 0)) is None


def test_ranks_are_in_the_order_of_numbers() -> None:
    names = [f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(21)]
    files = group_files(Entry(name, "file", 1, 0) for name in sorted(names))
    assert [file.rank for file in files.optimizer] == list(range(21))


@pytest.mark.parametrize(
    ("job", "layout"),
    [(Job(stage=1, world=3), "zero12"), (Job(stage=2, world=4), "zero12"), (Job(stage=3, world=2), "zero3")],
)
def test_a_tag_states_stage_world_type_step_and_size(tmp_path: Path, job: Job, layout: str) -> None:
    (save_zero3 if job.stage == 3 else save_zero12)(tmp_path / "t", model(), job)
    tag = read_zero_tag(LocalTree(tmp_path), "t")
    assert (tag.stage, tag.optimizer_class, tag.world_size, tag.model_parallel) == (job.stage, layout, job.world, 1)
    assert (tag.dtype, tag.ds_version, tag.dp_world_size, tag.global_steps) == ("bfloat16", "0.19.8", job.world, 8)
    assert tag.parameters == 67
    assert tag.complete


def test_stage_zero_and_bf16_optimizer_are_told_apart(tmp_path: Path) -> None:
    save_stage0(tmp_path / "zero", model(), Job())
    save_zero12(tmp_path / "wrapped", model(), Job(stage=1), bf16_optimizer=True)
    tree = LocalTree(tmp_path)
    zero, wrapped = read_zero_tag(tree, "zero"), read_zero_tag(tree, "wrapped")
    assert (zero.stage, zero.optimizer_class, zero.parameters) == (0, "stage0", 67)
    assert (wrapped.stage, wrapped.optimizer_class, wrapped.parameters) == (1, "bf16_optimizer", 67)


def test_two_files_are_opened_whatever_the_number_of_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_zero3(tmp_path / "t", model(), Job(world=40))
    tree = LocalTree(tmp_path)
    opened: list[str] = []
    real = LocalTree.open
    monkeypatch.setattr(LocalTree, "open", lambda self, path: opened.append(path) or real(self, path))
    assert read_zero_tag(tree, "t").world_size == 40
    assert len(opened) == 2


def test_missing_extra_and_empty_files_are_seen_by_name(tmp_path: Path) -> None:
    save_zero12(tmp_path / "t", model(), Job(world=4))
    (tmp_path / "t" / "bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
    extra = tmp_path / "t" / "bf16_zero_pp_rank_9_mp_rank_00_optim_states.pt"
    extra.write_bytes(b"")
    tag = read_zero_tag(LocalTree(tmp_path), "t")
    assert (tag.missing_ranks, tag.extra_ranks) == ((2,), (9,))
    assert [fault.kind for fault in tag.faults] == ["zero-empty-file"]
    assert not tag.complete


def test_rank_zero_of_another_kind_of_file_is_a_fault_and_no_error(tmp_path: Path) -> None:
    save_zero12(tmp_path / "t", model(), Job(world=2))
    (tmp_path / "t" / "mp_rank_00_model_states.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    tag = read_zero_tag(LocalTree(tmp_path), "t")
    assert tag.world_size == 2
    assert "torch-lfs-pointer" in {fault.kind for fault in tag.faults}


@pytest.mark.parametrize("frozen", [True, False])
def test_a_pickle_met_again_is_not_interpreted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    save_zero3(tmp_path / "t", model(frozen=frozen), Job(world=12))
    tree = LocalTree(tmp_path)
    files = tag_files(tree, "t")
    read: list[str] = []
    real = zero_states.read_model_state
    monkeypatch.setattr(
        zero_shards, "read_model_state", lambda source, path, rank: read.append(path) or real(source, path, rank)
    )
    models, _ = read_models(tree, files.model)
    assert len(models) == 12
    assert len(read) == 2  # rank 0 alone names shared parameters
    for state in models:
        with tree.open(state.path) as source:
            whole = real(source, state.path, state.rank)
        assert state.rank == whole.rank
        assert state.shapes == whole.shapes
        assert addresses(state.frozen) == addresses(whole.frozen)


def addresses(tensors: Any) -> dict[str, tuple[Any, ...]]:
    return {name: (t.file_offset, t.dtype, t.shape, t.nbytes) for name, t in (tensors or {}).items()}


@pytest.mark.parametrize("damage", ["program", "size", "method", "cut", "offset"])
def test_a_file_that_only_looks_like_a_twin_is_read_in_full(tmp_path: Path, damage: str) -> None:
    save_zero3(tmp_path / "t", model(), Job(world=4))
    path = tmp_path / "t" / "zero_pp_rank_3_mp_rank_00_model_states.pt"
    data = bytearray(path.read_bytes())
    end = data.rfind(b"PK\x05\x06")
    central = int.from_bytes(data[end + 16 : end + 20], "little")
    if damage == "program":
        data[data.find(b"global_steps") + 3] ^= 1
    elif damage == "size":
        data[central + 24] ^= 1
    elif damage == "method":
        data[central + 10] = 8
    elif damage == "cut":
        del data[-30:]
    else:
        data[central + 42 : central + 46] = (7).to_bytes(4, "little")
    path.write_bytes(data)
    tree = LocalTree(tmp_path)
    twins = zero_twins.TwinReader()
    for rank in (1, 3):
        with tree.open(f"t/zero_pp_rank_{rank}_mp_rank_00_model_states.pt") as source:
            found = twins.find(source, "x", rank)
            if rank == 1:
                twins.remember(zero_states.read_model_state(source, "x", rank))
    assert found is None


def test_all_ranks_are_read_in_order(tmp_path: Path) -> None:
    save_zero3(tmp_path / "t", model(), Job(world=11))
    tree = LocalTree(tmp_path)
    shards = read_all_ranks(tree, tag_files(tree, "t"))
    assert [state.rank for state in shards.optimizers] == list(range(11))
    assert [state.rank for state in shards.models] == list(range(11))
    assert not shards.unreadable
