"""The header of a safetensors file: names, element types, shapes and byte ranges, without touching the data.

As strict as the format (README of huggingface/safetensors 0.8.0: "duplicate keys are disallowed", "the header MUST
begin with ``{``"), so stricter than its reference reader in the places listed in `TOLERATED`. What is legal there and
rejected by the reader (`safetensors/src/tensor.rs` 0.8.0, `Metadata::validate` and `SafeTensors::read_metadata`) is never
accepted here. Every fault names the tensor and the byte.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

from ckpt_inspect.formats.collector import collector_paused
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.json_structure import closable_prefixes, lone_surrogates, measure, unusual_numbers
from ckpt_inspect.formats.safetensors_entries import HeaderBytes, RawEntry, check_layout, read_entries, read_metadata
from ckpt_inspect.storage import ByteSource

MAX_HEADER = 100_000_000  # tensor.rs MAX_HEADER_SIZE
MAX_DEPTH = 100  # serde_json stops at 128
MAX_MEMORY = 320 << 20

TOLERATED = frozenset(
    {
        "safetensors-duplicate-name",
        "safetensors-start",
        "safetensors-padding",
        "safetensors-metadata-null",
        "safetensors-unknown-field",
        "safetensors-name",
        "safetensors-long-name",
        "safetensors-large-metadata",
        "safetensors-misaligned",
        "safetensors-unaligned-header",
        "safetensors-rank",
    }
)
"""Fault kinds of files that the reference library nevertheless loads."""

_UNREAD = ("safetensors-json", "safetensors-depth", "safetensors-limit")

# What people find under a .safetensors name: the first bytes, what they are, and the kind of fault.
_OTHER_FORMATS = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself", "safetensors-lfs-pointer"),
    (b"PK\x03\x04", "a zip archive (torch.save?)", "safetensors-other-format"),
    (b"\x80\x02", "a pickle", "safetensors-other-format"),
    (b"\x80\x03", "a pickle", "safetensors-other-format"),
    (b"\x80\x04", "a pickle", "safetensors-other-format"),
    (b"\x80\x05", "a pickle", "safetensors-other-format"),
    (b"GGUF", "a GGUF model", "safetensors-other-format"),
    (b"\x1f\x8b", "a gzip stream", "safetensors-other-format"),
    (b"\x89HDF", "an HDF5 file", "safetensors-other-format"),
    (b"<!DOCTYPE", "an HTML page: the download was refused or redirected", "safetensors-other-format"),
    (b"<html", "an HTML page: the download was refused or redirected", "safetensors-other-format"),
    (b'{"', "JSON text: an error message or an index, not weights", "safetensors-other-format"),
)


class SafetensorsTensor(NamedTuple):
    """One tensor: `begin` and `end` count bytes in the data section, `file_offset` from the start of the file.

    A named tuple, not a dataclass: a file can hold 100,000, and these are made four times faster.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    file_offset: int

    @property
    def nbytes(self) -> int:
        """Bytes the tensor takes in the file."""
        return self.end - self.begin

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class SafetensorsHeader:
    """What the header says: `tensors` by their place in the file, `metadata`, and the sizes in bytes of the parts.

    Of a broken file, the tensors whose own entry could be understood.
    """

    tensors: tuple[SafetensorsTensor, ...]
    metadata: dict[str, str]
    header_bytes: int
    data_start: int
    file_size: int
    faults: tuple[Fault, ...]

    @cached_property
    def by_name(self) -> dict[str, SafetensorsTensor]:
        """Tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @property
    def loadable(self) -> bool:
        """Whether the reference library (0.8.0) would load the file: no fault, or only tolerated ones."""
        return all(fault.kind in TOLERATED for fault in self.faults)


def read_safetensors_header(source: ByteSource) -> SafetensorsHeader:
    """Read and check the header. Never raises for content; reads at most `MAX_HEADER` bytes, and none of the data."""
    with collector_paused():
        return _read(source, FaultLog())


def _read(source: ByteSource, log: FaultLog) -> SafetensorsHeader:
    length = _header_length(source, log)
    if length is None:
        return SafetensorsHeader((), {}, 0, 0, source.size, log.sealed())
    data = source.read_at(8, length)
    data_start = 8 + length
    header = HeaderBytes(data, log)
    entries, metadata = _parse(header)
    names = {name for name, _ in entries}
    understood = sorted(read_entries(header, entries), key=_place)
    tensors = tuple(
        SafetensorsTensor(name, dtype, shape, begin, end, data_start + begin)
        for name, dtype, shape, begin, end in understood
    )
    if len(data) == length:
        whole = len(tensors) == len(names) and not any(kind in log for kind in _UNREAD)
        check_layout(header, tensors, data_start=data_start, file_size=source.size, whole=whole)
    metadata_map = read_metadata(header, metadata)
    return SafetensorsHeader(tensors, metadata_map, length, data_start, source.size, log.sealed())


def _place(entry: RawEntry) -> tuple[int, int]:
    return entry[3], entry[4]


def _header_length(source: ByteSource, log: FaultLog) -> int | None:
    """The header's length in bytes, or None where there is no header to read."""
    first = source.read_at(0, 32)
    length = int.from_bytes(first[:8], "little")
    impossible = length > MAX_HEADER or 8 + length > source.size
    for magic, what, kind in _OTHER_FORMATS:
        if first.startswith(magic) and first[8:9] != b"{" and (impossible or len(magic) >= 4):
            log.add(kind, f"is {what}", offset=0)
            return None
    if len(first) < 8:
        log.add("safetensors-short", f"{source.size} bytes, shorter than the length of a header", offset=source.size)
        return None
    if length == 0:
        blank = source.size > 8 and not first.strip(b"\0")
        reason = "the file starts with NUL bytes: what was written is lost" if blank else "its length is 0"
        log.add("safetensors-no-header", reason, offset=0)
        return None
    if length > MAX_HEADER:
        log.add(
            "safetensors-header-length", f"a header of {length:,} bytes; at most {MAX_HEADER:,} are allowed", offset=0
        )
        return None
    if 8 + length > source.size:
        missing = 8 + length - source.size
        log.add("safetensors-header-length", f"the header ends {missing:,} bytes beyond the end of the file", offset=0)
        return length if first[8:9] == b"{" else None
    return length


