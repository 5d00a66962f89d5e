"""From tensors in shards to byte ranges in files: the only place where elements become bytes."""

from __future__ import annotations

from collections.abc import Iterable

from ckpt_inspect.artifacts.zero_files import ZeroFile
from ckpt_inspect.consolidate.layouts import element_count
from ckpt_inspect.consolidate.plan import Range, SourceFile
from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.formats.torch_archive import Tensor
from ckpt_inspect.storage import Entry

# A strided tensor becomes one range per contiguous run; no real checkpoint needs more than a few thousand.
_MAX_RUNS = 1_000_000


class AddressError(ValueError):
    """The bytes of a tensor cannot be addressed: its message says why, as a clause."""


class Sources:
    """The files of a plan, numbered in the order they were first used."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}
        self._files: list[SourceFile] = []

    def add(self, path: str, size: int, mtime_ns: int, rank: int | None) -> int:
        """The number of a file, giving it one if it has none."""
        index = self._index.get(path)
        if index is None:
            index = self._index[path] = len(self._files)
            self._files.append(SourceFile(path, size, mtime_ns, rank))
        return index

    def add_files(self, files: Iterable[ZeroFile]) -> None:
        """Number several files in order."""
        for file in files:
            self.add(file.path, file.size, file.mtime_ns, file.rank)

    def add_entry(self, entry: Entry, rank: int | None) -> int:
        """The number of a listed file."""
        return self.add(entry.path, entry.size, entry.mtime_ns, rank)

    def index(self, path: str) -> int:
        """The number of a file already added."""
        return self._index[path]

    def size(self, index: int) -> int:
        """Bytes of a numbered file."""
        return self._files[index].size

    def files(self) -> tuple[SourceFile, ...]:
        """All files in order."""
        return tuple(self._files)


def item_size(dtype: str) -> int:
    """Bytes per element; raises :class:`AddressError` for an unknown or packed type."""
    known = BY_NAME.get(dtype)
    if known is None:
        raise AddressError(f"its element type {dtype} is not known")
    if known.bits % 8:
        raise AddressError(f"its element type {dtype} packs several elements into a byte")
    return known.bits // 8


def must_swap(dtype: str, big_endian: bool) -> bool:
    """Whether bytes of this type must be reversed to be little-endian."""
    if not big_endian:
        return False
    known = BY_NAME[dtype]
    return (known.component_bits or known.bits) > 8


def check(tensor: Tensor, file_size: int) -> None:
    """Raise :class:`AddressError` unless the bytes of the tensor lie plainly in its file."""
    if tensor.kind != "dense":
        raise AddressError(f"it is a {tensor.kind} tensor")
    if tensor.problem is not None:
        raise AddressError(tensor.problem)
    size = item_size(tensor.dtype)
    if tensor.nbytes == 0:
        return
    if tensor.file_offset is None:
        raise AddressError("its bytes are compressed or missing")
    span = sum((length - 1) * abs(step) for length, step in zip(tensor.shape, tensor.stride, strict=True)) + 1
    if tensor.file_offset < 0 or tensor.file_offset + span * size > file_size:
        raise AddressError("its bytes lie beyond the end of the file")


def flat_range(tensor: Tensor, source: int, start: int, count: int, *, big_endian: bool) -> Range:
    """`count` elements from element `start` of a contiguous tensor that :func:`check` passed."""
    size = item_size(tensor.dtype)
    return Range(
        source, (tensor.file_offset or 0) + start * size, count * size, swap=must_swap(tensor.dtype, big_endian)
    )


def whole_ranges(tensor: Tensor, source: int, file_size: int, *, big_endian: bool) -> tuple[Range, ...]:
    """A whole tensor in row-major order: one range when it is contiguous, else one per contiguous run.

    Raises:
        AddressError: it cannot be addressed.
    """
    check(tensor, file_size)
    if tensor.nbytes == 0:
        return ()
    size = item_size(tensor.dtype)
    swap = must_swap(tensor.dtype, big_endian)
    run = 1
    outer = len(tensor.shape)
    while outer and (tensor.shape[outer - 1] == 1 or tensor.stride[outer - 1] == run):
        outer -= 1
        run *= tensor.shape[outer]
    if any(step < 0 for step in tensor.stride):
        raise AddressError("it has negative strides")
    runs = element_count(tensor.shape[:outer])
    if runs > _MAX_RUNS:
        raise AddressError(f"it is scattered over {runs} runs of {run} elements")
    base = tensor.file_offset or 0
    offsets = [0]
    for length, step in zip(tensor.shape[:outer], tensor.stride[:outer], strict=True):
        offsets = [offset + position * step for offset in offsets for position in range(length)]
    return tuple(Range(source, base + offset * size, run * size, swap=swap) for offset in offsets)
