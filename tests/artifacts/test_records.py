from __future__ import annotations

import struct
import zlib

import pytest
from builders.documents import kinds

from ckpt_inspect.artifacts.completions import read_completions
from ckpt_inspect.artifacts.events import _masked_crc, read_events
from ckpt_inspect.artifacts.images import SIGNATURE, read_png
from ckpt_inspect.storage import BytesSource

NAME = "runs/x/events.out.tfevents.1795461319.host-7.local.27583.0"


def record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", _masked_crc(head)) + data + struct.pack("<I", _masked_crc(data))


def event(wall_time: float, step: int = 0, tail: bytes = b"") -> bytes:
    return b"\x09" + struct.pack("<d", wall_time) + (b"\x10" + bytes([step]) if step else b"") + tail


def events(*records: bytes, name: str = NAME):
    return read_events(BytesSource(b"".join(record(data) for data in records), name=name))


def test_the_checksum_is_tensorflows() -> None:
    assert _masked_crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_an_event_file_tells_its_machine_and_its_beginning() -> None:
    read = events(event(1795461319.5, tail=b"\x1a\x0dbrain.Event:2"), event(1795461320.0, 7), event(1795461321.0, 12))
    assert (read.host, read.process, read.started) == ("host-7.local", 27583, 1795461319)
    assert (read.first_wall_time, read.last_step, read.records, read.version) == (1795461319.5, 12, 3, "brain.Event:2")
    assert (read.complete, read.faults) == (True, ())


def test_an_older_name_has_no_process() -> None:
    read = events(event(1.0), name="events.out.tfevents.1600000000.worker")
    assert (read.host, read.process, read.started) == ("worker", None, 1600000000)


def test_another_name_tells_nothing() -> None:
    assert events(event(1.0), name="events.bin").host is None


def test_a_cut_record_is_said_and_what_precedes_it_counted() -> None:
    data = record(event(1.0)) + record(event(2.0, 5))[:-6]
    read = read_events(BytesSource(data, name=NAME))
    assert (read.records, read.complete, kinds(read)) == (1, False, ["events-truncated"])


def test_a_damaged_length_is_said() -> None:
    data = bytearray(record(event(1.0)) + record(event(2.0)))
    data[len(record(event(1.0)))] ^= 1
    read = read_events(BytesSource(bytes(data), name=NAME))
    assert (read.records, kinds(read)) == (1, ["events-damaged"])


@pytest.mark.parametrize("data", [b"", b"\0" * 40, b"not events at all, just some text" * 3])
def test_any_bytes_are_read_without_raising(data: bytes) -> None:
    assert read_events(BytesSource(data, name=NAME)).last_step is None


def png(width: int = 640, height: int = 480) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return SIGNATURE + chunk + struct.pack(">I", 0) + b"IEND\xaeB`\x82"


def test_a_png_tells_its_size_in_pixels() -> None:
    read = read_png(BytesSource(png(640, 480)))
    assert (read.width, read.height, read.faults) == (640, 480, ())


def test_a_png_with_something_after_it_is_whole() -> None:
    assert read_png(BytesSource(png() + b"extra")).faults == ()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "image-not-png"),
        (b"<html>no such image</html>" * 3, "image-not-png"),
        (png()[:-6], "image-damaged"),
        (png()[:20] + b"\x01" + png()[21:], "image-damaged"),
    ],
)
def test_a_broken_png_is_said(data: bytes, kind: str) -> None:
    assert kinds(read_png(BytesSource(data))) == [kind]


def parquet(footer: int = 4) -> bytes:
    return b"PAR1" + b"data" + b"meta" + struct.pack("<I", footer) + b"PAR1"


def test_a_parquet_file_is_whole_when_both_ends_say_so() -> None:
    read = read_completions(BytesSource(parquet(), name="completions/completions_00010.parquet"))
    assert (read.step, read.complete, read.bytes, read.faults) == (10, True, 20, ())


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "parquet-not-parquet"),
        (b"PAR1data", "parquet-truncated"),
        (parquet(999), "parquet-truncated"),
        (b"{}", "parquet-not-parquet"),
    ],
)
def test_a_broken_parquet_file_is_said(data: bytes, kind: str) -> None:
    read = read_completions(BytesSource(data, name="completions_7.parquet"))
    assert (read.complete, kinds(read)) == (False, [kind])
