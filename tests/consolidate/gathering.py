"""The simplest executor of a plan: positional reads and numpy. For tests only; shares nothing with the real one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ckpt_inspect.consolidate.plan import Interleave, Plan, PlannedTensor, Range

_NUMPY = {
    "F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip


def array(plan: Plan, tensor: PlannedTensor) -> Any:
    """One planned tensor in its output type."""
    kind = _NUMPY[tensor.source_dtype]
    parts = []
    for part in tensor.ranges:
        if isinstance(part, Interleave):
            columns = [_piece(plan, column, kind) for column in part.columns]
            rows = [np.frombuffer(column, "u1").reshape(part.rows, -1) for column in columns]
            parts.append(np.hstack(rows).tobytes())
        else:
            parts.append(_piece(plan, part, kind))
    return np.frombuffer(b"".join(parts), dtype=kind).reshape(tensor.shape).astype(_NUMPY[tensor.dtype])


def _piece(plan: Plan, part: Range, kind: Any) -> bytes:
    with (Path(plan.root) / plan.sources[part.source].path).open("rb") as file:
        file.seek(part.offset)
        piece = file.read(part.length)
    assert len(piece) == part.length
    return np.frombuffer(piece, dtype=f"<u{kind.itemsize}").byteswap().tobytes() if part.swap else piece


def arrays(plan: Plan) -> dict[str, Any]:
    """Every tensor and alias of a plan by name."""
    out = {tensor.name: array(plan, tensor) for tensor in plan.tensors}
    out.update({alias: out[owner] for alias, owner in plan.aliases.items()})
    return out


def gathered(plan: Plan) -> dict[str, tuple[PlannedTensor, bytes]]:
    """Every tensor and alias of a plan by name, as bytes."""
    out = {tensor.name: (tensor, array(plan, tensor).tobytes()) for tensor in plan.tensors}
    out.update({alias: out[owner] for alias, owner in plan.aliases.items()})
    return out


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
