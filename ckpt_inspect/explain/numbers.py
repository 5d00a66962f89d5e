"""Numbers as a person reads them in a sentence: short, in one style, never misleadingly rounded to zero."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeGuard


def is_number(value: object) -> TypeGuard[int | float]:
    """An int or float that is no bool; NaN and infinities count."""
    return isinstance(value, int | float) and not isinstance(value, bool)


MOST_STEPS = 10**12  # no run has more; a larger number in a file is damage


def is_step(value: object) -> TypeGuard[int]:
    """A step a run can have reached."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_STEPS


def whole(value: object) -> int | None:
    """A count a configuration can hold: at least 1, no more than a run has steps; fractions are cut off."""
    return int(value) if is_number(value) and 1 <= value <= MOST_STEPS else None


def median(values: Iterable[float]) -> float:
    """The middle value, of two the mean. As `statistics.median`, whose module costs more to import than a whole topic."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def short(value: float | None, digits: int = 4) -> str:
    """About `digits` significant digits: 5.954, 0.0189, 1.2e-07, 12345."""
    if value is None:
        return "unknown"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinity" if value > 0 else "-infinity"
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15 and abs(value) >= 10 ** (digits - 1)):
        return str(int(value))
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4 or magnitude > 6:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - magnitude)}f}"


def plainly(value: float | None, digits: int = 6) -> str:
    """A value that is a setting rather than a measurement, without padding: 0.005, 2e-05, 0.1."""
    return "unknown" if value is None else f"{value:.{digits}g}"


def apart(first: float, second: float, digits: int = 3) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart (at most 10)."""
    for count in range(digits, 11):
        one, two = short(first, count), short(second, count)
        if one != two or first == second:
            return one, two
    return repr(first), repr(second)


def percent(share: float) -> str:
    """0.0534 as "5.3 %"."""
    return f"{short(100 * share, 2 if abs(share) < 1 else 3)} %"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`counted(1, "step")` = "1 step", `counted(3, "step")` = "3 steps"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def listed(words: Sequence[str], conjunction: str = "and") -> str:
    """ "a, b and c"."""
    if len(words) <= 1:
        return "".join(words)
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"
