"""Parts of a tensor, cut and read: plain ranges, and rows whose pieces lie in the shards of several ranks.

A column of an :class:`~ckpt_inspect.consolidate.plan.Interleave` is read as one stretch of its shard for many rows at
once and spread over them in memory: a matrix cut along its columns costs as many reads as one cut along its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ckpt_inspect.consolidate.plan import Interleave, Part, Range
from ckpt_inspect.consolidate.positional import read_into
from ckpt_inspect.consolidate.sources import SourceFiles


def cut(part: Part, start: int, length: int) -> Iterator[Part]:
    """Bytes `[start, start + length)` of what a part gives, as parts: rows that are not whole become ranges."""
    if isinstance(part, Range):
        yield Range(part.source, part.offset + start, length, part.swap)
        return
    width = part.row_length
    row, skip = divmod(start, width)
    if skip:
        count = min(width - skip, length)
        yield from _of_row(part, row, skip, count)
        row, length = row + 1, length - count
    rows, rest = divmod(length, width)
    if rows == 1:
        yield from _of_row(part, row, 0, width)
    elif rows:
        yield Interleave(rows, tuple(_rows_of(column, part.rows, row, rows) for column in part.columns))
    if rest:
        yield from _of_row(part, row + rows, 0, rest)


def read_part(part: Part, sources: SourceFiles, into: memoryview, scratch: memoryview) -> None:
    """Fill `into`, which is as long as the part, with its bytes as they lie in the sources.

    `scratch` is working memory of any size; a column is read through it in as few steps as it allows.

    Raises:
        UnreadableError: a source ends early or cannot be read.
    """
    if isinstance(part, Range):
        _read(part, sources, into)
        return
    at = 0
    for column in part.columns:
        width = column.length // part.rows
        if width > len(scratch):
            for row in range(part.rows):
                start = row * part.row_length + at
                _read(_rows_of(column, part.rows, row, 1), sources, into[start : start + width])
        else:
            _spread(column, part, at, sources, into, scratch)
        at += width


def _spread(
    column: Range, part: Interleave, at: int, sources: SourceFiles, into: memoryview, scratch: memoryview
) -> None:
    """Put a column `at` bytes into every row."""
    import numpy  # only where there are columns

    width = column.length // part.rows
    table: Any = numpy.frombuffer(into, numpy.uint8).reshape(part.rows, part.row_length)
    step = len(scratch) // width
    for row in range(0, part.rows, step):
        rows = min(step, part.rows - row)
        block = scratch[: rows * width]
        _read(_rows_of(column, part.rows, row, rows), sources, block)
        table[row : row + rows, at : at + width] = numpy.frombuffer(block, numpy.uint8).reshape(rows, width)


def _rows_of(column: Range, of: int, row: int, rows: int) -> Range:
    """Rows `[row, row + rows)` of a column that has `of` of them."""
    width = column.length // of
    return Range(column.source, column.offset + row * width, rows * width, column.swap)


def _of_row(part: Interleave, row: int, skip: int, length: int) -> Iterator[Range]:
    """`length` bytes of one row, from its byte `skip`."""
    for column in part.columns:
        piece = _rows_of(column, part.rows, row, 1)
        if skip >= piece.length:
            skip -= piece.length
            continue
        count = min(piece.length - skip, length)
        if count <= 0:
            return
        yield Range(piece.source, piece.offset + skip, count, piece.swap)
        skip, length = 0, length - count


def _read(part: Range, sources: SourceFiles, into: memoryview) -> None:
    with sources.use(part.source) as source:
        read_into(source.fileno(), into, part.offset, name=str(sources.path(part.source)))
