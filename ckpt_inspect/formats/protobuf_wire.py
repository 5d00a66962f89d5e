"""The wire format of protocol buffers, as far as needed to step over fields without knowing the message.

https://protobuf.dev/programming-guides/encoding/: a tag (field number, wire type) as a varint, then a varint (0), eight
bytes (1), a length and that many bytes (2) or four bytes (5); groups (3, 4) are not used by any format read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are not a message; `offset` says where that shows."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class WireField(NamedTuple):
    """One field: its number, wire type, the varint's value (0 for others), and where its bytes lie."""

    number: int
    kind: int
    value: int
    start: int
    end: int


def varint(data: bytes, offset: int) -> tuple[int, int]:
    """An unsigned varint at `offset` and the offset after it.

    Raises:
        WireError: cut, or longer than ten bytes.
    """
    value = shift = 0
    for position in range(offset, min(offset + 10, len(data))):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + 1
        shift += 7
    raise WireError("a number without an end", offset)


def fields(data: bytes, start: int = 0, end: int | None = None) -> Iterator[WireField]:
    """The fields of the message in `data[start:end]`, in order.

    Raises:
        WireError: not a message, or cut.
    """
    stop = len(data) if end is None else end
    while start < stop:
        tag, after = varint(data, start)
        number, kind = tag >> 3, tag & 7
        value = 0
        if number == 0:
            raise WireError("field number 0", start)
        if kind == VARINT:
            value, finish = varint(data, after)
        elif kind == BYTES:
            length, after = varint(data, after)
            finish = after + length
        elif kind in (FIXED64, FIXED32):
            finish = after + (8 if kind == FIXED64 else 4)
        else:
            raise WireError(f"wire type {kind}", start)
        if finish > stop:
            raise WireError("a field longer than the message", start)
        yield WireField(number, kind, value, after, finish)
        start = finish
