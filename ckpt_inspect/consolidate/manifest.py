"""`consolidation.json`: what was written, from which bytes of which files, so that it can be proved again later.

The record ends with a checksum of itself, so that a changed record is told from a changed output.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckpt_inspect.consolidate.compose import Composition
from ckpt_inspect.consolidate.plan import Plan, PlannedTensor, SourceFile, part_from_json, part_to_json, ranges_of
from ckpt_inspect.errors import NotAFormatError, VerificationError
from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.formats.json_document import parse_json

RECORD = "consolidation.json"
SCHEMA = "ckpt-inspect/consolidation/1"
_SEAL = ',\n  "record_sha256": "'
_END = '"\n}\n'


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file of the output: relative name, size in bytes, sha256 in hex; None where none was computed."""

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class RecordedTensor:
    """A tensor of the output: its file, and the plan of its bytes."""

    file: str
    tensor: PlannedTensor


@dataclass(frozen=True, slots=True)
class Record:
    """A `consolidation.json` read back.

    `source_roots` are the places the shards may be found: where they were relative to the output, and where they were.
    """

    document: Mapping[str, Any]
    files: tuple[WrittenFile, ...]
    tensors: tuple[RecordedTensor, ...]
    sources: tuple[SourceFile, ...]
    source_roots: tuple[Path, ...]
    sealed: bool


@dataclass(slots=True)
class RecordDraft:
    """What goes into a record."""

    plan: Plan
    composition: Composition
    target: Path
    engine: str
    dtype: str
    files: Sequence[WrittenFile]
    overflows: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def build_record(draft: RecordDraft) -> bytes:
    """The file's content."""
    plan, composition = draft.plan, draft.composition
    head: dict[str, Any] = {
        "schema": SCHEMA,
        "tool": "ckpt-inspect",
        "tool_version": _tool_version(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "complete": True,
        "kind": composition.kind,
        "engine": draft.engine,
        "dtype": draft.dtype,
        "checkpoint": plan.checkpoint,
        "tag": plan.tag,
        "layout": plan.layout,
        "stage": plan.stage,
        "world_size": plan.world_size,
        "deepspeed_version": plan.facts.get("ds_version"),
        "global_steps": plan.facts.get("global_steps"),
        "root": plan.root,
        "root_from_output": _relative(Path(plan.root), draft.target),
        "total": {
            "tensors": len(composition.tensors),
            "parameters": sum(tensor.elements for tensor in composition.tensors),
            "bytes": sum(tensor.nbytes for tensor in composition.tensors),
        },
        "overflowed": dict(draft.overflows),
        "tied": dict(composition.stored_once),
        "warnings": list(draft.warnings),
    }
    text = json.dumps(head, indent=2)[: -len("\n}")]
    text += _rows(
        "sources",
        (
            {"path": source.path, "size": source.size, "mtime_ns": source.mtime_ns, "rank": source.rank}
            for source in composition.sources
        ),
    )
    text += _rows("files", ({"name": file.name, "size": file.size, "sha256": file.sha256} for file in draft.files))
    text += _rows("tensors", _tensor_rows(composition))
    return seal(text)


def seal(text: str) -> bytes:
    """An open JSON object with its own checksum as the last entry."""
    data = text.encode("utf-8", "surrogatepass")
    return data + (_SEAL + hashlib.sha256(data).hexdigest() + _END).encode()


def is_sealed(data: bytes) -> bool:
    """Whether a record is what was written: its checksum agrees."""
    body, mark, end = data.rpartition(_SEAL.encode())
    return bool(mark) and end == (hashlib.sha256(body).hexdigest() + _END).encode()


def read_record(directory: Path, data: bytes) -> Record:
    """Parse a record.

    Raises:
        VerificationError: it is not one, or not whole.
    """
    where = str(directory / RECORD)
    document = parse_json(data)
    value = document.mapping
    if value.get("schema") != SCHEMA or not document.complete:
        raise VerificationError(f"is not a whole {SCHEMA} document", where=where)
    try:
        sources = tuple(
            SourceFile(str(row["path"]), int(row["size"]), int(row["mtime_ns"]), row["rank"])
            for row in value["sources"]
        )
        files = tuple(
            WrittenFile(str(row["name"]), _count(row["size"]), _checksum(row["sha256"])) for row in value["files"]
        )
        tensors = tuple(RecordedTensor(str(row["file"]), _tensor(row, len(sources))) for row in value["tensors"])
        relative, root = value["root_from_output"], Path(str(value["root"]))
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise VerificationError(f"misses what {SCHEMA} holds", where=where) from error
    roots = [root] if relative is None else [directory / str(relative), root]
    return Record(value, files, tensors, sources, tuple(roots), is_sealed(data))


def read_record_of(directory: Path) -> tuple[Record, bytes]:
    """The record of an output directory and its bytes.

    Raises:
        NotAFormatError: there is none.
        VerificationError: it cannot be understood.
    """
    try:
        data = (directory / RECORD).read_bytes()
    except FileNotFoundError:
        raise NotAFormatError(
            f"holds no {RECORD}: not an output of consolidate", where=str(directory),
            remedy="give the directory that consolidate wrote",
        ) from None  # fmt: skip
    except OSError as error:
        raise NotAFormatError(f"cannot read {RECORD}: {error.strerror}", where=str(directory)) from error
    return read_record(directory, data), data


def _tool_version() -> str:
    """The package's version, from the package that is already loaded: it lies above this room."""
    return str(sys.modules[__name__.partition(".")[0]].__version__)


def _tensor_rows(composition: Composition) -> Iterable[dict[str, Any]]:
    for file in composition.files:
        for placed in file.tensors:
            tensor = placed.tensor
            yield {
                "name": tensor.name,
                "file": file.name,
                "dtype": tensor.dtype,
                "source_dtype": tensor.source_dtype,
                "shape": list(tensor.shape),
                "origin": tensor.origin,
                "ranges": [part_to_json(part) for part in tensor.ranges],
            }


def _tensor(row: Mapping[str, Any], sources: int) -> PlannedTensor:
    """A row of the record; raises `ValueError` for what no writer of it would say."""
    shape = tuple(_count(size) for size in row["shape"])
    ranges = tuple(part_from_json(part) for part in row["ranges"])
    if row["dtype"] not in BY_NAME or row["source_dtype"] not in BY_NAME:
        raise ValueError("unknown element type")
    if any(part.source >= sources for part in ranges_of(ranges)):
        raise ValueError("a range of no source")
    return PlannedTensor(str(row["name"]), shape, row["source_dtype"], row["dtype"], ranges, row["origin"])


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("not a count")
    return value


def _checksum(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError("not a checksum")
    return value


def _rows(key: str, rows: Iterable[Mapping[str, Any]]) -> str:
    lines = [json.dumps(row, separators=(",", ":")) for row in rows]
    inner = ",\n    ".join(lines)
    return f',\n  "{key}": [\n    {inner}\n  ]' if lines else f',\n  "{key}": []'


def _relative(root: Path, target: Path) -> str | None:
    try:
        return Path(os.path.relpath(root, target)).as_posix()
    except ValueError:  # another drive
        return None
