"""What a torch file holds: storages (runs of bytes with a key) and tensors (strided views of them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ckpt_inspect.formats.dtypes import DType
from ckpt_inspect.formats.pickle_nodes import Node

Kind: TypeAlias = Literal["dense", "meta", "sparse", "quantized", "nested", "dtensor", "wrapper"]


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage as its persistent id states it.

    `numel` counts elements of `dtype`, or bytes where that is None (``torch.UntypedStorage``). `file_offset` is the
    absolute byte where it begins; None where it has no bytes in the file as they are (missing, compressed, meta).
    """

    key: str
    dtype: DType | None
    numel: int
    nbytes: int
    location: str
    file_offset: int | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor without its values.

    `dtype` is a :class:`~ckpt_inspect.formats.dtypes.DType` name; `stride` and `storage_offset` count elements;
    `nbytes` is what its elements take packed, not its storage. `file_offset` is the absolute byte of its first
    element, None where there is no such byte. `kind`:

    - "meta" and "wrapper" have no bytes of their own; "sparse", "nested" and "quantized" name their parts in
      `components` (a quantized tensor has its integers here and its scales there);
    - "dtensor" is described by its local shard, the whole has `global_shape`.

    `attributes` is the Python state a tensor or parameter carries (ZeRO-3's `ds_id`). `problem` says why the numbers
    must not be trusted or the bytes not be taken as they are.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage_key: str
    storage_offset: int
    file_offset: int | None
    nbytes: int
    kind: Kind
    contiguous: bool
    requires_grad: bool = False
    is_parameter: bool = False
    attributes: Node | None = None
    problem: str | None = None
    components: tuple[tuple[str, Tensor], ...] = ()
    global_shape: tuple[int, ...] | None = None

    @property
    def numel(self) -> int:
        """How many elements it has."""
        count = 1
        for length in self.shape:
            count *= length
        return count


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides torch gives a new row-major tensor (``c10/core/TensorImpl.h``: a length of 0 counts as 1)."""
    strides: list[int] = []
    step = 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    strides.reverse()
    return tuple(strides)


def is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the elements lie row by row without gaps (``c10/core/Contiguity.h``; lengths of 1 do not count)."""
    expected = 1
    for length, step in zip(reversed(shape), reversed(stride), strict=True):
        if length == 0:
            return True
        if length != 1:
            if step != expected:
                return 0 in shape
            expected *= length
    return True
