"""The header of a safetensors file: what is legal is accepted, what is not is named with its tensor and byte."""

from __future__ import annotations

import json

import pytest
from builders.documents import kinds
from builders.safetensors_files import entry, model_bytes, source
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.formats.safetensors_header import MAX_HEADER, TOLERATED, read_safetensors_header
from ckpt_inspect.storage import BytesSource

SAFETENSORS = [name for name, dtype in BY_NAME.items() if dtype.safetensors]
W = '"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}'
DATA = bytes(16)


def errors(header: str | bytes, data: bytes = DATA, *, length: int | None = None) -> list[str]:
    """Fault kinds without the prefix; whether the data starts aligned does not matter here."""
    found = kinds(read_safetensors_header(source(header, data, length=length)))
    return [kind.removeprefix("safetensors-") for kind in found if kind != "safetensors-unaligned-header"]


def test_the_format_has_22_element_types() -> None:
    assert len(SAFETENSORS) == 22


@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(st.sampled_from(SAFETENSORS), st.lists(st.integers(0, 4), max_size=3).map(lambda shape: [*shape, 8])),
        max_size=6,
    )
)
def test_legal_files_of_all_types_are_read_without_a_fault(tensors: dict[str, tuple[str, list[int]]]) -> None:
    data = model_bytes(dict(sorted(tensors.items(), key=lambda item: -BY_NAME[item[1][0]].bits)), {"format": "pt"})
    header = read_safetensors_header(BytesSource(data))
    assert (header.faults, header.metadata, header.loadable) == ((), {"format": "pt"}, True)
    assert {tensor.name: (tensor.dtype, list(tensor.shape)) for tensor in header.tensors} == tensors
    assert header.data_start + sum(tensor.nbytes for tensor in header.tensors) == header.file_size == len(data)


def test_tensors_come_in_the_order_of_their_bytes_with_absolute_offsets() -> None:
    text = json.dumps({"b": entry("U8", [3], 4, 7), "a": entry("F32", [1], 0, 4)})
    header = read_safetensors_header(source(text, b"abcdefg"))
    assert [(tensor.name, tensor.file_offset) for tensor in header.tensors] == [
        ("a", 8 + len(text)),
        ("b", 12 + len(text)),
    ]
    assert header.by_name["b"].numel == 3


@pytest.mark.parametrize(
    "header",
    [
        "{" + W + "}",
        "{" + W + "}    ",
        "{" + W + ',"empty":{"dtype":"F32","shape":[0,5],"data_offsets":[16,16]}}',
        '{"first":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' + W + "}",
        '{"__metadata__":{},' + W + "}",
        '{"\\u4f60\\ud83d\\ude00":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}',
        '{"w": {"data_offsets": [0, 16], "shape": [1,1,4], "dtype": "F32"}}',
        '{\n"w" : {"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}\t}',
    ],
)
def test_legal_oddities_are_accepted(header: str) -> None:
    assert errors(header) == []


def test_a_file_without_tensors_is_legal() -> None:
    assert read_safetensors_header(source("{}")).faults == ()


def test_a_scalar_has_no_dimensions() -> None:
    header = read_safetensors_header(source('{"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}', bytes(8)))
    assert (header.tensors[0].shape, header.tensors[0].numel) == ((), 1)


