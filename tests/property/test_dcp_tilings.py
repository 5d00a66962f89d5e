"""Random distributed checkpoints in torch's true format: every tensor comes back byte for byte, however it was cut."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.dcp_files import Piece, Whole, save_dcp, save_dcp_safetensors
from builders.dcp_random import boxes, checkpoints
from consolidate.gathering import arrays
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckpt_inspect.consolidate.api import consolidate, iter_tensors, verify_consolidation
from ckpt_inspect.consolidate.interleave import cut
from ckpt_inspect.consolidate.plan import Interleave, Part, Plan, ranges_of
from ckpt_inspect.consolidate.planning import plan_consolidation
from ckpt_inspect.consolidate.tiling import Box, TilingError, tile

_LESS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def assert_same(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert sorted(got) == sorted(wanted)
    for name, values in wanted.items():
        assert got[name].dtype == values.dtype, name
        assert got[name].shape == values.shape, name
        assert got[name].tobytes() == values.tobytes(), name


@settings(_LESS, max_examples=80)
@given(saved=checkpoints(), big=st.integers(0, 9))
def test_every_tiling_comes_back_whole(saved: tuple[dict[str, Whole], dict[str, Any]], big: int) -> None:
    tensors, values = saved
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        byteorder = "little" if big else "big"
        written = tensors if big else swapped(tensors, values)
        save_dcp(directory, written, byteorder=byteorder, paths={key: (key,) for key in tensors})
        plan = plan_consolidation(directory)
        assert_same(arrays(plan), values)  # an executor of its own
        assert_same(dict(iter_tensors(directory)), values)
    assert plan == Plan.from_json(plan.to_json())
    assert (plan.layout, plan.warnings) == ("dcp", ())


def swapped(tensors: dict[str, Whole], values: dict[str, Any]) -> dict[str, Whole]:
    """The same tensors as a big-endian machine saves them."""

    def of(whole: Whole, kind: Any) -> Whole:
        pieces = [
            replace(piece, data=np.frombuffer(piece.data or b"", f"u{kind.itemsize}").byteswap().tobytes())
            for piece in whole.pieces
        ]
        return Whole(whole.dtype, whole.shape, pieces)

    return {name: of(whole, values[name].dtype) for name, whole in tensors.items()}


@settings(_LESS, max_examples=40)
@given(saved=checkpoints())
def test_the_safetensors_form_comes_back_whole(saved: tuple[dict[str, Whole], dict[str, Any]]) -> None:
    tensors, values = saved
    # A file holds one chunk of a tensor, in row-major order; a rank whose chunk is empty writes none.
    apart = {
        name: Whole(whole.dtype, whole.shape, [
            Piece(piece.offsets, piece.sizes, rank, values[name][box(piece)].tobytes())
            for rank, piece in enumerate(whole.pieces) if 0 not in piece.sizes or 0 in whole.shape
        ][: 1 if 0 in whole.shape else None])
        for name, whole in tensors.items()
    }  # fmt: skip
    apart = {name: whole for name, whole in apart.items() if 0 not in whole.shape}
    values = {name: values[name] for name in apart}
    if not apart:
        return
    with tempfile.TemporaryDirectory() as name:
        save_dcp_safetensors(Path(name), apart)
        plan = plan_consolidation(name)
        assert_same(arrays(plan), values)
        assert_same(dict(iter_tensors(name)), values)


def box(piece: Piece) -> tuple[slice, ...]:
    return tuple(slice(low, low + length) for low, length in zip(piece.offsets, piece.sizes, strict=True))


@settings(_LESS, max_examples=25)
@given(saved=checkpoints(), dtype=st.sampled_from(["auto", "bfloat16", "float32"]))
def test_what_is_written_is_what_the_iterator_gives(saved: tuple[dict[str, Whole], dict[str, Any]], dtype: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        save_dcp(Path(name) / "saved", saved[0], paths={key: (key,) for key in saved[0]})
        wanted = {key: array.tobytes() for key, array in iter_tensors(Path(name) / "saved", dtype=dtype)}
        out = Path(name) / "out"
        consolidate(Path(name) / "saved", out, dtype=dtype, max_shard_size=300, verify=True)
        got: dict[str, bytes] = {}
        for file in out.glob("*.safetensors"):
            from safetensors import deserialize

            got |= {key: bytes(entry["data"]) for key, entry in deserialize(file.read_bytes())}
        assert got == wanted
        assert verify_consolidation(out).shards == "equal"


@settings(_LESS, max_examples=200)
@given(data=st.data())
def test_tiles_are_the_rows_of_the_whole_and_cut_anywhere(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    item = data.draw(st.sampled_from([1, 2, 8]))
    values = np.arange(int(np.prod(shape)) * item).astype("u1").reshape(*shape, item)
    found, sources = [], []
    for start, size in data.draw(boxes(shape)):
        part = values[tuple(slice(low, low + length) for low, length in zip(start, size, strict=True))]
        order = data.draw(st.sampled_from("CCF"))
        stored = np.ascontiguousarray(part) if order == "C" else _turned(part)
        strides = stored.strides[:-1]
        found.append(Box(start, size, len(sources), 0, tuple(strides)))
        sources.append(_raw(stored))
    parts = tile(shape, found, item)
    whole = b"".join(_bytes(part, sources) for part in parts)
    assert whole == values.tobytes()
    first = data.draw(st.integers(0, len(whole) // item - 1)) * item
    count = data.draw(st.integers(1, (len(whole) - first) // item)) * item
    assert _window(parts, first, count, sources) == whole[first : first + count]


def _turned(part: Any) -> Any:
    """The same values, the elements in column-major order."""
    axes = tuple(range(part.ndim - 1))[::-1]
    stored = np.ascontiguousarray(part.transpose(*axes, part.ndim - 1))
    return stored.transpose(*axes, part.ndim - 1)


def _raw(stored: Any) -> bytes:
    base = stored
    while base.base is not None and isinstance(base.base, np.ndarray) and not base.flags.c_contiguous:
        base = base.base
    return bytes(base.tobytes())


def _bytes(part: Part, sources: list[bytes]) -> bytes:
    pieces = [sources[place.source][place.offset : place.offset + place.length] for place in ranges_of([part])]
    if not isinstance(part, Interleave):
        return pieces[0]
    rows = [
        piece[row * (len(piece) // part.rows) : (row + 1) * (len(piece) // part.rows)]
        for row in range(part.rows)
        for piece in pieces
    ]
    return b"".join(rows)


def _window(parts: tuple[Part, ...], start: int, length: int, sources: list[bytes]) -> bytes:
    out, at = b"", 0
    for part in parts:
        low, high = max(start, at), min(start + length, at + part.length)
        if low < high:
            out += b"".join(_bytes(one, sources) for one in cut(part, low - at, high - low))
        at += part.length
    return out


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((4, 3), [((0, 0), (2, 3)), ((3, 0), (1, 3))]),
        ((4, 3), [((0, 0), (4, 2))]),
        ((4,), [((0,), (2,)), ((1,), (3,))]),
        ((2, 2, 2), [((0, 0, 0), (2, 2, 1)), ((0, 0, 1), (1, 2, 1))]),
        ((), []),
    ],
)
def test_gaps_and_overlaps_are_no_tiling(shape: tuple[int, ...], found: list[Any]) -> None:
    made = []
    for source, (start, size) in enumerate(found):
        stride = tuple(int(np.prod(size[axis + 1 :])) * 4 for axis in range(len(size)))
        made.append(Box(start, size, source, 0, stride))
    with pytest.raises(TilingError):
        tile(shape, made, 4)


def test_a_matrix_cut_along_its_columns_is_one_part_however_many_rows() -> None:
    made = [Box((0, rank * 8), (1 << 20, 8), rank, 64, (32, 4)) for rank in range(4)]
    (part,) = tile((1 << 20, 32), made, 4)
    assert isinstance(part, Interleave)
    assert (part.rows, len(part.columns), part.row_length) == (1 << 20, 4, 128)


def test_a_stack_of_matrices_cut_along_their_last_dimension_is_one_part() -> None:
    made = [Box((0, 0, rank * 8), (16, 64, 8), rank, 0, (64 * 32, 32, 4)) for rank in range(4)]
    (part,) = tile((16, 64, 32), made, 4)
    assert isinstance(part, Interleave)
    assert part.rows == 16 * 64


def test_rows_of_a_thousand_ranks_are_a_thousand_ranges() -> None:
    made = [Box((rank, 0), (1, 8), rank, 0, (32, 4)) for rank in range(1000)]
    parts = tile((1000, 8), made, 4)
    assert [part.source for part in ranges_of(parts)] == list(range(1000))
