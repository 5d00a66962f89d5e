"""Formats are told by their bytes, never by a name."""

from __future__ import annotations

import bz2
import collections
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zlib
from typing import Any

import pytest
from builders.torch_files import legacy_bytes, tensor, zip_bytes
from builders.zips import PlainMember, plain_zip

from ckpt_inspect.formats.sniff import sniff
from ckpt_inspect.storage import BytesSource

WEIGHTS = {"w": tensor("F32", (2,))}


def tar(format_: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as archive:
        info = tarfile.TarInfo("storages")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    return buffer.getvalue()


def old_tar() -> bytes:
    """A tar from before "ustar": only the checksum of its header tells."""
    data = bytearray(tar(tarfile.USTAR_FORMAT))
    data[257:265] = bytes(8)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\x00 " % sum(data[:512])
    return bytes(data)


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"x"


def safetensors_of(length: int) -> bytes:
    """A header of exactly so many bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode().ljust(length)
    return struct.pack("<Q", length) + header + b"x"


CASES = [
    (safetensors_of(0x0480), "safetensors"),
    (safetensors_of(0x0580), "safetensors"),
    (b"\x80\x04X\x05\x00\x00\x00\x00{    .", "pickle"),
    (b"", "empty"),
    (bytes(5000), "zeros"),
    (zip_bytes(WEIGHTS), "zip"),
    (plain_zip([]), "zip"),
    (b"MZ" + bytes(62) + plain_zip([PlainMember(b"a/x", b"data")]), "zip"),
    (legacy_bytes(WEIGHTS), "legacy-torch"),
    (legacy_bytes(WEIGHTS, protocol=0), "legacy-torch"),
    (legacy_bytes(WEIGHTS, protocol=4), "legacy-torch"),
    (tar(tarfile.USTAR_FORMAT), "tar"),
    (tar(tarfile.PAX_FORMAT), "tar"),
    (old_tar(), "tar"),
    (gzip.compress(b"x"), "gzip"),
    (bz2.compress(b"x"), "bzip2"),
    (lzma.compress(b"x"), "xz"),
    (zlib.compress(b"x" * 50), "zlib"),
    (b"7z\xbc\xaf\x27\x1c rest", "7z"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "lfs-pointer"),
    (b"<!DOCTYPE html>\n<html>", "html"),
    (b"\xef\xbb\xbf  <HTML lang=en>", "html"),
    (b'{"a": 1}', "json"),
    (b"[]", "json"),
    (b'[{"a": 1}]', "json"),
    (safetensors(), "safetensors"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GGUF\x03", "gguf"),
    (b"plain words, nothing else", "unknown"),
    (b"In the beginning\nwas text.\n", "unknown"),
    (b"global_step500", "unknown"),
    (bytes(range(1, 100)) * 30, "unknown"),
]


@pytest.mark.parametrize(("data", "expected"), CASES, ids=[f"{name}-{i}" for i, (_, name) in enumerate(CASES)])
def test_the_first_bytes_tell_the_format(data: bytes, expected: str) -> None:
    assert sniff(BytesSource(data)) == expected


VALUES: list[Any] = [{}, [], (), {"a": 1}, [1], None, 5, 300, 70000, -1, 1.5, "x", "é", b"x", {1}, True, 2**80]
VALUES += [{1: 2}, ("a",), collections.OrderedDict(a=1), object(), [[[]]], {"k": [None, 1.0]}, complex(1, 2)]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_pickle_of_any_protocol_is_a_pickle(value: Any, protocol: int) -> None:
    assert sniff(BytesSource(pickle.dumps(value, protocol))) == "pickle"


@pytest.mark.parametrize(
    "text", [b"cposix\nsystem\n(S'id'\ntR.", b"(S'id'\nios\nsystem\n.", b"I0x41\n0cposix\nsystem\n."]
)
def test_hostile_text_pickles_are_pickles(text: bytes) -> None:
    assert sniff(BytesSource(text)) == "pickle"
