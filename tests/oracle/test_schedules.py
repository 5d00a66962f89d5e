"""Recomputed learning rates against the schedulers of transformers and DeepSpeed themselves."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_inspect.explain.schedule_formulas import Schedule, warmup_steps
from ckpt_inspect.knowledge import load

torch = pytest.importorskip("torch")
optimization = pytest.importorskip("transformers.optimization")
pytestmark = pytest.mark.judge

RELATIVE = 1e-9
rates = st.floats(1e-6, 1.0, allow_nan=False)
unit = st.floats(0.0, 1.0, allow_nan=False)
COMPUTABLE = [kind for kind, row in load("schedulers").items() if row["family"] == "transformers" and row["closed"]]
WAVES = ("cosine", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay")


def optimizer(rate: float) -> Any:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def assert_same(expected: float, found: float, base: float) -> None:
    assert math.isclose(expected, found, rel_tol=RELATIVE, abs_tol=RELATIVE * base * 1e-3), (expected, found)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[Schedule, int]:
    kind = draw(st.sampled_from(COMPUTABLE))
    total = draw(st.integers(1, 400))
    warmup = draw(st.integers(0, total + 5))
    base = draw(rates)
    options: dict[str, Any] = {}
    if kind in WAVES and draw(st.booleans()):
        options["num_cycles"] = draw(st.floats(0.1, 4.0))
    if kind == "cosine_with_restarts" and draw(st.booleans()):
        options["num_cycles"] = draw(st.integers(1, 6))
    if kind == "polynomial":
        base = max(base, 1e-5)
        options = draw(st.sampled_from([{}, {"power": 2.0}, {"lr_end": 1e-6, "power": 0.5}]))
        warmup = min(warmup, total - 1)
    if kind == "inverse_sqrt" and draw(st.booleans()):
        options["timescale"] = draw(st.integers(max(1, warmup), 5000))
    if kind in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        options |= draw(st.sampled_from([{"min_lr": base / 10}, {"min_lr_rate": 0.1}, {"min_lr_rate": 0.0}]))
    if kind == "cosine_warmup_with_min_lr" and draw(st.booleans()):
        options["warmup_lr_rate"] = draw(unit)
    if kind == "warmup_stable_decay":
        options["num_decay_steps"] = draw(st.integers(0, total))
        options |= draw(st.sampled_from([{}, {"num_stable_steps": 7}]))
        options["min_lr_ratio"] = draw(unit)
        options["warmup_type"] = draw(st.sampled_from(["linear", "cosine", "1-sqrt"]))
        options["decay_type"] = draw(st.sampled_from(["linear", "cosine", "1-sqrt"]))
    return Schedule(kind, base, warmup, total, options), draw(st.integers(0, 6))


@settings(deadline=None, max_examples=400)
@given(schedules())
def test_every_transformers_schedule_agrees_at_every_step(drawn: tuple[Schedule, int]) -> None:
    schedule, extra = drawn
    target = optimizer(schedule.base)
    scheduler = optimization.get_scheduler(
        schedule.kind, target, schedule.warmup, schedule.total, scheduler_specific_kwargs=dict(schedule.options)
    )
    for count in range(schedule.total + extra + 1):
        assert_same(scheduler.get_last_lr()[0], schedule.rate(count), schedule.base)
        target.step()
        scheduler.step()


def test_every_scheduler_type_of_this_transformers_has_a_row() -> None:
    from transformers.trainer_utils import SchedulerType

    rows = {kind for kind, row in load("schedulers").items() if row["family"] == "transformers"}
    assert {member.value for member in SchedulerType} == rows


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 10_000), st.one_of(st.integers(0, 10_000), st.floats(0.0, 50.0)))
def test_warmup_length_agrees_with_training_arguments(total: int, given_steps: float) -> None:
    from transformers import TrainingArguments

    arguments = TrainingArguments(output_dir="unused", warmup_steps=given_steps, report_to=[], use_cpu=True)
    assert warmup_steps({"warmup_steps": arguments.warmup_steps}, total) == arguments.get_warmup_steps(total)


@st.composite
def deepspeed_schedules(draw: st.DrawFn) -> Schedule:
    kind = draw(st.sampled_from(["WarmupLR", "WarmupDecayLR", "WarmupCosineLR", "OneCycle", "LRRangeTest"]))
    base = draw(rates)
    options: dict[str, Any] = {}
    if kind.startswith("Warmup"):
        options = {
            "warmup_num_steps": draw(st.integers(1, 60)),
            "warmup_type": draw(st.sampled_from(["log", "linear"])),
        }
        if kind != "WarmupLR":
            options["total_num_steps"] = draw(st.integers(1, 200))
        if kind == "WarmupCosineLR":
            options |= {"warmup_min_ratio": draw(unit), "cos_min_ratio": draw(unit)}
        else:
            options |= {"warmup_min_lr": draw(st.floats(0, 1e-3)), "warmup_max_lr": draw(rates)}
    elif kind == "OneCycle":
        options = {
            "cycle_min_lr": draw(st.floats(1e-6, 1e-3)),
            "cycle_max_lr": draw(st.floats(1e-3, 1.0)),
            "cycle_first_step_size": draw(st.integers(1, 40)),
            "cycle_second_step_size": draw(st.one_of(st.none(), st.integers(1, 40))),
            "cycle_first_stair_count": draw(st.integers(0, 5)),
            "cycle_second_stair_count": draw(st.one_of(st.none(), st.integers(0, 5))),
            "decay_lr_rate": draw(unit),
            "decay_step_size": draw(st.integers(0, 10)),
        }
    else:
        options = {
            "lr_range_test_min_lr": draw(rates),
            "lr_range_test_step_size": draw(st.integers(1, 50)),
            "lr_range_test_step_rate": draw(st.floats(0, 5)),
            "lr_range_test_staircase": draw(st.booleans()),
        }
    return Schedule(kind, base, options=options)


@settings(deadline=None, max_examples=300)
@given(deepspeed_schedules())
def test_every_deepspeed_schedule_agrees_at_every_step(schedule: Schedule) -> None:
    module = pytest.importorskip("deepspeed.runtime.lr_schedules")
    target = optimizer(schedule.base)
    extra = {"cycle_momentum": False} if schedule.kind == "OneCycle" else {}
    scheduler = getattr(module, schedule.kind)(target, **schedule.options, **extra)
    for count in range(1, 230):
        scheduler.step()
        assert_same(scheduler.get_last_lr()[0], schedule.rate(count), schedule.base)
