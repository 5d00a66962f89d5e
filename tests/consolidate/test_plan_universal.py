"""Universal checkpoints: whole tensors, read with the corrections their maker needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.deepspeed import Job, Model, Parameter, expected, save_universal

from ckpt_inspect.consolidate import problems as p
from ckpt_inspect.consolidate.planning import plan_consolidation
from consolidate.conftest import small_model
from consolidate.gathering import arrays


def tied_model() -> Model:
    model = small_model()
    model.ties["head.weight"] = "layers.0.weight"
    model.parameters.append(Parameter("scale", np.array(0.1, dtype="<f4")))
    model.buffers["mask"] = np.array([True, False])
    return model


def assert_recovers(path: Path, model: Model, job: Job, **options: Any) -> Any:
    plan = plan_consolidation(path, **options)
    got, wanted = arrays(plan), expected(model, job)
    assert set(got) == set(wanted)
    for name, values in wanted.items():
        assert (got[name].dtype, got[name].shape) == (values.dtype, values.shape), name
        assert got[name].tobytes() == values.tobytes(), name
    return plan


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("order", ["little", "big"])
def test_every_tensor_comes_back_with_its_shape_and_type(tmp_path: Path, flat: bool, order: str) -> None:
    model, job = tied_model(), Job(stage=2, world=3, order=order)
    save_universal(tmp_path / "step8_universal", model, job, flat=flat)
    (tmp_path / "latest_universal").write_text("step8_universal")
    plan = assert_recovers(tmp_path, model, job)
    assert (plan.layout, plan.tag) == ("universal", "step8_universal")
    assert plan.aliases == {"head.weight": "layers.0.weight"}
    assert_recovers(tmp_path / "step8_universal", model, job)


def test_integer_buffers_are_those_of_the_module_not_their_float_copies(tmp_path: Path) -> None:
    model, job = tied_model(), Job(stage=2)
    model.buffers["steps"] = np.array(16777217, dtype="<i8")
    save_universal(tmp_path / "u", model, job)
    plan = assert_recovers(tmp_path, model, job)
    assert {t.name: t.dtype for t in plan.tensors if t.origin == "buffer"} == {"steps": "I64", "mask": "BOOL"}


def test_padding_rows_of_a_vocabulary_are_dropped(tmp_path: Path) -> None:
    values = np.arange(80, dtype="<f4").reshape(16, 5)
    model, job = Model([Parameter("emb.weight", values)]), Job(stage=2)
    save_universal(tmp_path / "u", model, job, vocabulary={"emb.weight": 13})
    assert arrays(plan_consolidation(tmp_path))["emb.weight"].tolist() == values[:13].tolist()


def test_padding_rows_the_conversion_left_are_dropped_by_the_recorded_size(tmp_path: Path) -> None:
    from builders.deepspeed import spec, write

    values = np.arange(80, dtype="<f4").reshape(16, 5)
    model, job = Model([Parameter("emb.weight", values)]), Job(stage=2)
    save_universal(tmp_path / "u", model, job, vocabulary={"emb.weight": 13})
    write(tmp_path / "u" / "zero" / "emb.weight" / "fp32.pt", {"param": spec(values, job), "vocab_tensor": True}, job)
    assert arrays(plan_consolidation(tmp_path))["emb.weight"].tolist() == values[:13].tolist()


def test_tensor_parallel_checkpoints_are_whole_once_converted(tmp_path: Path) -> None:
    model, job = small_model(), Job(stage=2)
    save_universal(tmp_path / "u", model, job, mp_ranks=4)
    assert_recovers(tmp_path, model, job)


def test_a_parameter_without_a_file_means_an_interrupted_conversion(tmp_path: Path) -> None:
    model, job = small_model(), Job(stage=2)
    save_universal(tmp_path / "u", model, job)
    shutil.rmtree(tmp_path / "u" / "zero" / "layers.3.weight")
    (tmp_path / "u" / "zero" / "layers.5.weight" / "fp32.pt").unlink()
    with pytest.raises(p.ConversionError, match="2 of 6 parameters") as caught:
        plan_consolidation(tmp_path)
    assert "ds_to_universal again" in str(caught.value)


def test_a_conversion_that_stopped_early_is_told(tmp_path: Path) -> None:
    model, job = small_model(), Job(stage=2)
    save_universal(tmp_path / "u", model, job)
    (tmp_path / "u" / "zero" / "optimizer_state.pt").unlink()
    assert any("written last" in warning for warning in plan_consolidation(tmp_path).warnings)
    (tmp_path / "u" / "mp_rank_00_model_states.pt").unlink()
    with pytest.raises(p.ConversionError, match=r"no \*_model_states\.pt"):
        plan_consolidation(tmp_path)
    assert "layers.0.weight" in arrays(plan_consolidation(tmp_path, force=True))


def test_values_exchanged_by_the_conversion_are_found(tmp_path: Path) -> None:
    model, job = small_model(), Job(stage=2, round_robin=True)
    save_universal(tmp_path / "u", model, job)
    zero = tmp_path / "u" / "zero"
    (zero / "layers.1.weight" / "fp32.pt").replace(tmp_path / "kept")
    shutil.copy(zero / "layers.2.weight" / "fp32.pt", zero / "layers.1.weight" / "fp32.pt")
    with pytest.raises(p.ModuleMismatchError, match=r"layers\.1\.weight are not what") as caught:
        plan_consolidation(tmp_path)
    assert "round_robin_gradients" in str(caught.value)


def test_a_damaged_parameter_is_named(tmp_path: Path) -> None:
    model, job = small_model(), Job(stage=2)
    save_universal(tmp_path / "u", model, job)
    path = tmp_path / "u" / "zero" / "layers.1.weight" / "fp32.pt"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises((p.ConversionError, p.UnreadableShardError), match=r"layers\.1\.weight"):
        plan_consolidation(tmp_path)


def test_frozen_parameters_can_be_left_out(tmp_path: Path) -> None:
    model, job = small_model(), Job(stage=2)
    for flat in (False, True):
        save_universal(tmp_path / str(flat) / "u", model, job, flat=flat)
        names = arrays(plan_consolidation(tmp_path / str(flat), exclude_frozen=True))
        assert "frozen.weight" not in names
        assert len(names) == 7


def test_latest_wins_over_latest_universal(tmp_path: Path) -> None:
    from builders.deepspeed import save_latest, save_zero12

    model, job = small_model(), Job(stage=2)
    save_zero12(tmp_path / "global_step8", model, job)
    save_latest(tmp_path, "global_step8")
    save_universal(tmp_path / "global_step8_universal", model, job)
    (tmp_path / "latest_universal").write_text("global_step8_universal")
    assert plan_consolidation(tmp_path).layout == "zero2"
    assert plan_consolidation(tmp_path, tag="global_step8_universal").layout == "universal"
