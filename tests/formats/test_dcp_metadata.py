"""Distributed checkpoints: every chunk where its metadata put it, and whatever does not fit together named."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from builders.dcp_files import Piece, Whole, metadata_pickle, rows, save_dcp, save_dcp_safetensors
from builders.pickles import Called, Instance, Name, dump
from builders.torch_files import tensor, zip_bytes
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.formats.dcp_items import item_tensor
from ckpt_inspect.formats.dcp_metadata import (
    DcpBytes,
    DcpChunk,
    DcpMetadata,
    DcpTensor,
    check_files,
    check_tiling,
    merge_metadata,
    read_dcp_metadata,
    read_dcp_safetensors,
)
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.safetensors_header import read_safetensors_header
from ckpt_inspect.storage import BytesSource, LocalFile

DATA = bytes(range(5 * 3 * 2))
WEIGHT = {"w": rows("F16", (5, 3), DATA, 2)}


def kinds(metadata: DcpMetadata) -> set[str]:
    return {fault.kind for fault in metadata.faults}


def parsed(
    tensors: dict[str, Whole], places: dict[Any, Any], items: dict[str, Any] | None = None, **more: Any
) -> DcpMetadata:
    return read_dcp_metadata(BytesSource(metadata_pickle(tensors, items or {}, places, **more)))


def put_together(directory: Path, metadata: DcpMetadata, name: str, item: int) -> bytes:
    """The row-major bytes of a tensor from its chunks, element by element."""
    whole = metadata.tensors[name]
    out = bytearray(whole.numel * item)
    for chunk in whole.chunks:
        with LocalFile(directory / chunk.file) as source:
            place = chunk.offset
            if chunk.form == "torch":
                inner = item_tensor(source, chunk)
                assert inner is not None
                assert inner.shape == chunk.sizes
                assert inner.file_offset is not None
                place = inner.file_offset
            data = source.read_at(place, chunk.numel * item)
        for position in range(chunk.numel):
            rest, index = position, 0
            step = whole.numel
            coordinates = []
            for length in reversed(chunk.sizes):
                rest, coordinate = divmod(rest, length)
                coordinates.append(coordinate)
            for axis, coordinate in enumerate(reversed(coordinates)):
                step //= whole.shape[axis]
                index += (coordinate + chunk.offsets[axis]) * step
            out[index * item : (index + 1) * item] = data[position * item : (position + 1) * item]
    return bytes(out)


def test_chunks_of_several_ranks_are_found_at_their_absolute_bytes(tmp_path: Path) -> None:
    scalar = Whole("F32", (), [Piece((), (), 0, b"\x00\x00\x50\x40")])
    saved = save_dcp(tmp_path, {**WEIGHT, "s": scalar}, {"number": 7})
    with LocalFile(tmp_path / ".metadata") as source:
        metadata = read_dcp_metadata(source)
    assert metadata.faults == ()
    assert (metadata.version, metadata.save_id, metadata.checkpoint_id) == ("1.0.0", "c0ffee", "/runs/checkpoint-2")
    assert metadata.files == ("__0_0.distcp", "__1_0.distcp")
    assert metadata.planner_paths["w"] == ("w",)
    assert metadata.items == {"number": DcpBytes(*saved.places["number", None])}
    assert (metadata.tensors["w"].dtype, metadata.tensors["w"].shape) == ("F16", (5, 3))
    assert [chunk.offsets for chunk in metadata.tensors["w"].chunks] == [(0, 0), (3, 0)]
    assert put_together(tmp_path, metadata, "w", 2) == DATA
    assert put_together(tmp_path, metadata, "s", 4) == b"\x00\x00\x50\x40"


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_modules_of_older_torch_are_understood(protocol: int) -> None:
    old = "torch.distributed._shard.checkpoint.metadata"
    places = {("w", (0, 0)): ("__0_0.distcp", 0, 10), ("w", (3, 0)): ("__1_0.distcp", 0, 10)}
    metadata = parsed(
        WEIGHT,
        places,
        module=old,
        filesystem="torch.distributed._shard.checkpoint.filesystem",
        meta=False,
        protocol=protocol,
    )
    assert metadata.faults == ()
    assert (metadata.version, metadata.save_id) == (None, None)
    assert len(metadata.tensors["w"].chunks) == 2


def test_the_safetensors_form_gives_the_same_facts(tmp_path: Path) -> None:
    save_dcp_safetensors(tmp_path, WEIGHT)
    headers = {}
    for file in sorted(tmp_path.iterdir()):
        with LocalFile(file) as source:
            headers[file.name] = read_safetensors_header(source)
    metadata = read_dcp_safetensors(headers)
    assert (metadata.form, metadata.faults) == ("safetensors", ())
    assert metadata.tensors["w"].shape == (5, 3)
    assert {chunk.form for chunk in metadata.tensors["w"].chunks} == {"raw"}
    assert put_together(tmp_path, metadata, "w", 2) == DATA


@pytest.mark.parametrize(
    ("info", "kind"),
    [
        ('{"w": {"saved_offsets": [0]}}', "dcp-unknown"),
        ('{"w": {"saved_offsets": [-1, 0]}}', "dcp-unknown"),
        ('{"w": {"saved_offsets": "a"}}', "dcp-unknown"),
        ('{"w": {"saved_offsets": [1, 0]}}', "dcp-gap"),
        ("[1", None),
        ('{"w": 5}', None),
    ],
)
def test_sharding_information_that_lies_is_named(tmp_path: Path, info: str, kind: str | None) -> None:
    save_dcp_safetensors(tmp_path, {"w": Whole("U8", (2, 2), [Piece((0, 0), (2, 2))])}, offsets=False)
    (file,) = tmp_path.iterdir()
    with LocalFile(file) as source:
        header = read_safetensors_header(source)
    header.metadata["DCP_SHARDING_INFO"] = info
    assert kinds(read_dcp_safetensors({"f": header})) == ({kind} if kind else set())


def test_files_that_describe_one_tensor_in_two_ways_conflict(tmp_path: Path) -> None:
    save_dcp_safetensors(tmp_path / "a", {"w": Whole("U8", (2,), [Piece((0,), (2,))])})
    save_dcp_safetensors(tmp_path / "b", {"w": Whole("I8", (2,), [Piece((0,), (2,))])})
    headers = {}
    for file in tmp_path.rglob("*.safetensors"):
        with LocalFile(file) as source:
            headers[str(file)] = read_safetensors_header(source)
    assert kinds(read_dcp_safetensors(headers)) == {"dcp-conflict"}


PLACES: dict[Any, Any] = {("w", (0, 0)): ("__0_0.distcp", 0, 9), ("w", (3, 0)): ("__1_0.distcp", 0, 9)}


def whole(*pieces: Piece) -> dict[str, Whole]:
    return {"w": Whole("F16", (5, 3), list(pieces))}


def moved(**changes: Any) -> dict[Any, Any]:
    file, offset, length = PLACES["w", (0, 0)]
    return {
        **PLACES,
        ("w", (0, 0)): (changes.get("file", file), changes.get("offset", offset), changes.get("length", length)),
    }


ODD = Instance(Name("m", "T"), {"chunks": [1], "size": (1,), "properties": 5})


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (parsed(WEIGHT, PLACES), set()),
        (parsed(WEIGHT, {}), {"dcp-unplaced"}),
        (parsed({}, {}, {"n": 1}), {"dcp-unplaced"}),
        (parsed({}, PLACES), {"dcp-unknown"}),
        (parsed(WEIGHT, moved(file="../x")), {"dcp-traversal", "dcp-unplaced"}),
        (parsed(WEIGHT, moved(file="/etc/passwd")), {"dcp-traversal", "dcp-unplaced"}),
        (parsed(WEIGHT, moved(file="")), {"dcp-traversal", "dcp-unplaced"}),
        (parsed(WEIGHT, moved(offset=-1)), {"dcp-item-bounds", "dcp-unplaced"}),
        (parsed(WEIGHT, moved(length="9")), {"dcp-unknown", "dcp-unplaced"}),
        (parsed(WEIGHT, PLACES, transforms=("zstd",)), {"dcp-transformed"}),
        (parsed(whole(Piece((0, 0), (5, 3)), Piece((3, 0), (2, 3))), PLACES), {"dcp-overlap"}),
        (parsed(whole(Piece((0, 0), (2, 3)), Piece((3, 0), (2, 3))), PLACES), {"dcp-gap"}),
        (parsed(whole(Piece((0, 0), (3, 3)), Piece((3, 0), (3, 3))), PLACES), {"dcp-chunk-bounds"}),
        (parsed(whole(Piece((0, 0), (-3, 3)), Piece((3, 0), (2, 3))), PLACES), {"dcp-chunk-bounds"}),
        (parsed(whole(Piece((0,), (3,))), {("w", (0,)): ("f", 0, 1)}), {"dcp-chunk-bounds"}),
        (parsed({"w": Whole("F16", (-5,), [])}, {}), {"dcp-unknown"}),
        (parsed({"w": Whole("F16", (1,) * 70, [])}, {}), {"dcp-unknown"}),
        (parsed({"w": Whole("F4", (1,), [Piece((0,), (1,))])}, {("w", (0,)): ("f", 0, 1)}), {"dcp-dtype"}),
        (read_dcp_metadata(BytesSource(dump({"state_dict_metadata": 1}))), {"dcp-not-metadata"}),
        (read_dcp_metadata(BytesSource(dump(Instance(Name("m", "M"), {5: 6})))), {"dcp-not-metadata"}),
        (read_dcp_metadata(BytesSource(dump(Instance(Name("m", "M"), {"state_dict_metadata": {5: 6}})))), {"dcp-unknown"}),
        (
            read_dcp_metadata(
                BytesSource(
                    dump(
                        Instance(
                            Name("m", "M"),
                            {"state_dict_metadata": {"w": ODD}},
                        )
                    )
                )
            ),
            {"dcp-unknown", "dcp-dtype", "dcp-gap"},
        ),
    ],
)  # fmt: skip
def test_metadata_that_do_not_fit_together_are_named(metadata: DcpMetadata, expected: set[str]) -> None:
    assert kinds(metadata) == expected


def test_a_truncated_metadata_file_is_named() -> None:
    data = metadata_pickle(WEIGHT, {}, PLACES)
    for cut in (0, 1, 50, len(data) // 2, len(data) - 1):
        found = read_dcp_metadata(BytesSource(data[:cut]))
        assert any(fault.kind.startswith(("pickle", "dcp")) for fault in found.faults)


def test_a_checkpoint_id_that_is_text_is_taken_as_it_is() -> None:
    meta = Instance(Name("m", "StorageMeta"), {"checkpoint_id": "s3://bucket/x", "save_id": 5})
    metadata = parsed(WEIGHT, PLACES, extra={"storage_meta": meta})
    assert (metadata.checkpoint_id, metadata.save_id) == ("s3://bucket/x", None)
    odd = Instance(Name("m", "StorageMeta"), {"checkpoint_id": Called(Name("pathlib", "PosixPath"), (5,))})
    assert parsed(WEIGHT, PLACES, extra={"storage_meta": odd}).checkpoint_id is None


def chunk(offsets: tuple[int, ...], sizes: tuple[int, ...], place: tuple[str, int, int] = ("f", 0, 0)) -> DcpChunk:
    return DcpChunk(offsets, sizes, *place)


def tiling(shape: tuple[int, ...], *chunks: DcpChunk) -> set[str]:
    log = FaultLog()
    check_tiling("w", DcpTensor("F32", shape, chunks), log)
    return {fault.kind for fault in log.sealed()}


def test_tensors_without_elements_or_dimensions_tile() -> None:
    assert tiling((), chunk((), ())) == set()
    assert tiling((), chunk((), ()), chunk((), ())) == {"dcp-overlap"}
    assert tiling((0, 4)) == set()
    assert tiling((0, 4), chunk((0, 0), (0, 4)), chunk((0, 0), (0, 4))) == set()
    assert tiling((2,)) == {"dcp-gap"}


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], list[DcpChunk]]:
    """A tensor cut along each axis at random places: the boxes tile it."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    boxes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
    for length in shape:
        cuts = sorted({0, length, *draw(st.lists(st.integers(0, length), max_size=3))})
        spans = [(a, b - a) for a, b in pairwise(cuts)]
        boxes = [((*o, start), (*s, size)) for o, s in boxes for start, size in spans]
    return shape, [chunk(o, s) for o, s in draw(st.permutations(boxes))]


