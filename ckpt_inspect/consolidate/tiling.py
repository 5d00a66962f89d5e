"""From boxes that tile a tensor to the parts its row-major bytes are made of: pure integer arithmetic.

A row-wise shard becomes one range. Shards that lie side by side in a row become one
:class:`~ckpt_inspect.consolidate.plan.Interleave` for all rows with the same cuts, whatever the number of dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ckpt_inspect.consolidate.layouts import element_count
from ckpt_inspect.consolidate.plan import Interleave, Part, Range

_MAX_PIECES = 1_000_000  # no real layout needs more than a few thousand


class TilingError(ValueError):
    """Boxes leave gaps, or cannot be written as a bounded number of parts; the message is a clause."""


@dataclass(frozen=True, slots=True)
class Box:
    """Elements `start` to `start + size` of a tensor; `offset` is the byte of the first, `stride` bytes per dimension."""

    start: tuple[int, ...]
    size: tuple[int, ...]
    source: int
    offset: int
    stride: tuple[int, ...]
    swap: bool = False


@dataclass(frozen=True, slots=True)
class _Piece:
    """`length` bytes at `offset` of a box."""

    box: Box
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class _Rows:
    rows: int
    columns: tuple[_Piece, ...]


_Parts = list[_Piece | _Rows]


def tile(shape: Sequence[int], boxes: Sequence[Box], item: int) -> tuple[Part, ...]:
    """The parts of a tensor of `shape` with elements of `item` bytes.

    Args:
        shape: of the whole.
        boxes: they cover every element exactly once.
        item: bytes per element.

    Raises:
        TilingError: they do not, or the parts are too many.
    """
    if element_count(shape) == 0:
        return ()
    solid = [box for box in boxes if element_count(box.size)]
    made = tuple(_part(part) for part in _block(_Walk(tuple(shape), item), 0, [(box, box.offset) for box in solid]))
    held, wanted = sum(part.length for part in made), element_count(shape) * item
    if held != wanted:
        raise TilingError(f"its chunks hold {held} of {wanted} bytes")
    return made


@dataclass(slots=True)
class _Walk:
    shape: tuple[int, ...]
    item: int
    pieces: int = 0

    def count(self, pieces: int) -> None:
        self.pieces += pieces
        if self.pieces > _MAX_PIECES:
            raise TilingError(f"it is scattered over more than {_MAX_PIECES} pieces")


def _block(walk: _Walk, axis: int, boxes: Sequence[tuple[Box, int]]) -> _Parts:
    """The dimensions from `axis` on, covered by `boxes`, each from a byte on."""
    if not boxes:
        return []
    if axis == len(walk.shape):
        if len(boxes) > 1:
            raise TilingError(f"{len(boxes)} chunks hold the same element")
        walk.count(1)
        return [_Piece(boxes[0][0], boxes[0][1], walk.item)]
    parts: _Parts = []
    for count, active in _segments(axis, boxes):
        parts += _rows(walk, axis, count, active)
    return _joined(parts)


def _segments(axis: int, boxes: Sequence[tuple[Box, int]]) -> Iterator[tuple[int, list[tuple[Box, int]]]]:
    """Stretches of an axis inside which no box begins or ends: their length, and the boxes moved to their start."""
    waiting = sorted(boxes, key=lambda item: item[0].start[axis], reverse=True)
    cuts = sorted({place for box, _ in boxes for place in (box.start[axis], box.start[axis] + box.size[axis])})
    active: list[tuple[Box, int]] = []
    for low, high in pairwise(cuts):
        active = [(box, at) for box, at in active if box.start[axis] + box.size[axis] > low]
        while waiting and waiting[-1][0].start[axis] == low:
            active.append(waiting.pop())
        yield (
            high - low,
            [(box, at + (low - box.start[axis]) * box.stride[axis]) for box, at in active],
        )


def _rows(walk: _Walk, axis: int, count: int, boxes: Sequence[tuple[Box, int]]) -> _Parts:
    """`count` equal rows of an axis."""
    inner = _block(walk, axis + 1, boxes)
    if count == 1:
        return inner
    if len(inner) == 1 and isinstance(inner[0], _Piece) and inner[0].box.stride[axis] == inner[0].length:
        return [replace(inner[0], length=inner[0].length * count)]
    columns, rows = inner, 1
    if len(inner) == 1 and isinstance(inner[0], _Rows):
        columns, rows = list(inner[0].columns), inner[0].rows
    packed = [part for part in columns if isinstance(part, _Piece) and part.box.stride[axis] == part.length]
    if len(packed) == len(columns):
        pieces = tuple(replace(part, length=part.length * count) for part in packed)
        return [_Rows(rows * count, pieces)]
    walk.count((count - 1) * len(inner))
    parts = list(inner)
    for index in range(1, count):
        parts += [_moved(part, axis, index) for part in inner]
    return parts


def _moved(part: _Piece | _Rows, axis: int, rows: int) -> _Piece | _Rows:
    """The same part `rows` further along an axis."""
    if isinstance(part, _Rows):
        return _Rows(part.rows, tuple(_shift(column, axis, rows) for column in part.columns))
    return _shift(part, axis, rows)


def _shift(piece: _Piece, axis: int, rows: int) -> _Piece:
    return _Piece(piece.box, piece.offset + rows * piece.box.stride[axis], piece.length)


def _joined(parts: _Parts) -> _Parts:
    """Pieces that follow each other in one box made one."""
    joined: _Parts = []
    for part in parts:
        last = joined[-1] if joined else None
        if (
            isinstance(part, _Piece)
            and isinstance(last, _Piece)
            and last.box is part.box
            and last.offset + last.length == part.offset
        ):
            joined[-1] = _Piece(last.box, last.offset, last.length + part.length)
        else:
            joined.append(part)
    return joined


def _part(part: _Piece | _Rows) -> Part:
    if isinstance(part, _Rows):
        return Interleave(part.rows, tuple(_range(column) for column in part.columns))
    return _range(part)


def _range(piece: _Piece) -> Range:
    return Range(piece.box.source, piece.offset, piece.length, piece.box.swap)
