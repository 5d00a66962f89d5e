"""Batches per epoch and rows of the data set, worked back from steps and epochs.

``epoch`` of a log entry is epochs done + micro-batches done in this epoch / micro-batches per epoch (transformers
trainer.py, all versions); a process gets ceil(ceil(rows / B) / W) batches, or floor(floor(rows / B) / W) with
``dataloader_drop_last`` (accelerate data_loader.py:BatchSamplerShard with even_batches).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ROUNDED_EPOCH = 0.005  # half of the last digit that releases before 4.40 kept
EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Interval:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int

    def meet(self, other: Interval | None) -> Interval | None:
        """What both allow; None when they exclude one another."""
        if other is None:
            return self
        low, high = max(self.low, other.low), min(self.high, other.high)
        return Interval(low, high) if low <= high else None

    @property
    def exact(self) -> int | None:
        """The number, when there is only one."""
        return self.low if self.low == self.high else None


def batches_per_epoch(
    exact: Iterable[tuple[int, float]], rounded: Iterable[tuple[int, float]], accumulation: int
) -> Interval | None:
    """Micro-batches per process and epoch, from (step, epoch) pairs.

    Pairs of the first epoch give them directly (step x accumulation / epoch); where the first epoch has none, two
    pairs of one epoch do. The very end of an epoch may close a short accumulation and is left out.

    Args:
        exact: epochs with all their digits.
        rounded: epochs with two decimals, used only where `exact` tells nothing.
        accumulation: micro-batches per update.
    """
    for pairs, slack in ((exact, 0.0), (rounded, ROUNDED_EPOCH)):
        found = _from_pairs(pairs, accumulation, slack)
        if found is not None:
            return found
    return None


def _from_pairs(pairs: Iterable[tuple[int, float]], accumulation: int, slack: float) -> Interval | None:
    known = sorted({(step, epoch) for step, epoch in pairs if step > 0 and epoch > 0 and math.isfinite(epoch)})
    found: Interval | None = None
    first = [(step, epoch) for step, epoch in known if epoch < 1 - slack - EXACT]
    for step, epoch in first:
        found = _narrow(found, _from_ratio(step * accumulation, epoch, slack))
    if first:
        return found
    for (step, epoch), (later, further) in _same_epoch_pairs(known, slack):
        found = _narrow(found, _from_ratio((later - step) * accumulation, further - epoch, 2 * slack))
    return found


def updates_at_epoch_ends(pairs: Iterable[tuple[int, float]]) -> int | None:
    """Updates per epoch from pairs that lie exactly at the end of an epoch: step / epoch, when all agree."""
    ends = [(step, round(epoch)) for step, epoch in pairs if epoch >= 1 - EXACT and abs(epoch - round(epoch)) <= EXACT]
    found = {divmod(step, epochs) for step, epochs in ends if step > 0}
    updates, rest = found.pop() if len(found) == 1 else (0, 0)
    return updates if updates and not rest else None


def updates_from_plan(max_steps: int, epochs: float) -> Interval | None:
    """Updates per epoch of a run planned in epochs, from max_steps = ceil(epochs x updates)."""
    if max_steps <= 0 or not 0 < epochs < 1e9:
        return None
    low, high = math.floor((max_steps - 1) / epochs), math.floor(max_steps / epochs) + 1
    while low < high and planned_steps(epochs, low) < max_steps:  # the product is rounded before it is rounded up,
        low += 1  # so 1.1 x 750 makes 826: the borders are tried, not computed
    while low < high and planned_steps(epochs, high) > max_steps:
        high -= 1
    return (
        Interval(low, high)
        if low > 0 and planned_steps(epochs, low) == max_steps == planned_steps(epochs, high)
        else None
    )


def batches_from_updates(updates: Interval, accumulation: int, *, rounded_up: bool | None) -> Interval:
    """Micro-batches per epoch that give so many updates; None for `rounded_up` allows both ways of rounding."""
    up = Interval((updates.low - 1) * accumulation + 1, updates.high * accumulation)
    down = Interval(updates.low * accumulation, (updates.high + 1) * accumulation - 1)
    if updates.low == 1:
        down = Interval(1, down.high)  # at least one update, however few batches
    if rounded_up is None:
        return Interval(min(up.low, down.low), max(up.high, down.high))
    return up if rounded_up else down


def batches_from_rows(rows: Interval, rows_per_batch: int, world: int, *, drop_last: bool) -> Interval:
    """Micro-batches per process for so many rows."""

    def count(number: int) -> int:
        if drop_last:
            return max(1, number // rows_per_batch // world)
        return math.ceil(math.ceil(number / rows_per_batch) / world)

    return Interval(count(rows.low), count(rows.high))


def _narrow(found: Interval | None, other: Interval | None) -> Interval | None:
    if other is None:
        return found
    return other if found is None else found.meet(other) or other


def _same_epoch_pairs(
    known: Sequence[tuple[int, float]], slack: float
) -> Iterable[tuple[tuple[int, float], tuple[int, float]]]:
    by_epoch: dict[int, list[tuple[int, float]]] = {}
    for step, epoch in known:
        whole = math.floor(epoch)
        if epoch - whole > slack + EXACT and whole + 1 - epoch > slack + EXACT:
            by_epoch.setdefault(whole, []).append((step, epoch))
    for items in by_epoch.values():
        if len(items) >= 2 and items[0][0] < items[-1][0]:
            yield items[0], items[-1]


def _from_ratio(batches: int, epochs: float, slack: float) -> Interval | None:
    if epochs <= slack:
        return None
    if slack == 0:
        value = batches / epochs
        nearest = round(value)
        return Interval(nearest, nearest) if nearest > 0 and abs(value - nearest) <= 1e-6 * value + 1e-6 else None
    low = math.ceil(batches / (epochs + slack) - 1e-9)
    high = math.floor(batches / (epochs - slack) + 1e-9)
    return Interval(max(1, low), high) if low <= high else None


def updates_per_epoch(batches: int, accumulation: int, *, rounded_up: bool) -> int:
    """Optimizer updates per epoch (`behaviour.updates_rounded_up`)."""
    if rounded_up:
        return max(1, math.ceil(batches / accumulation))
    return max(1, batches // accumulation)


def planned_steps(epochs: float, updates: int) -> int:
    """max_steps of a run given in epochs: ceil(epochs x updates per epoch)."""
    return math.ceil(epochs * updates)


def rows_from_batches(batches: Interval, rows_per_batch: int, world: int, *, drop_last: bool) -> Interval:
    """Rows of the data set that give so many batches per process."""
    if drop_last:
        return Interval(batches.low * world * rows_per_batch, (batches.high + 1) * world * rows_per_batch - 1)
    return Interval((batches.low - 1) * world * rows_per_batch + 1, batches.high * world * rows_per_batch)


def rows_from_speed(samples_per_second: float, runtime: float, epochs: float) -> Interval | None:
    """Rows from the speeds of a run given in epochs: rows x epochs = samples per second x runtime, both rounded.

    (transformers trainer_utils.py:speed_metrics rounds the speed to 3 decimals and the runtime to 4.)
    """
    if samples_per_second <= 0 or runtime <= 0 or epochs <= 0:
        return None
    low = (samples_per_second - 5e-4) * (runtime - 5e-5) / epochs
    high = (samples_per_second + 5e-4) * (runtime + 5e-5) / epochs
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    low_rows, high_rows = math.ceil(low - 1e-6), math.floor(high + 1e-6)
    return Interval(max(1, low_rows), high_rows) if low_rows <= high_rows else None


def batch_from_speeds(samples_per_second: float, steps_per_second: float) -> tuple[float, float] | None:
    """(global batch, uncertainty) from the two speeds of a run given in max_steps; both are rounded to 3 decimals."""
    if samples_per_second <= 0 or steps_per_second <= 0:
        return None
    ratio = samples_per_second / steps_per_second
    return ratio, ratio * (5e-4 / samples_per_second + 5e-4 / steps_per_second)
