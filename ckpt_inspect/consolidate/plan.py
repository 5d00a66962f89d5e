"""What to copy: for every output tensor the byte ranges it is made of. Pure data, JSON both ways, no bytes of weights.

A plan is made by a planner (:mod:`zero12`, :mod:`zero3`, :mod:`stage0`, :mod:`universal`, :mod:`dcp`), proved by
:mod:`proof`, and executed by :mod:`gather`. Nothing here opens a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Self, TypeAlias

from ckpt_inspect.formats.dtypes import BY_NAME

Origin = Literal["master", "module", "frozen", "buffer", "universal", "dcp"]

SCHEMA = "ckpt-inspect/plan/1"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file ranges point into: its path relative to the tree's root with forward slashes, size in bytes, mtime, rank.

    `rank` is the data-parallel rank that wrote it, None for files every rank shares.
    """

    path: str
    size: int
    mtime_ns: int
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """`length` bytes at `offset` of `Plan.sources[source]`; `swap`: elements are big-endian and must be reversed."""

    source: int
    offset: int
    length: int
    swap: bool = False


@dataclass(frozen=True, slots=True)
class Interleave:
    """`rows` rows, each put together of one piece per column; a column's pieces follow each other in its source.

    A column is all bytes of one shard: its `length` is `rows` times the width of its pieces. So a matrix cut along its
    second dimension is one part, however many rows it has.
    """

    rows: int
    columns: tuple[Range, ...]

    @property
    def length(self) -> int:
        """Bytes of all rows."""
        return sum(column.length for column in self.columns)

    @property
    def row_length(self) -> int:
        """Bytes of one row."""
        return self.length // self.rows

    @property
    def swap(self) -> bool:
        """Whether elements are big-endian; the shards of one tensor agree."""
        return any(column.swap for column in self.columns)


Part: TypeAlias = Range | Interleave


def ranges_of(parts: Iterable[Part]) -> Iterator[Range]:
    """Every stretch of a source that parts are made of; the order is that of the output only between parts."""
    for part in parts:
        if isinstance(part, Interleave):
            yield from part.columns
        else:
            yield part


def part_to_json(part: Part) -> list[Any]:
    """A row of numbers: ``[source, offset, length]``, a big-endian one with ``true`` behind, or ``[rows, [columns]]``."""
    if isinstance(part, Interleave):
        return [part.rows, [part_to_json(column) for column in part.columns]]
    return [part.source, part.offset, part.length, *([True] if part.swap else [])]


def part_from_json(row: Sequence[Any]) -> Part:
    """The part :func:`part_to_json` wrote.

    Raises:
        ValueError, TypeError, IndexError: it wrote no such row.
    """
    if len(row) == 2:
        columns = tuple(_range(column) for column in row[1])
        rows = _count(row[0])
        if not rows or not columns or any(column.length % rows for column in columns):
            raise ValueError("rows of unequal length")
        return Interleave(rows, columns)
    return _range(row)


def _range(row: Sequence[Any]) -> Range:
    return Range(_count(row[0]), _count(row[1]), _count(row[2]), len(row) > 3)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("not a count")
    return value


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the output.

    The parts in `ranges`, concatenated in order, are the row-major tensor in `source_dtype`; their lengths sum to its
    bytes. Where `dtype` (what is written) differs from `source_dtype`, the elements are cast.
    """

    name: str
    shape: tuple[int, ...]
    source_dtype: str
    dtype: str
    ranges: tuple[Part, ...]
    origin: Origin

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a 0-dim tensor."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def source_nbytes(self) -> int:
        """Bytes read from the sources."""
        return BY_NAME[self.source_dtype].nbytes(self.elements)

    @property
    def nbytes(self) -> int:
        """Bytes written."""
        return BY_NAME[self.dtype].nbytes(self.elements)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one checkpoint becomes one set of weights.

    Attributes:
        layout: "zero1", "zero2", "zero3", "bf16_optimizer", "stage0", "universal" or "dcp".
        stage: the ZeRO stage, None where the layout has none.
        world_size: data-parallel ranks the optimizer state was partitioned over.
        tag: the tag directory read, relative to `checkpoint`; None where there is none.
        root: absolute path of the tree the sources are relative to.
        checkpoint: path of the checkpoint directory as the user may type it.
        sources: every file a range points into, and every file the plan was made from.
        tensors: in DeepSpeed's order: buffers, frozen, trainable, then tensors taken from the module.
        aliases: name -> the name of the tensor whose storage it shares; aliases are not among `tensors`.
        warnings: what a person should know; text is already printable.
        adapter_only: the checkpoint holds adapter weights without their base model.
        facts: numbers behind the plan and the proof (sums per group, steps, samples compared), JSON-able.
    """

    layout: str
    stage: int | None
    world_size: int
    tag: str | None
    root: str
    checkpoint: str
    sources: tuple[SourceFile, ...]
    tensors: tuple[PlannedTensor, ...]
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    warnings: tuple[str, ...] = ()
    adapter_only: bool = False
    facts: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data the output will hold."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able document (`consolidate --plan`); :meth:`from_json` reads it back."""
        return {
            "schema": SCHEMA,
            "layout": self.layout,
            "stage": self.stage,
            "world_size": self.world_size,
            "tag": self.tag,
            "root": self.root,
            "checkpoint": self.checkpoint,
            "adapter_only": self.adapter_only,
            "sources": [
                {"path": file.path, "size": file.size, "mtime_ns": file.mtime_ns, "rank": file.rank}
                for file in self.sources
            ],
            "tensors": [
                {
                    "name": tensor.name,
                    "shape": list(tensor.shape),
                    "source_dtype": tensor.source_dtype,
                    "dtype": tensor.dtype,
                    "origin": tensor.origin,
                    "ranges": [part_to_json(part) for part in tensor.ranges],
                }
                for tensor in self.tensors
            ],
            "aliases": dict(self.aliases),
            "warnings": list(self.warnings),
            "facts": dict(self.facts),
            "total": {"tensors": len(self.tensors), "parameters": self.parameters, "bytes": self.nbytes},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The plan :meth:`to_json` wrote; raises `ValueError` for another schema, `KeyError` for a missing key."""
        if document.get("schema") != SCHEMA:
            raise ValueError(f"not a {SCHEMA} document")
        return cls(
            layout=document["layout"],
            stage=document["stage"],
            world_size=document["world_size"],
            tag=document["tag"],
            root=document["root"],
            checkpoint=document["checkpoint"],
            sources=tuple(SourceFile(**file) for file in document["sources"]),
            tensors=tuple(
                PlannedTensor(
                    name=tensor["name"],
                    shape=tuple(tensor["shape"]),
                    source_dtype=tensor["source_dtype"],
                    dtype=tensor["dtype"],
                    ranges=tuple(part_from_json(part) for part in tensor["ranges"]),
                    origin=tensor["origin"],
                )
                for tensor in document["tensors"]
            ),
            aliases=dict(document["aliases"]),
            warnings=tuple(document["warnings"]),
            adapter_only=document["adapter_only"],
            facts=dict(document["facts"]),
        )