def _parse(header: HeaderBytes) -> tuple[list[tuple[str, Any]], list[Any]]:
    """Members of the top-level object: the entries in order, and every value given for ``__metadata__``."""
    data, log = header.data, header.log
    if data[:1] in (b" ", b"\t", b"\r", b"\n"):
        log.add("safetensors-start", "blanks before the '{' with which the header has to begin", offset=8)
    elif data.startswith(b"\xef\xbb\xbf"):
        log.add("safetensors-json", "the header begins with a byte order mark", offset=8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        log.add("safetensors-utf8", f"the header is not UTF-8: {error.reason}", offset=8 + error.start)
        text = data.decode("utf-8", "replace")
    for offset in lone_surrogates(data):
        log.add("safetensors-utf8", "half of a surrogate pair in the header", offset=8 + offset)
    shape = measure(data, MAX_DEPTH, MAX_MEMORY)
    if shape.depth > MAX_DEPTH:
        log.add("safetensors-depth", f"the header is nested deeper than {MAX_DEPTH} levels", offset=8)
        return [], []
    if shape.memory(len(data)) > MAX_MEMORY:
        log.add(
            "safetensors-limit", f"{shape.containers:,} lists and objects in the header are too many to read", offset=8
        )
        return [], []
    value = _decode(text, header)
    if not isinstance(value, tuple):
        if value is not None:
            log.add("safetensors-json", "the header is not an object", offset=8)
        return [], []
    entries = [member for member in value if member[0] != "__metadata__"]
    return entries, [member[1] for member in value if member[0] == "__metadata__"]


def _decode(text: str, header: HeaderBytes) -> Any:
    """The value with objects as tuples of pairs, so that nothing given twice is lost; None if there is none."""
    care = b"-0" in header.data or unusual_numbers(header.data)[0]
    decoder = json.JSONDecoder(
        object_pairs_hook=tuple,
        parse_constant=header.constant,
        parse_float=header.number,
        parse_int=header.integer if care else None,
    )
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        cut = header.offset_of(text, error.pos)
        header.log.add("safetensors-json", f"the header is not JSON: {error.msg}", offset=cut)
        for prefix in closable_prefixes(text, error.pos):
            try:
                return decoder.decode(prefix)
            except json.JSONDecodeError:
                continue
        return None
    rest = text[end:]
    if rest.strip(" \t\r\n"):
        what = "NUL bytes" if not rest.strip("\0 ") else "more text"
        header.log.add(
            "safetensors-json", f"{what} after the end of the header's object", offset=header.offset_of(text, end)
        )
    elif rest.strip(" "):
        header.log.add(
            "safetensors-padding", "padding other than spaces after the header", offset=header.offset_of(text, end)
        )
    return value
