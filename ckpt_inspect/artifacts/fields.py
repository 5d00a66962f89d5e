"""Reads typed fields out of a JSON object of unknown origin: a value of the wrong type is a fault and counts as absent.

`null` and a missing key are the same to a caller; `bool` is never a number; a whole float counts as an integer (JSON
has one number type, and tools that rewrite files turn 4 into 4.0).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.json_document import read_json

if TYPE_CHECKING:
    from ckpt_inspect.storage import ByteSource

_T = TypeVar("_T")

WRONG_TYPE = "field-type"


class Fields:
    """Typed access to one JSON object; `place` prefixes the key in faults (``text_config.``)."""

    def __init__(self, values: Mapping[str, Any], faults: FaultLog, place: str = "") -> None:
        self.values = values
        self._faults = faults
        self._place = place

    def integer(self, key: str) -> int | None:
        """A whole number."""
        value = self.values.get(key)
        if type(value) is int or value is None:
            return value
        if type(value) is float and math.isfinite(value) and value == int(value):
            return int(value)
        self._wrong(key, value, "a whole number")
        return None

    def number(self, key: str) -> int | float | None:
        """Any number, NaN and infinities included; a float stays a float."""
        value = self.values.get(key)
        if type(value) in (int, float) or value is None:
            return value
        self._wrong(key, value, "a number")
        return None

    def text(self, key: str) -> str | None:
        """A string."""
        value = self.values.get(key)
        if type(value) is str or value is None:
            return value
        self._wrong(key, value, "a string")
        return None

    def flag(self, key: str) -> bool | None:
        """`true` or `false`."""
        value = self.values.get(key)
        if type(value) is bool or value is None:
            return value
        self._wrong(key, value, "true or false")
        return None

    def mapping(self, key: str) -> dict[str, Any] | None:
        """An object."""
        value = self.values.get(key)
        if isinstance(value, dict) or value is None:
            return value
        self._wrong(key, value, "an object")
        return None

    def sequence(self, key: str) -> list[Any] | None:
        """A list."""
        value = self.values.get(key)
        if isinstance(value, list) or value is None:
            return value
        self._wrong(key, value, "a list")
        return None

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of strings; elements that are not strings are faults and left out."""
        value = self.sequence(key)
        return None if value is None else self._only(key, value, str)

    def integers(self, key: str) -> tuple[int, ...] | None:
        """A list of whole numbers, or one whole number alone."""
        value = self.values.get(key)
        if type(value) is int:
            return (value,)
        items = self.sequence(key)
        return None if items is None else self._only(key, items, int)

    def fields(self, key: str) -> Fields | None:
        """Typed access to a nested object."""
        value = self.mapping(key)
        return None if value is None else Fields(value, self._faults, f"{self._place}{key}.")

    def wrong(self, key: str, expected: str) -> None:
        """Note that the value at `key` is not `expected`."""
        self._wrong(key, self.values.get(key), expected)

    def _only(self, key: str, items: Iterable[Any], kind: type[_T]) -> tuple[_T, ...]:
        kept: list[_T] = []
        for index, item in enumerate(items):
            if type(item) is kind:
                kept.append(item)
            else:
                self._wrong(f"{key}[{index}]", item, f"a {kind.__name__}")
        return tuple(kept)

    def _wrong(self, key: str, value: object, expected: str) -> None:
        self._faults.add(WRONG_TYPE, f"is {json_kind(value)}, not {expected}", place=f"{self._place}{key}")


def json_kind(value: object) -> str:
    """What JSON calls a value, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    for kind, name in ((str, "a string"), (int, "a whole number"), (float, "a number"), (list, "a list")):
        if isinstance(value, kind):
            return name
    return "an object"


def read_object(source: ByteSource, faults: FaultLog) -> tuple[dict[str, Any], bool]:
    """The JSON object a file holds, and whether the file is whole; `{}` (with a fault) where it holds anything else."""
    document = read_json(source, want_object=True)
    faults.extend(document.faults)
    return document.mapping, document.complete
