"""Where the values of a listed tensor lie in its files, and their statistics, read in blocks.

A strided tensor's values are read in the order they lie in, not in the order they are indexed: no statistic depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ckpt_inspect.errors import CkptInspectError
from ckpt_inspect.formats.dcp_items import item_tensor
from ckpt_inspect.formats.dcp_types import DcpChunk
from ckpt_inspect.progress import NullProgress, Progress
from ckpt_inspect.storage import LocalFile
from ckpt_inspect.tensors.elements import Elements, elements_of
from ckpt_inspect.tensors.listing import TensorListing
from ckpt_inspect.tensors.rows import Chunk, TensorRow
from ckpt_inspect.tensors.statistics import Accumulator, Statistics

_READ = 3 << 20  # bytes at a time; a multiple of every element's size, three-byte groups of 6-bit floats included
_MOST_RUNS = 200_000

_NO_BYTES = {
    "meta": "a meta tensor has no values",
    "wrapper": "a tensor subclass without values of its own",
    "sparse": "sparse: its values are not in one piece",
    "nested": "nested: its parts have different shapes",
}


class _Piece(NamedTuple):
    """Values that lie `runs` (offset and length in bytes) in `file`, each standing for `times` elements."""

    file: str
    runs: tuple[tuple[int, int], ...]
    times: int
    big_endian: bool


class NoValuesError(Exception):
    """The values of a tensor cannot be read; the message says why."""


def statistics_of(
    listing: TensorListing, rows: Iterable[TensorRow] | None = None, *, progress: Progress | None = None
) -> Iterator[tuple[TensorRow, Statistics | None, str | None]]:
    """For each row its statistics, or None and the reason why there are none. Memory does not grow with the tensors.

    Progress counts bytes. The files are opened again: one that changed since the listing gives a reason.
    """
    chosen = listing.rows if rows is None else tuple(rows)
    watcher = progress if progress is not None else NullProgress()
    watcher.start(sum(row.nbytes for row in chosen), "bytes", "reading tensors")
    reader = _Reader(listing)
    try:
        for row in chosen:
            try:
                found = reader.statistics(row, watcher)
            except NoValuesError as reason:
                watcher.advance(row.nbytes)
                yield row, None, str(reason)
            except CkptInspectError as error:
                yield row, None, error.what
            else:
                yield row, found, None
    finally:
        reader.close()
        watcher.finish()


class _Reader:
    """Keeps the file open that was read last: rows come file by file."""

    def __init__(self, listing: TensorListing) -> None:
        self._listing = listing
        self._name = ""
        self._file: LocalFile | None = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def statistics(self, row: TensorRow, progress: Progress) -> Statistics:
        elements = elements_of(row.dtype)
        if elements is None:
            raise NoValuesError(f"{row.dtype} has no values to look at")
        pieces = self._pieces(row, elements)
        accumulator = Accumulator(elements, row.numel, big_endian=any(piece.big_endian for piece in pieces))
        times = pieces[0].times if pieces else 1
        for piece in pieces:
            source = self._open(piece.file)
            for offset, length in piece.runs:
                _feed(accumulator, source, offset, length, progress)
        found = accumulator.result()
        return found if times == 1 else found.repeated(times)

    def _open(self, name: str) -> LocalFile:
        if self._file is None or self._name != name:
            self.close()
            self._file, self._name = self._listing.open(name), name
        return self._file

    def _pieces(self, row: TensorRow, elements: Elements) -> list[_Piece]:
        if row.kind in _NO_BYTES:
            raise NoValuesError(_NO_BYTES[row.kind])
        if row.problem is not None:
            raise NoValuesError(row.problem)
        if not row.numel:
            return []
        if row.chunks:
            return self._chunk_pieces(row, elements)
        if row.nbytes * 8 != row.numel * elements.bits * elements.parts:
            raise NoValuesError(f"its shape needs other than its {row.nbytes:,} bytes")
        if row.offset is None:
            raise NoValuesError("its bytes do not lie in the file as they are")
        return [_piece(row.file, row.offset, row.shape, row.stride, row.nbytes, elements, big_endian=row.big_endian)]

    def _chunk_pieces(self, row: TensorRow, elements: Elements) -> list[_Piece]:
        pieces = []
        covered = 0
        for chunk in row.chunks:
            count = 1
            for size in chunk.sizes:
                count *= size
            covered += count
            if count:
                pieces.append(self._chunk_piece(row, chunk, count, elements))
        if covered != row.numel:
            raise NoValuesError("its chunks do not cover it exactly once")
        return pieces

    def _chunk_piece(self, row: TensorRow, chunk: Chunk, count: int, elements: Elements) -> _Piece:
        source = self._open(chunk.file)
        if chunk.transforms:
            raise NoValuesError(f"its bytes are stored as {', '.join(chunk.transforms)}")
        if chunk.form == "raw":
            length = count * elements.bits * elements.parts // 8
            return _Piece(chunk.file, ((chunk.offset, length),), 1, False)
        found = item_tensor(source, DcpChunk(chunk.offsets, chunk.sizes, "", chunk.offset, chunk.length))
        if found is None or found.shape != chunk.sizes or found.dtype != row.dtype or found.problem is not None:
            raise NoValuesError("a chunk does not hold what the metadata say")
        if found.file_offset is None:
            raise NoValuesError("the bytes of a chunk do not lie in the file as they are")
        stride = None if found.contiguous else found.stride
        return _piece(chunk.file, found.file_offset, found.shape, stride, found.nbytes, elements, big_endian=False)


def _piece(
    file: str,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...] | None,
    nbytes: int,
    elements: Elements,
    *,
    big_endian: bool,
) -> _Piece:
    if stride is None:
        return _Piece(file, ((offset, nbytes),), 1, big_endian)
    size = elements.bits * elements.parts // 8
    if not size:
        raise NoValuesError("strided elements smaller than a byte")
    times = 1
    lengths: list[tuple[int, int]] = []  # stride and length of each dimension that moves
    for length, step in zip(shape, stride, strict=True):
        if step == 0:
            times *= length
        elif length != 1:
            lengths.append((step, length))
    lengths.sort()
    run = 1  # elements that lie together
    while lengths and lengths[0][0] == run:
        run *= lengths.pop(0)[1]
    starts = [0]
    for step, length in lengths:
        if len(starts) * length > _MOST_RUNS:
            raise NoValuesError("strided into too many pieces")
        starts = [start + step * index for start in starts for index in range(length)]
    starts.sort()
    return _Piece(file, tuple((offset + start * size, run * size) for start in starts), times, big_endian)


def _feed(accumulator: Accumulator, source: LocalFile, offset: int, length: int, progress: Progress) -> None:
    end = offset + length
    while offset < end:
        wanted = min(_READ, end - offset)
        data = source.read_at(offset, wanted)
        if len(data) < wanted:
            raise NoValuesError(f"the file ends at byte {offset + len(data):,}, before its values do")
        accumulator.add(data)
        offset += wanted
        progress.advance(wanted)
