"""Proof that a plan writes every element of every tensor exactly once, from bytes that are there.

It knows nothing of ZeRO: it takes only ranges and files, so that a mistake in a layout cannot also hide here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ckpt_inspect.consolidate.plan import PlannedTensor, SourceFile
from ckpt_inspect.consolidate.problems import Problem, refuse
from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.printable import printable

# Origins whose bytes belong to one tensor only. Module, buffer and frozen tensors may share a storage.
_EXCLUSIVE = frozenset({"master", "universal", "dcp"})


def prove(tensors: Sequence[PlannedTensor], sources: Sequence[SourceFile]) -> list[Problem]:
    """What is wrong with a plan; nothing when it is proved.

    Checked: names are unique; the ranges of a tensor sum to its bytes and each is whole elements; every range lies
    inside its file; no byte of a master weight is used twice.
    """
    problems: list[Problem] = []
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            problems.append(refuse("coverage", f"{printable(tensor.name)} is planned twice", tensor=tensor.name))
        seen.add(tensor.name)
        problems += _lengths(tensor, sources)
    problems += _overlaps(tensors, sources)
    return problems


def _lengths(tensor: PlannedTensor, sources: Sequence[SourceFile]) -> Iterator[Problem]:
    size = BY_NAME[tensor.source_dtype].bits // 8
    total = 0
    for part in tensor.ranges:
        file = sources[part.source]
        total += part.length
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
            for part in tensor.ranges:
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
