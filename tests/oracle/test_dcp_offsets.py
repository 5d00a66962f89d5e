"""Torch as the judge of distributed checkpoints: every element of every tensor, put together from our chunks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ckpt_inspect.artifacts.fsdp import read_dcp_directory, read_fsdp
from ckpt_inspect.formats.dcp_items import item_tensor
from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.storage import LocalTree

pytestmark = pytest.mark.judge
torch = pytest.importorskip("torch")


def assembled(tree: LocalTree, path: str) -> dict[str, Any]:
    """Every tensor of a DCP directory, its chunks read at our offsets."""
    directory = read_dcp_directory(tree, path)
    assert directory is not None
    assert directory.metadata is not None
    assert directory.faults == ()
    whole: dict[str, Any] = {}
    for name, tensor in directory.metadata.tensors.items():
        dtype = getattr(torch, BY_NAME[tensor.dtype or ""].torch or "")
        out = torch.empty(tensor.shape, dtype=dtype)
        for chunk in tensor.chunks:
            with tree.open(directory.absolute(chunk.file)) as source:
                if chunk.form == "raw":
                    data = source.read_at(chunk.offset, chunk.length)
                else:
                    inner = item_tensor(source, chunk)
                    assert inner is not None
                    assert (inner.shape, inner.dtype, inner.contiguous) == (chunk.sizes, tensor.dtype, True)
                    assert inner.file_offset is not None
                    data = source.read_at(inner.file_offset, inner.nbytes)
            part = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype) if data else torch.empty(0)
            box = tuple(slice(o, o + n) for o, n in zip(chunk.offsets, chunk.sizes, strict=True))
            out[box] = part.reshape(chunk.sizes).to(dtype)
        whole[name] = out
    return whole


def loaded(directory: Path, tmp_path: Path) -> dict[str, Any]:
    """The same through torch, flattened to the names of the metadata."""
    script = (
        "import sys\nfrom torch.distributed.checkpoint.format_utils import dcp_to_torch_save\n"
        "dcp_to_torch_save(sys.argv[1], sys.argv[2])\n"
    )
    target = tmp_path / "whole.pt"
    subprocess.run([sys.executable, "-c", script, str(directory), str(target)], check=True, capture_output=True)
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, torch.Tensor):
            flat[path] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else str(key))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                walk(inner, f"{path}.{index}")

    walk(torch.load(target, weights_only=False), "")
    return flat


@pytest.mark.shared
@pytest.mark.slow
def test_every_tensor_of_the_real_fsdp_runs_is_put_together_as_torch_does(shared: Path, tmp_path: Path) -> None:
    compared = 0
    for metadata in sorted((shared / "runs").rglob(".metadata")):
        ours = assembled(LocalTree(metadata.parent.parent), metadata.parent.name)
        theirs = loaded(metadata.parent, tmp_path)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor.detach().cpu()), name
            compared += 1
    assert compared > 300


SAVE = """
import sys, torch, torch.distributed as d, torch.distributed.checkpoint as dcp
from torch.distributed.tensor import distribute_tensor, Shard, Replicate, init_device_mesh
rank, world, out, form = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
d.init_process_group('gloo', init_method='file://' + sys.argv[5], rank=rank, world_size=world)
torch.manual_seed(0)
one, two = init_device_mesh('cpu', (world,)), init_device_mesh('cpu', (2, world // 2))
state = {
    'row': distribute_tensor(torch.rand(7, 5), one, [Shard(0)]),
    'column': distribute_tensor(torch.rand(5, 7), one, [Shard(1)]),
    'few': distribute_tensor(torch.rand(2, 3).bfloat16(), one, [Shard(0)]),
    'grid': distribute_tensor(torch.rand(6, 9), two, [Shard(0), Shard(1)]),
    'hybrid': distribute_tensor(torch.rand(6, 4), two, [Replicate(), Shard(0)]),
    'whole': torch.arange(10),
    'flags': torch.tensor([True, False, True]),
    'vector': distribute_tensor(torch.arange(11.0), one, [Shard(0)]),
}
if form == 'pickle':
    state |= {'scalar': torch.tensor(3.25), 'number': 7, 'nested': {'deep': [torch.ones(2), 'text']}}
    dcp.save(state, checkpoint_id=out)
else:
    from torch.distributed.checkpoint import HuggingFaceStorageWriter
    dcp.save(state, storage_writer=HuggingFaceStorageWriter(out, save_distributed=True))
if rank == 0:
    full = {k: v.full_tensor() if hasattr(v, 'full_tensor') else v for k, v in state.items() if isinstance(v, torch.Tensor)}
else:
    full = {k: v.full_tensor() for k, v in state.items() if hasattr(v, 'full_tensor')}
if rank == 0:
    torch.save(full, out + '.full.pt')
d.barrier()
d.destroy_process_group()
"""


def save(tmp_path: Path, world: int, form: str) -> Path:
    out = tmp_path / "saved"
    out.mkdir()
    arguments = [str(world), str(out), form, str(tmp_path / "rendezvous")]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", SAVE, str(rank), *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    if any(worker.returncode for worker in workers):
        pytest.skip(f"no process group here: {errors[0][-300:]}")
    return out


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pickle", "safetensors"])
@pytest.mark.parametrize("world", [2, 4])
def test_row_column_grid_and_replicated_shards_are_put_together(tmp_path: Path, world: int, form: str) -> None:
    out = save(tmp_path, world, form)
    tree = LocalTree(out)
    state = read_fsdp(tree, "")
    assert state is not None
    assert (state.kind, state.world_size) == ("dcp" if form == "pickle" else "dcp-safetensors", world)
    ours = assembled(tree, "")
    expected = torch.load(tmp_path / "saved.full.pt")
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor), name
    if form == "pickle":
        metadata = state.metadata
        assert metadata is not None
        assert metadata.planner_paths["nested.deep.0"] == ("nested", "deep", 0)
        assert "number" in metadata.items
        assert ours["scalar"] == 3.25
