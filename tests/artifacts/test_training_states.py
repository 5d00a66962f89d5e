"""scheduler.pt, optimizer.pt, scaler.pt and rng_state.pth: what they hold, from headers and a few bytes."""

from __future__ import annotations

import struct

import pytest
from builders.pickles import Called, Name
from builders.torch_files import legacy_bytes, tensor, zip_bytes

from ckpt_inspect.artifacts.optimizer import OptimizerState, read_optimizer
from ckpt_inspect.artifacts.rng_state import read_rng_state
from ckpt_inspect.artifacts.scaler import read_scaler
from ckpt_inspect.artifacts.scheduler import read_scheduler
from ckpt_inspect.storage import BytesSource


def source(value: object, *, legacy: bool = False) -> BytesSource:
    return BytesSource(legacy_bytes(value) if legacy else zip_bytes(value, root="archive"))


# ---------------------------------------------------------------------------------------------------- scheduler

LAMBDA = {
    "base_lrs": [5e-5, 1e-5],
    "last_epoch": 7,
    "_step_count": 8,
    "_last_lr": [4e-5, 8e-6],
    "lr_lambdas": [{}, {}],
}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_lambda_schedule_is_read(legacy: bool) -> None:
    found = read_scheduler(source(LAMBDA, legacy=legacy))
    assert found.kind_hint == "lambda"
    assert found.base_lrs == (5e-5, 1e-5)
    assert (found.last_epoch, found.step_count, found.last_lr) == (7, 8, (4e-5, 8e-6))
    assert found.faults == ()


@pytest.mark.parametrize(
    ("values", "kind", "last_epoch"),
    [
        ({"last_batch_iteration": 9}, "deepspeed", 10),
        ({"num_bad_epochs": 1, "best": 0.5, "last_epoch": 3, "_last_lr": [1e-5]}, "plateau", 3),
        ({"num_good_epochs": 1, "num_bad_epochs": 1, "_init_lrs": [1e-4], "last_epoch": 3}, "greedy", 3),
        ({"_schedulers": [], "last_epoch": 2}, "sequential", 2),
        ({"gamma": 0.9, "last_epoch": 2}, "other", 2),
    ],
)
def test_the_kind_shows_in_the_keys(values: dict[str, object], kind: str, last_epoch: int) -> None:
    found = read_scheduler(source(values))
    assert (found.kind_hint, found.last_epoch) == (kind, last_epoch)


def test_a_file_without_a_state_is_a_fault() -> None:
    found = read_scheduler(source([1, 2]))
    assert found.kind_hint == "unreadable"
    assert [fault.kind for fault in found.faults] == ["scheduler-not-a-state"]


def test_values_of_a_wrong_type_count_as_absent() -> None:
    found = read_scheduler(source({**LAMBDA, "last_epoch": "seven", "_last_lr": "high", "base_lrs": [True, 1e-5]}))
    assert (found.last_epoch, found.last_lr, found.base_lrs) == (None, (), (1e-5,))


# ---------------------------------------------------------------------------------------------------- optimizer


def step(value: float, dtype: str = "F32"):
    return tensor(dtype, (), struct.pack("<f" if dtype == "F32" else "<q", value))


def adam(shape: tuple[int, ...], steps: float = 3.0) -> dict[str, object]:
    return {"step": step(steps), "exp_avg": tensor("F32", shape), "exp_avg_sq": tensor("F32", shape)}


def state(parameters: dict[object, dict[str, object]], **group: object) -> dict[str, object]:
    return {"state": parameters, "param_groups": [{"lr": 1e-4, "params": list(parameters), **group}]}


def read(value: object) -> OptimizerState:
    return read_optimizer(source(value))


def test_an_adam_state_tells_the_trained_parameters() -> None:
    found = read(state({0: adam((4, 8)), 1: adam((8,))}, betas=(0.9, 0.999), weight_decay=0.1, initial_lr=2e-4))
    assert (found.kind, found.parameters, found.with_state, found.state_numel) == ("adam", 2, 2, 40)
    assert found.state_bytes == 2 * (40 * 4) + 2 * 4
    assert found.steps == (3.0,)
    assert dict(found.shapes) == {(4, 8): 1, (8,): 1}
    group = found.param_groups[0]
    assert (group.lr, group.initial_lr, group.betas, group.weight_decay, group.params) == (
        1e-4,
        2e-4,
        (0.9, 0.999),
        0.1,
        2,
    )


