"""The stdlib's JSON decoder with hooks that see what it would not tell: keys given twice, NaN, numbers out of range."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ckpt_inspect.formats.fault_log import FaultLog

_INT_DIGITS = 19  # of the largest 64-bit integer
_LARGEST_DIGITS = 4000  # `int` itself refuses 4,301 (sys.int_info.default_max_str_digits)
_ENOUGH = 1000  # of one kind in one document; nobody reads more
_NONFINITE = re.compile(rb"(?<![\w\"])(?:NaN|-?Infinity)(?!\w)")


class WatchedDecoder:
    """Decodes with the stdlib. Hooks of numbers cost a Python call each: leave them out where none can matter."""

    def __init__(self, *, integers: bool = True, floats: bool = True) -> None:
        self._nonfinite = 0
        self._overflow = 0
        self._duplicates: list[str] = []
        self._huge: list[str] = []
        options: dict[str, Any] = {"object_pairs_hook": self._object, "parse_constant": self._constant}
        if integers:
            options["parse_int"] = self._int
        if floats:
            options["parse_float"] = self._float
        self._strict = json.JSONDecoder(**options)
        self._lenient = json.JSONDecoder(strict=False, **options)

    def decode(self, text: str) -> Any:
        """The one value of `text`.

        Raises:
            json.JSONDecodeError: it is not JSON, or not one document.
        """
        return self._strict.decode(text)

    def first(self, text: str, *, control_characters: bool = False) -> tuple[Any, int]:
        """The document at the beginning of `text` and where it ends; forgets what was seen before.

        Raises:
            json.JSONDecodeError: it is not JSON; `pos` is where it stops being the beginning of JSON.
        """
        self._nonfinite = self._overflow = 0
        self._duplicates.clear()
        self._huge.clear()
        decoder = self._lenient if control_characters else self._strict
        return decoder.raw_decode(text, len(text) - len(text.lstrip(" \t\r\n")))

    def report(self, log: FaultLog, data: bytes | None = None) -> None:
        """State what was seen; with `data` also where the first NaN stands."""
        if self._nonfinite:
            match = _NONFINITE.search(data) if data is not None else None
            what = f"{self._nonfinite:,} of NaN, Infinity, -Infinity, which are not JSON"
            log.add("json-nan-token", what, offset=match.start() if match else None)
        if self._overflow:
            log.add("json-float-overflow", f"{self._overflow:,} numbers too large for a float became infinite")
        for message in self._huge:
            log.add("json-huge-int", message)
        for name in self._duplicates:
            log.add("json-duplicate-key", "the key stands twice in one object; the last one counts", place=name)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen and len(self._duplicates) < _ENOUGH:
                    self._duplicates.append(name)
                seen.add(name)
        return value

    def _constant(self, token: str) -> float:
        self._nonfinite += 1
        return math.nan if token == "NaN" else math.inf if token == "Infinity" else -math.inf  # noqa: S105

    def _float(self, token: str) -> float:
        value = float(token)
        if value in (math.inf, -math.inf):
            self._overflow += 1
        return value

    def _int(self, token: str) -> int | float:
        if len(token) <= _INT_DIGITS:
            return int(token)
        digits = len(token.lstrip("-"))
        if digits > _LARGEST_DIGITS:
            self._note_huge(f"an integer of {digits:,} digits, read as infinity")
            return -math.inf if token[0] == "-" else math.inf
        value = int(token)
        if not -(1 << 63) <= value < 1 << 64:
            self._note_huge(f"an integer of {digits:,} digits does not fit 64 bits")
        return value

    def _note_huge(self, message: str) -> None:
        if len(self._huge) < _ENOUGH:
            self._huge.append(message)
