"""The `tensors` document, as plain data and as JSON text in pieces, so that a listing of any length costs one row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ckpt_inspect import __version__
from ckpt_inspect.report.json_text import json_text
from ckpt_inspect.tensors.listing import TensorListing
from ckpt_inspect.tensors.rows import TensorRow
from ckpt_inspect.tensors.statistics import Statistics

Json = dict[str, Any]
Measured = tuple[TensorRow, Statistics | None, str | None]


def unmeasured(rows: Iterable[TensorRow]) -> Iterator[Measured]:
    """Rows without statistics, in the form the printers take."""
    return ((row, None, None) for row in rows)


def tensors_document(listing: TensorListing, measured: Iterable[Measured] | None = None) -> Json:
    """The document of ``ckpt-inspect tensors --json`` as plain data; with statistics if `measured` is given."""
    rows = unmeasured(listing.rows) if measured is None else measured
    stats = measured is not None
    return {
        **_head(listing),
        "tensors": [row_document(*item, stats=stats) for item in rows],
        **_tail(listing),
    }


def tensors_json(listing: TensorListing, measured: Iterable[Measured] | None = None) -> Iterator[str]:
    """The same document as JSON text, piece by piece; one tensor is one line."""
    rows = unmeasured(listing.rows) if measured is None else measured
    head = json_text(_head(listing))
    yield f'{head[:-2]},\n  "tensors": ['
    separator = "\n    "
    for item in rows:
        yield separator + json_text(row_document(*item, stats=measured is not None), indent=None)
        separator = ",\n    "
    tail = json_text(_tail(listing))
    yield f"{'' if separator.startswith(chr(10)) else chr(10) + '  '}],{tail[1:]}\n"


def row_document(row: TensorRow, statistics: Statistics | None, reason: str | None, *, stats: bool) -> Json:
    """One row; keys that say nothing new are left out."""
    document: Json = {
        "name": row.name,
        "dtype": row.dtype,
        "shape": row.shape,
        "bytes": row.nbytes,
        "file": row.file,
        "offset": row.offset,
    }
    if row.kind != "dense":
        document["kind"] = row.kind
    if row.problem is not None:
        document["problem"] = row.problem
    if row.stride is not None:
        document["stride"] = row.stride
    if len(row.chunks) > 1 or (row.chunks and row.offset is None):
        document["chunks"] = [
            {
                "file": chunk.file,
                "offsets": chunk.offsets,
                "sizes": chunk.sizes,
                "item_offset": chunk.offset,
                "item_bytes": chunk.length,
            }
            for chunk in row.chunks
        ]
    if stats:
        document["stats"] = None if statistics is None else _statistics(statistics)
        if reason is not None:
            document["stats_reason"] = reason
    return document


def _statistics(found: Statistics) -> Json:
    return {
        "elements": found.elements,
        "mean": found.mean,
        "std": found.std,
        "min": found.minimum,
        "max": found.maximum,
        "nan": found.nan,
        "inf": found.infinite,
        "zero_fraction": found.zero_fraction,
    }


def _head(listing: TensorListing) -> Json:
    document: Json = {
        "schema": "ckpt-inspect/tensors/1",
        "tool_version": __version__,
        "path": listing.paths[0] if listing.paths else "",
    }
    if len(listing.paths) > 1:
        document["paths"] = list(listing.paths)
    if listing.note is not None:
        document["note"] = listing.note
    return document


def _tail(listing: TensorListing) -> Json:
    parameters, nbytes = listing.totals()
    return {
        "total": {"tensors": len(listing.rows), "parameters": parameters, "bytes": nbytes},
        "files": [{"path": file.path, "format": file.format, "tensors": file.tensors} for file in listing.files],
        "faults": [
            {
                "file": problem.file,
                "kind": problem.fault.kind,
                "message": problem.fault.message,
                "offset": problem.fault.offset,
                "place": problem.fault.place,
            }
            for problem in listing.problems
        ],
    }
