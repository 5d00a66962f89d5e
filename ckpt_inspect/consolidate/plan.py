"""What to copy: for every output tensor the byte ranges it is made of. Pure data, JSON both ways, no bytes of weights.

A plan is made by a planner (:mod:`zero12`, :mod:`zero3`, :mod:`stage0`, :mod:`universal`, :mod:`dcp`), proved by
:mod:`proof`, and executed by :mod:`gather`. Nothing here opens a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Self

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
class PlannedTensor:
    """One tensor of the output.

    The ranges, concatenated in order, are the row-major tensor in `source_dtype`; their lengths sum to its bytes. Where
    `dtype` (what is written) differs from `source_dtype`, the elements are cast.
    """

    name: str
    shape: tuple[int, ...]
    source_dtype: str
    dtype: str
    ranges: tuple[Range, ...]
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
                    "ranges": [
                        [part.source, part.offset, part.length, *([True] if part.swap else [])]
                        for part in tensor.ranges
                    ],
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
                    ranges=tuple(Range(*part) for part in tensor["ranges"]),
                    origin=tensor["origin"],
                )
                for tensor in document["tensors"]
            ),
            aliases=dict(document["aliases"]),
            warnings=tuple(document["warnings"]),
            adapter_only=document["adapter_only"],
            facts=dict(document["facts"]),
        )
