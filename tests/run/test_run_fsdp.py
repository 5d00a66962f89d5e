"""A run knows what FSDP left in it, in every layout FSDP and distributed checkpoints have."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.dcp_files import rows, save_dcp, save_dcp_safetensors
from builders.torch_files import save_zip, tensor

from ckpt_inspect.run import open_run

MODEL = {"model.w": rows("U8", (4, 2), bytes(8), 2)}


def sharded(path: Path) -> None:
    save_dcp(path / "pytorch_model_fsdp_0", MODEL)
    save_dcp(path / "optimizer_0", MODEL)


def optimizer_only(path: Path) -> None:
    save_dcp(path / "optimizer_0", MODEL, metadata=False)


def plain(path: Path) -> None:
    save_dcp(path, MODEL)


def safetensors(path: Path) -> None:
    save_dcp_safetensors(path, MODEL)


def full(path: Path) -> None:
    path.mkdir()
    save_zip(path / "pytorch_model_fsdp.bin", {"w": tensor("F32", (1,))})


def local(path: Path) -> None:
    path.mkdir()
    for rank in range(2):
        save_zip(path / f"pytorch_model_fsdp_0_rank{rank}.bin", {"w": tensor("F32", (1,))})


LAYOUTS = {
    "sharded": (sharded, "sharded"),
    "optimizer only": (optimizer_only, "sharded"),
    "plain": (plain, "dcp"),
    "safetensors": (safetensors, "dcp-safetensors"),
    "full": (full, "full"),
    "local": (local, "local"),
}


@pytest.mark.parametrize(("make", "kind"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_each_layout_is_found_in_a_checkpoint(tmp_path: Path, make: object, kind: str) -> None:
    assert callable(make)
    make(tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text('{"global_step": 2, "log_history": []}')
    run = open_run(tmp_path)
    (checkpoint,) = run.checkpoints
    assert checkpoint.fsdp is not None
    assert checkpoint.fsdp.kind == kind
    assert checkpoint.fsdp.world_size == (None if kind == "full" else 2)
    assert not [artifact.path for artifact in checkpoint.artifacts if artifact.kind == "unknown"]
