"""Which schedule a log of rates follows where no arguments tell: what the numbers alone allow.

Only schedules without further options are tried. The answer is a description of the log, not a check of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ckpt_inspect.explain.schedule_fit import TOLERANCE, RatePoint
from ckpt_inspect.explain.schedule_formulas import Schedule, ScheduleError

KINDS = ("constant", "linear", "cosine", "constant_with_warmup")
FEWEST = 4
FEWEST_AFTER_WARMUP = 2  # a log that ends within the warm-up says nothing of what follows
MOST_WARMUP = 3_000
SHARES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2)
ROUND_DIGITS = 3


def infer_schedule(
    points: Sequence[RatePoint], total: int | None, offsets: Sequence[int], base: float | None
) -> tuple[Schedule, int] | None:
    """The simplest schedule that gives every logged rate, and the log offset; None where none does.

    Several warm-ups can give the same decay; the one with a base rate of few digits is taken, 2e-05 rather than
    2.0367e-05, or the one with `base` where a scheduler.pt holds it.
    """
    if len(points) < FEWEST or total is None or total <= 0:
        return None
    for kind in KINDS:
        for offset in offsets:
            found = _with_kind(kind, points, total, offset, base)
            if found is not None:
                return found, offset
    return None


def _with_kind(kind: str, points: Sequence[RatePoint], total: int, offset: int, base: float | None) -> Schedule | None:
    fallback: Schedule | None = None
    for warmup in _warmups(kind, points, total):
        if sum(point.step - offset > warmup for point in points[-FEWEST_AFTER_WARMUP:]) < FEWEST_AFTER_WARMUP:
            continue
        candidate = _scaled(Schedule(kind, 1.0, warmup, total), points, offset)
        if candidate is None:
            continue
        if base is None and _is_round(candidate.base):
            return candidate
        if base is not None and math.isclose(candidate.base, base, rel_tol=TOLERANCE):
            return candidate
        fallback = fallback or candidate
    return fallback


def _warmups(kind: str, points: Sequence[RatePoint], total: int) -> Iterator[int]:
    if kind == "constant":
        yield 0
        return
    highest = max(points, key=lambda point: point.rate).step
    likely = [0, *(math.ceil(share * total) for share in SHARES)]
    yield from dict.fromkeys([*likely, *range(1, min(2 * highest + 2, total, MOST_WARMUP))])


def _scaled(unit: Schedule, points: Sequence[RatePoint], offset: int) -> Schedule | None:
    """`unit` with the base rate that its highest point implies, when every point then agrees."""
    try:
        factors = [unit.rate(max(0, point.step - offset)) for point in (points[0], points[-1])]
        top = max(points, key=lambda point: point.rate)
        factor = unit.rate(max(0, top.step - offset))
        if factor <= 0:
            return None
        base = top.rate / factor
        ends = zip((points[0], points[-1]), factors, strict=True)
        if any(abs(point.rate - base * value) > TOLERANCE * base for point, value in ends):
            return None
        if any(abs(p.rate - base * unit.rate(max(0, p.step - offset))) > TOLERANCE * base for p in points):
            return None
    except ScheduleError:
        return None
    return replace(unit, base=_clean(base))


def _is_round(value: float) -> bool:
    return math.isclose(value, float(f"{value:.{ROUND_DIGITS}g}"), rel_tol=TOLERANCE)


def _clean(value: float) -> float:
    """2e-05 for 2.0000000000000002e-05."""
    near = float(f"{value:.{ROUND_DIGITS}g}")
    return near if math.isclose(value, near, rel_tol=1e-12) else value
