"""FSDP and DCP directories: what kind, how many ranks, and what an interrupted or mixed save left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders.dcp_files import Piece, Whole, rows, save_dcp, save_dcp_safetensors
from builders.torch_files import save_zip, tensor

from ckpt_inspect.artifacts.fsdp import FsdpState, rank_sizes, read_dcp_directory, read_fsdp
from ckpt_inspect.storage import LocalTree

DATA = bytes(range(60))
MODEL = {"model.w": rows("U8", (10, 6), DATA, 3)}
OPTIMIZER = {"optimizer.state.w.exp_avg": rows("U8", (10, 6), DATA, 3)}


def state(path: Path, directory: str = "") -> FsdpState:
    found = read_fsdp(LocalTree(path), directory)
    assert found is not None
    return found


def kinds(path: Path) -> set[str]:
    return {fault.kind for fault in state(path).faults}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What accelerate writes with SHARDED_STATE_DICT on three ranks."""
    save_dcp(tmp_path / "pytorch_model_fsdp_0", MODEL)
    save_dcp(tmp_path / "optimizer_0", OPTIMIZER, {"optimizer.param_groups.0.lr": 0.1})
    return tmp_path


def test_a_sharded_checkpoint_is_healthy_and_knows_its_ranks(run: Path) -> None:
    found = state(run)
    assert (found.kind, found.world_size, found.faults, found.missing) == ("sharded", 3, (), ())
    assert found.model is not None
    assert found.optimizer is not None
    assert (found.model.path, found.optimizer.path) == ("pytorch_model_fsdp_0", "optimizer_0")
    assert found.metadata is not None
    assert list(found.metadata.tensors) == ["model.w"]
    assert set(rank_sizes(found.model)) == {0, 1, 2}
    assert found.model.size == sum(rank_sizes(found.model).values())


def test_the_directory_of_shards_itself_may_be_given(run: Path) -> None:
    for tree, directory in ((run, "pytorch_model_fsdp_0"), (run / "pytorch_model_fsdp_0", "")):
        found = state(tree, directory)
        assert (found.world_size, found.faults) == (3, ())


def test_a_plain_distributed_checkpoint_is_one(tmp_path: Path) -> None:
    save_dcp(tmp_path, MODEL)
    assert (state(tmp_path).kind, state(tmp_path).world_size, kinds(tmp_path)) == ("dcp", 3, set())
    assert state(tmp_path).model is not None


def test_the_safetensors_form_is_told_by_its_names(tmp_path: Path) -> None:
    save_dcp_safetensors(tmp_path / "sharded", MODEL)
    found = state(tmp_path)
    assert (found.kind, found.world_size, found.faults) == ("dcp-safetensors", 3, ())
    assert found.metadata is not None
    assert found.metadata.tensors["model.w"].shape == (10, 6)


def test_one_file_for_all_and_one_for_each_rank_are_told_apart(tmp_path: Path) -> None:
    full, local = tmp_path / "full", tmp_path / "local"
    full.mkdir()
    local.mkdir()
    save_zip(full / "pytorch_model_fsdp.bin", {"w": tensor("F32", (1,))})
    save_zip(full / "optimizer.bin", {})
    assert (state(full).kind, state(full).world_size, kinds(full)) == ("full", None, set())
    assert [file.name for file in state(full).optimizer_files] == ["optimizer.bin"]
    for rank in (0, 1, 3):
        save_zip(local / f"pytorch_model_fsdp_0_rank{rank}.bin", {})
    assert (state(local).kind, state(local).world_size, kinds(local)) == ("local", 4, {"dcp-rank-missing"})
    assert state(local).metadata is None


def test_nothing_of_fsdp_is_none(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "optimizer.bin").write_bytes(b"")
    assert read_fsdp(LocalTree(tmp_path), "") is None
    assert read_dcp_directory(LocalTree(tmp_path), "") is None


def test_a_save_that_did_not_finish_is_named(run: Path) -> None:
    model = run / "pytorch_model_fsdp_0"
    (model / ".metadata").rename(model / ".metadata.tmp")
    assert kinds(run) == {"dcp-no-metadata", "dcp-temporary"}
    (model / ".metadata.tmp").unlink()
    assert kinds(run) == {"dcp-no-metadata"}
    assert state(run).missing == ()
    (model / ".metadata").write_bytes(b"")
    assert "dcp-not-metadata" in kinds(run)


def test_missing_cut_and_foreign_files_are_named(run: Path) -> None:
    model = run / "pytorch_model_fsdp_0"
    whole = (model / "__1_0.distcp").read_bytes()
    (model / "__1_0.distcp").write_bytes(whole[:-9])
    assert kinds(run) == {"dcp-item-bounds"}
    (model / "__1_0.distcp").write_bytes(whole + b"older and longer")
    assert kinds(run) == {"dcp-file-rest"}
    (model / "__1_0.distcp").unlink()
    assert kinds(run) == {"dcp-file-missing", "dcp-rank-missing", "fsdp-rank-count"}
    assert state(run).missing == ("pytorch_model_fsdp_0/__1_0.distcp",)
    (model / "__1_0.distcp").write_bytes(whole)
    (model / "__3_0.distcp").write_bytes(whole)
    assert kinds(run) == {"dcp-file-unused", "fsdp-rank-count"}
    (model / "__3_0.distcp").write_bytes(b"")
    assert kinds(run) == {"fsdp-rank-count"}


def test_chunks_that_do_not_cover_their_tensor_are_named(tmp_path: Path) -> None:
    save_dcp(tmp_path, {"w": Whole("U8", (4,), [Piece((0,), (3,))])})
    assert kinds(tmp_path) == {"dcp-gap"}


def test_optimizer_shards_alone_are_named(run: Path) -> None:
    shutil.rmtree(run / "pytorch_model_fsdp_0")
    assert kinds(run) == {"fsdp-no-model"}
    assert state(run).metadata is None


def test_metadata_of_single_ranks_are_joined(tmp_path: Path) -> None:
    for rank, piece in enumerate(MODEL["model.w"].pieces):
        save_dcp(tmp_path, {"model.w": Whole("U8", (10, 6), [piece])})
        (tmp_path / ".metadata").rename(tmp_path / f"__{rank}.metadata")
    found = state(tmp_path)
    assert (found.world_size, found.faults) == (3, ())
    assert found.metadata is not None
    assert len(found.metadata.tensors["model.w"].chunks) == 3


def test_megatron_directories_are_told(tmp_path: Path) -> None:
    save_dcp(tmp_path, MODEL)
    (tmp_path / "common.pt").write_bytes(b"")
    (tmp_path / "metadata.json").write_bytes(b"{}")
    directory = read_dcp_directory(LocalTree(tmp_path), "")
    assert directory is not None
    assert directory.megatron


def test_shards_without_a_rank_in_their_name_are_kept(tmp_path: Path) -> None:
    save_dcp(tmp_path, MODEL)
    (tmp_path / "odd.distcp").write_bytes(b"x")
    found = state(tmp_path)
    assert found.world_size == 3
    assert kinds(tmp_path) == {"dcp-file-unused"}
    assert found.model is not None
    assert found.model.files[0].rank is None


def test_a_shard_directory_that_cannot_be_read_is_a_fault(run: Path) -> None:
    found = state(run)
    (run / "pytorch_model_fsdp_0" / ".metadata").unlink()  # gone after the listing was made
    assert {fault.kind for fault in found.faults} == {"unreadable"}