@given(grids(), st.data())
def test_a_grid_tiles_and_any_change_to_it_does_not(grid: Any, data: st.DataObject) -> None:
    shape, boxes = grid
    assert tiling(shape, *boxes) == set()
    index = data.draw(st.integers(0, len(boxes) - 1))
    assert tiling(shape, *boxes[:index], *boxes[index + 1 :]) == {"dcp-gap"}
    assert tiling(shape, *boxes, boxes[index]) == {"dcp-overlap"}


def test_items_are_held_against_the_files_that_are_there() -> None:
    tensors = {
        "a": DcpTensor("U8", (1,), (chunk((0,), (1,), ("f", 0, 10)),)),
        "b": DcpTensor("U8", (1,), (chunk((0,), (1,), ("f", 10, 10)), chunk((1,), (1,), ("", 0, 0)))),
    }
    metadata = DcpMetadata(tensors, {"n": DcpBytes("g", 0, 5)})

    def against(**sizes: int) -> set[str]:
        log = FaultLog()
        check_files(metadata, sizes, log)
        return {fault.kind for fault in log.sealed()}

    assert against(f=20, g=5) == set()
    assert against(f=20) == {"dcp-file-missing"}
    assert against(f=19, g=5) == {"dcp-item-bounds"}
    assert against(f=25, g=5) == {"dcp-file-rest"}
    shared = DcpMetadata(tensors, {"n": DcpBytes("f", 5, 5)})
    log = FaultLog()
    check_files(shared, {"f": 20}, log)
    assert {fault.kind for fault in log.sealed()} == {"dcp-item-overlap"}


