"""Streams that break: what they did before is told, what is wrong is named, and no limit is passed."""

from __future__ import annotations

import pickle
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect import knowledge
from ckpt_inspect.formats.pickle_machine import Opaque, PickleLimits, PickleProgram, run_pickle, walk
from ckpt_inspect.storage import BytesSource

EXEC = b"cposix\nsystem\nX\x04\x00\x00\x00true\x85R"


def run(stream: bytes, **limits: Any) -> PickleProgram:
    return run_pickle(BytesSource(stream), limits=PickleLimits(**limits))


def kinds(program: PickleProgram) -> set[str]:
    return {fault.kind for fault in program.faults}


@pytest.mark.parametrize(
    ("tail", "kind"),
    [
        (b"", "pickle-truncated"),
        (b"X\xff\x00\x00\x00ab", "pickle-truncated"),
        (b"M\x01", "pickle-truncated"),
        (b"K", "pickle-truncated"),
        (b"cos\nsys", "pickle-truncated"),
        (b"\x8e" + struct.pack("<Q", 1 << 40), "pickle-truncated"),
        (b"00", "pickle-stack"),
        (b"\x86", "pickle-stack"),
        (b"(b.", "pickle-stack"),
        (b"t", "pickle-stack"),
        (b"0.", "pickle-stack"),
        (b"q", "pickle-truncated"),
        (b"\xff", "pickle-opcode"),
        (b"h\x09.", "pickle-memo"),
        (b"g-1\n.", "pickle-memo"),
        (b"Ixyz\n.", "pickle-text"),
        (b"Sx\n.", "pickle-text"),
        (b"Fx\n.", "pickle-text"),
        (b"X\x01\x00\x00\x00\xff.", "pickle-text"),
        (b"K\x01K\x02\x93.", "pickle-type"),
        (b"K\x01K\x02a.", "pickle-type"),
        (b"}(K\x01u.", "pickle-value"),
        (b"}]K\x01s.", "pickle-value"),
        (b"\x80\x06.", "pickle-protocol"),
        (b"T\xff\xff\xff\xff.", "pickle-stack"),
        (b"\x8b\xff\xff\xff\xff.", "pickle-stack"),
    ],
)
def test_a_break_is_named_and_what_ran_before_is_told(tail: bytes, kind: str) -> None:
    program = run(b"\x80\x02" + EXEC + tail)
    assert program.coverage == "malformed"
    assert kind in kinds(program)
    assert [effect.target for effect in program.effects][:2] == ["posix.system", "posix.system"]


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        (b"I0x41\n.", "pickle-parser-difference"),
        (b"L010L\n.", "pickle-parser-difference"),
        (b"I1\x00\n.", "pickle-parser-difference"),
        (b"K\x01p 0\n.", "pickle-parser-difference"),
        (b"F1_0\n.", "pickle-parser-difference"),
        ("cé\nx\n.".encode(), "pickle-parser-difference"),
        (b"S'\xe9'\n.", "pickle-string-encoding"),
        (b"L" + b"9" * 2000 + b"L\n.", "pickle-integer-size"),
        (b"\x8b\x00\x08\x00\x00" + bytes(2048) + b".", "pickle-integer-size"),
        (b"Nr\xff\xff\xff\x7f.", "pickle-memo-index"),
        (b"K\x01K\x02.", "pickle-leftover"),
        (b"K\x01(K\x02.", "pickle-leftover"),
        (b"]q\x00h\x00a.", "pickle-cycle"),
        (b"\x80\x04\x95" + bytes(8) + b"N.", "pickle-frame-size"),
    ],
)
def test_what_every_unpickler_reads_and_no_writer_writes_is_a_fault_of_a_complete_program(
    stream: bytes, kind: str
) -> None:
    program = run(stream)
    assert program.coverage == "complete"
    assert kind in kinds(program)


def frame(length: int) -> bytes:
    return b"\x95" + struct.pack("<Q", length)


PAYLOAD = b"cposix\nsystem\n\x8c\x04true\x85R."


@pytest.mark.parametrize(
    ("stream", "hidden"),
    [
        # genops and a reader of the whole buffer read one text constant; a file reader drops the rest of the frame
        (
            b"\x80\x04" + frame(9) + b"X" + struct.pack("<I", 40) + b"AAAA" + b"B" * 40 + PAYLOAD + b"K\x01" * 9 + b".",
            "posix.system",
        ),
        (b"\x80\x04" + frame(6) + b"cxposix\nsystem\n)R.", "x.system"),
        (b"\x80\x04" + frame(2) + b"cx" + b"posix\nsystem\n)R.", "posix.system"),
    ],
)
def test_a_frame_that_lies_is_read_both_ways_and_both_are_named(stream: bytes, hidden: str) -> None:
    program = run(stream)
    assert "pickle-frame" in kinds(program)
    assert hidden in {effect.target for effect in program.effects}


