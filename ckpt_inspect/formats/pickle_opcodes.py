"""The 68 opcodes of pickle protocols 0 to 5: names and argument shapes (CPython ``Lib/pickletools.py``, 3.11), and a
decoder that follows them without a stack.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from ckpt_inspect.storage import ByteSource

Argument = Literal["", "1", "2", "4", "8", "line", "lines", "1n", "4n", "4sn", "8n"]
"""Bytes of a fixed argument; one or two lines; or the size of a count that says how many bytes follow (`s`: signed)."""

OPCODES: Final[dict[int, tuple[str, Argument]]] = {
    0x28: ("MARK", ""),
    0x2E: ("STOP", ""),
    0x30: ("POP", ""),
    0x31: ("POP_MARK", ""),
    0x32: ("DUP", ""),
    0x46: ("FLOAT", "line"),
    0x49: ("INT", "line"),
    0x4A: ("BININT", "4"),
    0x4B: ("BININT1", "1"),
    0x4C: ("LONG", "line"),
    0x4D: ("BININT2", "2"),
    0x4E: ("NONE", ""),
    0x50: ("PERSID", "line"),
    0x51: ("BINPERSID", ""),
    0x52: ("REDUCE", ""),
    0x53: ("STRING", "line"),
    0x54: ("BINSTRING", "4sn"),
    0x55: ("SHORT_BINSTRING", "1n"),
    0x56: ("UNICODE", "line"),
    0x58: ("BINUNICODE", "4n"),
    0x61: ("APPEND", ""),
    0x62: ("BUILD", ""),
    0x63: ("GLOBAL", "lines"),
    0x64: ("DICT", ""),
    0x7D: ("EMPTY_DICT", ""),
    0x65: ("APPENDS", ""),
    0x67: ("GET", "line"),
    0x68: ("BINGET", "1"),
    0x69: ("INST", "lines"),
    0x6A: ("LONG_BINGET", "4"),
    0x6C: ("LIST", ""),
    0x5D: ("EMPTY_LIST", ""),
    0x6F: ("OBJ", ""),
    0x70: ("PUT", "line"),
    0x71: ("BINPUT", "1"),
    0x72: ("LONG_BINPUT", "4"),
    0x73: ("SETITEM", ""),
    0x74: ("TUPLE", ""),
    0x29: ("EMPTY_TUPLE", ""),
    0x75: ("SETITEMS", ""),
    0x47: ("BINFLOAT", "8"),
    0x80: ("PROTO", "1"),
    0x81: ("NEWOBJ", ""),
    0x82: ("EXT1", "1"),
    0x83: ("EXT2", "2"),
    0x84: ("EXT4", "4"),
    0x85: ("TUPLE1", ""),
    0x86: ("TUPLE2", ""),
    0x87: ("TUPLE3", ""),
    0x88: ("NEWTRUE", ""),
    0x89: ("NEWFALSE", ""),
    0x8A: ("LONG1", "1n"),
    0x8B: ("LONG4", "4sn"),
    0x42: ("BINBYTES", "4n"),
    0x43: ("SHORT_BINBYTES", "1n"),
    0x8C: ("SHORT_BINUNICODE", "1n"),
    0x8D: ("BINUNICODE8", "8n"),
    0x8E: ("BINBYTES8", "8n"),
    0x8F: ("EMPTY_SET", ""),
    0x90: ("ADDITEMS", ""),
    0x91: ("FROZENSET", ""),
    0x92: ("NEWOBJ_EX", ""),
    0x93: ("STACK_GLOBAL", ""),
    0x94: ("MEMOIZE", ""),
    0x95: ("FRAME", "8"),
    0x96: ("BYTEARRAY8", "8n"),
    0x97: ("NEXT_BUFFER", ""),
    0x98: ("READONLY_BUFFER", ""),
}

NAMES: Final[dict[int, str]] = {code: name for code, (name, _) in OPCODES.items()}
FIXED: Final[dict[int, int]] = {code: int(shape) for code, (_, shape) in OPCODES.items() if shape.isdigit()}

_COUNTED = {"1n": 1, "4n": 4, "4sn": 4, "8n": 8}
_WHOLE_READS = frozenset({"BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BYTEARRAY8"})
_WINDOW = 1 << 16


class _Reader:
    """Reads a stream as the C unpickler reads a file object: a read that crosses the end of a frame drops its rest."""

    def __init__(self, source: ByteSource, start: int, end: int) -> None:
        self.source = source
        self.at = start
        self.end = min(end, source.size)
        self.frame_end: int | None = None
        self._data = b""
        self._base = start

    def read(self, length: int, *, drops: bool = True) -> bytes:
        """`length` bytes, or what is left of them."""
        frame_end = self.frame_end
        if drops and frame_end is not None:
            if self.at < frame_end < self.at + length:
                self.at = frame_end
            if self.at >= frame_end:
                self.frame_end = None
        length = max(0, min(length, self.end - self.at))
        begin = self.at - self._base
        if begin < 0 or begin + length > len(self._data):
            self._base, begin = self.at, 0
            self._data = self.source.read_at(self.at, max(length, min(_WINDOW, self.end - self.at)))
        self.at += length
        return self._data[begin : begin + length]

    def line(self, limit: int, *, drops: bool = True) -> bytes:
        """A line with its newline, or what is left."""
        start = self.at
        if drops and self.frame_end is not None and start < self.frame_end:
            inside = self.source.read_at(start, min(self.frame_end - start, limit))
            if b"\n" not in inside:
                self.at = self.frame_end
                self.frame_end = None
        raw = self.source.read_at(self.at, min(limit, self.end - self.at))
        cut = raw.find(b"\n") + 1
        line = raw[:cut] if cut else raw
        self.at += len(line)
        return line


def decode(
    source: ByteSource, start: int = 0, end: int | None = None, *, drop: str = "", limit: int = 20_000_000
) -> Iterator[tuple[int, int, bytes]]:
    """Each opcode of one pickle as `(offset, code, bytes)`, `bytes` being the opcode with its argument.

    Stops after STOP, at an unknown opcode (which is yielded) and where the stream ends inside an argument. `drop` reads
    like CPython below 3.13.15 and 3.14.7 from a file object: a read across the end of a frame starts behind it
    (gh-154848). "all" applies that to every read, "text" spares the byte constants, which 3.8 and later read piecewise.
    """
    reader = _Reader(source, start, source.size if end is None else end)
    drops = bool(drop)
    for _ in range(limit):
        first = reader.read(1, drops=drops)
        if not first:
            return
        offset = reader.at - 1
        code = first[0]
        if code not in OPCODES:
            yield offset, code, first
            return
        name, shape = OPCODES[code]
        whole = _argument(reader, name, shape, drop)
        if whole is None:
            return
        if code == 0x95:
            length = int.from_bytes(whole, "little")
            if drop:
                _enter_frame(reader, length)
        yield offset, code, first + whole
        if code == 0x2E:
            return


def _argument(reader: _Reader, name: str, shape: Argument, drop: str) -> bytes | None:
    """The bytes of an argument; None where the stream ends inside it."""
    drops = bool(drop)
    if not shape:
        return b""
    if shape == "line" or shape == "lines":
        lines = [reader.line(1 << 20, drops=drops) for _ in range(1 if shape == "line" else 2)]
        return b"".join(lines) if all(line.endswith(b"\n") for line in lines) else None
    if shape in _COUNTED:
        size = _COUNTED[shape]
        head = reader.read(size, drops=drops)
        if len(head) < size:
            return None
        count = int.from_bytes(head, "little", signed=shape == "4sn")
        if count < 0 or count > reader.end - reader.at:
            return None
        return head + reader.read(count, drops=drops and (drop == "all" or name not in _WHOLE_READS))
    size = int(shape)
    fixed = reader.read(size, drops=drops)
    return fixed if len(fixed) == size else None


def _enter_frame(reader: _Reader, length: int) -> None:
    inner = reader.at + length
    if reader.frame_end is not None and inner > reader.frame_end:
        reader.at = reader.frame_end  # prefetching the inner frame is itself a read across the end of the outer one
        inner = reader.at + length
        reader.frame_end = None
    if reader.frame_end is None:
        reader.frame_end = inner


_AT_ONCE = 64 << 20


def first_outside(source: ByteSource, start: int, end: int, accepted: frozenset[int]) -> tuple[int, int] | None:
    """`(offset, code)` of the first opcode of a pickle that is not `accepted`; None when there is none before its end."""
    if end - start > _AT_ONCE:
        for offset, code, _ in decode(source, start, end):
            if code not in accepted:
                return offset, code
        return None
    data = source.read_at(start, end - start)
    size = len(data)
    at = 0
    while at < size:
        code = data[at]
        if code not in accepted:
            return start + at, code
        shape = OPCODES[code][1]
        at += 1
        if not shape:
            if code == 0x2E:
                return None
        elif shape in _COUNTED:
            width = _COUNTED[shape]
            at += width + int.from_bytes(data[at : at + width], "little")
        elif shape == "line" or shape == "lines":
            for _ in range(1 if shape == "line" else 2):
                at = data.find(b"\n", at) + 1
                if not at:
                    return None
        else:
            at += FIXED[code]
    return None
