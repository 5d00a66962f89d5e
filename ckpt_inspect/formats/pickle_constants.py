"""The rare opcodes that push a constant or touch the memo, one function each (see `pickle_rare` for the signature)."""

from __future__ import annotations

from collections.abc import Callable

from ckpt_inspect.formats.pickle_nodes import Node, Opaque, PersistentId, SetNode
from ckpt_inspect.formats.pickle_state import Machine, StreamEndError
from ckpt_inspect.formats.pickle_text import read_float, read_index, read_integer, read_long, read_quoted
from ckpt_inspect.formats.pickle_unpack import U4, U8

Rare = Callable[[Machine, list[Node], int, int], int]

_MAX_PROTOCOL = 5


def note_difference(m: Machine, what: str, here: int) -> None:
    """Say that unpicklers read `what` in different ways."""
    m.fault("pickle-parser-difference", f"unpicklers disagree about {what}", here)


def _int(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    line, pos = m.line(pos)
    stack.append(_integer(m, line, read_integer, "an INT", here))
    return pos


def _long(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    line, pos = m.line(pos)
    stack.append(_integer(m, line, read_long, "a LONG", here))
    return pos


def _integer(
    m: Machine, line: bytes | None, read: Callable[[bytes], tuple[int | bool | None, bool]], what: str, here: int
) -> Node:
    if line is None or len(line) > m.limits.integer:
        m.fault("pickle-integer-size", f"{what} of more than {m.limits.integer} digits", here)
        return Opaque("integer too long to read", here)
    value, differs = read(line)
    if value is None:
        m.fault("pickle-text", f"{what} that is no number", here)
        return Opaque("not a number", here)
    if differs:
        note_difference(m, f"the spelling of {what}", here)
    return value


def _float(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    line, pos = m.line(pos)
    value, differs = (None, True) if line is None or len(line) > m.limits.integer else read_float(line)
    if value is None:
        m.fault("pickle-text", "a FLOAT that is no number", here)
        stack.append(Opaque("not a number", here))
        return pos
    if differs:
        note_difference(m, "the spelling of a FLOAT", here)
    stack.append(value)
    return pos


def _string(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    line, pos = m.line(pos)
    value = None if line is None else read_quoted(line)
    if value is None:
        m.fault("pickle-text", "a STRING without matching quotes, with a broken escape or too long", here)
        stack.append(Opaque("not a quoted string", here))
        return pos
    if not value.isascii():
        m.fault("pickle-string-encoding", "a STRING beyond ASCII: readable only with another encoding", here)
    m.made += 1
    m.note_binary(here + 1, value)
    stack.append(value.decode("latin-1"))
    return pos


def _unicode(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    line, pos = m.line(pos)
    m.made += 1
    if line is None:
        m.fault("pickle-limit", "a UNICODE line longer than the limit was skipped", here)
        stack.append(Opaque("text too long to keep", here))
    else:
        stack.append(m.decoded(line, "raw-unicode-escape", here))
    return pos


def _binstring(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    raw, pos = m.take(pos, 4)
    length = int.from_bytes(raw, "little", signed=True)
    if length < 0:
        m.fault("pickle-stack", "a BINSTRING of negative length", here)
        raise StreamEndError
    value, pos = m.text(pos, length, "latin-1", here)
    m.made += 1
    stack.append(value)
    return pos


def _short_binstring(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    raw, pos = m.take(pos, 1)
    value, pos = m.text(pos, raw[0], "latin-1", here)
    m.made += 1
    stack.append(value)
    return pos


def _counted_text(width: int) -> Rare:
    def run(m: Machine, stack: list[Node], pos: int, here: int) -> int:
        raw, pos = m.take(pos, width)
        value, pos = m.text(pos, int.from_bytes(raw, "little"), "utf-8", here)
        m.made += 1
        stack.append(value)
        return pos

    return run


def _counted_bytes(width: int) -> Rare:
    def run(m: Machine, stack: list[Node], pos: int, here: int) -> int:
        raw, pos = m.take(pos, width)
        value, pos = m.binary(pos, int.from_bytes(raw, "little"))
        m.made += 1
        stack.append(value)
        return pos

    return run


def _counted_integer(width: int) -> Rare:
    def run(m: Machine, stack: list[Node], pos: int, here: int) -> int:
        raw, pos = m.take(pos, width)
        length = int.from_bytes(raw, "little", signed=width == 4)
        if length < 0:
            m.fault("pickle-stack", "a LONG4 of negative length", here)
            raise StreamEndError
        if length > m.limits.integer:
            pos = m.skip(pos, length)
            m.fault("pickle-integer-size", f"an integer of {length} bytes", here)
            stack.append(Opaque(f"integer of {length} bytes", here))
            return pos
        raw, pos = m.take(pos, length)
        stack.append(int.from_bytes(raw, "little", signed=True))
        return pos

    return run


def _get(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    line, pos = m.line(pos)
    index = _index(m, line, here)
    stack.append(Opaque("missing memo entry", here) if index is None else m.get(index, here))
    return pos


def _put(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    line, pos = m.line(pos)
    index = _index(m, line, here)
    value = stack[-1]
    if index is not None:
        m.put(index, value, here)
    return pos


def _index(m: Machine, line: bytes | None, here: int) -> int | None:
    index, differs = (None, True) if line is None or len(line) > 64 else read_index(line)
    if index is None or index < 0:
        m.fault("pickle-memo", "a memo index that is no number", here)
        return None
    if differs:
        note_difference(m, "the spelling of a memo index", here)
    return index


def _persid(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    line, pos = m.line(pos)
    pid = Opaque("identifier too long", here) if line is None else line.decode("latin-1")
    node = PersistentId(pid, here)
    m.events.append(node)
    stack.append(node)
    return pos


def _proto(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    raw, pos = m.take(pos, 1)
    protocol = raw[0]
    if here != m.start:
        m.fault("pickle-second-protocol", f"a PROTO {protocol} opcode inside the stream", here)
    if protocol > _MAX_PROTOCOL:
        m.fault("pickle-protocol", f"protocol {protocol} does not exist", here)
    m.protocol = protocol
    return pos


def _frame(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    raw, pos = m.take(pos, 8)
    (length,) = U8(raw)
    inner = m.base + pos + length
    if length < 4:
        m.fault("pickle-frame-size", f"a frame of {length} bytes, which no writer makes", here)
    if m.frame_end is not None and m.base + pos < m.frame_end:
        m.violated = True
        m.fault("pickle-frame", "a frame begins inside another", here)
    if inner > m.end:
        m.fault("pickle-truncated", f"a frame of {length} bytes reaches beyond the end", here)
        return pos
    m.frame_end = inner if m.frame_end is None or m.frame_end <= m.base + pos else max(inner, m.frame_end)
    return pos


def _readonly_buffer(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    stack[-1]  # an empty stack is an error
    return pos


def _empty_set(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    m.made += 2
    stack.append(SetNode())
    return pos


def _dup(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    stack.append(stack[-1])
    return pos


def _put_memo(index_of: Callable[[bytes, int], int], width: int) -> Rare:
    def run(m: Machine, stack: list[Node], pos: int, here: int) -> int:
        raw, pos = m.take(pos, width)
        m.put(index_of(raw, 0), stack[-1], here)
        return pos

    return run


CONSTANTS: dict[int, Rare] = {
    0x32: _dup,
    0x42: _counted_bytes(4),
    0x43: _counted_bytes(1),
    0x46: _float,
    0x49: _int,
    0x4C: _long,
    0x50: _persid,
    0x53: _string,
    0x54: _binstring,
    0x55: _short_binstring,
    0x56: _unicode,
    0x67: _get,
    0x70: _put,
    0x71: _put_memo(lambda raw, at: raw[at], 1),
    0x72: _put_memo(lambda raw, at: int(U4(raw, at)[0]), 4),
    0x80: _proto,
    0x8A: _counted_integer(1),
    0x8B: _counted_integer(4),
    0x58: _counted_text(4),
    0x8C: _counted_text(1),
    0x8D: _counted_text(8),
    0x8E: _counted_bytes(8),
    0x8F: _empty_set,
    0x95: _frame,
    0x96: _counted_bytes(8),
    0x98: _readonly_buffer,
}
