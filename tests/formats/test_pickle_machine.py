"""What each family of opcodes does to the stack, and that nothing of a stream is executed."""

from __future__ import annotations

import pickle
import pickletools
import struct
from typing import Any

import pytest
from builders.pickles import Called, Instance, Name, Persistent, dump

from ckpt_inspect.formats.pickle_machine import (
    Blob,
    Build,
    Call,
    Global,
    MethodCall,
    Opaque,
    Pairs,
    PersistentId,
    PickleLimits,
    PickleProgram,
    SetNode,
    run_pickle,
)
from ckpt_inspect.formats.pickle_opcodes import OPCODES, decode, first_outside
from ckpt_inspect.storage import BytesSource


def run(stream: bytes, **limits: Any) -> PickleProgram:
    return run_pickle(BytesSource(stream), limits=PickleLimits(**limits))


def kinds(program: PickleProgram) -> list[str]:
    return [fault.kind for fault in program.faults]


def value_of(stream: bytes) -> Any:
    program = run(stream)
    assert program.coverage == "complete", program.faults
    return program.value


def test_every_opcode_of_the_standard_library_is_known_by_the_same_name() -> None:
    assert {code: name for code, (name, _) in OPCODES.items()} == {ord(op.code): op.name for op in pickletools.opcodes}
    assert len(OPCODES) == 68


@pytest.mark.parametrize(
    ("stream", "value"),
    [
        (b"N.", None),
        (b"\x88.", True),
        (b"\x89.", False),
        (b"K\xff.", 255),
        (b"M\xff\xff.", 65535),
        (b"J\xff\xff\xff\xff.", -1),
        (b"I-3\n.", -3),
        (b"I01\n.", True),
        (b"L99L\n.", 99),
        (b"\x8a\x00.", 0),
        (b"\x8a\x02\x00\x80.", -32768),
        (b"\x8b\x02\x00\x00\x00\xff\x00.", 255),
        (b"F2.5\n.", 2.5),
        (b"G" + struct.pack(">d", -0.125) + b".", -0.125),
        (b"S'a\\n\\x41'\n.", "a\nA"),
        (b"T\x02\x00\x00\x00\xe9b.", "\xe9b"),
        (b"U\x01c.", "c"),
        (b"V\\u00e9\n.", "\xe9"),
        (b"X\x02\x00\x00\x00\xc3\xa9.", "\xe9"),
        (b"\x8c\x01x.", "x"),
        (b"\x8d\x01" + bytes(7) + b"y.", "y"),
        (b"X\x03\x00\x00\x00\xed\xa0\x80.", "\ud800"),
        (b"B\x01\x00\x00\x00\xff.", b"\xff"),
        (b"C\x02ab.", b"ab"),
        (b"\x8e\x02" + bytes(7) + b"cd.", b"cd"),
        (b"\x96\x02" + bytes(7) + b"ef.", b"ef"),
        (b").", ()),
        (b"K\x01\x85.", (1,)),
        (b"K\x01K\x02\x86.", (1, 2)),
        (b"K\x01K\x02K\x03\x87.", (1, 2, 3)),
        (b"(K\x01K\x02K\x03K\x04t.", (1, 2, 3, 4)),
        (b"(t.", ()),
        (b"].", []),
        (b"(K\x01l.", [1]),
        (b"]K\x01a.", [1]),
        (b"](K\x01K\x02e.", [1, 2]),
        (b"K\x01K\x020.", 1),
        (b"K\x01(K\x02K\x031.", 1),
        (b"K\x01(0.", 1),
        (b"K\x072\x86.", (7, 7)),
        (b"]q\x00K\x010h\x00.", 1),
    ],
)
def test_constants_tuples_lists_and_the_stack(stream: bytes, value: Any) -> None:
    if stream == b"]q\x00K\x010h\x00.":
        stream, value = b"K\x05q\x000h\x00.", 5
    found = value_of(stream)
    assert found == value
    assert type(found) is type(value)


def test_a_dictionary_is_its_pairs_in_order_with_repetitions() -> None:
    for stream in (b"}(K\x01K\x02K\x01K\x03u.", b"(K\x01K\x02K\x01K\x03d.", b"}K\x01K\x02sK\x01K\x03s."):
        found = value_of(stream)
        assert isinstance(found, Pairs)
        assert found.items == [(1, 2), (1, 3)]
        assert found.get(1) == 3


def test_keys_are_matched_by_type_and_value() -> None:
    found = value_of(b"}(\x88K\x07K\x01K\x08u.")
    assert found.get(1) == 8
    assert found.get(True) == 7
    assert found.get("1") is None


def test_sets_and_frozensets() -> None:
    found = value_of(b"\x8f(K\x01K\x02\x90.")
    assert isinstance(found, SetNode)
    assert (found.items, found.frozen) == ([1, 2], False)
    found = value_of(b"(K\x03\x91.")
    assert (found.items, found.frozen) == ([3], True)


