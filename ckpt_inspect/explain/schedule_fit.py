"""Fits logged learning rates to a schedule: does every one agree, and if not, from which step on and why.

A logged rate is that of scheduler count k - offset - skipped: offset 0 up to 4.50 and where DeepSpeed steps the
scheduler, 1 from 4.51 (``knowledge/transformers_eras.toml``, rate_logged_before_step); skipped counts updates that fp16
overflow left out. A run that was resumed with other arguments follows another schedule from that step on, so a course of
rates is cut into segments, each explained by one hypothesis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ckpt_inspect.explain.schedule_formulas import Schedule, ScheduleError

TOLERANCE = 1e-9  # relative to the base rate
MOST_SEGMENTS = 8
MOST_SKIPPED = 5_000
Cause = Literal["planned", "horizon", "arguments", "restart", "base", "skipped", "unexplained"]


@dataclass(frozen=True, slots=True)
class RatePoint:
    """A learning rate and the step it was logged at."""

    step: int
    rate: float


@dataclass(frozen=True, slots=True)
class StateRate:
    """What a scheduler.pt holds: the checkpoint's step, how often it was stepped, the rate then.

    `by_metric`: it is stepped once per evaluation, not once per update.
    """

    step: int
    count: int
    rate: float
    by_metric: bool = False


@dataclass(frozen=True, slots=True)
class ScheduleFacts:
    """What the fit stands on.

    Attributes:
        points: logged rates in step order.
        schedule: the schedule that the arguments describe.
        offsets: log offsets that the release allows, most likely first.
        totals: other horizons the directory speaks of (max_steps of older checkpoints).
        others: schedules that the arguments of older checkpoints describe.
        starts: steps at which a session may have begun.
        may_skip: whether updates may have been skipped (fp16, DeepSpeed).
    """

    points: tuple[RatePoint, ...]
    schedule: Schedule
    offsets: tuple[int, ...] = (0, 1)
    totals: tuple[int, ...] = ()
    others: tuple[Schedule, ...] = ()
    starts: tuple[int, ...] = ()
    may_skip: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive logged rates that one hypothesis explains; `schedule` and `shift` are what it used."""

    cause: Cause
    first: int
    last: int
    entries: int
    schedule: Schedule
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Fit:
    """The result: `error` is the largest difference from the planned schedule, relative to its base rate."""

    offset: int
    error: float
    segments: tuple[Segment, ...]
    first_departure: int | None
    skipped: int = 0

    @property
    def matches(self) -> bool:
        """Whether every logged rate is the planned one."""
        return len(self.segments) == 1 and self.segments[0].cause == "planned"


def fit(facts: ScheduleFacts) -> Fit | None:
    """Explain the logged rates; None when the schedule has no rate to compare or nothing was logged.

    Every allowed offset is tried, and the one that leaves the least unexplained is kept.
    """
    if not facts.points:
        return None
    found: list[Fit] = []
    for offset in facts.offsets:
        try:
            candidate = _fit_with(facts, offset)
        except ScheduleError:
            return None
        if candidate.matches:
            return candidate
        found.append(candidate)
    return min(found, key=lambda item: (_unexplained(item), len(item.segments), item.error))


def _unexplained(found: Fit) -> int:
    return sum(segment.entries for segment in found.segments if segment.cause == "unexplained")


def _fit_with(facts: ScheduleFacts, offset: int) -> Fit:
    base = facts.schedule.base
    error, departure = 0.0, None
    for point in facts.points:
        expected = facts.schedule.rate(max(0, point.step - offset))
        apart = 0.0 if point.rate == expected else abs(point.rate - expected) / base if base else math.inf
        if math.isnan(apart):
            apart = math.inf
        error = max(error, apart)
        if apart > TOLERANCE and departure is None:
            departure = point.step
    if departure is None:
        whole = Segment("planned", facts.points[0].step, facts.points[-1].step, len(facts.points), facts.schedule)
        return Fit(offset, error, (whole,), None)
    skipping = _skips(facts, offset) if facts.may_skip else None
    if skipping is not None:
        return Fit(offset, error, skipping[0], departure, skipping[1])
    return Fit(offset, error, tuple(_merged(facts, offset, _segments(facts, offset))), departure)


def _agrees(schedule: Schedule, count: int, rate: float) -> bool:
    try:
        expected = schedule.rate(count)
    except ScheduleError:
        return False
    return abs(rate - expected) <= TOLERANCE * max(schedule.base, abs(rate))


def _segments(facts: ScheduleFacts, offset: int) -> list[Segment]:
    """The course cut into stretches of one hypothesis each; entries that none explains are gathered."""
    found: list[Segment] = []
    index, points = 0, facts.points
    while index < len(points):
        best = _longest(facts, offset, index) if len(found) < MOST_SEGMENTS else None
        if best is not None:
            found.append(best)
            index += best.entries
            continue
        step, count = points[index].step, 1 if len(found) < MOST_SEGMENTS else len(points) - index
        last = points[index + count - 1].step
        if found and found[-1].cause == "unexplained":
            found[-1] = replace(found[-1], last=last, entries=found[-1].entries + count)
        else:
            found.append(Segment("unexplained", step, last, count, facts.schedule))
        index += count
    return found


