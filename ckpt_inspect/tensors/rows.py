"""What is said of one tensor, whichever format it lies in."""

from __future__ import annotations

from math import prod
from typing import NamedTuple


class Chunk(NamedTuple):
    """A box of a tensor that lies in pieces: `length` bytes of an item at `offset` of `file` hold it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    offset: int
    length: int
    form: str = "torch"
    transforms: tuple[str, ...] = ()


class TensorRow(NamedTuple):
    """One tensor of a listing. A named tuple, because a checkpoint can hold hundreds of thousands.

    `dtype` is a name of :mod:`ckpt_inspect.formats.dtypes`; `nbytes` what the elements take packed. `offset` is the
    absolute byte of the first element in `file`, None where it has none or lies in several pieces (`chunks`).
    `kind` is torch's ("dense", "meta", "sparse", ...); `problem` why the bytes cannot be taken as they are.
    `stride` (in elements) is None for row-major tensors.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str
    offset: int | None
    kind: str = "dense"
    problem: str | None = None
    stride: tuple[int, ...] | None = None
    big_endian: bool = False
    chunks: tuple[Chunk, ...] = ()

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)
