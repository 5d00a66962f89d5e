"""What a running pickle program carries besides its stack: the window on the bytes, memo overflow, events, faults."""

from __future__ import annotations

import time
from collections import Counter

from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.pickle_nodes import Blob, Global, Node, Opaque
from ckpt_inspect.formats.pickle_program import PickleLimits
from ckpt_inspect.formats.pickle_renames import python3_name
from ckpt_inspect.storage import ByteSource

_FIRST_WINDOW = 1 << 14
_WINDOW = 1 << 20
_LOOKAHEAD = 16  # no fixed argument is longer
_FAULTS_PER_KIND = 8
_SHORTEST_NESTED = 8  # bytes; a pickle that calls something is longer

BROKEN = frozenset(
    {
        "pickle-truncated",
        "pickle-stack",
        "pickle-opcode",
        "pickle-memo",
        "pickle-value",
        "pickle-type",
        "pickle-text",
        "pickle-protocol",
    }
)
"""Faults with which no unpickler returns a value."""


class StreamEndError(Exception):
    """The bytes end inside an opcode."""


class LimitError(Exception):
    """A budget is spent; the message says which."""


class Machine:
    """The parts of the state that the opcodes of one program share. `data` holds the bytes from `base` on."""

    __slots__ = (
        "base",
        "binaries",
        "data",
        "end",
        "events",
        "fault_counts",
        "faults",
        "frame_end",
        "kept",
        "limits",
        "made",
        "memo",
        "protocol",
        "source",
        "spare",
        "start",
        "thrown",
        "violated",
        "window",
    )

    def __init__(self, source: ByteSource, start: int, end: int, limits: PickleLimits) -> None:
        self.source = source
        self.start = start
        self.end = end
        self.limits = limits
        self.window = _FIRST_WINDOW
        self.base = start
        self.data = source.read_at(start, min(self.window, end - start))
        self.events: list[Node] = []
        self.faults: list[Fault] = []
        self.fault_counts: Counter[str] = Counter()
        self.memo: list[Node] = []  # entries 0, 1, 2, ... as every writer numbers them
        self.spare: dict[int, Node] = {}  # entries that came out of turn
        self.thrown: list[Node] = []
        self.binaries: list[tuple[int, bytes | Blob]] = []
        self.protocol = 0
        self.frame_end: int | None = None
        self.violated = False
        self.kept = 0
        self.made = 0

    def fault(self, kind: str, message: str, offset: int) -> None:
        """Note a fault; of each kind the first few are kept."""
        self.fault_counts[kind] += 1
        if self.fault_counts[kind] <= _FAULTS_PER_KIND:
            self.faults.append(Fault(kind, message, offset))

    def more(self) -> bool:
        """Whether the source holds bytes behind the window."""
        return self.base + len(self.data) < self.end

    def slide(self, pos: int, need: int = 0) -> int:
        """Move the window so that it starts at `pos` and holds `need` bytes where there are any; the new position."""
        self.base += pos
        self.window = min(self.window * 8, _WINDOW)
        self.data = self.source.read_at(self.base, min(max(self.window, need), self.end - self.base))
        return 0

    def take(self, pos: int, length: int) -> tuple[bytes, int]:
        """`length` bytes at `pos`, and the position behind them; the window may move."""
        if pos + length > len(self.data):
            if self.base + pos + length > self.end:
                raise StreamEndError
            pos = self.slide(pos, length)
            if length > len(self.data):  # the source shrank while it was read
                raise StreamEndError
        return self.data[pos : pos + length], pos + length

    def skip(self, pos: int, length: int) -> int:
        """The position behind `length` bytes that nobody needs."""
        if pos + length > len(self.data):
            if self.base + pos + length > self.end:
                raise StreamEndError
            return self.slide(pos + length)
        return pos + length

    def line(self, pos: int) -> tuple[bytes | None, int]:
        """The line at `pos` without its newline (None when longer than the limit), and the position behind it."""
        limit = self.limits.line
        cut = self.data.find(b"\n", pos, pos + limit)
        if cut < 0:
            pos = self.slide(pos, limit)
            cut = self.data.find(b"\n", 0, limit)
            if cut < 0:
                return None, self._skip_line()
        return self.data[pos:cut], cut + 1

    def _skip_line(self) -> int:
        while self.more():
            self.slide(len(self.data))
            cut = self.data.find(b"\n")
            if cut >= 0:
                return cut + 1
        raise StreamEndError

    def text(self, pos: int, length: int, encoding: str, here: int) -> tuple[Node, int]:
        """A counted text constant: kept, or left in the file as a Blob when it is long."""
        if length > self.limits.text or self.kept + length > self.limits.text_total:
            offset = self.base + pos
            return Blob(offset, length, text=True), self.skip(pos, length)
        offset = self.base + pos
        raw, pos = self.take(pos, length)
        if encoding == "latin-1":  # a string of Python 2 may be bytes
            self.note_binary(offset, raw)
        if length > 4096:
            self.kept += length
        return self.decoded(raw, encoding, here), pos

    def decoded(self, raw: bytes, encoding: str, here: int) -> Node:
        """Text of a constant; what no unpickler decodes becomes an Opaque and a fault."""
        try:
            return raw.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
        except UnicodeDecodeError:
            self.fault("pickle-text", f"a text constant is not {encoding}", here)
            return Opaque(f"text that is not {encoding}", here)

    def binary(self, pos: int, length: int) -> tuple[Node, int]:
        """A counted byte constant: kept, or left in the file as a Blob when it is long."""
        offset = self.base + pos
        if length > self.limits.binary or self.kept + length > self.limits.text_total:
            blob = Blob(offset, length)
            self.binaries.append((offset, blob))
            return blob, self.skip(pos, length)
        raw, pos = self.take(pos, length)
        self.note_binary(offset, raw)
        if length > 4096:
            self.kept += length
        return raw, pos

    def note_binary(self, offset: int, raw: bytes) -> None:
        """Remember a byte constant that may hold a file of its own."""
        if len(raw) >= _SHORTEST_NESTED:
            self.binaries.append((offset, raw))

    def put(self, index: int, value: Node, here: int) -> None:
        """Store a memo entry that does not come in turn."""
        memo = self.memo
        if index < len(memo):
            memo[index] = value
        elif index == len(memo):
            memo.append(value)
            self.spare.pop(index, None)
        else:
            if index > self.limits.memo_index:
                self.fault("pickle-memo-index", f"memo index {index} makes an unpickler allocate as many slots", here)
            self.spare[index] = value

    def get(self, index: int, here: int) -> Node:
        """A memo entry; a missing one is a fault and an Opaque."""
        if 0 <= index < len(self.memo):
            return self.memo[index]
        if index in self.spare:
            return self.spare[index]
        self.fault("pickle-memo", f"memo entry {index} is fetched but was never stored", here)
        return Opaque("missing memo entry", here)

    def resolve(self, module: str, name: str, here: int) -> Global:
        """The Global a loader would look up, and the event."""
        read_as = python3_name(module, name) if self.protocol < 3 else (module, name)
        found = Global(*read_as, here, module, name)
        self.events.append(found)
        return found

    def guard(self) -> int:
        """The position from which on :meth:`step` must be asked first: near the end of the window, or of the frame."""
        size = len(self.data)
        guard = size - _LOOKAHEAD if self.more() else size
        if self.frame_end is not None and self.frame_end - self.base < guard:
            return self.frame_end - self.base
        return guard

    def step(self, at: int) -> int:
        """Leave a frame that has ended and move the window on; the new position.

        Raises:
            StreamEndError: there are no more bytes.
        """
        if self.frame_end is not None and self.base + at >= self.frame_end:
            if self.base + at > self.frame_end:
                self.fault("pickle-frame", "an opcode crosses the end of its frame", self.frame_end)
            self.frame_end = None
        if at >= len(self.data) - _LOOKAHEAD and self.more():
            at = self.slide(at)
        if at >= len(self.data):
            raise StreamEndError
        return at

    def check_budgets(self, opcodes: int, made: int, stack: int, marks: int, deadline: float | None) -> None:
        """Compare what the program has used with its limits.

        Raises:
            LimitError: one of them is spent.
        """
        limits = self.limits
        for what, used, limit in (
            ("opcodes", opcodes, limits.opcodes),
            ("values on the stack", stack, limits.stack),
            ("marks", marks, limits.marks),
            ("memo entries", len(self.memo) + len(self.spare), limits.memo),
            ("values", made + self.made, limits.nodes),
        ):
            if used > limit:
                raise LimitError(f"more than {limit} {what}")
        if deadline is not None and time.monotonic() > deadline:
            raise LimitError(f"more than {limits.seconds} seconds")
