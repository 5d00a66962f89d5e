"""What the readers found wrong with a distributed checkpoint, as problems of a consolidation (Z10, Z20, Z21, Z44, Z48, Z49).

A fault of a tensor or file the model does not need is a warning. What to do about each: ``knowledge/faults/dcp.toml``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ckpt_inspect.artifacts.fsdp import DcpDirectory
from ckpt_inspect.consolidate.problems import Problem, note, refuse, warn
from ckpt_inspect.formats.dcp_types import DcpMetadata
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.knowledge import faults
from ckpt_inspect.printable import printable
from ckpt_inspect.scan.tiers import standing_of


class _Refusal(NamedTuple):
    check: str
    forceable: bool = False


_REFUSED = {
    "dcp-no-metadata": _Refusal("Z48"),
    "dcp-temporary": _Refusal("Z48", forceable=True),
    "dcp-not-metadata": _Refusal("Z20"),
    "dcp-unplaced": _Refusal("Z49"),
    "dcp-traversal": _Refusal("Z05"),
    "dcp-transformed": _Refusal("layout"),
    "dcp-dtype": _Refusal("layout"),
    "dcp-chunk-bounds": _Refusal("Z49"),
    "dcp-overlap": _Refusal("Z49"),
    "dcp-gap": _Refusal("Z49"),
    "dcp-conflict": _Refusal("Z49"),
    "dcp-file-missing": _Refusal("Z10"),
    "dcp-file-rest": _Refusal("Z49", forceable=True),
    "dcp-item-bounds": _Refusal("Z21"),
    "dcp-item-overlap": _Refusal("Z49"),
}
_NOTED = frozenset({"dcp-rank-missing"})
_METADATA_ONLY = _Refusal("Z20")  # a fault of the pickle itself


def fault_problems(directory: DcpDirectory, needed: Collection[str] | None) -> list[Problem]:
    """The faults of a directory; those of a tensor not among `needed` (None: all are) only warn."""
    metadata = directory.metadata
    problems = [_problem(directory, metadata, fault, needed) for fault in directory.faults]
    return sorted(problems, key=lambda problem: problem.level != "error")


def _problem(
    directory: DcpDirectory, metadata: DcpMetadata | None, fault: Fault, needed: Collection[str] | None
) -> Problem:
    row = faults().get(fault.kind, {})
    remedy = row.get("remedy", "").rstrip(".") or None
    remedy = remedy[0].lower() + remedy[1:] if remedy else None
    file, rank, tensor = _place(directory, metadata, fault)
    message = fault.message if tensor is None else f"{printable(tensor)}: {fault.message}"
    refusal = _REFUSED.get(fault.kind)
    if refusal is None and not fault.kind.startswith(("dcp-", "fsdp-")) and row.get("severity") == "error":
        refusal = _METADATA_ONLY
    if fault.kind in _NOTED:
        return note("Z49", message, file=file, rank=rank)
    if refusal is None or not _is_needed(metadata, fault, needed):
        return warn("Z49", message, file=file, rank=rank, tensor=tensor, remedy=remedy)
    forceable = refusal.forceable and metadata is not None
    return refuse(refusal.check, message, file=file, rank=rank, tensor=tensor, remedy=remedy, forceable=forceable)


def _place(
    directory: DcpDirectory, metadata: DcpMetadata | None, fault: Fault
) -> tuple[str | None, int | None, str | None]:
    """File, rank and tensor of a fault; readers put either a path or a name into `place`."""
    default = directory.metadata_files[0] if len(directory.metadata_files) == 1 else directory.path or None
    if fault.place is None:
        return default, None, None
    for file in directory.files:
        if fault.place in (file.path, directory.relative(file.path)):
            return file.path, file.rank, None
    if metadata is not None and fault.place in metadata.files:
        return directory.absolute(fault.place), _rank(fault.place), None
    if metadata is not None and (fault.place in metadata.tensors or fault.place in metadata.items):
        return default, None, fault.place
    return (fault.place if directory.tree.get(fault.place) is not None else default), None, None


def _rank(file: str) -> int | None:
    digits = file.removeprefix("__").partition("_")[0]
    return int(digits) if file.startswith("__") and digits.isdecimal() else None


def _is_needed(metadata: DcpMetadata | None, fault: Fault, needed: Collection[str] | None) -> bool:
    if metadata is None or needed is None or fault.place is None:
        return True
    if fault.place in metadata.tensors or fault.place in metadata.items:
        return fault.place in needed
    if fault.kind == "dcp-file-missing":
        return any(chunk.file == fault.place for name in needed for chunk in metadata.tensors[name].chunks)
    return True


def global_problems(directory: DcpDirectory, metadata: DcpMetadata) -> list[Problem]:
    """Z44: names in the metadata's pickle that torch's writers do not put there. They are not imported here."""
    file = directory.metadata_files[0] if directory.metadata_files else directory.path or None
    strange = {}
    for module, name in metadata.globals:
        standing = standing_of(module, name)
        if standing.tier in ("T2", "T3"):
            strange[f"{module}.{name}"] = standing
    if not strange:
        return []
    shown = ", ".join(printable(name, 60) for name in list(strange)[:3])
    worst = next((standing for standing in strange.values() if standing.tier == "T3"), None)
    why = f": {worst.reason}" if worst is not None else ""
    message = f"its pickle names {shown}, which torch does not write there{why}"
    remedy = "do not load it with torch; look at it with ckpt-inspect scan"
    return [refuse("Z44", message, file=file, remedy=remedy, forceable=worst is None)]
