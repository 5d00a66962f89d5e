"""The learning rate of a schedule after t scheduler steps, as transformers' own lambdas compute it.

Formulas, options and their defaults are listed in ``knowledge/schedulers.toml`` with the versions read. The order of
the floating-point operations is that of transformers' ``optimization.py``, so values agree to the last bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ckpt_inspect.knowledge import load


class ScheduleError(ValueError):
    """The rate cannot be computed from the arguments: no such type, a missing option, or it follows a metric."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule with everything its rate depends on.

    `kind` is transformers' `lr_scheduler_type` (or the class name of a DeepSpeed scheduler), `base` the learning rate
    of the first parameter group, `warmup` and `total` are in optimizer steps. `generation` names an older form of the
    formula ("wsd-4.41": linear warm-up from zero; "clampless": DeepSpeed's cosine without its clamp;
    "multiplied-decay": early OneCycle).
    """

    kind: str
    base: float
    warmup: int = 0
    total: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    generation: str = ""

    @property
    def row(self) -> dict[str, Any]:
        """Its row of ``knowledge/schedulers.toml``.

        Raises:
            ScheduleError: no such type.
        """
        table = load("schedulers")
        if self.kind not in table:
            raise ScheduleError(f"the scheduler type {self.kind!r} is not known")
        row: dict[str, Any] = table[self.kind]
        return row

    def with_total(self, total: int) -> Schedule:
        """The same schedule over another number of steps."""
        if self.row["family"] == "deepspeed" and "total_num_steps" in self.row["options"]:
            return replace(self, total=total, options={**self.options, "total_num_steps": total})
        return replace(self, total=total)

    def option(self, name: str) -> Any:
        """An option as given, else its default; None where the library's default is None."""
        value = self.options.get(name)
        if value is None:
            value = self.row["options"].get(name)
        return None if value == "" else value

    def number(self, name: str) -> float:
        """An option that has to be a number.

        Raises:
            ScheduleError: it is missing or something else.
        """
        value = self.option(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ScheduleError(f"the option {name!r} of the scheduler {self.kind} is not a number")
        return float(value)

    def steps(self, name: str) -> int:
        """An option that has to be a finite number of steps; fractions are cut off.

        Raises:
            ScheduleError: it is missing or something else.
        """
        value = self.number(name)
        if not math.isfinite(value):
            raise ScheduleError(f"the option {name!r} of the scheduler {self.kind} is not finite")
        return int(value)

    @property
    def stable_until(self) -> float:
        """The step at which warmup_stable_decay begins to decay.

        Raises:
            ScheduleError: num_decay_steps is missing, or an option is no number.
        """
        if self.option("num_stable_steps") is not None:
            return self.warmup + self.number("num_stable_steps")
        return self.total - self.number("num_decay_steps")

    def rate(self, count: int) -> float:
        """The learning rate once the scheduler was stepped `count` times.

        Raises:
            ScheduleError: it follows a metric, or its arguments allow no value.
        """
        row = self.row
        if not row["closed"]:
            raise ScheduleError(f"{self.kind} follows a metric: the rate cannot be computed from the step")
        try:
            if row["family"] == "deepspeed":
                from ckpt_inspect.explain.schedule_deepspeed import deepspeed_rate

                value = deepspeed_rate(self, count)
            else:
                value = self.base * self.multiplier(count)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise ScheduleError(f"{self.kind} has no value at step {count}: {error}") from error
        if isinstance(value, complex):
            raise ScheduleError(f"{self.kind} has no real value at step {count}")
        return value

    def multiplier(self, count: int) -> float:
        """What LambdaLR multiplies the base rate with after `count` scheduler steps."""
        row = self.row
        if row["warmup"] == "linear" and count < self.warmup:
            if self.kind == "constant_with_warmup":
                return float(count) / float(max(1.0, self.warmup))
            return float(count) / float(max(1, self.warmup))
        return _FORMULAS[self.kind](self, count)


def _progress(schedule: Schedule, count: int) -> float:
    return float(count - schedule.warmup) / float(max(1, schedule.total - schedule.warmup))


def _floor_rate(schedule: Schedule) -> float:
    """`min_lr_rate`, or `min_lr` as a share of the base rate."""
    if schedule.options.get("min_lr") is not None:
        return schedule.number("min_lr") / schedule.base
    return schedule.number("min_lr_rate")


def _constant(_: Schedule, __: int) -> float:
    return 1.0


def _linear(schedule: Schedule, count: int) -> float:
    return max(0.0, float(schedule.total - count) / float(max(1, schedule.total - schedule.warmup)))


def _cosine(schedule: Schedule, count: int) -> float:
    cycles = schedule.number("num_cycles")
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * cycles * 2.0 * _progress(schedule, count))))


def _cosine_with_restarts(schedule: Schedule, count: int) -> float:
    progress = _progress(schedule, count)
    if progress >= 1.0:
        return 0.0
    cycles = schedule.number("num_cycles")
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((cycles * progress) % 1.0))))


