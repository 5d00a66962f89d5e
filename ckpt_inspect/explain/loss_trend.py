"""How the loss moved over the quarters of a run, and what the scatter of its log leaves certain of that.

Log entries of short windows scatter widely: a claim about the end of a run stands on the mean of its last quarter, and only
where it differs from what it is compared with by more than two standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ckpt_inspect.explain.loss_arithmetic import LossWindow

FLAT = 0.01  # a change between the last two quarters below this share of the loss may count as none
FEWEST = 8  # entries: two in every quarter
STEADY = 3  # a run that fell evenly changed in its last quarter by a third of what lies between its first and last one
SURE = 2.0  # standard errors

Movement = Literal["flattened", "unmoved", "falling", "rising", "unclear"]


@dataclass(frozen=True, slots=True)
class Trend:
    """Mean losses of the first, third and last quarter of the steps, and the doubt (loss units) of the last change."""

    first: float
    before: float
    last: float
    doubt: float
    movement: Movement


def trend_of(windows: Sequence[LossWindow]) -> Trend | None:
    """The trend; None where too few entries were logged to speak of one, or the quarter before the last has none."""
    parts = [part for part in windows if math.isfinite(part.loss)]
    if len(parts) < FEWEST:
        return None
    start, end = parts[0].start, parts[-1].end
    length = (end - start) / 4
    first = mean_between(parts, start, start + length)
    before = mean_between(parts, end - 2 * length, end - length)
    last = mean_between(parts, end - length, end)
    if first is None or before is None or last is None:
        return None
    doubt = SURE * scatter(_late(parts)) * math.sqrt(2 / length)
    return Trend(first, before, last, doubt, _movement(first, before, last, doubt))


def _movement(first: float, before: float, last: float, doubt: float) -> Movement:
    change, whole, small = abs(last - before), abs(last - first), FLAT * abs(before)
    if change > doubt:
        if change < small and whole > 2 * STEADY * change:
            return "flattened"
        return "falling" if last < before else "rising"
    if change + doubt < small:
        if whole > STEADY * (change + doubt):
            return "flattened"
        if whole < small:
            return "unmoved"
    return "unclear"


def scatter(windows: Sequence[LossWindow]) -> float:
    """The standard deviation of the loss of one step about the course of the curve; 0 for fewer than three entries.

    Every entry is compared with the straight line between its neighbours, so that a steady fall is no scatter. An entry is
    the mean of its steps: the variance of the difference is that of one step times 1/n + a^2/m + b^2/k, a + b = 1.
    """
    shares: list[float] = []
    for before, part, after in zip(windows, windows[1:], windows[2:], strict=False):
        weight = (after.middle - part.middle) / (after.middle - before.middle)
        off = part.loss - weight * before.loss - (1 - weight) * after.loss
        shares.append(off**2 / (1 / part.steps + weight**2 / before.steps + (1 - weight) ** 2 / after.steps))
    return math.sqrt(math.fsum(shares) / len(shares)) if shares else 0.0


def _late(windows: Sequence[LossWindow]) -> Sequence[LossWindow]:
    """The entries of the second half of the steps, and one before: enough to know the scatter at the end."""
    middle = (windows[0].start + windows[-1].end) / 2
    first = next(index for index, part in enumerate(windows) if part.end > middle)
    return windows[max(0, first - 1) :]


def mean_between(windows: Sequence[LossWindow], low: float, high: float) -> float | None:
    """The mean loss of the steps from `low` to `high`; a window counts with the part of it that lies there."""
    weight = value = 0.0
    for part in windows:
        share = min(part.end, high) - max(part.start, low)
        if share > 0:
            weight += share
            value += share * part.loss
    return value / weight if weight else None


@dataclass(frozen=True, slots=True)
class Ends:
    """The first and the last quarter of the steps: their mean losses, and the doubt (loss units) of the last one."""

    first: float
    last: float
    doubt: float


def ends_of(windows: Sequence[LossWindow]) -> Ends:
    """The ends of a log of one entry or more; a log of few entries is taken at its word, entry by entry."""
    if len(windows) < FEWEST:
        return Ends(windows[0].loss, windows[-1].loss, 0.0)
    start, end = windows[0].start, windows[-1].end
    length = (end - start) / 4
    first, last = mean_between(windows, start, start + length), mean_between(windows, end - length, end)
    doubt = SURE * scatter(_late(windows)) / math.sqrt(length)
    return Ends(windows[0].loss if first is None else first, windows[-1].loss if last is None else last, doubt)