def test_steps_that_differ_are_all_told() -> None:
    assert read(state({0: adam((2,), 3.0), 1: adam((2,), 5.0)})).steps == (3.0, 5.0)


@pytest.mark.parametrize(
    ("fields", "kind", "numel"),
    [
        ({"step": 4, "exp_avg_sq_row": tensor("F32", (4,)), "exp_avg_sq_col": tensor("F32", (8,))}, "adafactor", 32),
        ({"step": 4, "row_var": tensor("F32", (4, 1)), "col_var": tensor("F32", (1, 8))}, "adafactor", 32),
        ({"step": 4, "exp_avg_sq": tensor("F32", (8,))}, "adafactor", 8),
        ({"momentum_buffer": tensor("F32", (3, 3))}, "sgd", 9),
        ({"state1": tensor("U8", (16,)), "state2": tensor("U8", (16,)), "step": 2}, "8bit", 16),
        ({"exp_avg": tensor("BF16", (5,))}, "lion", 5),
        ({"mystery": tensor("F32", (5,))}, "other", None),
        ({}, "empty", 0),
    ],
)
def test_every_optimizer_is_known_by_what_it_keeps(fields: dict[str, object], kind: str, numel: int | None) -> None:
    found = read(state({0: fields}))
    assert (found.kind, found.state_numel) == (kind, numel)


def test_an_8bit_optimizer_that_keeps_small_parameters_in_32_bits_is_still_8bit() -> None:
    small = {"state1": tensor("F32", (4,)), "state2": tensor("F32", (4,))}
    large = {"state1": tensor("U8", (4096,)), "state2": tensor("U8", (4096,)), "absmax1": tensor("F32", (2,))}
    found = read(state({0: small, 1: large}))
    assert (found.kind, found.state_numel) == ("8bit", 4100)


def test_the_names_of_fsdps_file_are_kept() -> None:
    assert read(state({"model.lm_head.weight": adam((2, 2))})).names == ("model.lm_head.weight",)


def test_a_file_without_a_state_dictionary_is_unreadable() -> None:
    found = read({"model": tensor("F32", (2,))})
    assert found.kind == "unreadable"
    assert [fault.kind for fault in found.faults] == ["optimizer-not-a-state"]


def test_an_optimizer_without_steps_has_no_trained_weights_yet() -> None:
    found = read({"state": {}, "param_groups": [{"lr": 1.0, "params": [0, 1]}]})
    assert (found.kind, found.parameters, found.with_state, found.state_numel) == ("empty", 2, 0, 0)


# ---------------------------------------------------------------------------------------------------- scaler, rng


def test_a_scaler_is_read() -> None:
    values = {
        "scale": 65536.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 3,
    }
    found = read_scaler(source(values))
    assert (found.scale, found.growth_interval, found.growth_tracker, found.enabled) == (65536.0, 2000, 3, True)


def test_a_disabled_scaler_is_no_fault() -> None:
    found = read_scaler(source({}))
    assert (found.enabled, found.faults) == (False, ())


def numpy_array(module: str) -> Called:
    return Called(Name(f"{module}.multiarray", "_reconstruct"), (Name("numpy", "ndarray"), (0,), b"b"))


@pytest.mark.parametrize("module", ["numpy._core", "numpy.core"])
def test_the_numpy_that_wrote_the_generators_is_told(module: str) -> None:
    found = read_rng_state(source({"python": (3, (1, 2), None), "numpy": ("MT19937", numpy_array(module), 1, 0, 0.0)}))
    assert (found.keys, found.numpy_flavor, found.cuda_devices) == (("python", "numpy"), module, None)


@pytest.mark.parametrize(("cuda", "devices"), [([tensor("U8", (16,))] * 4, 4), (tensor("U8", (16,)), 1)])
def test_cuda_states_tell_the_visible_gpus(cuda: object, devices: int) -> None:
    assert read_rng_state(source({"cpu": tensor("U8", (5056,)), "cuda": cuda})).cuda_devices == devices


def test_something_else_is_a_fault() -> None:
    assert [fault.kind for fault in read_rng_state(source(3)).faults] == ["rng-not-a-state"]
