"""Scans files that are pickles one after another: bare pickles, torch's legacy streams, and pickles nobody announces."""

from __future__ import annotations

from ckpt_inspect.formats.pickle_machine import DEFAULT, PickleLimits, PickleProgram, run_pickle
from ckpt_inspect.formats.pickle_nodes import Blob, Call, Global
from ckpt_inspect.scan.collector import Collector
from ckpt_inspect.scan.documents import scan_program_text
from ckpt_inspect.scan.nested import Nested
from ckpt_inspect.scan.programs import ProgramJudge
from ckpt_inspect.scan.tiers import standing_of
from ckpt_inspect.storage import ByteSource, BytesSource, SliceSource

_GLANCE = PickleLimits(opcodes=8192, text_total=1 << 20)
"""Limits for bytes that are probably no pickle."""
OPENERS = frozenset(b"\x80(]})cilIFGJKLMNSTUVXBCPQ\x8a\x8b\x8c\x8d\x8e\x8f\x95\x96")
"""First bytes a pickle can have: opcodes that take nothing from the stack."""
_BLANK = b"\x00\r\n\t "
_LEGACY_PICKLES = 5


def scan_stream(
    source: ByteSource,
    collector: Collector,
    judge: ProgramJudge,
    nested: Nested,
    place: str,
    depth: int,
    *,
    programs: tuple[PickleProgram, ...] = (),
    storages_end: int | None = None,
) -> None:
    """Judge every pickle of a stream and what follows the last.

    `programs` were already read from its start; `storages_end` is where the raw storages of a legacy torch stream
    end, so that they are not taken for something that trails it.
    """
    position = 0
    announced = _LEGACY_PICKLES if storages_end is not None else 1
    for number in range(collector.limits.pickles_per_stream):
        if position >= source.size and number >= len(programs):
            return
        program = programs[number] if number < len(programs) else run_pickle(source, position)
        if number >= announced:
            if not _is_pickle(source, program):
                break
            what = "another pickle follows the end of the first"
            collector.note("scan-second-pickle", "suspicious", what, place=place, offset=position)
        judge_program(program, source, collector, judge, nested, place, depth)
        position = program.end
        if program.coverage != "complete":
            return
        if number + 1 == announced and storages_end is not None:
            position = max(position, storages_end)
    else:
        if position < source.size:
            collector.note(
                "scan-limit", "suspicious", "more pickles follow than are read", place=place, offset=position
            )
            collector.cover("partial")
        return
    if position < source.size:
        _scan_rest(source, position, collector, nested, place, depth)


def judge_program(
    program: PickleProgram,
    source: ByteSource,
    collector: Collector,
    judge: ProgramJudge,
    nested: Nested,
    place: str,
    depth: int,
) -> None:
    """Judge one program, its faults, and the files in its constants."""
    collector.tick()
    for fault in program.faults:
        collector.note_fault(fault, place)
    judge.judge(program, place)
    scan_program_text(program, source, collector, place)
    for offset, constant in program.binaries:
        if type(constant) is Blob:
            inner: ByteSource = SliceSource(source, constant.offset, constant.length)
        else:
            inner = BytesSource(constant)  # type: ignore[arg-type]  # binaries are bytes or Blob
        if worth_a_look(inner.read_at(0, 2)):
            nested(inner, f"{place}@{offset}" if place else f"@{offset}", depth + 1, sure=False)
    for event in program.events:
        if type(event) is Call and event.target == "_codecs.encode" and type(event.args) is tuple and event.args:
            text = event.args[0]
            if type(text) is str and len(text) >= 8:
                raw = text.encode("latin-1", "replace")
                if worth_a_look(raw[:2]):
                    nested(BytesSource(raw), f"{place}@{event.offset}", depth + 1, sure=False)


def scan_hidden(
    source: ByteSource, collector: Collector, judge: ProgramJudge, nested: Nested, place: str, depth: int
) -> bool:
    """Judge bytes that announce no format, if they are a pickle that does something; whether they are."""
    head = source.read_at(0, 1)
    if not head or head[0] not in OPENERS:
        return False
    program = run_pickle(source, limits=_GLANCE)
    if not (_does_something(program) or _is_all_of(source, program)):
        return False
    if program.coverage == "partial":
        program = run_pickle(source, limits=DEFAULT)
    judge_program(program, source, collector, judge, nested, place, depth)
    if program.coverage == "complete" and program.end < source.size:
        _scan_rest(source, program.end, collector, nested, place, depth)
    return True


def worth_a_look(head: bytes) -> bool:
    """Whether bytes that begin so may be a container or a pickle: the cheap test before anything is opened."""
    if len(head) < 2:
        return False
    if head[0] == 0x80:
        return head[1] <= 5
    return head in _PAIRS or head[0] in OPENERS


_PAIRS = frozenset(
    {
        b"PK",
        b"\x1f\x8b",
        b"BZ",
        b"\xfd7",
        b"7z",
        b"Ra",
        b"\x93N",
        b"\x28\xb5",
        b"\x04\x22",
        b"\x78\x01",
        b"\x78\x5e",
        b"\x78\x9c",
        b"\x78\xda",
    }
)


def _scan_rest(source: ByteSource, position: int, collector: Collector, nested: Nested, place: str, depth: int) -> None:
    head = source.read_at(position, 4096)
    if not head.strip(_BLANK) and source.size - position <= len(head):
        return
    left = source.size - position
    collector.note("scan-trailing", "suspicious", f"{left} bytes follow the end", place=place, offset=position)
    rest = SliceSource(source, position, left)
    nested(rest, f"{place}@{position}" if place else f"@{position}", depth + 1, sure=False)


def _is_pickle(source: ByteSource, program: PickleProgram) -> bool:
    head = source.read_at(program.start, 2)
    announced = len(head) == 2 and head[0] == 0x80 and head[1] <= 5
    return program.coverage == "complete" or announced or _does_something(program)


def _is_all_of(source: ByteSource, program: PickleProgram) -> bool:
    """Whether a pickle that only builds data takes up the whole source: no text happens to do that."""
    return program.coverage == "complete" and program.opcodes > 2 and program.end == source.size


def _does_something(program: PickleProgram) -> bool:
    """Whether a stream that may be anything names and calls something: random bytes and text do not."""
    named = [event for event in program.events if type(event) is Global]
    if not named:
        return False
    if not all(_plausible(event) for event in named[:64]):
        # A name that is none may stand behind a call on purpose; text has no calls of what runs code.
        called = [event.callee for event in program.events if type(event) is Call and type(event.callee) is Global]
        return any(standing_of(found.module, found.name).tier == "T3" and _plausible(found) for found in called[:64])
    if any(type(event) is Call for event in program.events) or program.protocol >= 2:
        return True
    return any(standing_of(event.module, event.name).tier == "T3" for event in named[:64])


def _plausible(found: Global) -> bool:
    return f"{found.module}.{found.name}".replace(".", "").replace("_", "").isalnum()
