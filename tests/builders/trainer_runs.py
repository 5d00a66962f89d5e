"""The bookkeeping of the Trainer's losses, as trainer.py does it, on made-up step losses: what a log would then hold.

A train() call that starts at `start` and ends at `end` logs every `every` steps (and the first one on request), each entry
the mean since the one before; `train_loss` is the sum of everything, the unlogged tail included, over the divisor of the
release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LoggedCall:
    """The entries (step, loss) of one call and the average it reports."""

    entries: tuple[tuple[int, float], ...]
    train_loss: float
    start: int
    end: int


def train_call(
    losses: Sequence[float],
    *,
    start: int = 0,
    end: int | None = None,
    every: int = 1,
    first_step: bool = False,
    session_divisor: bool = True,
    rounded: bool = False,
) -> LoggedCall:
    """One train() call; `losses[i]` is the loss of step i + 1."""
    end = len(losses) if end is None else end
    entries: list[tuple[int, float]] = []
    total, window, last = 0.0, 0.0, start
    for step in range(start + 1, end + 1):
        window += losses[step - 1]
        if step % every == 0 or (first_step and step == start + 1):
            mean = window / (step - last)
            entries.append((step, round(mean, 4) if rounded else mean))
            total, window, last = total + window, 0.0, step
    divisor = (end - start) if session_divisor else end
    return LoggedCall(tuple(entries), (total + window) / max(divisor, 0.001), start, end)


def history(losses: Sequence[float], start: int, *, every: int, rounded: bool = False) -> tuple[tuple[int, float], ...]:
    """What a checkpoint at `start` had logged before the call that resumes from it."""
    return train_call(losses, end=start, every=every, rounded=rounded).entries
