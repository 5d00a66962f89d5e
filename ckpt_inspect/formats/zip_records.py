"""The records of a zip file: end of central directory, zip64 twins, central entries, local headers.

Field layouts: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.9 (data descriptor), 4.3.12 (central entry),
4.3.14 to 4.3.16 (ends) and 4.5.3 (zip64 extra field).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

LOCAL_SIGNATURE = b"PK\x03\x04"
CENTRAL_SIGNATURE = b"PK\x01\x02"
END_SIGNATURE = b"PK\x05\x06"
END64_SIGNATURE = b"PK\x06\x06"
LOCATOR_SIGNATURE = b"PK\x06\x07"
DESCRIPTOR_SIGNATURE = b"PK\x07\x08"

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")

STORED = 0
DEFLATED = 8

FLAG_ENCRYPTED = 0x0001
FLAG_DESCRIPTOR = 0x0008
FLAG_PATCHED = 0x0020
FLAG_STRONG_ENCRYPTION = 0x0040
FLAG_UTF8 = 0x0800
FLAG_MASKED_HEADER = 0x2000
FLAGS_OF_ENCRYPTION = FLAG_ENCRYPTED | FLAG_STRONG_ENCRYPTION | FLAG_MASKED_HEADER
# Bits 1 and 2 tell how hard deflate tried; they mean nothing to a reader.
FLAGS_ORDINARY = 0x0006 | FLAG_DESCRIPTOR | FLAG_UTF8

SATURATED_16 = 0xFFFF
SATURATED_32 = 0xFFFFFFFF

LONGEST_COMMENT = 0xFFFF

MAX_MEMBERS = 250_000


@dataclass(frozen=True, slots=True)
class ZipMember:
    """One member. Sizes in bytes, offsets from the start of the source; `data_offset` is -1 without a local header."""

    name: str
    raw_name: bytes
    method: int
    flags: int
    crc: int
    compressed: int
    size: int
    header_offset: int
    data_offset: int
    index: int

    @property
    def stored(self) -> bool:
        """Whether its bytes lie in the file as they are."""
        return self.method == STORED and not self.flags & FLAGS_OF_ENCRYPTION and self.data_offset >= 0

    @property
    def end(self) -> int:
        """The byte after its data, or after its header where that is unreadable."""
        return self.data_offset + self.compressed if self.data_offset >= 0 else self.header_offset + LOCAL.size


@dataclass(frozen=True, slots=True)
class End:
    """What the end records state: where the directory should be. Offsets are as stated, not as found."""

    offset: int
    entries: int
    directory_size: int
    directory_offset: int
    comment: bytes
    zip64: bool
    disks: bool
    directory_end: int


@dataclass(frozen=True, slots=True)
class CentralEntry:
    """One entry of the central directory, zip64 fields applied; `raw_offset` as stated."""

    raw_name: bytes
    method: int
    flags: int
    crc: int
    compressed: int
    size: int
    raw_offset: int
    disk: int
    zip64_short: bool


@dataclass(frozen=True, slots=True)
class LocalHeader:
    """A local header: the writer's word at the member itself."""

    raw_name: bytes
    method: int
    flags: int
    crc: int
    compressed: int
    size: int
    length: int


def zip64_values(extra: bytes, wanted: int) -> list[int] | None:
    """The first `wanted` 64-bit values of the zip64 extra field (id 1), or None when it is absent or shorter."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            end = min(position + 4 + length, len(extra))
            if end - position - 4 < 8 * wanted:
                return None
            return list(struct.unpack_from(f"<{wanted}Q", extra, position + 4))
        position += 4 + length
    return None


def parse_central(directory: bytes, position: int) -> tuple[CentralEntry, int] | None:
    """The entry at `position` and the position after it, or None where no whole entry begins."""
    if position + CENTRAL.size > len(directory):
        return None
    fields = CENTRAL.unpack_from(directory, position)
    if fields[0] != CENTRAL_SIGNATURE:
        return None
    _, _, _, flags, method, _, _, crc, compressed, size, name_length, extra_length, comment_length, disk = fields[:14]
    offset = fields[16]
    start = position + CENTRAL.size
    end = start + name_length + extra_length + comment_length
    if end > len(directory):
        return None
    raw_name = directory[start : start + name_length]
    short = False
    wanted = (size == SATURATED_32) + (compressed == SATURATED_32) + (offset == SATURATED_32)
    if wanted:
        values = zip64_values(directory[start + name_length : start + name_length + extra_length], wanted)
        if values is None:
            short = True
        else:
            # The field holds only the values that are saturated in the entry, in this order.
            if size == SATURATED_32:
                size = values.pop(0)
            if compressed == SATURATED_32:
                compressed = values.pop(0)
            if offset == SATURATED_32:
                offset = values.pop(0)
    return CentralEntry(raw_name, method, flags, crc, compressed, size, offset, disk, short), end


def parse_local(data: bytes, position: int = 0) -> LocalHeader | None:
    """The local header at `position` of `data`, or None when it is not one or `data` ends inside it."""
    if position < 0 or position + LOCAL.size > len(data):
        return None
    signature, _, flags, method, _, _, crc, compressed, size, name_length, extra_length = LOCAL.unpack_from(
        data, position
    )
    start = position + LOCAL.size
    end = start + name_length + extra_length
    if signature != LOCAL_SIGNATURE or end > len(data):
        return None
    wanted = (size == SATURATED_32) + (compressed == SATURATED_32)
    if wanted:
        values = zip64_values(data[start + name_length : end], wanted)
        if values is not None:
            if size == SATURATED_32:
                size = values.pop(0)
            if compressed == SATURATED_32:
                compressed = values.pop(0)
    name = data[start : start + name_length]
    return LocalHeader(name, method, flags, crc, compressed, size, LOCAL.size + name_length + extra_length)


def local_length(data: bytes, position: int = 0) -> int | None:
    """The length a local header states for itself, or None when no fixed part of one is at `position`."""
    if position < 0 or position + LOCAL.size > len(data) or data[position : position + 4] != LOCAL_SIGNATURE:
        return None
    name_length, extra_length = struct.unpack_from("<HH", data, position + 26)
    return int(LOCAL.size + name_length + extra_length)