@pytest.mark.parametrize("protocol", [4, 5])
def test_frames_of_the_real_pickler_are_no_fault(protocol: int) -> None:
    value = [(f"key {number}", b"x" * (number % 700)) for number in range(2000)] + [b"z" * 200_000, "end"]
    program = run(pickle.dumps(value, protocol))
    assert (program.coverage, program.faults) == ("complete", ())


def test_a_frame_that_begins_inside_another_or_outlives_the_pickle_is_a_fault() -> None:
    assert "pickle-frame" in kinds(run(b"\x80\x04" + frame(14) + frame(4) + b"K\x010N."))
    assert "pickle-frame" in kinds(run(b"\x80\x04" + frame(9) + b"K\x01." + b"cm\nf\n."))


def test_a_frame_beyond_the_end_is_truncated_and_its_content_still_read() -> None:
    program = run(b"\x80\x04" + frame(1 << 50) + PAYLOAD)
    assert program.coverage == "malformed"
    assert "posix.system" in {effect.target for effect in program.effects}


@pytest.mark.parametrize(
    ("stream", "limits"),
    [
        (b"(" * 30_000, {"marks": 10_000}),
        (b"N" * 30_000 + b".", {"stack": 10_000}),
        (b"]" * 30_000 + b".", {"nodes": 10_000}),
        (b"N0" * 30_000 + b"N.", {"opcodes": 10_000}),
        (b"N\x94" * 30_000 + b".", {"memo": 10_000, "stack": 100_000}),
    ],
)
def test_a_spent_budget_ends_the_reading_and_makes_it_partial(stream: bytes, limits: dict[str, int]) -> None:
    program = run(stream, **limits)
    assert program.coverage == "partial"
    assert kinds(program) & {"pickle-limit"}
    assert program.opcodes <= 10_000 + 2 * 8192


def test_time_is_a_budget_too() -> None:
    assert run(b"N0" * 200_000 + b"N.", seconds=0.0).coverage == "partial"


def test_values_too_deep_to_walk_are_withheld_but_their_effects_are_not() -> None:
    program = run(EXEC + b"0" + b"]" * 4000 + b"a" * 3999 + b".")
    assert kinds(program) == {"pickle-depth"}
    assert isinstance(program.value, Opaque)
    assert [effect.opcode for effect in program.effects] == ["GLOBAL", "REDUCE"]
    assert run(b"]" * 500 + b"a" * 499 + b".").faults == ()


def test_a_memo_bomb_is_measured_not_walked() -> None:
    program = run(b"K\x01" + b"2\x86" * 64 + b".")
    assert kinds(program) == {"pickle-expansion"}
    assert isinstance(program.value, Opaque)


def test_a_bomb_thrown_away_is_found_too() -> None:
    assert "pickle-expansion" in kinds(run(b"K\x01" + b"2\x86" * 64 + b"0N."))


def test_many_faults_of_a_kind_are_kept_once_or_a_few_times() -> None:
    program = run((b"\x95" + bytes(8)) * 5000 + b"N.")
    assert 1 <= len(program.faults) <= 20


@given(st.binary(max_size=300))
def test_no_bytes_make_the_machine_raise(stream: bytes) -> None:
    program = run(stream)
    assert program.coverage in ("complete", "partial", "malformed")
    assert 0 <= program.end <= len(stream)
    assert sum(1 for _ in walk(program.value, program.discarded)) <= 10_000
    assert len(program.effects) <= len(stream) + 1


@given(st.integers(0, 5), st.data())
def test_a_pickle_cut_anywhere_is_truncated_and_never_raises(protocol: int, data: st.DataObject) -> None:
    stream = pickle.dumps({"a": [1, "x", (2.5, b"y" * 300)], "b": {1, 2}, "c": None}, protocol)
    cut = data.draw(st.integers(0, len(stream) - 1))
    program = run(stream[:cut])
    assert program.coverage == "malformed"
    assert "pickle-truncated" in kinds(program)


def test_every_kind_of_fault_is_described() -> None:
    described = {kind for kind in knowledge.faults() if kind.startswith("pickle-")}
    import re
    from pathlib import Path

    import ckpt_inspect.formats as formats

    used: set[str] = set()
    for path in Path(formats.__path__[0]).glob("pickle_*.py"):
        used |= set(re.findall(r'"(pickle-[a-z-]+)"', path.read_text()))
    assert used == described