def test_an_item_that_is_no_tensor_gives_none() -> None:
    data = zip_bytes({"w": 1})
    source = BytesSource(b"before" + data)
    assert item_tensor(source, chunk((0,), (1,), ("f", 6, len(data)))) is None
    good = zip_bytes(tensor("U8", (3,), b"abc"))
    source = BytesSource(b"before" + good)
    found = item_tensor(source, chunk((0,), (3,), ("f", 6, len(good))))
    assert found is not None
    assert found.file_offset is not None
    assert source.read_at(found.file_offset, 3) == b"abc"
    assert item_tensor(source, DcpChunk((0,), (3,), "f", 6, len(good), "raw")) is None
    assert item_tensor(source, DcpChunk((0,), (3,), "f", 6, len(good), transforms=("zstd",))) is None
    cut = item_tensor(BytesSource(source.read_at(0, found.file_offset + 1)), chunk((0,), (3,), ("f", 6, len(good))))
    assert cut is not None
    assert (cut.file_offset, cut.problem) == (None, "its bytes lie past the end of the file")


def test_the_metadata_of_single_ranks_are_put_together() -> None:
    first = parsed(whole(Piece((0, 0), (3, 3))), {("w", (0, 0)): ("__0_0.distcp", 0, 9)})
    second = parsed(whole(Piece((3, 0), (2, 3))), {("w", (3, 0)): ("__1_0.distcp", 0, 9)}, {"n": 1})
    assert kinds(first) == {"dcp-gap"}
    merged = merge_metadata({"0": first, "1": second})
    assert len(merged.tensors["w"].chunks) == 2
    assert kinds(merged) == {"dcp-unplaced"}  # the item without a place, and no gap any more
    assert kinds(merge_metadata({"0": first, "1": first})) == {"dcp-gap"}
    other = parsed({"w": Whole("F32", (5, 3), [Piece((0, 0), (5, 3))])}, {("w", (0, 0)): ("f", 0, 9)})
    assert kinds(merge_metadata({"0": first, "1": other})) == {"dcp-conflict", "dcp-gap"}
    assert merge_metadata({}).tensors == {}
