"""How numbers are said to a person."""

from __future__ import annotations

from typing import Any

_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")


def size(count: int) -> str:
    """Bytes in decimal units, as disks and hubs count: "717 kB"."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1000
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 99.5 else f"{value:.1f} {unit}"
    return f"{value:.0f} {_UNITS[-1]}"


def number(value: Any, digits: int = 4) -> str:
    """A measured value with `digits` significant figures; "-" for none; NaN and infinities by name."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e+" in text and abs(value) < 1e15 else text


def loss(value: Any) -> str:
    """A loss: four decimals where they fit, since losses are compared digit by digit."""
    if isinstance(value, float) and 0.001 <= abs(value) < 1000:
        return f"{value:.4f}"
    return number(value)


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """ "1 file", "2 files"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(items: list[str], most: int = 6) -> str:
    """ "a, b and 3 more"."""
    if len(items) <= most:
        return ", ".join(items)
    return f"{', '.join(items[: most - 1])} and {len(items) - most + 1} more"


def short_count(value: int) -> str:
    """Parameters in words people use: "7.62 B", "334 M", "18,432"."""
    for limit, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:,}"
