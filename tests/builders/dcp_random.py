"""Hypothesis strategies for distributed checkpoints: tensors of any shape and type, cut into boxes in any way.

A tensor is cut in two again and again, along any dimension: rows, columns, grids, unequal parts and parts of nothing.
"""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from builders.dcp_files import Piece, Whole

NUMPY = {
    "F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip
Box = tuple[tuple[int, ...], tuple[int, ...]]
_LENGTHS = st.integers(0, 6)
_SHAPES = st.one_of(
    st.just(()),
    st.tuples(st.integers(0, 40)),
    st.tuples(_LENGTHS, _LENGTHS),
    st.tuples(st.integers(1, 9), st.integers(1, 17)),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.tuples(*[st.integers(1, 3)] * 4),
)


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...], most: int = 7) -> list[Box]:
    """Boxes that tile a shape; what FSDP does (one dimension) and what it never would."""
    if not shape:
        return [((), ())]
    way = draw(st.sampled_from(["axis", "grid", "any"]))
    if way == "any":
        found: list[Box] = [((0,) * len(shape), shape)]
        for _ in range(draw(st.integers(0, most - 1))):
            start, size = found.pop(draw(st.integers(0, len(found) - 1)))
            axis = draw(st.integers(0, len(shape) - 1))
            at = draw(st.integers(0, size[axis]))
            found.append((start, (*size[:axis], at, *size[axis + 1 :])))
            moved = (*start[:axis], start[axis] + at, *start[axis + 1 :])
            found.append((moved, (*size[:axis], size[axis] - at, *size[axis + 1 :])))
        corners = dict(sorted(found, key=lambda box: np.prod(box[1])))
        return list(corners.items())  # a box of nothing may share its corner with another
    cut = range(len(shape)) if way == "grid" else [draw(st.integers(0, len(shape) - 1))]
    parts = []
    for axis, length in enumerate(shape):
        places = sorted(draw(st.sets(st.integers(1, max(length, 1)), max_size=3))) if axis in cut else []
        edges = [0, *(place for place in places if place < length), length]
        parts.append(list(pairwise(edges)))
    return [(tuple(low for low, _ in sides), tuple(high - low for low, high in sides)) for sides in product(*parts)]


@st.composite
def wholes(draw: st.DrawFn, ranks: int) -> tuple[Whole, Any]:
    """A tensor in pieces on `ranks` ranks, and its values."""
    dtype = draw(st.sampled_from(sorted(NUMPY)))
    shape = draw(_SHAPES)
    kind = NUMPY[dtype]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = int(np.prod(shape, dtype=np.int64))
    raw = random.integers(0, 2 if dtype == "BOOL" else 256, count * kind.itemsize, dtype="u1")
    values = np.frombuffer(raw.tobytes(), kind).reshape(shape)
    pieces = []
    for start, size in draw(boxes(shape)):
        part = values[tuple(slice(low, low + length) for low, length in zip(start, size, strict=True))]
        turned = part.size > 1 and draw(st.integers(0, 5)) == 0
        stride = tuple(step // kind.itemsize for step in np.asfortranarray(part).strides) if turned else None
        data = part.tobytes(order="F" if turned else "C")
        pieces.append(Piece(start, size, draw(st.integers(0, ranks - 1)), data, stride))
    return Whole(dtype, shape, draw(st.permutations(pieces))), values


@st.composite
def checkpoints(draw: st.DrawFn, most: int = 6) -> tuple[dict[str, Whole], dict[str, Any]]:
    """Up to `most` tensors by name, and their values."""
    ranks = draw(st.integers(1, 5))
    made = {f"layers.{index}.weight": draw(wholes(ranks)) for index in range(draw(st.integers(1, most)))}
    return {name: whole for name, (whole, _) in made.items()}, {name: values for name, (_, values) in made.items()}
