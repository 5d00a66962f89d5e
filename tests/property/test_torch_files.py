"""Any archive the builder can write is read back exactly; no change to its bytes makes the reader fail or hang."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
from builders.dcp_files import Piece, Whole, metadata_pickle
from builders.torch_files import TensorSpec, legacy_bytes, parameter, tensor, view, with_attributes, zip_bytes
from builders.zips import PlainMember, plain_zip
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_inspect.formats.dcp_metadata import read_dcp_metadata
from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.formats.sniff import sniff
from ckpt_inspect.formats.torch_archive import open_torch
from ckpt_inspect.formats.zip_directory import read_zip_directory, split_archives
from ckpt_inspect.storage import BytesSource

ZIPPED = [name for name, dtype in BY_NAME.items() if dtype.torch and not name.startswith("QUINT")]
STREAMED = [name for name in ZIPPED if BY_NAME[name].storage]


@st.composite
def tensors(draw: st.DrawFn, names: list[str]) -> TensorSpec:
    name = draw(st.sampled_from(names))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    count = 1
    for length in shape:
        count *= length
    data = draw(st.binary(min_size=BY_NAME[name].nbytes(count), max_size=BY_NAME[name].nbytes(count)))
    return tensor(name, shape, data)


@st.composite
def states(draw: st.DrawFn, names: list[str]) -> tuple[Any, dict[str, TensorSpec]]:
    """A nested state dictionary and its tensors by path; some are views, parameters or carry attributes."""
    flat: dict[str, TensorSpec] = {}
    bases: list[TensorSpec] = []

    def build(prefix: str, depth: int) -> Any:
        kind = draw(st.sampled_from(["tensor", "tensor", "view", "dict", "list", "plain"] if depth < 3 else ["tensor"]))
        if kind == "plain":
            return draw(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)))
        if kind == "view" and bases:
            base = draw(st.sampled_from(bases))
            available = base.storage.count
            start = draw(st.integers(0, available))
            length = draw(st.integers(0, available - start))
            spec = view(base, (length,), offset=start)
        elif kind in ("tensor", "view"):
            spec = draw(tensors(names))
            bases.append(spec)
        elif kind == "list":
            return [build(f"{prefix}.{i}".lstrip("."), depth + 1) for i in range(draw(st.integers(0, 3)))]
        else:
            keys = draw(st.lists(st.text("abcxyz_", min_size=1, max_size=4), unique=True, max_size=4))
            inner = [(key, build(f"{prefix}.{key}".lstrip("."), depth + 1)) for key in keys]
            return draw(st.sampled_from([dict, OrderedDict]))(inner)
        flat[prefix] = spec
        wrap = draw(st.sampled_from(["plain", "plain", "parameter", "state", "attributes"]))
        if wrap == "parameter":
            return parameter(spec)
        if wrap == "state":
            return parameter(spec, state={"a": 1})
        return with_attributes(spec, {"ds_id": 3}) if wrap == "attributes" else spec

    return build("", 0), flat


def check(data: bytes, flat: dict[str, TensorSpec]) -> None:
    archive = open_torch(BytesSource(data))
    assert archive.faults == ()
    found = dict(archive.tensors())
    assert found.keys() == flat.keys()
    for path, spec in flat.items():
        ours = found[path]
        assert (ours.dtype, ours.shape, ours.stride, ours.problem) == (spec.dtype, spec.shape, spec.stride, None)
        item = BY_NAME[spec.dtype].bits // 8
        expected = bytes(spec.storage.data)[spec.offset * item : spec.offset * item + ours.nbytes]  # type: ignore[arg-type]
        assert ours.file_offset is not None
        assert data[ours.file_offset : ours.file_offset + ours.nbytes] == expected


@given(states(ZIPPED), st.sampled_from(["2.13", "2.5", "1.13"]), st.integers(2, 5))
def test_archives_are_read_back_exactly(state: tuple[Any, dict[str, TensorSpec]], era: Any, protocol: int) -> None:
    value, flat = state
    check(zip_bytes(value, era=era, protocol=protocol), flat)


@given(states(STREAMED), st.integers(1, 5))
def test_legacy_streams_are_read_back_exactly(state: tuple[Any, dict[str, TensorSpec]], protocol: int) -> None:
    value, flat = state
    check(legacy_bytes(value, protocol), flat)


def everything(data: bytes) -> None:
    """Read whatever it is in every way; nothing may raise."""
    source = BytesSource(data)
    sniff(source)
    archive = open_torch(source)
    size = len(data)
    for fault in archive.faults:
        assert fault.kind
        assert fault.message
    for _, found in archive.tensors():
        if found.file_offset is not None:
            assert 0 <= found.file_offset <= size
            assert found.problem is not None or not found.contiguous or found.file_offset + found.nbytes <= size
    read_zip_directory(source)
    split_archives(source)


ZIP = zip_bytes({"a": tensor("F32", (3,), bytes(12)), "b": [parameter(tensor("BF16", (2, 2)))]})
STREAM = legacy_bytes({"a": tensor("F32", (3,), bytes(12)), "b": [parameter(tensor("BF16", (2, 2)))]})
PLAIN = plain_zip([PlainMember(b"a/data.pkl", b"N.", 8), PlainMember(b"a/version", b"3")], comment=b"c")
DCP = metadata_pickle({"w": Whole("F32", (2,), [Piece((0,), (2,))])}, {"n": 1}, {("w", (0,)): ("f", 0, 9)})


@pytest.mark.parametrize("whole", [ZIP, STREAM, PLAIN], ids=["zip", "stream", "plain"])
def test_a_file_cut_at_every_byte_is_read_as_far_as_it_goes(whole: bytes) -> None:
    for end in range(0, len(whole), 1 if len(whole) < 1000 else 3):
        everything(whole[:end])


changes = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 1 << 16), st.integers(0, 255)),
        st.tuples(st.just("wide"), st.integers(0, 1 << 16), st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFF])),
        st.tuples(st.just("cut"), st.integers(0, 1 << 16), st.integers(0, 64)),
        st.tuples(st.just("copy"), st.integers(0, 1 << 16), st.integers(0, 1 << 16)),
    ),
    min_size=1,
    max_size=6,
)


def changed(data: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    out = bytearray(data)
    for what, place, value in edits:
        at = place % max(len(out), 1)
        if what == "set" and out:
            out[at] = value
        elif what == "wide":
            out[at : at + 4] = value.to_bytes(4, "little")
        elif what == "cut":
            del out[at : at + value]
        elif what == "copy":
            out[at:at] = out[value % max(len(out), 1) :][:64]
    return bytes(out)


@settings(max_examples=300)
@given(st.sampled_from([ZIP, STREAM, PLAIN]), changes)
def test_no_change_to_its_bytes_makes_the_reader_fail(whole: bytes, edits: list[tuple[str, int, int]]) -> None:
    everything(changed(whole, edits))


@settings(max_examples=200)
@given(changes)
def test_no_change_to_metadata_makes_the_reader_fail(edits: list[tuple[str, int, int]]) -> None:
    read_dcp_metadata(BytesSource(changed(DCP, edits)))


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06", STREAM[:30], b"\x80\x02", ZIP[:200]])
)
def test_random_bytes_behind_any_start_are_read_without_failing(rest: bytes, start: bytes) -> None:
    everything(start + rest)
