"""Smoothing of a noisy curve; gaps (NaN) stay gaps and do not disturb what follows.

`ema` is debiased as in Adam (Kingma & Ba 2014, section 3). `llamafactory` is LLaMA-Factory's `smooth`
(extras/ploting.py, v0.9.5): no bias correction, and a weight that depends on the number of points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ckpt_inspect.errors import UsageError
from ckpt_inspect.explain.loss_arithmetic import smoothed as llamafactory_smoothed
from ckpt_inspect.printable import printable


@dataclass(frozen=True, slots=True)
class Smoothing:
    """How to smooth: `window` is the span of the average in points, None to choose it by the number of points."""

    kind: str
    window: float | None = None

    def apply(self, values: Sequence[float]) -> tuple[tuple[float, ...], str]:
        """The smoothed values, and the words for the legend."""
        if self.kind == "none":
            return tuple(values), ""
        if self.kind == "llamafactory":
            return llamafactory_smoothed(values), "LLaMA-Factory smoothing"
        window = self.window if self.window is not None else default_window(len(values))
        if window <= 1:
            return tuple(values), ""
        return ema(values, window), f"EMA over {window:g} points"


def parse_smoothing(text: str) -> Smoothing:
    """ "ema", "llamafactory", "none", or a window in points.

    Raises:
        UsageError: none of these.
    """
    if text in ("ema", "llamafactory", "none"):
        return Smoothing(text)
    try:
        window = float(text)
    except ValueError:
        window = math.nan
    if not window >= 1 or math.isinf(window):
        raise UsageError(
            f"--smoothing {printable(text)!r} is not ema, llamafactory, none or a number of points from 1 up"
        )
    return Smoothing("ema", window)


def default_window(points: int) -> float:
    """A twentieth of the points, from 1 (no smoothing of a few points) to 500."""
    return float(min(max(points // 20, 1), 500))


def ema(values: Sequence[float], window: float) -> tuple[float, ...]:
    """Debiased exponential moving average whose centre of mass is that of a mean over `window` points."""
    keep = 1 - 2 / (window + 1)
    total = weight = 0.0
    result: list[float] = []
    for value in values:
        if not math.isfinite(value):
            result.append(math.nan)
            continue
        total = keep * total + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        result.append(total / weight)
    return tuple(result)


def thinned(x: Sequence[float], values: Sequence[float], most: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most about `most` points that look the same: the lowest and highest of every bucket, and its gaps."""
    count = len(values)
    if count <= most:
        return tuple(x), tuple(values)
    buckets = max(most // 3, 1)
    chosen: set[int] = {0, count - 1}
    for bucket in range(buckets):
        start, end = bucket * count // buckets, (bucket + 1) * count // buckets
        finite = [index for index in range(start, end) if math.isfinite(values[index])]
        if finite:
            chosen.add(min(finite, key=values.__getitem__))
            chosen.add(max(finite, key=values.__getitem__))
        if len(finite) < end - start:
            chosen.add(next(index for index in range(start, end) if not math.isfinite(values[index])))
    order = sorted(chosen)
    return tuple(x[index] for index in order), tuple(values[index] for index in order)
