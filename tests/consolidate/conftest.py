"""Small DeepSpeed checkpoints for the tests of planning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.deepspeed import Job, Model, Parameter, save_latest, save_zero3, save_zero12


@dataclass(frozen=True)
class Written:
    """A checkpoint on disk: the directory with `latest`, its tag directory, and what was written."""

    directory: Path
    tag: Path
    model: Model
    job: Job

    def optimizer(self, rank: int) -> Path:
        return self.tag / f"{self.job.prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"

    def model_file(self, rank: int = 0) -> Path:
        prefix = f"zero_pp_rank_{rank}_" if self.job.stage == 3 else ""
        return self.tag / f"{prefix}mp_rank_00_model_states.pt"


def small_model(seed: int = 0) -> Model:
    random = np.random.default_rng(seed)

    def values(*shape: int) -> Any:
        return np.asarray(random.standard_normal(shape), dtype="<f4").reshape(shape)

    parameters = [Parameter(f"layers.{index}.weight", values(13, 7)) for index in range(6)]
    return Model([*parameters, Parameter("frozen.weight", values(5), frozen=True)], {"steps": np.array(3, dtype="<i8")})


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Written]:
    """`write(stage=2, world=4, ...)`: a checkpoint of its own directory, any field of `Job`."""
    count = 0

    def make(*, seed: int = 0, model: Model | None = None, tag: str | None = None, **fields: Any) -> Written:
        nonlocal count
        count += 1
        job = Job(**fields)
        model = model if model is not None else small_model(seed)
        directory = tmp_path / f"checkpoint{count}"
        name = tag or f"global_step{job.step}"
        save = save_zero3 if job.stage == 3 else save_zero12
        save(directory / name, model, job)
        save_latest(directory, name)
        return Written(directory, directory / name, model, job)

    return make
