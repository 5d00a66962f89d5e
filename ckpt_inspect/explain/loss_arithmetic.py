"""The arithmetic of logged losses: windows, their sums, what an unlogged tail may weigh, smoothing.

transformers adds the loss of every micro-batch to a running sum. A log entry at step s_i is that sum divided by
s_i - s_(i-1), the steps since the entry before (or since the step the run started from); then the sum restarts
(trainer.py:_maybe_log_save_evaluate, all versions). So a logged loss stands for a window of steps, and windows are
weighted by their length, not counted.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

ROUNDING = 5e-5  # half a unit in the fourth decimal: releases before 5.0 log round(loss, 4)


class LossPoint(NamedTuple):
    """A logged training loss."""

    step: int
    value: float


class LossWindow(NamedTuple):
    """The mean loss of the steps after `start` up to and including `end`."""

    start: int
    end: int
    loss: float

    @property
    def steps(self) -> int:
        """How many steps it stands for."""
        return self.end - self.start

    @property
    def middle(self) -> float:
        """The middle of its steps."""
        return (self.start + self.end) / 2

    @property
    def sum(self) -> float:
        """The losses of its steps added up."""
        return self.loss * self.steps


@dataclass(frozen=True, slots=True)
class Course:
    """Logged losses in increasing step order.

    A log can go back when a run was resumed from an earlier checkpoint; then the steps that were trained again
    replace the older entries, and `rewinds` holds (step reached, step gone back to).
    """

    points: tuple[LossPoint, ...]
    rewinds: tuple[tuple[int, int], ...] = ()


def course(logged: Iterable[tuple[int, float]]) -> Course:
    """The points in order, later entries replacing those at or after their step."""
    points: list[LossPoint] = []
    rewinds: list[tuple[int, int]] = []
    for step, value in logged:
        if points and step <= points[-1].step:
            if step < points[-1].step:
                rewinds.append((points[-1].step, step))
            while points and points[-1].step >= step:
                points.pop()
        points.append(LossPoint(step, value))
    return Course(tuple(points), tuple(rewinds))


def windows(points: Sequence[LossPoint], start: int) -> tuple[LossWindow, ...]:
    """The windows of one session that began at step `start`; entries up to `start` belong to earlier sessions."""
    found: list[LossWindow] = []
    previous = start
    for point in points:
        if point.step > previous:
            found.append(LossWindow(previous, point.step, point.value))
            previous = point.step
    return tuple(found)


def total(parts: Iterable[LossWindow]) -> float:
    """The sum of all step losses in the windows."""
    sums = [loss * (end - start) for start, end, loss in parts]
    plain = sum(sums)
    return math.fsum(sums) if math.isfinite(plain) else plain


def rounding_error(parts: Sequence[LossWindow], *, rounded: bool) -> float:
    """How far `total` may be off because entries were rounded: five standard deviations, at most the worst case.

    Rounding errors of different entries are independent and uniform in +-5e-5.
    """
    if not rounded or not parts:
        return 0.0
    return _rounding(sum(part.steps**2 for part in parts), sum(part.steps for part in parts))


def _rounding(squares: float, steps: int) -> float:
    return min(5 * math.sqrt(squares / 3), steps) * ROUNDING


@dataclass(frozen=True, slots=True)
class SessionSum:
    """What one session logged: the sum of its step losses, how far rounding may have moved it, its last logged step."""

    logged: float
    error: float
    last: int


class Sums:
    """Sums over the windows after any start, in logarithmic time: many starts are tried on long logs."""

    def __init__(self, points: Sequence[LossPoint], *, rounded: bool) -> None:
        self._points = points
        self._steps = [point.step for point in points]
        self._rounded = rounded
        logged, squares = 0.0, 0.0
        self._logged, self._squares = [0.0] * (len(points) + 1), [0.0] * (len(points) + 1)
        for index in range(len(points) - 1, -1, -1):
            self._logged[index], self._squares[index] = logged, squares  # of the windows after entry `index`
            length = self._steps[index] - (self._steps[index - 1] if index else 0)
            logged += points[index].value * length
            squares += float(length) ** 2

    def after(self, start: int) -> SessionSum:
        """The sums of a session that began at `start`."""
        index = bisect_right(self._steps, start)
        if index == len(self._steps):
            return SessionSum(0.0, 0.0, start)
        length = self._steps[index] - start
        logged = self._logged[index] + self._points[index].value * length
        error = _rounding(self._squares[index] + float(length) ** 2, self._steps[-1] - start) if self._rounded else 0.0
        return SessionSum(logged, error, self._steps[-1])


@dataclass(frozen=True, slots=True)
class TailBounds:
    """What the mean loss of the unlogged steps can be: `low`...`high`, and the `near` range of the last entries."""

    low: float
    high: float
    near_low: float
    near_high: float

    def allows(self, mean: float) -> bool:
        """Whether the mean is possible at all."""
        return math.isfinite(mean) and self.low <= mean <= self.high

    def widened(self, slack: float) -> TailBounds:
        """The bounds with `slack` (loss units) added on both sides, for rounding; a loss that is never negative stays so."""
        floor = -math.inf if self.low < 0 else 0.0
        low, near = max(floor, self.low - slack), max(floor, self.near_low - slack)
        return TailBounds(low, self.high + slack, near, self.near_high + slack)

    def is_near(self, mean: float) -> bool:
        """Whether it lies where the last entries make it likely."""
        return math.isfinite(mean) and self.near_low <= mean <= self.near_high


RECENT = 5


def tail_bounds(points: Sequence[LossPoint]) -> TailBounds | None:
    """Bounds from the last logged values. None without any entry.

    Possible: a fifth of the smallest to five times the largest of the last five values (losses that take both signs,
    as in preference or policy training: as far beyond them as they reach). Near: their range, widened by its own
    width and by a tenth of the largest.
    """
    recent = [point.value for point in points if math.isfinite(point.value)][-RECENT:]
    if not recent:
        return None
    low, high = min(recent), max(recent)
    reach = max(abs(low), abs(high))
    near = (high - low) + 0.1 * reach
    if low >= 0 and all(point.value >= 0 for point in points if math.isfinite(point.value)):
        return TailBounds(0.2 * low, 5 * high, max(0.0, low - near), high + near)
    return TailBounds(low - 4 * reach, high + 4 * reach, low - near, high + near)


def smoothing_weight(count: int) -> float:
    """The weight LLaMA-Factory smooths its loss plot with: 1.8 (sigmoid(0.05 n) - 0.5), n = number of points.

    The more points a run has the stronger it is smoothed (llamafactory/extras/ploting.py:smooth).
    """
    return 1.8 * (1 / (1 + math.exp(-0.05 * count)) - 0.5)


def smoothed(values: Sequence[float], weight: float | None = None) -> tuple[float, ...]:
    """Exponential moving average: the first value as it is, then weight * previous + (1 - weight) * value."""
    share = smoothing_weight(len(values)) if weight is None else weight
    result: list[float] = []
    for value in values:
        result.append(share * result[-1] + (1 - share) * value if result else value)
    return tuple(result)
