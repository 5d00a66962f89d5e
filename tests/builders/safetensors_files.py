"""Safetensors files, right and wrong, byte by byte: the library refuses to write the wrong ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.storage import BytesSource


def file_bytes(header: str | bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A header given as text or bytes, its length before it (or another one), the data behind it."""
    raw = header.encode() if isinstance(header, str) else header
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def source(header: str | bytes, data: bytes = b"", *, length: int | None = None) -> BytesSource:
    """The same as a byte source."""
    return BytesSource(file_bytes(header, data, length=length), name="x.safetensors")


def entry(dtype: Any, shape: Any, begin: Any, end: Any) -> dict[str, Any]:
    """A tensor's entry, whatever its fields."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def model_bytes(
    tensors: Mapping[str, tuple[str, Sequence[int]]],
    metadata: Mapping[str, str] | None = None,
    data: Mapping[str, bytes] | None = None,
) -> bytes:
    """A right file: name -> (dtype, shape), its values zero unless given, the header padded to 8 bytes."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    body = b""
    for name, (dtype, shape) in tensors.items():
        count = 1
        for size in shape:
            count *= size
        values = (data or {}).get(name, bytes(BY_NAME[dtype].nbytes(count)))
        header[name] = entry(dtype, list(shape), len(body), len(body) + len(values))
        body += values
    text = json.dumps(header, separators=(",", ":"))
    return file_bytes(text + " " * (-len(text) % 8), body)
