"""Leaves one long list of strings out of a JSON text, so that what nobody asks for is not decoded.

A ``tokenizer.json`` is half merges (150,000 pairs); its other half answers every question. The list is left out only
when its bytes have exactly the structure of a list of strings or of pairs of strings; anything else is decoded whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b'[]{}",:')
_STRING = re.compile(rb'"[^"]*"?')
_CONTROL = bytes(byte for byte in range(32) if byte not in b"\t\n\r")
_LIST = re.compile(rb"\s*:\s*\[")


class Cut(NamedTuple):
    """The text with ``null`` in the list's place, and how many elements the list has."""

    data: bytes
    elements: int


def without_last_list(data: bytes, key: str) -> Cut | None:
    """`data` without the list at `key`, if that is the last list of the text; None where it must be decoded whole.

    The caller has to see that the decoded value is null where it expects the list: the key may also stand elsewhere.
    """
    found = list(_lists_at(data, b'"' + key.encode() + b'"'))
    if len(found) != 1:
        return None
    start, end = found[0], data.rfind(b"]") + 1
    if end <= start:
        return None
    elements = _strings_or_pairs(data[start:end])
    return None if elements is None else Cut(data[:start] + b"null" + data[end:], elements)


def _lists_at(data: bytes, name: bytes) -> Iterator[int]:
    """Where a list opens after `name` standing as a key."""
    place = data.find(name)
    while place >= 0:
        if data[place - 1 : place] in (b"{", b",", b" ", b"\t", b"\n", b"\r"):
            match = _LIST.match(data, place + len(name))
            if match:
                yield match.end() - 1
        place = data.find(name, place + 1)


def _strings_or_pairs(text: bytes) -> int | None:
    """How many elements a list of strings, or of pairs of strings, has; None for any other text."""
    if len(text.translate(None, _CONTROL)) != len(text):
        return None
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if text.count(b'"') % 2:
        return None
    kept = text.translate(None, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in kept:
        kept = _STRING.sub(b"", kept)
    if kept == b"[" + b"," * (len(kept) - 2) + b"]":
        elements = len(kept) - 1
        return elements if elements == text.count(b'"') // 2 else None
    elements, rest = divmod(len(kept) - 1, 4)
    if rest == 0 and kept == b"[" + b",".join([b"[,]"] * elements) + b"]":
        return elements if elements * 2 == text.count(b'"') // 2 else None
    return None