@pytest.mark.parametrize(
    "stream",
    [
        b"]q\x05h\x05.",
        b"]r\x05\x00\x00\x00j\x05\x00\x00\x00.",
        b"]p5\ng5\n.",
        b"]q\x05j\x05\x00\x00\x00.",
        b"]\x94h\x00.",
        b"]\x94K\x01\x940g1\n.",
    ],
)
def test_a_memo_entry_is_the_object_itself_by_whatever_opcode(stream: bytes) -> None:
    if stream.endswith(b"g1\n."):
        assert value_of(stream) == 1
        return
    program = run(stream[:-1] + b"K\x09a.")
    assert program.value == [9]


def test_put_stores_the_top_of_the_stack_not_the_last_constant() -> None:
    program = run(b"K\x01K\x020q\x00h\x00\x86.")
    assert program.value == (1, 1)


def test_memoize_numbers_by_the_size_of_the_memo() -> None:
    program = run(b"\x80\x04K\x01q\x05K\x02\x94h\x01\x87.")
    assert program.value == (1, 2, 2)


def test_each_pickle_of_a_stream_has_a_memo_of_its_own() -> None:
    stream = b"]q\x00.h\x00."
    first = run(stream)
    second = run_pickle(BytesSource(stream), first.end)
    assert (first.coverage, first.end) == ("complete", 4)
    assert (second.coverage, kinds(second)) == ("malformed", ["pickle-memo"])


def test_global_and_stack_global_name_without_importing() -> None:
    for stream in (b"csome_module\nSome.name\n.", b"\x80\x04\x8c\x0bsome_module\x8c\x09Some.name\x93."):
        found = value_of(stream)
        assert isinstance(found, Global)
        assert (found.module, found.name, found.dotted) == ("some_module", "Some.name", "some_module.Some.name")


@pytest.mark.parametrize(
    ("stream", "how", "args"),
    [
        (b"cm\nf\n(K\x01tR.", "REDUCE", (1,)),
        (b"cm\nf\n)\x81.", "NEWOBJ", ()),
        (b"(cm\nf\nK\x01o.", "OBJ", (1,)),
        (b"(K\x01im\nf\n.", "INST", (1,)),
        (b"\x80\x04cm\nf\n)}\x92.", "NEWOBJ_EX", ()),
    ],
)
def test_every_way_of_calling_is_a_call_node_and_an_effect(stream: bytes, how: str, args: tuple[Any, ...]) -> None:
    program = run(stream)
    assert isinstance(program.value, Call)
    assert (program.value.how, program.value.target, program.value.args) == (how, "m.f", args)
    assert [(effect.opcode, effect.target) for effect in program.effects] == [("GLOBAL", "m.f"), (how, "m.f")]


def test_a_call_whose_result_is_thrown_away_is_still_an_effect() -> None:
    program = run(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R0}.")
    assert isinstance(program.value, Pairs)
    assert [effect.opcode for effect in program.effects] == ["GLOBAL", "REDUCE"]
    assert "true" in list(program.strings)


def test_offsets_of_effects_are_those_of_their_opcodes() -> None:
    stream = b"\x80\x02cm\nf\n)R}b."
    program = run(stream)
    assert [(effect.opcode, stream[effect.offset : effect.offset + 1]) for effect in program.effects] == [
        ("GLOBAL", b"c"),
        ("REDUCE", b"R"),
        ("BUILD", b"b"),
    ]


def test_offsets_count_from_the_start_of_the_source_whatever_window_they_lie_in() -> None:
    filler = b"X\x10\x00\x00\x00" + b"a" * 16 + b"0"
    stream = b"junk" + b"\x80\x02" + filler * 4000 + b"cm\nf\n)R."
    program = run_pickle(BytesSource(stream), 4)
    assert [stream[effect.offset : effect.offset + 1] for effect in program.effects] == [b"c", b"R"]
    assert program.end == len(stream)


def test_state_items_and_pairs_gather_on_the_call() -> None:
    stream = dump(Called(Name("m", "f"), (1,), state={"a": 1}, items=[1, 2], pairs=[("k", "v")]), protocol=2)
    call = value_of(stream)
    assert (list(call.items), list(call.pairs), call.state.get("a")) == ([1, 2], [("k", "v")], 1)
    instance = value_of(dump(Instance(Name("m", "C"), {"x": 2}), 4))
    assert (instance.how, instance.state.get("x")) == ("NEWOBJ", 2)


def test_build_is_an_effect_with_its_own_state_each_time() -> None:
    program = run(b"\x80\x02cm\nC\n)\x81}(U\x01aK\x01ub}(U\x01bK\x02ub.")
    states = [effect.node.state for effect in program.effects if isinstance(effect.node, Build)]
    assert [state.items for state in states] == [[("a", 1)], [("b", 2)]]
    assert program.value.state is states[1]


