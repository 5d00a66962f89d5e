"""The bytes of an output file in order: ranges of many shards merged into runs, read, swapped and cast into blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from ckpt_inspect.consolidate.cast import Cast, component_size, swap_in_place
from ckpt_inspect.consolidate.plan import PlannedTensor, Range
from ckpt_inspect.consolidate.positional import read_into
from ckpt_inspect.consolidate.sources import SourceFiles
from ckpt_inspect.errors import UnreadableError
from ckpt_inspect.formats.dtypes import BY_NAME

_SCRATCH = 1 << 20


class Run(NamedTuple):
    """Bytes of one source that follow each other in the output; `cast` and `swap` belong to one tensor."""

    source: int
    offset: int
    length: int
    tensor: PlannedTensor | None
    swap: bool


def runs(tensors: Iterable[PlannedTensor]) -> Iterator[Run]:
    """The ranges of these tensors in output order, those that touch in source and output merged.

    `Run.tensor` is set only where elements have to be cast or swapped.
    """
    pending: Run | None = None
    for tensor in tensors:
        cast = tensor.dtype != tensor.source_dtype
        for part in tensor.ranges:
            if part.length == 0:
                continue
            swap = part.swap and component_size(tensor.source_dtype) > 1
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
    parts: list[Range] = []
    for part in tensor.ranges:
        if left <= 0:
            break
        if skip >= part.length:
            skip -= part.length
            continue
        length = min(part.length - skip, left)
        parts.append(Range(part.source, part.offset + skip, length, part.swap))
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
                written = self._copy(run, block[done:]) if run.tensor is None else self._convert(run, block[done:])
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
        with self._sources.use(run.source) as source:
            read_into(source.fileno(), into, run.offset, name=str(self._sources.path(run.source)))