BAD = {
    "not an object": ("[]", ["json"]),
    "a number": ("12", ["json"]),
    "broken text": ('{"w":', ["json"]),
    "two documents": ("{" + W + "}{}", ["json"]),
    "NUL padding": ("{" + W + "}\0\0", ["json"]),
    "NaN": ('{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}', ["json", "entry"]),
    "a byte order mark": ("\ufeff{" + W + "}", ["json", "json"]),
    "deep nesting": ('{"__metadata__":' + '{"a":' * 300 + "1" + "}" * 300 + "}", ["depth"]),
    "a lone surrogate": ('{"\\ud800":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', ["utf8", "name"]),
    "bytes that are no text": (b'{"\xff":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', ["utf8"]),
    "a leading blank": (" {" + W + "}", ["start"]),
    "tab padding": ("{" + W + "}\t", ["padding"]),
    "newline padding": ("{" + W + "} \n", ["padding"]),
    "a duplicate name": ("{" + W + "," + W + "}", ["duplicate-name"]),
    "an escaped duplicate": ("{" + W + "," + W.replace('"w"', '"\\u0077"') + "}", ["duplicate-name"]),
    "metadata null": ('{"__metadata__":null,' + W + "}", ["metadata-null"]),
    "metadata number": ('{"__metadata__":{"a":1},' + W + "}", ["metadata"]),
    "metadata list": ('{"__metadata__":[],' + W + "}", ["metadata"]),
    "metadata twice": ('{"__metadata__":{},"__metadata__":{},' + W + "}", ["metadata"]),
    "metadata key twice": ('{"__metadata__":{"a":"1","a":"2"},' + W + "}", ["duplicate-name"]),
    "large metadata": ('{"__metadata__":{"a":"' + "x" * (2 << 20) + '"},' + W + "}", ["large-metadata"]),
    "an unknown field": ("{" + W[:-1] + ',"x":1}}', ["unknown-field"]),
    "a field twice": ("{" + W[:-1] + ',"dtype":"F32"}}', ["entry"]),
    "an entry that is no object": ('{"w":1}', ["entry"]),
    "an entry that is a list": ('{"w":["F32",[2,2],[0,16]]}', ["entry"]),
    "no offsets": ('{"w":{"dtype":"F32","shape":[2,2]}}', ["entry"]),
    "one offset": ('{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[16]}}', ["entry"]),
    "three offsets": ('{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,8,16]}}', ["entry"]),
    "a shape that is a number": ('{"w":{"dtype":"F32","shape":4,"data_offsets":[0,16]}}', ["entry"]),
    "a float in a shape": ('{"w":{"dtype":"F32","shape":[2.0,2],"data_offsets":[0,16]}}', ["entry"]),
    "an exponent in a shape": ('{"w":{"dtype":"F32","shape":[4e0],"data_offsets":[0,16]}}', ["entry"]),
    "a boolean in a shape": ('{"w":{"dtype":"F32","shape":[true,4],"data_offsets":[0,16]}}', ["entry"]),
    "negative lengths": ('{"w":{"dtype":"F32","shape":[-2,-2],"data_offsets":[0,16]}}', ["entry"]),
    "minus zero": ('{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[-0,16]}}', ["entry"]),
    "a type in lower case": ('{"w":{"dtype":"f32","shape":[2,2],"data_offsets":[0,16]}}', ["dtype"]),
    "a type of torch": ('{"w":{"dtype":"C128","shape":[1],"data_offsets":[0,16]}}', ["dtype"]),
    "a type that is null": ('{"w":{"dtype":null,"shape":[2,2],"data_offsets":[0,16]}}', ["dtype"]),
    "offsets reversed": ('{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[16,0]}}', ["offset"]),
    "an offset beyond 64 bits": (
        '{"w":{"dtype":"F32","shape":[4],"data_offsets":[18446744073709551600,18446744073709551616]}}',
        ["overflow"],
    ),
    "an overflow before a zero": (
        '{"w":{"dtype":"F32","shape":[9223372036854775808,2,0],"data_offsets":[0,0]}}',
        ["overflow"],
    ),
    "an overflow of bits": ('{"w":{"dtype":"F64","shape":[4611686018427387904],"data_offsets":[0,0]}}', ["overflow"]),
    "a shape too small": ('{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,16]}}', ["size"]),
    "half a byte": ('{"w":{"dtype":"F4","shape":[31],"data_offsets":[0,16]}}', ["subbyte"]),
    "a rank of 65": ('{"w":{"dtype":"F32","shape":[' + "1," * 64 + '4],"data_offsets":[0,16]}}', ["rank"]),
    "a right-to-left override": ('{"a\\u202eb":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', ["name"]),
    "a control character": ('{"a\\u001b[2J":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', ["name"]),
    "a long name": ('{"' + "a" * 2000 + '":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', ["long-name"]),
    "a hole": ("{" + W + ',"x":{"dtype":"U8","shape":[2],"data_offsets":[18,20]}}', ["hole"]),
    "a hole at the beginning": ('{"x":{"dtype":"U8","shape":[14],"data_offsets":[2,16]}}', ["hole"]),
    "an overlap": ("{" + W + ',"x":{"dtype":"U8","shape":[8],"data_offsets":[12,20]}}', ["overlap"]),
    "an empty tensor inside another": ("{" + W + ',"x":{"dtype":"U8","shape":[0],"data_offsets":[8,8]}}', ["overlap"]),
    "a misaligned tensor": (
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[4],"data_offsets":[1,17]}}',
        ["misaligned"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_the_format_forbids_is_named(case: str) -> None:
    header, expected = BAD[case]
    size = {"a hole": 20, "an overlap": 20, "a misaligned tensor": 17}.get(case, 16)
    size = 0 if case in ("an overflow before a zero", "an overflow of bits") else size
    assert errors(header, bytes(size)) == expected


def test_a_fault_names_the_tensor_and_the_byte_of_its_entry() -> None:
    text = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,8]}}'
    fault = next(
        fault for fault in read_safetensors_header(source(text, bytes(8))).faults if fault.kind == "safetensors-size"
    )
    assert (fault.place, fault.offset) == ("b", 8 + text.index('"b"'))


