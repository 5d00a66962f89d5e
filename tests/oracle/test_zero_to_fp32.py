"""DeepSpeed as the judge: of our plans on real runs and on our own writer's files, and where it is wrong, caught."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.deepspeed import Job, Model, Parameter, expected, save_latest, save_zero3, save_zero12
from consolidate.gathering import arrays

from ckpt_inspect.consolidate.planning import plan_consolidation
from ckpt_inspect.consolidate.problems import ModuleMismatchError, SumError

pytestmark = pytest.mark.judge
pytest.importorskip("deepspeed")

CHILD = Path(__file__).with_name("zero_child.py")


def run_child(tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    return subprocess.run(  # a hung judge must not hang the suite
        [sys.executable, str(CHILD), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
        check=False,
    )


def judged(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    out = tmp_path / f"judge{len(list(tmp_path.glob('judge*')))}.npz"
    done = run_child(tmp_path, *arguments, out)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(out) as loaded:
        return {name: loaded[name] for name in loaded.files}


def assert_same(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert set(got) == set(wanted)
    for name, values in wanted.items():
        assert (got[name].dtype, got[name].shape) == (values.dtype, values.shape), name
        assert got[name].tobytes() == values.tobytes(), name


def random_model(seed: int = 7, *, frozen: bool = True, scalar: bool = True) -> Model:
    random = np.random.default_rng(seed)

    def values(*shape: int) -> Any:
        return np.asarray(random.standard_normal(shape), dtype="<f4").reshape(shape)

    return Model(
        [
            Parameter("emb.weight", values(101, 37)),
            Parameter("l1.weight", values(53, 37)),
            Parameter("l1.bias", values(53), group=1),
            Parameter("frozen.weight", values(3, 7), frozen=frozen),
            Parameter("one", values(1)),
            Parameter("l2.weight", values(37, 53)),
            Parameter("norm.weight", values(37), group=1),
            *([Parameter("scale", values())] if scalar else []),
        ],
        {
            "running_mean": values(53),
            "num_batches_tracked": np.array(16777217, dtype="<i8"),
            "mask": np.array([True, False, True]),
        },
        {"head.weight": "emb.weight"},
    )


@pytest.mark.shared
def test_every_run_deepspeed_can_merge_gives_its_bytes(shared: Path, tmp_path: Path) -> None:
    document = json.loads((shared / "runs" / "REFERENCE.json").read_text())
    checkpoints = [shared / "runs" / run / where for run, places in document.items() for where in places]
    outs = [tmp_path / f"{index}.npz" for index in range(len(checkpoints))]
    pairs = [item for pair in zip(checkpoints, outs, strict=True) for item in pair]
    done = run_child(tmp_path, "merge", *pairs)
    assert done.returncode == 0, done.stderr[-2000:]
    for checkpoint, out in zip(checkpoints, outs, strict=True):
        with np.load(out) as loaded:
            wanted = {name: loaded[name] for name in loaded.files}
        plan = plan_consolidation(checkpoint)
        got = arrays(plan)
        lost = {tensor.name for tensor in plan.tensors if tensor.origin == "module"}
        assert not lost or plan.stage == 1, checkpoint
        assert_same({name: array for name, array in got.items() if name not in lost}, wanted)


@pytest.mark.parametrize(
    "job",
    [
        Job(stage=1, world=3),
        Job(stage=2, world=4),
        Job(stage=2, world=5, alignment=True, garbage=True),
        Job(stage=2, world=3, round_robin=True),
        Job(stage=2, world=2, round_robin=True, alignment=True),
        Job(stage=2, world=7, dtype="F16", elastic=True, garbage=True),
        Job(stage=2, world=9, exclude_frozen=True),
        Job(stage=3, world=2),
        Job(stage=3, world=7, sub_group=2000, garbage=True),
        Job(stage=3, world=5, dtype="F32", exclude_frozen=True),
    ],
    ids=lambda job: f"z{job.stage}-{job.world}r",
)
def test_our_writer_makes_what_deepspeed_reads(job: Job, tmp_path: Path) -> None:
    model = random_model()
    save = save_zero3 if job.stage == 3 else save_zero12
    save(tmp_path / "run" / "global_step8", model, job)
    save_latest(tmp_path / "run", "global_step8")
    wanted = judged(tmp_path, "merge", tmp_path / "run")
    truth = expected(model, job)
    if job.stage == 1:  # the reference loses frozen parameters there
        assert set(truth) - set(wanted) == {"frozen.weight"}
        truth.pop("frozen.weight")
    assert_same(wanted, truth)
    got = arrays(plan_consolidation(tmp_path / "run", depth="complete"))
    assert_same(got, expected(model, job))


@pytest.mark.shared
def test_an_old_script_ignores_alignment_padding_in_silence_and_we_do_not(shared: Path, tmp_path: Path) -> None:
    """The zero_to_fp32.py of 0.18.8 on a checkpoint with parameter_alignment: it exits 0 with shifted weights."""
    old = shared / "runs" / "ds-z3-2r-fp32-scalar" / "zero_to_fp32.py"
    job = Job(stage=2, world=16, alignment=True)
    random = np.random.default_rng(3)
    sizes = [(30,), (5, 3), (129,), (16,), (11, 4)]
    model = Model([Parameter(f"p{i}", np.asarray(random.standard_normal(s), dtype="<f4")) for i, s in enumerate(sizes)])
    save_zero12(tmp_path / "run" / "global_step8", model, job)
    save_latest(tmp_path / "run", "global_step8")
    truth = expected(model, job)
    wrong = judged(tmp_path, "script", old, tmp_path / "run")
    assert sum(wrong[name].tobytes() != truth[name].tobytes() for name in truth) == 4
    assert_same(arrays(plan_consolidation(tmp_path / "run")), truth)


def test_alignment_padding_without_its_key_is_refused_by_the_values(tmp_path: Path) -> None:
    """The key was lost: sums alone would pass within the padding, the comparison with the module does not."""
    job = Job(stage=2, world=16, alignment=True, drop_optimizer=("param_alignment_paddings", "param_slice_mappings"))
    random = np.random.default_rng(3)
    sizes = [(30,), (5, 3), (129,), (16,), (11, 4)]
    model = Model([Parameter(f"p{i}", np.asarray(random.standard_normal(s), dtype="<f4")) for i, s in enumerate(sizes)])
    save_zero12(tmp_path / "run" / "global_step8", model, job)
    save_latest(tmp_path / "run", "global_step8")
    judged(tmp_path, "merge", tmp_path / "run")  # the installed DeepSpeed writes shifted weights without a word
    with pytest.raises(ModuleMismatchError, match="p1"):
        plan_consolidation(tmp_path / "run")


def test_universal_conversion_of_round_robin_is_wrong_in_silence_and_caught(tmp_path: Path) -> None:
    model = random_model(frozen=False, scalar=False)  # ds_to_universal fails on 0-dim parameters of stage 2
    job = Job(stage=2, world=3, round_robin=True)
    source = tmp_path / "run" / "global_step8"
    save_zero12(source, model, job)
    save_latest(tmp_path / "run", "global_step8")
    output = tmp_path / "out" / "universal"
    done = run_child(tmp_path, "universal", source, output)
    assert done.returncode == 0, done.stderr[-2000:]
    truth = expected(model, job)
    with pytest.raises(ModuleMismatchError, match="round_robin_gradients") as caught:
        plan_consolidation(output)
    assert "consolidate the checkpoint it was made from" in str(caught.value)
    forced = arrays(plan_consolidation(output, force=True))
    wrong = [name for name in truth if name not in model.ties and forced[name].tobytes() != truth[name].tobytes()]
    assert len(wrong) >= 4
    assert_same(arrays(plan_consolidation(tmp_path / "run")), truth)


def test_universal_conversion_rounds_a_tied_alias_and_we_take_its_owner(tmp_path: Path) -> None:
    model = random_model(frozen=False, scalar=False)  # ds_to_universal fails on 0-dim parameters of stage 2
    job = Job(stage=2, world=3)
    source = tmp_path / "run" / "global_step8"
    save_zero12(source, model, job)
    output = tmp_path / "out" / "universal"
    done = run_child(tmp_path, "universal", source, output)
    assert done.returncode == 0, done.stderr[-2000:]
    import torch

    alias = torch.load(output / "zero" / "head.weight" / "fp32.pt", weights_only=True)["param"].numpy()
    truth = expected(model, job)
    assert alias.tobytes() != truth["head.weight"].tobytes()
    plan = plan_consolidation(tmp_path / "out")  # by latest_universal
    assert plan.aliases == {"head.weight": "emb.weight"}
    assert_same(arrays(plan), truth)


def test_universal_conversion_of_stage_three_comes_back_in_shape(tmp_path: Path) -> None:
    model = random_model()
    job = Job(stage=3, world=3, sub_group=2000)
    source = tmp_path / "run" / "global_step8"
    save_zero3(source, model, job)
    output = tmp_path / "out" / "universal"
    done = run_child(tmp_path, "universal", source, output)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same(arrays(plan_consolidation(output)), expected(model, job))


def test_a_world_deepspeed_would_merge_wrongly_is_refused(tmp_path: Path) -> None:
    """Shapes of another run whose sum rounds to the same multiple: the reference only compares rounded sums."""
    job = Job(stage=2, world=4)
    model = Model([Parameter("a", np.arange(13, dtype="<f4")), Parameter("b", np.arange(3, dtype="<f4"))])
    other = Model([Parameter("a", np.arange(14, dtype="<f4")), Parameter("b", np.arange(2, dtype="<f4") + 50)])
    save_zero12(tmp_path / "run" / "global_step8", model, job)
    save_zero12(tmp_path / "other" / "global_step8", other, job)
    name = "mp_rank_00_model_states.pt"
    (tmp_path / "run" / "global_step8" / name).write_bytes((tmp_path / "other" / "global_step8" / name).read_bytes())
    save_latest(tmp_path / "run", "global_step8")
    judged(tmp_path, "merge", tmp_path / "run")
    with pytest.raises((ModuleMismatchError, SumError)):
        plan_consolidation(tmp_path / "run")
