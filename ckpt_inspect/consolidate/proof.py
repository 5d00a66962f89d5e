"""Proof that a plan writes every element of every tensor exactly once, from bytes that are there.

It knows nothing of ZeRO: it takes only ranges and files, so that a mistake in a layout cannot also hide here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ckpt_inspect.consolidate.plan import Interleave, PlannedTensor, SourceFile, ranges_of
from ckpt_inspect.consolidate.problems import Problem, refuse
from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.printable import printable

# Origins whose bytes belong to one tensor only. Module, buffer and frozen tensors may share a storage.
_EXCLUSIVE = frozenset({"master", "universal", "dcp"})


class Span(NamedTuple):
    """Bytes `[start, end)` of a numbered file that hold master weights."""

    source: int
    start: int
    end: int


def prove(
    tensors: Sequence[PlannedTensor], sources: Sequence[SourceFile], spans: Sequence[Span] | None = None
) -> list[Problem]:
    """What is wrong with a plan; nothing when it is proved.

    Checked: names are unique; the ranges of a tensor sum to its bytes and each is whole elements; every range lies
    inside its file; no byte of a master weight is used twice; with `spans`, master weights come from there and from
    nowhere else, as the moments beside them would be.
    """
    problems: list[Problem] = []
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            problems.append(refuse("coverage", f"{printable(tensor.name)} is planned twice", tensor=tensor.name))
        seen.add(tensor.name)
        problems += _lengths(tensor, sources)
    problems += _overlaps(tensors, sources)
    if spans is not None:
        problems += _strays(tensors, sources, spans)
    return problems


def _lengths(tensor: PlannedTensor, sources: Sequence[SourceFile]) -> Iterator[Problem]:
    size = BY_NAME[tensor.source_dtype].bits // 8
    total = 0
    for part in tensor.ranges:
        total += part.length
        if isinstance(part, Interleave) and any(column.length % (part.rows * size) for column in part.columns):
            message = f"{printable(tensor.name)}: a column is not {part.rows} rows of whole elements"
            yield refuse("coverage", message, tensor=tensor.name)
    for part in ranges_of(tensor.ranges):
        file = sources[part.source]
        if part.length <= 0 or part.length % size or part.offset < 0 or part.offset + part.length > file.size:
            message = (
                f"{printable(tensor.name)}: bytes {part.offset} to {part.offset + part.length} are not whole elements "
                f"inside a file of {file.size} bytes"
            )
            yield refuse("coverage", message, file=file.path, rank=file.rank, tensor=tensor.name)
    if total != tensor.source_nbytes:
        message = f"{printable(tensor.name)} needs {tensor.source_nbytes} bytes, its ranges hold {total}"
        yield refuse("coverage", message, tensor=tensor.name)


def _overlaps(tensors: Iterable[PlannedTensor], sources: Sequence[SourceFile]) -> Iterator[Problem]:
    used: dict[int, list[tuple[int, int, str]]] = {}
    for tensor in tensors:
        if tensor.origin in _EXCLUSIVE:
            for part in ranges_of(tensor.ranges):
                used.setdefault(part.source, []).append((part.offset, part.offset + part.length, tensor.name))
    for source, spans in used.items():
        spans.sort()
        end, owner = -1, ""
        for start, stop, name in spans:
            if start < end:
                message = f"{printable(name)} and {printable(owner)} would both be made of byte {start}"
                yield refuse("coverage", message, file=sources[source].path, rank=sources[source].rank, tensor=name)
            if stop > end:
                end, owner = stop, name


def _strays(
    tensors: Iterable[PlannedTensor], sources: Sequence[SourceFile], spans: Sequence[Span]
) -> Iterator[Problem]:
    ordered = sorted(spans)
    for tensor in tensors:
        if tensor.origin != "master":
            continue
        for part in ranges_of(tensor.ranges):
            at = bisect_right(ordered, (part.source, part.offset, float("inf"))) - 1
            span = ordered[at] if at >= 0 else None
            if span is None or span.source != part.source or part.offset + part.length > span.end:
                file = sources[part.source]
                message = f"{printable(tensor.name)} would be made of bytes that hold no master weights"
                yield refuse("coverage", message, file=file.path, rank=file.rank, tensor=tensor.name)
