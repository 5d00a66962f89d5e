"""The text arguments of protocol 0: integers, floats and quoted strings as the unpicklers in use read them.

Three readers disagree on odd spellings: CPython's C unpickler (``strtol`` and ``PyLong_FromString`` with base 0, stopping
at a NUL), its Python twin (``int(data, 0)``) and ``pickletools.genops`` (base 10, ASCII). Everything that any of them
accepts is accepted here, with the C unpickler's value, and said to differ: cpython gh-126992 is how payloads hide.
"""

from __future__ import annotations

import re

_DECIMAL = re.compile(rb"-?(?:0|[1-9][0-9]*)\Z")
_INDEX = re.compile(rb"[0-9]+\Z")
_FLOAT = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z|[+-]?(?:inf|nan)\Z")
_ESCAPE = re.compile(rb"\\(\n|[\\'\"abfnrtv]|[0-7]{1,3}|x[0-9a-fA-F]{2}|x|$)", re.DOTALL)
_SIMPLE = {
    b"\n": b"",
    b"\\": b"\\",
    b"'": b"'",
    b'"': b'"',
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
}
_WHITESPACE = b" \t\n\r\x0b\x0c"


def read_integer(line: bytes) -> tuple[int | bool | None, bool]:
    """The argument of INT: its value (None: no reader accepts it) and whether readers differ.

    Two characters that mean 0 or 1 are a bool (``load_int`` in ``_pickle.c``); writers use `00` and `01`.
    """
    if line in (b"00", b"01"):
        return line == b"01", False
    if _DECIMAL.match(line) and line != b"-0":
        value = _number(line, 10)
        return value, value is None
    value = _lenient(line)
    if value in (0, 1) and len(line) == 2:
        return bool(value), True
    return value, True


def read_long(line: bytes) -> tuple[int | None, bool]:
    """The argument of LONG, with or without its `L`: its value (None: no reader accepts it), whether readers differ."""
    if line.endswith(b"L"):
        line = line[:-1]
    if _DECIMAL.match(line):
        value = _number(line, 10)
        return value, value is None
    return _lenient(line), True


def read_index(line: bytes) -> tuple[int | None, bool]:
    """The argument of GET and PUT, base 10 everywhere: its value and whether readers differ."""
    if _INDEX.match(line) and len(line) < 20:
        return int(line), False
    return _number(line.partition(b"\0")[0].strip(_WHITESPACE), 10), True


def read_float(line: bytes) -> tuple[float | None, bool]:
    """The argument of FLOAT: its value and whether readers differ (`float()` takes spaces and `_`, C takes a NUL)."""
    exact = _FLOAT.match(line) is not None
    try:
        return float(line if exact else line.partition(b"\0")[0]), not exact
    except ValueError:
        return None, True


def read_quoted(line: bytes) -> bytes | None:
    """The argument of STRING without its quotes and escapes (``PyBytes_DecodeEscape``); None where it is refused."""
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        return None
    body = line[1:-1]
    if b"\\" not in body:
        return body
    broken = False

    def unescape(match: re.Match[bytes]) -> bytes:
        nonlocal broken
        what = match.group(1)
        if what in _SIMPLE:
            return _SIMPLE[what]
        if what in (b"x", b""):
            broken = True
            return b""
        return bytes([int(what[1:], 16) if what[:1] == b"x" else int(what, 8) & 0xFF])

    plain = _ESCAPE.sub(unescape, body)
    return None if broken else plain


def _lenient(line: bytes) -> int | None:
    text = line.partition(b"\0")[0].strip(_WHITESPACE)
    value = _number(text, 0)
    if value is None and text.lstrip(b"+-").startswith(b"0"):
        value = _number(text, 8)  # strtol reads 010 as octal, int(..., 0) refuses it
    return _number(text, 10) if value is None else value


def _number(text: bytes, base: int) -> int | None:
    try:
        return int(text, base)
    except ValueError:
        return None
