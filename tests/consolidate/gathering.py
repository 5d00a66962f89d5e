"""The simplest executor of a plan: positional reads and widening by zero bytes. For tests only."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ckpt_inspect.consolidate.plan import Plan, PlannedTensor


def tensor_bytes(plan: Plan, tensor: PlannedTensor) -> bytes:
    """The little-endian bytes of one planned tensor in its output type."""
    parts = []
    for part in tensor.ranges:
        with (Path(plan.root) / plan.sources[part.source].path).open("rb") as file:
            file.seek(part.offset)
            piece = file.read(part.length)
        assert len(piece) == part.length
        parts.append(piece)
    data = b"".join(parts)
    if tensor.dtype == tensor.source_dtype:
        return data
    assert (tensor.source_dtype, tensor.dtype) == ("BF16", "F32")
    return (np.frombuffer(data, dtype="<u2").astype("<u4") << 16).tobytes()


def gathered(plan: Plan) -> dict[str, tuple[PlannedTensor, bytes]]:
    """Every tensor and alias of a plan by name."""
    out = {tensor.name: (tensor, tensor_bytes(plan, tensor)) for tensor in plan.tensors}
    out.update({alias: out[owner] for alias, owner in plan.aliases.items()})
    return out


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
