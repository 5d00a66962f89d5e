"""DeepSpeed's own schedulers: the learning rate after a number of engine steps.

Source: deepspeed 0.19.8 ``runtime/lr_schedules.py`` (WarmupLR, WarmupDecayLR, WarmupCosineLR, OneCycle, LRRangeTest).
Their counter `last_batch_iteration` starts at -1 and is raised before the rate is taken, so after `count` steps
the rate is that of iteration `count - 1`. Lists of one value per parameter group count as their first value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckpt_inspect.explain.schedule_formulas import Schedule


def deepspeed_rate(schedule: Schedule, count: int) -> float:
    """The rate of the first parameter group after `count` scheduler steps.

    Raises:
        ScheduleError: an option is missing or no number.
    """
    return _RATES[schedule.kind](schedule, count - 1)


def _value(schedule: Schedule, name: str) -> float:
    given = schedule.option(name)
    if isinstance(given, list | tuple) and given and not isinstance(given[0], bool):
        return float(given[0])
    if given == "auto" and name == "warmup_max_lr":
        return schedule.base
    return schedule.number(name)


def _warm(schedule: Schedule, iteration: int, steps: int) -> float:
    if schedule.option("warmup_type") == "linear":
        return iteration / steps
    return (1.0 / math.log(steps)) * math.log(iteration + 1)  # any other name falls back to log


def _warm_length(schedule: Schedule) -> int:
    return max(2, int(_value(schedule, "warmup_num_steps")))


def _warmup(schedule: Schedule, iteration: int) -> float:
    low, high = _value(schedule, "warmup_min_lr"), _value(schedule, "warmup_max_lr")
    if iteration < 0:
        return low
    steps = _warm_length(schedule)
    if iteration < steps:
        gamma = _warm(schedule, iteration, steps)
    elif schedule.kind == "WarmupDecayLR":
        total = _value(schedule, "total_num_steps")
        gamma = max(0.0, float(total - iteration) / float(max(1.0, total - steps)))
    else:
        gamma = 1.0
    return low + ((high - low) * gamma)


def _warmup_cosine(schedule: Schedule, iteration: int) -> float:
    if iteration < 0:
        return 0.0
    steps = _warm_length(schedule)
    if iteration < steps:
        low = _value(schedule, "warmup_min_ratio")
        return schedule.base * (low + _warm(schedule, iteration, steps) * (1.0 - low))
    total, floor = int(_value(schedule, "total_num_steps")), _value(schedule, "cos_min_ratio")
    progress = (iteration - steps + 1) / max(1, total - steps)
    if schedule.generation != "clampless":
        progress = min(1.0, progress)
    return schedule.base * max(0.0, floor + (1.0 - floor) * ((1 + math.cos(math.pi * progress)) / 2))


def _one_cycle(schedule: Schedule, iteration: int) -> float:
    low, high = _value(schedule, "cycle_min_lr"), _value(schedule, "cycle_max_lr")
    first = _value(schedule, "cycle_first_step_size")
    second_given = schedule.option("cycle_second_step_size")
    second = first if second_given is None else _value(schedule, "cycle_second_step_size")
    size = first + second
    if iteration < size:
        return low + (high - low) * _triangle(schedule, iteration + 1, first, size)
    length, rate = _value(schedule, "decay_step_size"), _value(schedule, "decay_lr_rate")
    if math.isclose(length, 0) or math.isclose(rate, 0):
        return low
    factor = 1 + rate * ((iteration - size + 1) / length)
    return low * factor if schedule.generation == "multiplied-decay" else low / factor


def _triangle(schedule: Schedule, position: int, first: float, size: float) -> float:
    """How far up the cycle: 0 at its ends, 1 at its peak; in stairs when asked for."""
    ratio = first / size
    x = 1.0 + position / size - math.floor(1 + position / size)
    rising = x <= ratio
    first_stairs = int(_value(schedule, "cycle_first_stair_count"))
    second_given = schedule.option("cycle_second_stair_count")
    stairs = first_stairs if rising or second_given is None else int(_value(schedule, "cycle_second_stair_count"))
    if stairs > 0:
        inside = position % size
        stair = inside * stairs / first if inside <= first else (size - inside) * stairs / (size - first)
        return math.floor(stair) / stairs
    return x / ratio if rising else (x - 1) / (ratio - 1)


def _range_test(schedule: Schedule, iteration: int) -> float:
    interval = float(iteration + 1) / int(_value(schedule, "lr_range_test_step_size"))
    if schedule.option("lr_range_test_staircase"):
        interval = math.floor(interval)
    low, rate = _value(schedule, "lr_range_test_min_lr"), _value(schedule, "lr_range_test_step_rate")
    return low * (1 + rate * interval)


_RATES: dict[str, Callable[[Schedule, int], float]] = {
    "WarmupLR": _warmup,
    "WarmupDecayLR": _warmup,
    "WarmupCosineLR": _warmup_cosine,
    "OneCycle": _one_cycle,
    "LRRangeTest": _range_test,
}
