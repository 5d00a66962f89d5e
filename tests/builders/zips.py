"""Zip files as torch writes them (miniz behind ``caffe2/serialize/inline_container.cc``), with room for every lie.

Data begins at multiples of the alignment (an "FB" extra field in the local header), local headers hold no sizes, a
data descriptor follows each member, zip64 end records always stand before the end record.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, Any

NARROW = 0xFFFFFFFF


@dataclass(frozen=True)
class Hole:
    """`length` bytes that are not written: the file gets a hole, the CRC is given as 0."""

    length: int


Data = bytes | bytearray | memoryview | Hole


def length_of(data: Data) -> int:
    return data.length if isinstance(data, Hole) else len(data)


@dataclass
class TorchZipWriter:
    """Writes members to `file` from its present position; offsets count from there."""

    file: IO[bytes]
    alignment: int = 64
    crc: bool = True
    entries: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.base = self.file.tell()

    def add(self, name: str, data: Data) -> int:
        """Write one member; returns where its data begin, absolute in the file."""
        size, offset, raw = length_of(data), self.file.tell() - self.base, name.encode()
        extra = b""
        if size >= NARROW or offset >= NARROW:
            fields = [size, size] if size >= NARROW else []
            fields += [offset] if offset >= NARROW else []
            extra = struct.pack(f"<HH{len(fields)}Q", 1, 8 * len(fields), *fields)
        start = offset + 30 + len(raw) + len(extra) + 4
        padding = -start % self.alignment
        padded = extra + b"FB" + struct.pack("<H", padding) + b"Z" * padding
        flags = 0x0808 if size else 0x0800
        self.file.write(struct.pack("<4s5H3L2H", b"PK\x03\x04", 0, flags, 0, 0, 0, 0, 0, 0, len(raw), len(padded)))
        self.file.write(raw + padded)
        begin = self.file.tell()
        crc = 0
        if isinstance(data, Hole):
            self.file.seek(size, 1)
        else:
            self.file.write(data)
            crc = zlib.crc32(data) if self.crc else 0
        if size:
            sizes = "<4sLQQ" if extra else "<4s3L"
            self.file.write(struct.pack(sizes, b"PK\x07\x08", crc, size, size))
        self.entries.append({"raw": raw, "flags": flags, "crc": crc, "size": size, "offset": offset, "extra": extra})
        return begin

    def close(self) -> None:
        """Write the directory and the three end records."""
        start = self.file.tell() - self.base
        for entry in self.entries:
            size, offset = min(entry["size"], NARROW), min(entry["offset"], NARROW)
            self.file.write(
                struct.pack(
                    "<4s6H3L5H2L",
                    *(b"PK\x01\x02", 0, 0, entry["flags"], 0, 0, 0, entry["crc"], size, size),
                    *(len(entry["raw"]), len(entry["extra"]), 0, 0, 0, 0, offset),
                )
            )
            self.file.write(entry["raw"] + entry["extra"])
        end = self.file.tell() - self.base
        count, length = len(self.entries), end - start
        self.file.write(
            struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 0x031E, 45, 0, 0, count, count, length, start)
            + struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
            + struct.pack(
                "<4s4H2LH",
                *(b"PK\x05\x06", 0, 0, min(count, 0xFFFF), min(count, 0xFFFF)),
                *(min(length, NARROW), min(start, NARROW), 0),
            )
        )


@dataclass
class PlainMember:
    """One member of a zip whose records may contradict one another; None means "the truth"."""

    name: bytes
    data: bytes = b""
    method: int = 0
    flags: int = 0
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)


def plain_zip(
    members: Iterable[PlainMember], *, prefix: bytes = b"", comment: bytes = b"", end: dict[str, int] | None = None
) -> bytes:
    """A zip as ordinary archivers write it. `local`, `central` and `end` override single fields with lies."""
    out = bytearray(prefix)
    central = bytearray()
    count = 0
    for member in members:
        compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = compressor.compress(member.data) + compressor.flush() if member.method == 8 else member.data
        truth = {
            "name": member.name,
            "method": member.method,
            "flags": member.flags,
            "crc": zlib.crc32(member.data),
            "compressed": len(packed),
            "size": len(member.data),
            "offset": len(out) - len(prefix),
            "extra": b"",
        }
        here, there = {**truth, **member.local}, {**truth, **member.central}
        out += struct.pack(
            "<4s5H3L2H",
            *(b"PK\x03\x04", 20, here["flags"], here["method"], 0, 33, here["crc"], here["compressed"], here["size"]),
            *(len(here["name"]), len(here["extra"])),
        )
        out += here["name"] + here["extra"] + packed
        central += struct.pack(
            "<4s6H3L5H2L",
            *(b"PK\x01\x02", 20, 20, there["flags"], there["method"], 0, 33, there["crc"], there["compressed"]),
            *(there["size"], len(there["name"]), len(there["extra"]), 0, there.get("disk", 0), 0, 0, there["offset"]),
        )
        central += there["name"] + there["extra"]
        count += 1
    record = {"entries": count, "size": len(central), "offset": len(out) - len(prefix), "disk": 0, **(end or {})}
    out += central
    out += struct.pack(
        "<4s4H2LH",
        *(b"PK\x05\x06", record["disk"], 0, record["entries"], record["entries"]),
        *(record["size"], record["offset"], len(comment)),
    )
    return bytes(out + comment)