def test_a_hole_is_named_with_the_byte_where_it_begins() -> None:
    text = "{" + W + ',"x":{"dtype":"U8","shape":[2],"data_offsets":[18,20]}}'
    fault = next(fault for fault in read_safetensors_header(source(text, bytes(20))).faults if "hole" in fault.kind)
    assert (fault.place, fault.offset) == ("x", 8 + len(text) + 16)


def test_a_cut_file_says_how_much_is_missing_and_where_it_begins() -> None:
    text = "{" + W + ',"x":{"dtype":"U8","shape":[4],"data_offsets":[16,20]}}'
    header = read_safetensors_header(source(text, bytes(18)))
    fault = header.faults[0]
    assert (fault.kind, fault.place, len(header.tensors)) == ("safetensors-truncated", "x", 2)
    assert "2 bytes early; 1 of 2" in fault.message


def test_bytes_after_the_last_tensor_are_named() -> None:
    assert errors("{" + W + "}", bytes(17)) == ["trailing"]
    assert errors("{}", bytes(1)) == ["trailing"]


def test_an_entry_that_cannot_be_read_does_not_make_holes_of_its_bytes() -> None:
    text = '{"a":{"dtype":"?","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
    header = read_safetensors_header(source(text, bytes(8)))
    assert [tensor.name for tensor in header.tensors] == ["b"]
    assert "safetensors-hole" not in kinds(header)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "short"),
        (b"\1\0\0\0\0\0\0", "short"),
        (bytes(8), "no-header"),
        (bytes(4096), "no-header"),
        ((MAX_HEADER + 1).to_bytes(8, "little") + b"{" * 100, "header-length"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "header-length"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "lfs-pointer"),
        (b"PK\x03\x04" + bytes(60), "other-format"),
        (b"\x80\x02}q\x00.", "other-format"),
        (b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01u.", "other-format"),
        (b"GGUF\x03\x00\x00\x00" + bytes(60), "other-format"),
        (b"<!DOCTYPE html><html></html>", "other-format"),
        (b'{"error":"Repository not found"}', "other-format"),
    ],
)
def test_what_has_no_header_is_said_to_be_what_it_is(data: bytes, kind: str) -> None:
    header = read_safetensors_header(BytesSource(data))
    assert (kinds(header), header.tensors, header.loadable) == ([f"safetensors-{kind}"], (), False)


def test_a_header_cut_by_the_end_of_the_file_gives_the_tensors_before_the_cut() -> None:
    data = model_bytes({f"layer.{number}": ("F32", [2]) for number in range(10)})
    header = read_safetensors_header(BytesSource(data[:400]))
    assert kinds(header)[0] == "safetensors-header-length"
    assert [tensor.name for tensor in header.tensors] == [f"layer.{number}" for number in range(len(header.tensors))]
    assert 3 <= len(header.tensors) < 10


def test_ten_thousand_broken_entries_give_a_bounded_number_of_faults() -> None:
    text = json.dumps({f"t{number}": {"dtype": "nope"} for number in range(10_000)})
    assert len(read_safetensors_header(source(text)).faults) < 40


def test_only_named_kinds_are_tolerated() -> None:
    from ckpt_inspect.knowledge import faults

    known = faults()
    assert known.keys() >= TOLERATED
    assert all(
        row["severity"] == "error"
        for kind, row in known.items()
        if kind.startswith("safetensors-") and kind not in TOLERATED
    )


@given(st.binary(max_size=120))
def test_no_bytes_raise(data: bytes) -> None:
    read_safetensors_header(BytesSource(data))
    read_safetensors_header(BytesSource(len(data).to_bytes(8, "little") + data))
