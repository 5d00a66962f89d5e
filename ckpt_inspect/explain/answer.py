"""What every topic of `explain` hands back: an answer with a paragraph, its arithmetic and its evidence.

`plain` turns an answer into JSON data under the contract of the documents (NaN and infinities as strings).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

Plain = None | bool | int | float | str | list[Any] | dict[str, Any]


class Answer(Protocol):
    """What the answers of all topics have in common; each has fields of its own besides."""

    @property
    def paragraph(self) -> str:
        """The answer in words."""

    @property
    def arithmetic(self) -> tuple[str, ...]:
        """The numbers it rests on, a line each."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One fact an answer stands on: the file, the key in it, the value as read."""

    file: str
    key: str
    value: Any


def plain(value: Any) -> Plain:
    """`value` as JSON data: dataclasses as objects, tuples as lists, NaN and infinities as strings."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