def _cosine_with_min_lr(schedule: Schedule, count: int) -> float:
    floor = _floor_rate(schedule)
    factor = 0.5 * (1.0 + math.cos(math.pi * schedule.number("num_cycles") * 2.0 * _progress(schedule, count)))
    return max(0.0, factor * (1 - floor) + floor)


def _cosine_warmup_with_min_lr(schedule: Schedule, count: int) -> float:
    step, warmup, total = float(count), float(schedule.warmup), float(schedule.total)
    if step < warmup:
        start = schedule.option("warmup_lr_rate")
        if start is None:
            return (step + 1.0) / max(1.0, warmup)
        start = schedule.number("warmup_lr_rate")
        return start + (1.0 - start) * step / max(1, warmup - 1)
    floor = _floor_rate(schedule)
    progress = (step - warmup + 1.0) / max(1.0, total - warmup)
    factor = 0.5 * (1.0 + math.cos(math.pi * schedule.number("num_cycles") * 2.0 * progress))
    return max(0.0, factor * (1 - floor) + floor)


def _polynomial(schedule: Schedule, count: int) -> float:
    start, end = schedule.base, schedule.number("lr_end")
    if count > schedule.total:
        return end / start
    remaining = 1 - (count - schedule.warmup) / (schedule.total - schedule.warmup)
    decay: float = (start - end) * remaining ** schedule.number("power") + end
    return decay / start


def _inverse_sqrt(schedule: Schedule, count: int) -> float:
    given = schedule.option("timescale")
    timescale = schedule.number("timescale") if given is not None else float(schedule.warmup or 10_000)
    return 1.0 / math.sqrt((count + (timescale - schedule.warmup)) / timescale)


def _rise(shape: object, progress: float) -> float:
    if shape == "linear":
        return progress
    if shape == "cosine":
        return 0.5 * (1.0 - math.cos(math.pi * progress))
    if shape == "1-sqrt":
        return 1.0 - math.sqrt(1.0 - progress)
    raise ScheduleError("warmup_type is none of linear, cosine, 1-sqrt")


def _fall(shape: object, progress: float, cycles: float) -> float:
    if shape == "linear":
        return 1.0 - progress
    if shape == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * cycles * 2.0 * progress))
    if shape == "1-sqrt":
        return 1.0 - math.sqrt(progress)
    raise ScheduleError("decay_type is none of linear, cosine, 1-sqrt")


def _warmup_stable_decay(schedule: Schedule, count: int) -> float:
    early = schedule.generation == "wsd-4.41"
    warmup, decay = schedule.warmup, schedule.number("num_decay_steps")
    stable = schedule.stable_until - warmup
    floor = schedule.number("min_lr_ratio")
    if count < warmup:
        progress = float(count) / float(max(1, warmup))
        if early:
            return progress
        return max(0.0, _rise(schedule.option("warmup_type"), progress) * (1.0 - floor) + floor)
    if count < warmup + stable:
        return 1.0
    if count < warmup + stable + decay:
        progress = float(count - warmup - stable) / float(max(1, decay))
        shape = "cosine" if early else schedule.option("decay_type")
        factor = _fall(shape, progress, schedule.number("num_cycles"))
        if early:
            return (1.0 - floor) * max(0.0, factor) + floor
        return max(0.0, factor * (1.0 - floor) + floor)
    return floor


_FORMULAS: dict[str, Callable[[Schedule, int], float]] = {
    "constant": _constant,
    "constant_with_warmup": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "cosine_with_min_lr": _cosine_with_min_lr,
    "cosine_warmup_with_min_lr": _cosine_warmup_with_min_lr,
    "polynomial": _polynomial,
    "inverse_sqrt": _inverse_sqrt,
    "warmup_stable_decay": _warmup_stable_decay,
}


def warmup_steps(arguments: Mapping[str, Any], total: int) -> int | None:
    """The warm-up length in steps that transformers derives from its arguments; None when they do not say.

    4.x: `warmup_steps` when above 0, else ceil(total * warmup_ratio). 5.x: `warmup_steps` from 1 up is a count, below 1
    a share of the total (training_args.py:get_warmup_steps). 5.0 ... 5.12 copy a given `warmup_ratio` into
    `warmup_steps`. One rule reads all: a share in either place counts only where no step count is set.
    """
    steps, ratio = arguments.get("warmup_steps"), arguments.get("warmup_ratio")
    if isinstance(steps, int | float) and not isinstance(steps, bool) and math.isfinite(steps):
        if steps >= 1:
            return int(steps)
        if steps > 0:
            return math.ceil(total * steps)
    if isinstance(ratio, int | float) and not isinstance(ratio, bool) and 0 < ratio <= 1:
        return math.ceil(total * ratio)
    return 0 if "warmup_steps" in arguments or "warmup_ratio" in arguments else None
