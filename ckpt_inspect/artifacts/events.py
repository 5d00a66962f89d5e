"""TensorBoard event files: whose they are, when they begin, and whether their records are whole.

Framing: TensorFlow's TFRecord (length u64, masked CRC-32C of it, data, masked CRC-32C of the data; little endian); a record is an
``Event`` message (1 = wall_time double, 2 = step, 3 = file_version). Name: ``events.out.tfevents.<seconds>.<host>.<pid>.<n>``
(torch ``utils/tensorboard/writer.py``), so a published run names the machine it ran on.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.protobuf_wire import BYTES, FIXED64, VARINT, WireError, fields

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

_NAME = re.compile(r"events\.out\.tfevents\.(?P<time>\d{1,12})\.(?P<host>.+?)(?:\.(?P<pid>\d+)\.(?P<number>\d+))?\Z")
_MAX_RECORDS = 20_000
_MAX_RECORD = 64 << 20
_READ_WHOLE = 1 << 20


@dataclass(frozen=True, slots=True)
class EventFile:
    """What an event file shows without decoding its values.

    Attributes:
        host: the machine's name, from the file name.
        started: seconds since 1970, from the file name; `first_wall_time` the same from the first record.
        last_step: the largest step of a record.
        records: how many whole records were stepped over (at most 20,000).
        version: "brain.Event:2" and the like, from the first record.
        complete: False when the last record is cut (normal for a run that was killed).
    """

    host: str | None
    process: int | None
    started: int | None
    first_wall_time: float | None
    last_step: int | None
    records: int
    version: str | None
    complete: bool
    faults: tuple[Fault, ...]


def read_events(source: ByteSource) -> EventFile:
    """Step over the records of an event file. Never raises for content."""
    faults = FaultLog()
    match = _NAME.match(source.name.replace("\\", "/").rpartition("/")[2])
    walk = _walk(source, faults)
    return EventFile(
        host=match["host"] if match else None,
        process=int(match["pid"]) if match and match["pid"] and len(match["pid"]) < 19 else None,
        started=int(match["time"]) if match else None,
        first_wall_time=walk.wall_time,
        last_step=walk.step,
        records=walk.records,
        version=walk.version,
        complete=walk.complete,
        faults=faults.sealed(),
    )


@dataclass
class _Walk:
    records: int = 0
    wall_time: float | None = None
    step: int | None = None
    version: str | None = None
    complete: bool = True


def _walk(source: ByteSource, faults: FaultLog) -> _Walk:
    walk = _Walk()
    offset = 0
    while offset < source.size and walk.records < _MAX_RECORDS:
        head = source.read_at(offset, 12)
        length = int.from_bytes(head[:8], "little") if len(head) == 12 else 0
        end = offset + 16 + length
        if len(head) == 12 and (length > _MAX_RECORD or _masked_crc(head[:8]) != int.from_bytes(head[8:], "little")):
            faults.add("events-damaged", "the length of a record is wrong", offset=offset)
            walk.complete = False
            break
        if len(head) < 12 or end > source.size:
            faults.add("events-truncated", "the last record is cut", offset=offset)
            walk.complete = False
            break
        _event(source.read_at(offset + 12, min(length, _READ_WHOLE if walk.records == 0 else 64)), walk)
        walk.records += 1
        offset = end
    return walk


def _event(data: bytes, walk: _Walk) -> None:
    """Take the first fields of a record; what follows may be cut away."""
    try:
        for field in fields(data):
            if field.number == 1 and field.kind == FIXED64 and walk.wall_time is None:
                walk.wall_time = struct.unpack("<d", data[field.start : field.end])[0]
            elif field.number == 2 and field.kind == VARINT and field.value < 1 << 63:
                walk.step = max(walk.step or 0, field.value)
            elif field.number == 3 and field.kind == BYTES and walk.version is None:
                walk.version = data[field.start : field.end].decode("utf-8", "replace")[:64]
    except WireError:
        return


def _crc_table() -> tuple[int, ...]:
    table: list[int] = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)  # CRC-32C, Castagnoli, reversed
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def _masked_crc(data: bytes) -> int:
    """TFRecord's masked CRC-32C (tensorflow/core/lib/hash/crc32c.h)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    value ^= 0xFFFFFFFF
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF
