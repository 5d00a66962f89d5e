"""The items of ``.distcp`` files: each is a complete `torch.save` archive with one tensor (torch 2.13 ``filesystem.py``).

A checkpoint has tensors times ranks of them, and most differ in nothing but values: an item whose bytes before and
after the values are those of one already read needs no second reading (:class:`ItemReader`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from ckpt_inspect.formats.dcp_types import DcpChunk, DcpTensor
from ckpt_inspect.formats.torch_archive import open_torch
from ckpt_inspect.formats.torch_types import Tensor
from ckpt_inspect.storage import ByteSource, SliceSource

_END = struct.Struct("<4s4H2LH")  # zip: end of central directory
_ENTRY = struct.Struct("<4s6H3L3H")  # zip: the start of an entry of the central directory
_ENTRY_SIZE, _CRC = 46, 16
_ZEROS = 4096
_MOST_BESIDE = 1 << 16  # bytes around the values that are kept for comparison


@dataclass(frozen=True, slots=True)
class DcpItem:
    """The tensor of a chunk, its `file_offset` absolute in the ``.distcp`` file, and the byte order of its elements."""

    tensor: Tensor
    big_endian: bool


@dataclass(frozen=True, slots=True)
class _Frame:
    """An item that was read: its bytes before the values, and its central directory without the checksums."""

    head: bytes
    directory_at: int
    directory: bytes
    checksums: tuple[int, ...]
    item: DcpItem

    def fits(self, source: ByteSource, chunk: DcpChunk) -> bool:
        """Whether another item of the same length differs from this one in values and checksums only."""
        if source.read_at(chunk.offset, len(self.head)) != self.head:
            return False
        read = source.read_at(chunk.offset + self.directory_at, chunk.length - self.directory_at)
        return _without(read, self.checksums) == self.directory


class ItemReader:
    """Reads the items of one checkpoint."""

    def __init__(self) -> None:
        self._frames: dict[tuple[tuple[int, ...], int, str | None], _Frame] = {}

    def read(self, source: ByteSource, chunk: DcpChunk, dtype: str | None = None) -> DcpItem | None:
        """The tensor of a "torch" chunk in `source`, its ``.distcp`` file; `dtype` is what the metadata say it is.

        None where the bytes are no archive with one tensor. Compare its shape with `chunk.sizes`: they must agree.
        """
        key = (chunk.sizes, chunk.length, dtype)
        frame = self._frames.get(key)
        if frame is not None and frame.fits(source, chunk):
            start = chunk.offset + len(frame.head)
            return replace(frame.item, tensor=replace(frame.item.tensor, file_offset=start))
        item = read_item(source, chunk)
        if item is not None and frame is None:
            made = _frame(source, chunk, item)
            if made is not None:
                self._frames[key] = made
        return item


def read_item(source: ByteSource, chunk: DcpChunk) -> DcpItem | None:
    """The tensor of one "torch" chunk; see :meth:`ItemReader.read`."""
    if chunk.transforms or chunk.form != "torch":
        return None
    archive = open_torch(SliceSource(source, chunk.offset, chunk.length))
    tensor = archive.tensor(archive.value)
    if tensor is None:
        return None
    if tensor.file_offset is not None:
        tensor = replace(tensor, file_offset=tensor.file_offset + chunk.offset)
    return DcpItem(tensor, archive.byteorder == "big")


def item_tensor(source: ByteSource, chunk: DcpChunk) -> Tensor | None:
    """The tensor alone of one "torch" chunk; see :meth:`ItemReader.read`."""
    item = read_item(source, chunk)
    return item.tensor if item is not None else None


def mismatch(item: DcpItem | None, source: ByteSource, tensor: DcpTensor, chunk: DcpChunk) -> str | None:
    """Why what was read at the place of a chunk is not that chunk, as a clause about the place; None where it is."""
    if item is None:
        zeros = not source.read_at(chunk.offset, min(chunk.length, _ZEROS)).strip(b"\0")
        return "is full of zeros: the file has a hole" if zeros else "is no saved tensor: the file is of another save"
    found = item.tensor
    if found.shape != chunk.sizes or found.dtype != tensor.dtype:
        wanted = f"{tensor.dtype} {list(chunk.sizes)}"
        return f"is {found.dtype} {list(found.shape)}, not {wanted}: the file is of another save"
    if found.problem is not None or found.kind != "dense":
        return f"cannot be read: {found.problem or f'it is a {found.kind} tensor'}"
    return None


def _frame(source: ByteSource, chunk: DcpChunk, item: DcpItem) -> _Frame | None:
    """What to compare later items with; None for an archive that is not laid out as torch does."""
    tensor = item.tensor
    if tensor.file_offset is None or tensor.problem is not None:
        return None
    end = source.read_at(chunk.offset + chunk.length - _END.size, _END.size)
    if len(end) != _END.size or end[:4] != b"PK\x05\x06":
        return None
    directory_at = _END.unpack(end)[6]
    before, after = tensor.file_offset - chunk.offset, chunk.length - directory_at
    if not (0 < before < _MOST_BESIDE and 0 < after < _MOST_BESIDE and before + tensor.nbytes <= directory_at):
        return None
    directory = source.read_at(chunk.offset + directory_at, after)
    checksums = _checksums(directory)
    head = source.read_at(chunk.offset, before)
    return _Frame(head, directory_at, _without(directory, checksums), checksums, item)


def _checksums(directory: bytes) -> tuple[int, ...]:
    """Where in a central directory the checksums stand."""
    found: list[int] = []
    at = 0
    while directory[at : at + 4] == b"PK\x01\x02" and at + _ENTRY_SIZE <= len(directory):
        found.append(at + _CRC)
        name, extra, comment = _ENTRY.unpack_from(directory, at)[10:13]
        at += _ENTRY_SIZE + name + extra + comment
    return tuple(found)


def _without(directory: bytes, checksums: tuple[int, ...]) -> bytes:
    blank = bytearray(directory)
    for at in checksums:
        blank[at : at + 4] = b"\0\0\0\0"
    return bytes(blank)
