"""An interpreter of pickle programs, protocols 0 to 5, that executes nothing: a value tree, effects and faults come out.

The format is described by CPython's ``Lib/pickletools.py``; where real unpicklers disagree, ``Modules/_pickle.c`` decides
and the difference is a fault. Nothing a file names is imported, called, hashed or compared. A stream is interpreted as
far as any real unpickler could get, and beyond what would make it raise, so that a broken stream still shows what it
would have done before it broke.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from struct import error as struct_error

from ckpt_inspect.formats.collector import collector_paused
from ckpt_inspect.formats.pickle_measure import measure
from ckpt_inspect.formats.pickle_nodes import (
    CONTAINERS,
    Blob,
    Build,
    Call,
    Global,
    MethodCall,
    Node,
    Opaque,
    Pairs,
    PersistentId,
    SetNode,
    as_mapping,
    entries,
    get_path,
    instance_state,
    walk,
)
from ckpt_inspect.formats.pickle_opcodes import FIXED, NAMES, decode
from ckpt_inspect.formats.pickle_program import DEFAULT, Coverage, Effect, PickleLimits, PickleProgram
from ckpt_inspect.formats.pickle_rare import MARKED, RARE, inst
from ckpt_inspect.formats.pickle_state import BROKEN, LimitError, Machine, StreamEndError
from ckpt_inspect.formats.pickle_unpack import F8, I4, U2, U4
from ckpt_inspect.storage import ByteSource, BytesSource

__all__ = [
    "DEFAULT",
    "Blob",
    "Build",
    "Call",
    "Coverage",
    "Effect",
    "Global",
    "MethodCall",
    "Node",
    "Opaque",
    "Pairs",
    "PersistentId",
    "PickleLimits",
    "PickleProgram",
    "SetNode",
    "as_mapping",
    "entries",
    "get_path",
    "instance_state",
    "run_pickle",
    "walk",
]

_BATCH = 8192  # opcodes between two looks at the budgets
_SHORT = 4096  # bytes of a text constant that is kept without asking for room
_KEPT = CONTAINERS | {str}  # what is worth remembering when it is popped


def run_pickle(
    source: ByteSource, start: int = 0, end: int | None = None, limits: PickleLimits = DEFAULT
) -> PickleProgram:
    """Interpret the one pickle that begins at byte `start`; it ends with its STOP, at `end` or with the source.

    Never raises for content. A stream whose FRAME opcodes lie is read the three ways that existing unpicklers read it, and
    the effects of all of them are reported (cpython gh-154848).
    """
    stop = source.size if end is None else min(end, source.size)
    with collector_paused():
        program = _run(source, min(start, stop), stop, limits)
        if any(fault.kind == "pickle-frame" for fault in program.faults):
            _add_other_readings(program, source, stop, limits)
    return program


def _add_other_readings(program: PickleProgram, source: ByteSource, stop: int, limits: PickleLimits) -> None:
    known = {(event.module, event.name) for event in program.events if type(event) is Global}
    for drop in ("text", "all"):
        parts: list[bytes] = []
        starts: list[int] = []
        offsets: list[int] = []
        length = 0
        for offset, code, whole in decode(source, program.start, stop, drop=drop, limit=1_000_000):
            if code == 0x95:
                continue
            starts.append(length)
            offsets.append(offset)
            parts.append(whole)
            length += len(whole)
            if length > limits.text_total:
                break
        other = _run(BytesSource(b"".join(parts)), 0, length, limits)
        fresh = {
            (event.module, event.name)
            for event in other.events
            if type(event) is Global and (event.module, event.name) not in known
        }
        if not fresh:
            continue
        known |= fresh
        for event in other.events:
            event.offset = offsets[max(0, bisect_right(starts, event.offset) - 1)]
        program.events.extend(other.events)
        program.discarded.append(other.value)
        program.binaries.extend(found for found in other.binaries if type(found[1]) is bytes)


def _run(source: ByteSource, start: int, end: int, limits: PickleLimits) -> PickleProgram:
    m = Machine(source, start, end, limits)
    stack: list[Node] = []
    below: list[list[Node]] = []  # the stacks under the marks
    value: Node = Opaque("the stream ends before a value", start)
    stopped = False
    data, base, pos = m.data, m.base, 0
    size = len(data)
    guard = m.guard()
    memo, spare, events, thrown = m.memo, m.spare, m.events, m.thrown
    push = stack.append
    remember = memo.append
    effect = events.append
    u2, u4, i4, f8 = U2, U4, I4, F8
    rare, marked = RARE, MARKED
    deadline = None if limits.seconds is None else time.monotonic() + limits.seconds
    made = batches = tick = at = op = 0
    try:
        while True:
            for tick in range(_BATCH):  # noqa: B007  # counts the opcodes of the last batch
                at = pos
                if at >= guard:
                    pos = m.step(at)
                    at, data, base = pos, m.data, m.base
                    size = len(data)
                    guard = m.guard()
                op = data[at]
                pos = at + 1
                if op < 0x61:
                    if op == 0x58:  # BINUNICODE
                        (length,) = u4(data, pos)
                        stop = pos + 4 + length
                        if stop <= size and length <= _SHORT:
                            raw = data[pos + 4 : stop]
                            pos = stop
                            made += 1
                            try:
                                push(raw.decode())
                            except UnicodeDecodeError:
                                push(m.decoded(raw, "utf-8", base + at))
                            continue
                    elif op == 0x4B:  # BININT1
                        push(data[pos])
                        pos += 1
                        continue
                    elif op == 0x28:  # MARK
                        below.append(stack)
                        stack = []
                        push = stack.append
                        continue
                    elif op == 0x4A:  # BININT
                        push(i4(data, pos)[0])
                        pos += 4
                        made += 1
                        continue
                    elif op == 0x4D:  # BININT2
                        push(u2(data, pos)[0])
                        pos += 2
                        made += 1
                        continue
                    elif op == 0x51:  # BINPERSID
                        node: Node = PersistentId(stack.pop(), base + at)
                        effect(node)
                        push(node)
                        made += 1
                        continue
                    elif op == 0x52:  # REDUCE
                        args = stack.pop()
                        node = Call("REDUCE", stack[-1], args, base + at)
                        if type(args) is not tuple and type(args) is not Call:
                            m.fault("pickle-type", "REDUCE with arguments that are not a tuple", base + at)
                        effect(node)
                        stack[-1] = node
                        made += 3
                        continue
                    elif op == 0x29:  # EMPTY_TUPLE
                        push(())
                        continue
                    elif op == 0x47:  # BINFLOAT
                        push(f8(data, pos)[0])
                        pos += 8
                        made += 1
                        continue
                    elif op == 0x5D:  # EMPTY_LIST
                        push([])
                        made += 2
                        continue
                    elif op == 0x4E:  # NONE
                        push(None)
                        continue
                    elif op == 0x2E:  # STOP
                        value = stack.pop()
                        stopped = True
                        break
                    elif op == 0x30:  # POP, of a value or of a mark
                        if stack:
                            node = stack.pop()
                            if type(node) in _KEPT:
                                thrown.append(node)
                        else:
                            stack = below.pop()
                            push = stack.append
                        continue
                elif op < 0x80:
                    if op == 0x71:  # BINPUT
                        index = data[pos]
                        pos += 1
                        if index == len(memo) and not spare:
                            remember(stack[-1])
                        else:
                            m.put(index, stack[-1], base + at)
                        continue
                    if op == 0x72:  # LONG_BINPUT
                        (index,) = u4(data, pos)
                        pos += 4
                        if index == len(memo) and not spare:
                            remember(stack[-1])
                        else:
                            m.put(index, stack[-1], base + at)
                        continue
                    if op == 0x68:  # BINGET
                        index = data[pos]
                        pos += 1
                        push(memo[index] if index < len(memo) else m.get(index, base + at))
                        continue
                    if op == 0x6A:  # LONG_BINGET
                        (index,) = u4(data, pos)
                        pos += 4
                        push(memo[index] if index < len(memo) else m.get(index, base + at))
                        continue
                    if op == 0x74:  # TUPLE
                        items = stack
                        stack = below.pop()
                        push = stack.append
                        push(tuple(items))
                        made += 2
                        continue
                    if op == 0x7D:  # EMPTY_DICT
                        push(Pairs())
                        made += 3
                        continue
                elif op == 0x94:  # MEMOIZE
                    if spare:
                        m.put(len(memo) + len(spare), stack[-1], base + at)
                    else:
                        remember(stack[-1])
                    continue
                elif op == 0x8C:  # SHORT_BINUNICODE
                    stop = pos + 1 + data[pos]
                    if stop <= size:
                        raw = data[pos + 1 : stop]
                        pos = stop
                        made += 1
                        try:
                            push(raw.decode())
                        except UnicodeDecodeError:
                            push(m.decoded(raw, "utf-8", base + at))
                        continue
                elif op == 0x86:  # TUPLE2
                    second = stack.pop()
                    stack[-1] = (stack[-1], second)
                    made += 2
                    continue
                elif op == 0x85:  # TUPLE1
                    stack[-1] = (stack[-1],)
                    made += 2
                    continue
                elif op == 0x89 or op == 0x88:  # NEWFALSE, NEWTRUE
                    push(op == 0x88)
                    continue
                elif op == 0x87:  # TUPLE3
                    third = stack.pop()
                    second = stack.pop()
                    stack[-1] = (stack[-1], second, third)
                    made += 2
                    continue
                if op in rare:
                    pos = rare[op](m, stack, pos, base + at)
                elif op in marked:
                    items = stack
                    stack = below.pop()
                    push = stack.append
                    marked[op](m, stack, items, base + at)
                    continue
                elif op == 0x69:  # INST
                    items = stack
                    stack = below.pop()
                    push = stack.append
                    pos = inst(m, stack, items, pos, base + at)
                else:
                    m.fault("pickle-opcode", f"byte 0x{op:02x} is no opcode", base + at)
                    pos = at
                    break
                data, base = m.data, m.base  # a rare opcode may have moved the window or opened a frame
                size = len(data)
                guard = m.guard()
            else:
                batches += 1
                tick = -1
                m.check_budgets(batches * _BATCH, made, len(stack), len(below), deadline)
                continue
            break
    except StreamEndError:
        m.fault("pickle-truncated", "the stream ends inside an opcode or before STOP", m.base + at)
        pos = at
    except struct_error:
        m.fault("pickle-truncated", f"the stream ends inside {NAMES[op]}", base + at)
        pos = at
    except IndexError:  # of the bytes or of the stack
        if at + 1 + FIXED.get(op, op == 0x8C) > size:
            m.fault("pickle-truncated", f"the stream ends inside {NAMES[op]}", base + at)
        else:
            m.fault("pickle-stack", f"{NAMES[op]} takes what is not on the stack", base + at)
        pos = at
    except LimitError as spent:
        m.fault("pickle-limit", f"stopped reading: {spent}", base + pos)
    if (
        not stopped
        and m.frame_end is not None
        and base + at < m.frame_end < m.end
        and m.fault_counts["pickle-truncated"]
        and source.read_at(m.end - 1, 1)  # else the file was cut while it was read
    ):
        # What does not fit into the stream does not fit into its frame either, and other unpicklers see that first.
        m.fault("pickle-frame", "an opcode crosses the end of its frame", m.frame_end)
    if stopped and m.frame_end is not None and m.base + pos < m.frame_end:
        m.fault("pickle-frame", "the frame goes on behind STOP", m.base + pos)
    if stopped and (stack or below):
        m.fault("pickle-leftover", "values are left on the stack behind the result", m.base + pos)
    leftover = [*below, stack, thrown]
    value = _measured(m, value, leftover)
    return PickleProgram(
        value=value,
        events=events,
        faults=tuple(m.faults),
        coverage=_coverage(m, stopped),
        protocol=m.protocol,
        start=start,
        end=m.base + pos,
        opcodes=batches * _BATCH + tick + 1,
        discarded=leftover,
        binaries=m.binaries,
    )


def _measured(m: Machine, value: Node, leftover: list[Node]) -> Node:
    """`value`, or an Opaque in its place when it is too deep or too large for whoever walks it."""
    limits = m.limits
    all_of_it = [value, leftover]
    all_of_it.extend(event for event in m.events if type(event) is Build or type(event) is MethodCall)
    size = measure(all_of_it, limits.virtual_size + 1)
    if size.cyclic:
        m.fault("pickle-cycle", "a value contains itself", m.start)
    if size.unhashable:
        m.fault("pickle-value", "a list, dictionary or set is used as a key or set member", m.start)
    if size.depth > limits.depth:
        m.fault("pickle-depth", f"values are nested {size.depth} deep", m.start)
        value = Opaque("nested too deep", m.start)
    if size.size > limits.virtual_size:
        m.fault("pickle-expansion", f"shared values stand for more than {limits.virtual_size} nodes", m.start)
        value = Opaque("expands to too many nodes", m.start)
    return value


def _coverage(m: Machine, stopped: bool) -> Coverage:
    if "pickle-limit" in m.fault_counts:
        return "partial"
    if not stopped or not BROKEN.isdisjoint(m.fault_counts):
        return "malformed"
    return "complete"
