"""The bytes of an output file in order: ranges of many shards merged into runs, read, swapped and cast into blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from ckpt_inspect.consolidate.cast import Cast, component_size, swap_in_place
from ckpt_inspect.consolidate.interleave import cut, read_part
from ckpt_inspect.consolidate.plan import Interleave, Part, PlannedTensor
from ckpt_inspect.consolidate.positional import read_into
from ckpt_inspect.consolidate.sources import SourceFiles
from ckpt_inspect.errors import UnreadableError
from ckpt_inspect.formats.dtypes import BY_NAME

_SCRATCH = 1 << 20


class Run(NamedTuple):
    """Bytes that follow each other in the output: of one source from `offset`, or of `rows` from their byte `offset`.

    `tensor` is set where the bytes cannot be copied as they are: they are cast, swapped or put together of rows.
    """

    source: int
    offset: int
    length: int
    tensor: PlannedTensor | None
    swap: bool
    rows: Interleave | None = None

    @property
    def converts(self) -> bool:
        """Whether elements are cast or swapped."""
        return self.tensor is not None and (self.swap or self.tensor.dtype != self.tensor.source_dtype)


def runs(tensors: Iterable[PlannedTensor]) -> Iterator[Run]:
    """The ranges of these tensors in output order, those that touch in source and output merged."""
    pending: Run | None = None
    for tensor in tensors:
        cast = tensor.dtype != tensor.source_dtype
        for part in tensor.ranges:
            if part.length == 0:
                continue
            swap = part.swap and component_size(tensor.source_dtype) > 1
            if isinstance(part, Interleave):
                if pending is not None:
                    yield pending
                    pending = None
                yield Run(part.columns[0].source, 0, part.length, tensor, swap, part)
                continue
            special = tensor if cast or swap else None
            if (
                pending is not None
                and pending.source == part.source
                and pending.offset + pending.length == part.offset
                and pending.tensor is special
                and pending.swap == swap
            ):
                pending = pending._replace(length=pending.length + part.length)
                continue
            if pending is not None:
                yield pending
            pending = Run(part.source, part.offset, part.length, special, swap)
    if pending is not None:
        yield pending


def window(tensor: PlannedTensor, start: int, count: int) -> PlannedTensor:
    """Elements `[start, start + count)` of a tensor in row-major order, as a 1-D tensor of its own."""
    size = BY_NAME[tensor.source_dtype].bits // 8
    skip, left = start * size, count * size
    parts: list[Part] = []
    for part in tensor.ranges:
        if left <= 0:
            break
        if skip >= part.length:
            skip -= part.length
            continue
        length = min(part.length - skip, left)
        parts += cut(part, skip, length)
        left -= length
        skip = 0
    return replace(tensor, shape=(count,), ranges=tuple(parts))


class Filler:
    """Produces the file's bytes in order, block by block."""

    def __init__(self, header: bytes, tensors: Iterable[PlannedTensor], sources: SourceFiles) -> None:
        self._runs = runs(tensors)
        self._sources = sources
        self._run: Run | None = None
        self._casts: dict[tuple[str, str], Cast] = {}
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._columns = memoryview(bytearray())  # scratch of `read_part`, made when there are columns
        self._ready = memoryview(header)  # bytes to hand out next: the header, an element that did not fit
        self.overflows: dict[str, int] = {}

    def fill(self, block: memoryview) -> int:
        """Fill `block` as far as there are bytes; returns their number, less than the block only at the end."""
        done = 0
        while done < len(block):
            if len(self._ready):
                count = min(len(self._ready), len(block) - done)
                block[done : done + count] = self._ready[:count]
                self._ready = self._ready[count:]
                done += count
            else:
                run = self._run or next(self._runs, None)
                if run is None:
                    break
                written = self._convert(run, block[done:]) if run.converts else self._copy(run, block[done:])
                done += written
        return done

    def fill_run(self, run: Run, block: memoryview) -> Iterator[int]:
        """Put one run through `block`; yields how many bytes of it are filled, until the run is done."""
        self._run = run
        while self._run is not None or len(self._ready):
            yield self.fill(block)

    def _copy(self, run: Run, room: memoryview) -> int:
        count = min(run.length, len(room))
        self._read(run, room[:count])
        self._advance(run, count)
        return count

    def _convert(self, run: Run, room: memoryview) -> int:
        tensor = run.tensor
        assert tensor is not None  # noqa: S101 - the caller has looked
        source_size = BY_NAME[tensor.source_dtype].bits // 8
        target_size = BY_NAME[tensor.dtype].bits // 8
        if run.length < source_size:
            raise UnreadableError("a range ends inside an element", where=str(self._sources.path(run.source)))
        fitting = min(run.length // source_size, len(room) // target_size, _SCRATCH // source_size)
        elements = max(1, fitting)
        raw = self._scratch[: elements * source_size]
        self._read(run, raw)
        if run.swap:
            swap_in_place(raw, component_size(tensor.source_dtype))
        self._advance(run, len(raw))
        if fitting:
            target = room[: elements * target_size]
        else:  # less than one element of room is left in this block
            self._ready = target = memoryview(bytearray(target_size))
        if tensor.dtype == tensor.source_dtype:
            target[:] = raw
        else:
            overflowed = self._cast(tensor).convert(raw, target)
            if overflowed:
                self.overflows[tensor.name] = self.overflows.get(tensor.name, 0) + overflowed
        return len(target) if fitting else 0

    def _cast(self, tensor: PlannedTensor) -> Cast:
        key = (tensor.source_dtype, tensor.dtype)
        if key not in self._casts:
            self._casts[key] = Cast(*key)
        return self._casts[key]

    def _advance(self, run: Run, count: int) -> None:
        rest = run.length - count
        self._run = run._replace(offset=run.offset + count, length=rest) if rest else None

    def _read(self, run: Run, into: memoryview) -> None:
        if run.rows is not None:
            self._columns = self._columns or memoryview(bytearray(_SCRATCH))
            for part in cut(run.rows, run.offset, len(into)):
                read_part(part, self._sources, into[: part.length], self._columns)
                into = into[part.length :]
            return
        with self._sources.use(run.source) as source:
            read_into(source.fileno(), into, run.offset, name=str(self._sources.path(run.source)))
