"""Random checkpoints through the whole command: what lies on disk afterwards is the model, in every type and split."""

from __future__ import annotations

import tempfile
from pathlib import Path

from builders.deepspeed import Job, Model, expected, rounded, save_latest, save_zero3, save_zero12
from builders.deepspeed_random import jobs, models
from consolidate.making import read_tensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckpt_inspect.consolidate.api import consolidate, iter_tensors, verify_consolidation

KINDS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    model=models(),
    job=jobs(stages=(1, 2, 3)),
    dtype=st.sampled_from(sorted(KINDS)),
    shard=st.sampled_from([None, 64, 700]),
    jobs_=st.integers(1, 3),
)
def test_the_files_hold_the_model(model: Model, job: Job, dtype: str, shard: int | None, jobs_: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "checkpoint-8"
        save = save_zero3 if job.stage == 3 else save_zero12
        save(directory / "global_step8", model, job)
        save_latest(directory, "global_step8")
        result = consolidate(directory, dtype=dtype, max_shard_size=shard, jobs=jobs_, verify=True)
        assert verify_consolidation(result.output).shards == "equal"
        found = read_tensors(result.output)
        wanted = {name: values for name, values in expected(model, job).items() if name not in model.ties}
        assert set(found) == set(wanted)
        for name, values in wanted.items():
            kept = rounded(values, KINDS[dtype]) if values.dtype.kind == "f" else values
            assert found[name].tobytes() == kept.tobytes(), name
            assert found[name].shape == values.shape
        streamed = dict(iter_tensors(directory, dtype=dtype))
        assert set(streamed) == set(expected(model, job))
        for name, values in found.items():
            assert streamed[name].tobytes() == values.tobytes(), name