def _merged(facts: ScheduleFacts, offset: int, segments: list[Segment]) -> list[Segment]:
    """Schedules agree during warm-up: a segment that also explains the planned one before it takes it in."""
    for index in range(len(segments) - 1, 0, -1):
        later, earlier = segments[index], segments[index - 1]
        if later.cause != "horizon" or earlier.cause != "planned":
            continue
        inside = [point for point in facts.points if earlier.first <= point.step <= earlier.last]
        if _run_length(inside, 0, later.schedule, offset + later.shift) == len(inside):
            whole = replace(later, first=earlier.first, entries=later.entries + earlier.entries)
            segments[index - 1 : index + 1] = [whole]
    return segments


def _longest(facts: ScheduleFacts, offset: int, index: int) -> Segment | None:
    """The hypothesis that explains most entries from `index` on.

    One entry is enough for what the directory speaks of (the plan, a max_steps, a checkpoint); what was solved for from
    one entry has to meet two more, a restart at an unknown step one more.
    """
    best: Segment | None = None
    for cause, schedule, shift in _hypotheses(facts, offset, index):
        count = _run_length(facts.points, index, schedule, offset + shift)
        known = cause == "arguments" or (schedule.total in (facts.schedule.total, *facts.totals) and cause != "base")
        fewest = 3 if not known else 2 if shift and shift not in facts.starts else 1
        if count < fewest:
            continue
        if best is None or count > best.entries:
            points = facts.points[index : index + count]
            best = Segment(cause, points[0].step, points[-1].step, count, schedule, shift)
    return best


def _run_length(points: Sequence[RatePoint], index: int, schedule: Schedule, shift: int) -> int:
    count = 0
    for point in points[index:]:
        if point.step < shift or not _agrees(schedule, point.step - shift, point.rate):
            break
        count += 1
    return count


def _hypotheses(facts: ScheduleFacts, offset: int, index: int) -> Iterator[tuple[Cause, Schedule, int]]:
    """Simplest first: planned; another horizon; older arguments; a restart from zero; another base rate."""
    planned, point = facts.schedule, facts.points[index]
    yield "planned", planned, 0
    for total in facts.totals:
        yield "horizon", planned.with_total(total), 0
    for other in facts.others:
        yield "arguments", other, 0
    previous = facts.points[index - 1].step if index else 0
    begins = [start for start in facts.starts if start < point.step]
    for start in dict.fromkeys([*reversed(begins), *range(max(0, point.step - 1), max(-1, previous - 1), -1)][:200]):
        if start > 0:
            yield "restart", planned, start
            for total in facts.totals:
                yield "restart", planned.with_total(total), start
    try:
        expected = planned.rate(max(0, point.step - offset))
    except ScheduleError:
        return
    if expected > 0 and point.rate > 0:
        base = planned.base * point.rate / expected
        if abs(base - planned.base) > TOLERANCE * planned.base and planned.row["family"] == "transformers":
            yield "base", replace(planned, base=base), 0
    solved = solve_total(planned, max(0, point.step - offset), point.rate)
    if solved is not None and solved != planned.total:
        yield "horizon", planned.with_total(solved), 0


def solve_total(schedule: Schedule, count: int, rate: float) -> int | None:
    """The horizon under which the rate at `count` is `rate`, where it falls with a shorter horizon; None if none."""
    low, high = max(1, count), max(2, 4 * max(schedule.total, count))
    limit = 100 * high
    try:
        while schedule.with_total(high).rate(count) < rate and high < limit:
            high *= 2
        while low < high:
            middle = (low + high) // 2
            if schedule.with_total(middle).rate(count) < rate * (1 - 1e-12):
                low = middle + 1
            else:
                high = middle
    except ScheduleError:
        return None
    return low if _agrees(schedule.with_total(low), count, rate) else None


def _skips(facts: ScheduleFacts, offset: int) -> tuple[tuple[Segment, ...], int] | None:
    """The whole course with a lag that only grows: updates that the scheduler was not stepped for.

    A lag that jumps to the step of a checkpoint is no skipping: the scheduler began anew there.
    """
    lag = 0
    started = next((index for index, point in enumerate(facts.points) if point.rate != 0.0), 0)
    points = facts.points[started:]  # under DeepSpeed a rate of 0 is logged until the first update was not skipped
    for point in points:
        count = point.step - offset
        found = next(
            (
                extra
                for extra in range(lag, min(count, MOST_SKIPPED, lag + 200) + 1)
                if _agrees(facts.schedule, count - extra, point.rate)
            ),
            None,
        )
        if found is None:
            return None
        if found > lag and found in facts.starts and found > lag + 1:
            return None
        lag = found
    if lag == 0:
        return None
    whole = Segment("skipped", facts.points[0].step, facts.points[-1].step, len(facts.points), facts.schedule, lag)
    return (whole,), lag
