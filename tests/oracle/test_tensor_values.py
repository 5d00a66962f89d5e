"""torch as judge of the listing's values: every tensor of the bundled and real runs, its name, shape and statistics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ckpt_inspect.formats.dtypes import BY_TORCH
from ckpt_inspect.tensors import list_tensors
from ckpt_inspect.tensors.statistics import Statistics
from ckpt_inspect.tensors.values import statistics_of

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.judge

MODEL_FILES = ("*.safetensors", "pytorch_model*.bin", "optimizer.pt", "*_states.pt")


def flattened(value: Any, path: str = "") -> dict[str, Any]:
    """Tensors of nested dicts and lists by dotted path."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    found: dict[str, Any] = {}
    for key, item in items:
        found.update(flattened(item, f"{path}.{key}" if path else str(key)))
    return found


def agrees(found: Statistics, tensor: Any) -> bool:
    """The population statistics of the finite values, as torch has them in float64."""
    values = tensor.detach().reshape(-1)
    wide = values.to(torch.float64)
    finite = wide[torch.isfinite(wide)]
    counts = (len(wide), int(wide.isnan().sum()), int(wide.isinf().sum()), int((wide == 0).sum()))
    if (found.elements, found.nan, found.infinite, found.zeros) != counts:
        return False
    if not len(finite):
        return found.mean is None
    assert found.mean is not None
    assert found.std is not None
    scale = float(finite.abs().max()) or 1.0
    return (
        math.isclose(found.mean, float(finite.mean()), abs_tol=1e-12 * scale, rel_tol=1e-9)
        and math.isclose(found.std, float(finite.std(unbiased=False)), abs_tol=1e-12 * scale, rel_tol=1e-9)
        and (found.minimum, found.maximum) == (float(finite.min()), float(finite.max()))
    )


def judge(path: Path) -> int:
    """Compare one file; how many tensors it has."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        truth = load_file(path)
    else:
        truth = flattened(torch.load(path, weights_only=not path.name.endswith("_states.pt")))
    listing = list_tensors([path])
    assert {row.name for row in listing.rows} == set(truth), path
    for row, found, reason in statistics_of(listing):
        tensor = truth[row.name]
        assert (row.shape, row.dtype) == (tuple(tensor.shape), BY_TORCH[str(tensor.dtype).removeprefix("torch.")].name)
        assert found is not None, (path, row.name, reason)
        assert agrees(found, tensor), (path, row.name, found)
    return len(truth)


def test_every_tensor_of_the_bundled_runs(fixtures: Path) -> None:
    """The fixtures were made by the real libraries in this repository, so torch may load them."""
    files = [path for pattern in MODEL_FILES for path in fixtures.rglob(pattern)]
    assert sum(judge(path) for path in files) > 500


@pytest.mark.shared
def test_every_tensor_of_the_real_runs_in_files_that_need_no_class(shared: Path) -> None:
    files = [path for pattern in MODEL_FILES[:3] for path in (shared / "runs").rglob(pattern)]
    judged = 0
    for path in files:
        if path.parent.parent.name == "killed-optim":
            continue
        judged += judge(path)
    assert judged > 3000


@pytest.mark.shared
@pytest.mark.parametrize("run", ["fsdp1-acc-sharded-2r", "fsdp2-acc-sharded-2r"])
def test_every_tensor_of_a_distributed_checkpoint(shared: Path, tmp_path: Path, run: str) -> None:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    directory = shared / "runs" / run / "checkpoint-4" / "pytorch_model_fsdp_0"
    dcp_to_torch_save(directory, tmp_path / "whole.pt")
    truth = flattened(torch.load(tmp_path / "whole.pt", weights_only=False))
    listing = list_tensors([directory])
    assert {row.name for row in listing.rows} == set(truth)
    for row, found, reason in statistics_of(listing):
        assert row.shape == tuple(truth[row.name].shape)
        assert found is not None, reason
        assert agrees(found, truth[row.name]), row.name
