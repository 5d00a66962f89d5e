"""The text values of a GGUF file's metadata (ggml ``docs/gguf.md``, versions 1 to 3), read with limits."""

from __future__ import annotations

import struct

from ckpt_inspect.storage import ByteSource

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_WINDOW = 16 << 20
_MOST = 100_000
_LONGEST = 4 << 20


def read_gguf_strings(source: ByteSource) -> tuple[list[tuple[str, str]], bool]:
    """`(key, text)` of every text value that is not in an array, and whether all metadata could be walked."""
    found: list[tuple[str, str]] = []
    data = source.read_at(0, _WINDOW)
    try:
        order = "<" if data[4:6] != b"\x00\x00" else ">"
        (version,) = struct.unpack_from(order + "I", data, 4)
        count_format = order + ("I" if version == 1 else "Q")
        width = struct.calcsize(count_format)
        (pairs,) = struct.unpack_from(count_format, data, 8 + width)
        position = 8 + 2 * width
        for _ in range(min(pairs, _MOST)):
            key, position = _string(data, position, count_format)
            (kind,) = struct.unpack_from(order + "I", data, position)
            position += 4
            if kind == _STRING:
                value, position = _string(data, position, count_format)
                found.append((key, value))
            else:
                position = _skip(data, position, kind, order, count_format)
    except (struct.error, ValueError):
        return found, False
    return found, pairs <= _MOST


def _string(data: bytes, position: int, count_format: str) -> tuple[str, int]:
    (length,) = struct.unpack_from(count_format, data, position)
    position += struct.calcsize(count_format)
    if length > _LONGEST or position + length > len(data):
        raise ValueError
    return data[position : position + length].decode("utf-8", "replace"), position + length


def _skip(data: bytes, position: int, kind: int, order: str, count_format: str) -> int:
    inner: int
    count: int
    length: int
    if kind in _SIZES:
        return position + _SIZES[kind]
    if kind != _ARRAY:
        raise ValueError
    (inner,) = struct.unpack_from(order + "I", data, position)
    (count,) = struct.unpack_from(count_format, data, position + 4)
    position += 4 + struct.calcsize(count_format)
    if inner in _SIZES:
        return position + count * _SIZES[inner]
    if inner != _STRING or count > 10 * _MOST:
        raise ValueError
    for _ in range(count):
        (length,) = struct.unpack_from(count_format, data, position)
        position += struct.calcsize(count_format) + length
        if position > len(data):
            raise ValueError
    return position
