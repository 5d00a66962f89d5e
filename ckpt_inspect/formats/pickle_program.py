"""What running a pickle program on paper gives: its value, effects, faults and how much of it was understood."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.pickle_nodes import Blob, Build, Call, Global, MethodCall, Node, Opaque, PersistentId, walk

Coverage: TypeAlias = Literal["complete", "partial", "malformed"]


@dataclass(frozen=True, slots=True)
class PickleLimits:
    """Budgets of one program. Sizes in bytes, counts in objects; `seconds` of wall clock, None for no such limit.

    `stack` counts the values between two marks and below; `text` is the longest constant kept in memory, longer ones
    become a `Blob`; `text_total` bounds all kept constants together; `depth` and `virtual_size` bound what a walker that
    forgets sharing would meet.
    """

    opcodes: int = 20_000_000
    stack: int = 1_000_000
    marks: int = 100_000
    memo: int = 2_000_000
    memo_index: int = 10_000_000
    nodes: int = 3_000_000
    depth: int = 500
    virtual_size: int = 50_000_000
    text: int = 1 << 20
    text_total: int = 64 << 20
    binary: int = 64 << 10
    line: int = 1 << 20
    integer: int = 1 << 10
    seconds: float | None = None


DEFAULT = PickleLimits()


class Effect(NamedTuple):
    """One thing a loader would do, in stream order.

    `opcode` and `offset` say where; `target` is "module.name" of the name concerned, None when the stream computes it;
    `node` is the Global, Call, PersistentId, Build, MethodCall or Opaque itself.
    """

    opcode: str
    offset: int
    target: str | None
    node: Node
    detail: str


class PickleProgram:
    """One pickle, read. `start` and `end` are byte offsets; `end` lies behind STOP, or where reading stopped.

    `value` is what a loader would return (an `Opaque` when the stream never gets that far, or when the value is too deep
    or too large to be walked). `coverage` is "malformed" when no unpickler gets to STOP without an error, "partial" when
    a limit of ours ended the reading. `strings` yields every text constant met, `discarded` what the program made and
    threw away. `binaries` are the byte constants of eight bytes and more with their offsets: files may hide in them.
    """

    __slots__ = (
        "_effects",
        "binaries",
        "coverage",
        "discarded",
        "end",
        "events",
        "faults",
        "opcodes",
        "protocol",
        "start",
        "value",
    )

    def __init__(
        self,
        *,
        value: Node,
        events: list[Node],
        faults: tuple[Fault, ...],
        coverage: Coverage,
        protocol: int,
        start: int,
        end: int,
        opcodes: int,
        discarded: list[Node],
        binaries: list[tuple[int, bytes | Blob]],
    ) -> None:
        self.value = value
        self.events = events
        self.faults = faults
        self.coverage: Coverage = coverage
        self.protocol = protocol
        self.start = start
        self.end = end
        self.opcodes = opcodes
        self.discarded = discarded
        self.binaries = binaries
        self._effects: tuple[Effect, ...] | None = None

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Every GLOBAL, REDUCE, NEWOBJ, OBJ, INST, BUILD, PERSID, EXT, buffer and method call, in stream order."""
        if self._effects is None:
            self._effects = tuple(_effect(event) for event in self.events)
        return self._effects

    @property
    def globals(self) -> tuple[Global, ...]:
        """Every name the stream resolves, in stream order."""
        return tuple(event for event in self.events if type(event) is Global)

    @property
    def strings(self) -> Iterator[str]:
        """Every text constant, discarded ones and the text of protocol-0 byte strings included; each place once."""
        for node in walk(self.value, self.discarded, self.events):
            if type(node) is str:
                yield node

    def __repr__(self) -> str:
        return f"<PickleProgram {self.coverage}, {self.opcodes} opcodes>"


def _effect(event: Any) -> Effect:
    kind = type(event)
    if kind is Global:
        raw = f"{event.raw_module}.{event.raw_name}"
        return Effect("GLOBAL", event.offset, event.dotted, event, "" if raw == event.dotted else f"written as {raw}")
    if kind is Call:
        return Effect(event.how, event.offset, event.target, event, "" if event.target else "the callee is computed")
    if kind is Build:
        target = event.target
        named = target.target if type(target) is Call else target.dotted if type(target) is Global else None
        return Effect("BUILD", event.offset, named, event, "")
    if kind is PersistentId:
        return Effect("PERSID", event.offset, None, event, "")
    if kind is MethodCall:
        target = event.target
        named = target.dotted if type(target) is Global else None
        return Effect(event.opcode, event.offset, named, event, event.method)
    return Effect("EXT" if event.reason.startswith("extension") else "BUFFER", event.offset, None, event, event.reason)


__all__ = ["DEFAULT", "Coverage", "Effect", "Opaque", "PickleLimits", "PickleProgram"]
