"""The tensors of a checkpoint one after another as numpy arrays, without writing anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ckpt_inspect.consolidate.plan import Plan, PlannedTensor
from ckpt_inspect.consolidate.planning import plan_consolidation
from ckpt_inspect.consolidate.problems import UnreadableShardError
from ckpt_inspect.consolidate.reading import OpenFiles
from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.printable import printable
from ckpt_inspect.storage import LocalTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUMPY = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64",
    "C128": "complex128",
}  # fmt: skip
_ML_DTYPES = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip


def iter_tensors(path: str | os.PathLike[str], **options: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield `(name, array)` for every tensor :func:`plan_consolidation` plans, one in memory at a time.

    `options` are those of :func:`plan_consolidation`; `dtype="bfloat16"` yields ``ml_dtypes.bfloat16`` arrays. An alias
    follows its owner as the same array, so a tied weight appears under both names.

    Raises:
        ConsolidationError: as `plan_consolidation` does, before the first tensor.
        UnreadableShardError: a shard ends before its tensor does.
    """
    yield from plan_tensors(plan_consolidation(path, **options))


def plan_tensors(plan: Plan) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the tensors of a plan already made; see :func:`iter_tensors`."""
    from pathlib import Path

    aliases: dict[str, list[str]] = {}
    for alias, owner in plan.aliases.items():
        aliases.setdefault(owner, []).append(alias)
    with OpenFiles(LocalTree(Path(plan.root)), plan.sources) as files:
        for tensor in plan.tensors:
            array = _read(tensor, plan, files)
            yield tensor.name, array
            for alias in aliases.get(tensor.name, ()):
                yield alias, array


def numpy_dtype(name: str) -> Any:
    """The numpy or ml_dtypes type of an element type, little-endian; raises `KeyError` where there is none."""
    import numpy as np

    if name in _NUMPY:
        return np.dtype(_NUMPY[name]).newbyteorder("<")
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, _ML_DTYPES[name]))


def _read(tensor: PlannedTensor, plan: Plan, files: OpenFiles) -> NDArray[Any]:
    import numpy as np

    data = bytearray(tensor.source_nbytes)
    position = 0
    known = BY_NAME[tensor.source_dtype]
    width = (known.component_bits or known.bits) // 8
    for part in tensor.ranges:
        piece = files.read(part.source, part.offset, part.length)
        if len(piece) != part.length:
            file = plan.sources[part.source]
            raise UnreadableShardError(
                f"ends before {printable(tensor.name)} does",
                where=f"{plan.root}/{printable(file.path)}",
                remedy="copy the file again from where it was written",
            )
        if part.swap:
            piece = np.frombuffer(piece, dtype=f"<u{width}").byteswap().tobytes()
        data[position : position + part.length] = piece
        position += part.length
    array = np.frombuffer(data, dtype=numpy_dtype(tensor.source_dtype)).reshape(tensor.shape)
    if tensor.dtype != tensor.source_dtype:
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(numpy_dtype(tensor.dtype))
    return array