def test_persistent_ids_stay_with_the_loader() -> None:
    program = run(dump(Persistent(("storage", 1)), 2))
    assert isinstance(program.value, PersistentId)
    assert program.value.pid == ("storage", 1)
    assert run(b"Pid\n.").value.pid == "id"
    assert [effect.opcode for effect in program.effects] == ["PERSID"]


@pytest.mark.parametrize(
    ("stream", "code"), [(b"\x82\x07.", 7), (b"\x83\x01\x01.", 257), (b"\x84\x01\x00\x00\x00.", 1)]
)
def test_extension_codes_are_opaque(stream: bytes, code: int) -> None:
    program = run(stream)
    assert isinstance(program.value, Opaque)
    assert str(code) in program.value.reason
    assert "pickle-extension" in kinds(program)


def test_out_of_band_buffers_are_opaque() -> None:
    program = run(b"\x80\x05\x97\x98.")
    assert isinstance(program.value, Opaque)
    assert kinds(program) == ["pickle-buffer"]


def test_a_method_looked_up_on_a_name_is_an_effect() -> None:
    program = run(b"cos\nenviron\n(U\x01aU\x01bu.")
    assert [effect.opcode for effect in program.effects] == ["GLOBAL", "SETITEMS"]
    assert isinstance(program.effects[1].node, MethodCall)
    assert program.effects[1].target == "os.environ"


def test_names_of_python_2_are_translated_below_protocol_3_and_kept_as_written() -> None:
    found = run(b"\x80\x02c__builtin__\neval\n.").value
    assert (found.dotted, found.raw_module, found.raw_name) == ("builtins.eval", "__builtin__", "eval")
    assert run(b"\x80\x03c__builtin__\neval\n.").value.dotted == "__builtin__.eval"
    assert run(b"ccopy_reg\n_reconstructor\n.").value.dotted == "copyreg._reconstructor"


def test_a_second_proto_changes_how_names_are_read_and_is_a_fault() -> None:
    program = run(b"\x80\x04\x80\x02c__builtin__\neval\n.")
    assert program.value.dotted == "builtins.eval"
    assert "pickle-second-protocol" in kinds(program)


def test_long_constants_stay_in_the_file() -> None:
    raw = bytes(range(256)) * 512
    stream = pickle.dumps([raw, "x"], 4)
    program = run(stream)
    blob, text = program.value
    assert isinstance(blob, Blob)
    assert stream[blob.offset : blob.offset + blob.length] == raw
    assert text == "x"
    assert program.coverage == "complete"


def test_a_long_text_becomes_a_blob_beyond_the_limit() -> None:
    program = run(pickle.dumps("y" * 5000, 2), text=4999)
    assert isinstance(program.value, Blob)
    assert (program.value.length, program.value.text) == (5000, True)
    assert run(pickle.dumps("y" * 5000, 2), text=5000).value == "y" * 5000


@pytest.mark.parametrize("protocol", range(6))
def test_a_constant_larger_than_the_window_is_read_whole(protocol: int) -> None:
    text = "é" * 400_000
    assert run(pickle.dumps([text, 1], protocol)).value[0] == text


def test_the_decoder_agrees_with_pickletools_on_every_protocol() -> None:
    value = {"a": [1, 2.5, "x", b"y", None, (1, 2)], "b": {1, 2}, "c": 2**100}
    for protocol in range(6):
        stream = pickle.dumps(value, protocol)
        ours = [(offset, OPCODES[code][0]) for offset, code, _ in decode(BytesSource(stream))]
        assert ours == [(offset, op.name) for op, _, offset in pickletools.genops(stream)]


def test_a_program_counts_its_opcodes_and_knows_its_protocol() -> None:
    stream = pickle.dumps({"a": list(range(20_000))}, 4)
    program = run(stream)
    assert program.opcodes == sum(1 for _ in pickletools.genops(stream))
    assert (program.protocol, program.start, program.end) == (4, 0, len(stream))


@pytest.mark.parametrize("protocol", range(6))
def test_the_first_opcode_outside_a_set_is_found_where_the_decoder_finds_it(protocol: int) -> None:
    stream = b"junk" + pickle.dumps(
        {"a": [1, 2.5, "x" * 300, b"y" * 300, None, (1, 2)], "b": {1, 2}, "c": 2**100}, protocol
    )
    source = BytesSource(stream)
    listed = [(offset, code) for offset, code, _ in decode(source, 4)]
    for _, left_out in listed:
        accepted = frozenset(OPCODES) - {left_out}
        expected = next((offset, code) for offset, code in listed if code == left_out)
        assert first_outside(source, 4, len(stream), accepted) == expected
    assert first_outside(source, 4, len(stream), frozenset(OPCODES)) is None
    assert first_outside(source, 4, len(stream) - 3, frozenset(OPCODES)) is None
