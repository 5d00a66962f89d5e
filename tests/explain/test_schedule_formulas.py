"""Schedules by hand: what each rate must be, how long the warm-up is, and what has no rate."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.explain.schedule_formulas import Schedule, ScheduleError, warmup_steps
from ckpt_inspect.knowledge import load

CLOSED = sorted(kind for kind, row in load("schedulers").items() if row["closed"])
NEEDED = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 20},
    "WarmupDecayLR": {"total_num_steps": 100, "warmup_num_steps": 10},
    "WarmupCosineLR": {"total_num_steps": 100, "warmup_num_steps": 10},
    "WarmupLR": {"warmup_num_steps": 10},
    "OneCycle": {"cycle_min_lr": 1e-4, "cycle_max_lr": 1e-3, "cycle_first_step_size": 10},
}


@pytest.mark.parametrize(
    ("kind", "count", "rate"),
    [
        ("linear", 0, 0.0),
        ("linear", 5, 0.5),
        ("linear", 10, 1.0),
        ("linear", 55, 0.5),
        ("linear", 100, 0.0),
        ("linear", 120, 0.0),
        ("cosine", 55, 0.5),
        ("cosine", 100, 0.0),
        ("constant", 0, 1.0),
        ("constant_with_warmup", 5, 0.5),
        ("constant_with_warmup", 99, 1.0),
        ("inverse_sqrt", 40, 0.5),
        ("polynomial", 100, 1e-7),
        ("polynomial", 101, 1e-7),
        ("cosine_with_restarts", 100, 0.0),
        ("cosine_with_min_lr", 100, 0.1),
        ("cosine_warmup_with_min_lr", 0, 0.1),
        ("warmup_stable_decay", 79, 1.0),
        ("warmup_stable_decay", 90, 0.5),
        ("warmup_stable_decay", 100, 0.0),
    ],
)
def test_rates_at_telling_steps(kind: str, count: int, rate: float) -> None:
    schedule = Schedule(kind, 1.0, 10, 100, NEEDED.get(kind, {}))
    assert schedule.rate(count) == pytest.approx(rate, abs=1e-12)


@pytest.mark.parametrize("kind", CLOSED)
@given(base=st.floats(1e-6, 1.0))
def test_rates_grow_with_the_base_rate(kind: str, base: float) -> None:
    row = load("schedulers")[kind]
    if row["family"] == "deepspeed" and kind != "WarmupCosineLR":
        return  # their rates stand in the options
    if kind == "polynomial":
        return  # ends at a rate of its own
    one, many = (Schedule(kind, value, 10, 100, NEEDED.get(kind, {})) for value in (1.0, base))
    for count in (0, 1, 10, 50, 100):
        assert many.rate(count) == pytest.approx(base * one.rate(count), rel=1e-12)


@pytest.mark.parametrize("kind", CLOSED)
def test_every_schedule_has_finite_rates_throughout(kind: str) -> None:
    schedule = Schedule(kind, 1e-3, 10, 100, NEEDED.get(kind, {}))
    assert all(math.isfinite(schedule.rate(count)) for count in range(130))


def test_older_forms_differ_where_they_did() -> None:
    options = {"num_decay_steps": 20, "min_lr_ratio": 0.5, "num_stable_steps": 70}
    new = Schedule("warmup_stable_decay", 1.0, 10, 100, options)
    old = Schedule("warmup_stable_decay", 1.0, 10, 100, options, "wsd-4.41")
    assert (new.rate(0), old.rate(0)) == (0.5, 0.0)
    assert new.rate(90) == old.rate(90)


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        (Schedule("reduce_lr_on_plateau", 1.0), "metric"),
        (Schedule("greedy", 1.0), "metric"),
        (Schedule("cosine_with_min_lr", 1.0, 1, 10), "min_lr_rate"),
        (Schedule("warmup_stable_decay", 1.0, 1, 10), "num_decay_steps"),
        (Schedule("polynomial", 1.0, 10, 10), "division"),
        (Schedule("invented", 1.0), "not known"),
        (Schedule("cosine", 1.0, 1, 10, {"num_cycles": "many"}), "number"),
        (Schedule("cosine_with_min_lr", 0.0, 1, 10, {"min_lr": 1e-6}), "division"),
        (Schedule("WarmupLR", 1.0, options={"warmup_num_steps": "auto"}), "number"),
        (Schedule("inverse_sqrt", 1.0, 0, 10, {"timescale": -3}), "inverse_sqrt"),
    ],
)
def test_what_has_no_rate_says_why(schedule: Schedule, why: str) -> None:
    with pytest.raises(ScheduleError, match=why):
        schedule.rate(10)


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"warmup_steps": 0, "warmup_ratio": 0.0}, 0),
        ({"warmup_steps": 0, "warmup_ratio": 0.03}, 4),  # 4.x: rounded up
        ({"warmup_steps": 7, "warmup_ratio": 0.5}, 7),  # 4.x: steps win
        ({"warmup_steps": 0.03}, 4),  # 5.x: a share
        ({"warmup_steps": 0.1, "warmup_ratio": 0.1}, 11),  # 5.0 ... 5.12 keep both
        ({"warmup_steps": 1.0}, 1),  # 5.x: from 1 on it is a count
        ({"warmup_steps": 2.9}, 2),
        ({}, None),
        ({"warmup_steps": "many"}, 0),
        ({"warmup_steps": math.nan}, 0),
    ],
)
def test_the_warmup_is_as_long_as_every_release_makes_it(arguments: dict[str, object], steps: int | None) -> None:
    assert warmup_steps(arguments, 101) == steps
