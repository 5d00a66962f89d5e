"""Model files of later ranks that say what one already read says: only where their bytes lie differs.

Under stage 3 every rank writes a model file with the same pickle program, byte for byte unless a device name differs.
Interpreting one of a thousand parameters costs a tenth of a second, so 256 of them would cost half a minute; telling
that a file is a twin costs two milliseconds. A twin has the same members in the same order with the same sizes, all
stored, none overlapping, and the same ``data.pkl``; anything else is read in full.

Format: ``caffe2/serialize/inline_container.cc`` by way of :mod:`ckpt_inspect.formats.zip_records`.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ckpt_inspect.artifacts.zero_states import ModelState
from ckpt_inspect.formats.torch_archive import Tensor
from ckpt_inspect.storage import ByteSource

_END = struct.Struct("<4s4H2LH")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_SATURATED = 0xFFFFFFFF
_MOST_TEMPLATES = 16  # one per device name of a node, with room
_LONGEST_DIRECTORY = 64 << 20


@dataclass(frozen=True, slots=True)
class _Listing:
    """A central directory as torch writes it: names without the root, sizes, and where the local headers begin."""

    names: tuple[bytes, ...]
    sizes: tuple[int, ...]
    headers: tuple[int, ...]
    end: int
    program: bytes

    def data_offset(self, source: ByteSource, index: int) -> int | None:
        """Where a member's bytes begin, None when its local header is not there or they would run into the next."""
        header = source.read_at(self.headers[index], _LOCAL.size)
        if len(header) != _LOCAL.size:
            return None
        fields = _LOCAL.unpack(header)
        offset = self.headers[index] + _LOCAL.size + int(fields[9]) + int(fields[10])
        following = self.headers[index + 1] if index + 1 < len(self.headers) else self.end
        return offset if fields[0] == b"PK\x03\x04" and offset + self.sizes[index] <= following else None


@dataclass(frozen=True, slots=True)
class _Template:
    """A file read in full, and what a twin of it must look like."""

    names: tuple[bytes, ...]
    sizes: tuple[int, ...]
    members: Mapping[str, int]
    state: ModelState


class _TwinTensors(Mapping[str, Tensor]):
    """The tensors of a twin: those of the file read in full, at the offsets of this one."""

    __slots__ = ("_base", "_offsets")

    def __init__(self, base: Mapping[str, Tensor], offsets: Mapping[str, int]) -> None:
        self._base = base
        self._offsets = offsets

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._base[name]
        start = self._offsets.get(tensor.storage_key)
        if start is None or tensor.file_offset is None or not tensor.nbytes:
            return tensor
        return replace(tensor, file_offset=start + tensor.storage_offset * (tensor.nbytes // math.prod(tensor.shape)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)


class TwinReader:
    """Remembers the files read in full, and recognises their twins."""

    def __init__(self) -> None:
        self._templates: dict[bytes, _Template] = {}
        self._listing: _Listing | None = None

    def find(self, source: ByteSource, path: str, rank: int | None) -> ModelState | None:
        """The state of a file that is a twin of one remembered, None when it has to be read in full."""
        self._listing = listing = _list(source)
        template = self._templates.get(listing.program) if listing is not None else None
        if listing is None or template is None:
            return None
        if listing.names != template.names or listing.sizes != template.sizes:
            return None
        offsets: dict[str, int] = {}
        for key, index in template.members.items():
            offset = listing.data_offset(source, index)
            if offset is None:
                return None
            offsets[key] = offset
        state = template.state
        frozen = _TwinTensors(state.frozen, offsets) if state.frozen else state.frozen
        return replace(state, path=path, rank=rank, frozen=frozen)

    def remember(self, state: ModelState) -> None:
        """Take a state just read in full, from the source last given to :meth:`find`, as a template for twins."""
        listing = self._listing
        if listing is None or state.faults or len(self._templates) >= _MOST_TEMPLATES:
            return
        wanted = {tensor.storage_key for tensor in (state.frozen or {}).values() if tensor.nbytes}
        places = {name: index for index, name in enumerate(listing.names)}
        members = {key: places.get(b"data/" + key.encode("utf-8", "replace"), -1) for key in wanted}
        if -1 not in members.values():
            self._templates[listing.program] = _Template(listing.names, listing.sizes, members, state)


def _list(source: ByteSource) -> _Listing | None:
    """The members of an archive that is exactly as torch writes it, None for any other file."""
    tail = source.read_at(source.size - _END.size, _END.size)
    if len(tail) != _END.size:
        return None
    magic, disk, _, entries, total, length, start, comment = _END.unpack(tail)
    if magic != b"PK\x05\x06" or disk or comment or entries != total or not 0 < length < _LONGEST_DIRECTORY:
        return None
    if start == _SATURATED or start + length > source.size - _END.size or entries == 0xFFFF:
        return None  # zip64: such a file has few members, and is read in full
    central = _central(source.read_at(start, length), entries)
    if central is None:
        return None
    names, sizes, headers = central
    if any(first >= second for first, second in zip(headers, (*headers[1:], start), strict=True)):
        return None
    try:
        index = names.index(b"data.pkl")
    except ValueError:
        return None
    listing = _Listing(names, sizes, headers, start, b"")
    place = listing.data_offset(source, index)
    if place is None:
        return None
    program = source.read_at(place, sizes[index])
    return replace(listing, program=hashlib.sha256(program).digest())


def _central(directory: bytes, entries: int) -> tuple[tuple[bytes, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Names below the root, sizes and header offsets of stored members, None when one is anything else."""
    names: list[bytes] = []
    sizes: list[int] = []
    headers: list[int] = []
    position, root = 0, b""
    for _ in range(entries):
        if position + _CENTRAL.size > len(directory):
            return None
        (magic, _, _, flags, method, _, _, _, packed, size, name_length, extra, comment, _, _, _, offset) = (
            _CENTRAL.unpack_from(directory, position)
        )
        start = position + _CENTRAL.size
        name = directory[start : start + name_length]
        if magic != b"PK\x01\x02" or method or flags & 1 or packed != size or _SATURATED in (size, offset):
            return None
        if not names:
            root = name[: name.find(b"/") + 1]
        if not root or not name.startswith(root):
            return None
        names.append(name[len(root) :])
        sizes.append(size)
        headers.append(offset)
        position = start + name_length + extra + comment
    return tuple(names), tuple(sizes), tuple(headers)
