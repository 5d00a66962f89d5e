"""The shape of JSON text before anything is built from it: depth, number of values, and where a broken text can be cut.

Works on bytes with C-speed passes (`translate`, `replace`, `accumulate`), because the stdlib decoder recurses per level
(`RecursionError` is not a `ValueError`) and builds objects many times the size of their text. Grammar: RFC 8259.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from itertools import accumulate, islice

_STRUCTURE = b'[]{}",'
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in _STRUCTURE)
_STRING = re.compile(rb'"[^"]*"?')
_STEP = bytes(1 if byte in b"[{" else 255 if byte in b"]}" else 0 for byte in range(256))
_CHUNK = 1 << 20

# One match per bracket, and one to the last comma: strings and all else are skipped inside the matcher.
_NEXT_BRACKET = re.compile(r'(?:"(?:[^"\\]+|\\.)*+"|[^"\[\]{}]+)*+([\[\]{}])', re.DOTALL)
_LAST_COMMA = re.compile(r'(?:(?:"(?:[^"\\]+|\\.)*+"|[^",]+)*+,)*+', re.DOTALL)
_UNFINISHED_NUMBER = re.compile(r"(?:^|[\s:])-?[0-9][-+.0-9eE]*\Z")
_SURROGATE = re.compile(rb"(\\+)u([dD][89a-fA-F][0-9a-fA-F]{2})")
_MOST_ESCAPES = 1 << 20
_MOST_ALONE = 1000  # nobody reads more
_NUMBER_SHAPE = bytes(48 if byte in b"0123456789" else 101 if byte in b"eE" else 32 for byte in range(256))
_CLOSER = {"[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Shape:
    """`depth` of nesting (never counted beyond the limit plus one), containers opened, commas and strings."""

    depth: int
    containers: int
    commas: int
    strings: int

    def memory(self, size: int) -> int:
        """Rough upper estimate, in bytes, of the Python objects that decoding `size` bytes of this shape makes.

        An object with one member costs 184 bytes in CPython 3.11; a float or short string with its slot 32 to 60,
        a member on its way into an object 64 more.
        """
        return size + 200 * self.containers + max(64 * self.commas, 30 * self.strings)


def measure(data: bytes, max_depth: int, max_memory: int) -> Shape:
    """The shape of JSON `data` in an ASCII-compatible encoding, without decoding it. Linear, no recursion.

    The depth is 0 where the rest is already more than `max_memory` bytes of objects.
    """
    size = len(data)
    if b"\\" in data:  # an odd backslash before a quote escapes it; taking pairs from the left leaves the odd one
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = data.count(b'"') // 2
    shape = Shape(0, 0, 0, strings)
    if shape.memory(size) > max_memory:
        return shape
    # Two neighbouring quotes can go: every byte after them stays inside or outside a string as it was.
    kept = data.translate(None, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in kept:
        kept = _STRING.sub(b"", kept)
    brackets = kept.replace(b",", b"")
    shape = Shape(0, brackets.count(b"[") + brackets.count(b"{"), len(kept) - len(brackets), strings)
    level = deepest = 0
    for start in range(0, len(brackets), _CHUNK):
        levels = list(accumulate(array("b", brackets[start : start + _CHUNK].translate(_STEP)), initial=level))
        deepest, level = max(deepest, max(levels)), levels[-1]
        if deepest > max_depth:
            return Shape(max_depth + 1, shape.containers, shape.commas, strings)
        if level < 0 or shape.memory(size) > max_memory:
            break
    return Shape(deepest, shape.containers, shape.commas, strings)


def closable_prefixes(text: str, end: int) -> tuple[str, ...]:
    """Whole beginnings of `text`, longest first, with the closing brackets they need; () where nothing can be kept.

    `end` is where a decoder stopped: what precedes it is the beginning of a valid document. A list keeps only its
    whole elements (half a log entry would be a wrong entry). An object keeps its finished members, and a list or
    object among its members that was not finished is closed the same way.
    """
    opened: list[tuple[str, int]] = []  # bracket and its position
    position = 0
    while match := _NEXT_BRACKET.match(text, position, end):
        position = match.end()
        if match[1] in "[{":
            opened.append((match[1], position - 1))
        elif opened:
            opened.pop()
    if not opened:
        return ()
    for level, (bracket, _) in enumerate(opened[:-1], start=1):
        if bracket == "[":  # all below it is one unfinished element
            return (_close(text[: opened[level][1]], opened[:level]),)
    comma = _LAST_COMMA.match(text, position, end)
    element = comma.end() if comma else position
    without = _close(text[:element], opened)
    last = text[element:end].rstrip()
    if not last or (end >= len(text) and _UNFINISHED_NUMBER.search(last)):
        return (without,)
    return (_close(text[:end], opened), without)


def unusual_numbers(data: bytes) -> tuple[bool, bool]:
    """Whether some integer may not fit 64 bits, and whether some number may overflow a float, 1.8e308.

    True may be a false alarm (digits in a string), False is certain: decoding without a look at each number is faster.
    """
    shape = data.translate(_NUMBER_SHAPE, b"+")
    return b"0" * 19 in shape, b"e000" in shape or b"0" * 309 in shape


def lone_surrogates(data: bytes) -> list[int]:
    """Offsets of escaped halves of a surrogate pair that stand alone: Python keeps them, strict readers refuse.

    The first 1,000, among the first million escapes of surrogates.
    """
    alone: list[int] = []
    if b"\\ud" not in data and b"\\uD" not in data:
        return alone
    high_end = -1
    for match in islice(_SURROGATE.finditer(data), _MOST_ESCAPES):
        if len(match[1]) % 2 == 0:  # the backslash before the u is itself escaped
            continue
        if len(alone) >= _MOST_ALONE:
            return alone
        low = match[2][1] in b"cdefCDEF"
        if low and high_end == match.start():
            high_end = -1
            continue
        if high_end >= 0:
            alone.append(high_end - 6)
        high_end = -1 if low else match.end()
        if low:
            alone.append(match.end() - 6)
    if high_end >= 0:
        alone.append(high_end - 6)
    return alone


def _close(text: str, opened: list[tuple[str, int]]) -> str:
    text = text.rstrip().removesuffix(",")
    return text + "".join(_CLOSER[bracket] for bracket, _ in reversed(opened))
