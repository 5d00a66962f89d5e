"""Scans what lies inside containers: zip members (listed or hidden), tar members, compressed streams, numpy files."""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from ckpt_inspect.formats.fault_log import FaultLog, FormatLimitError
from ckpt_inspect.formats.zip_content import member_source
from ckpt_inspect.formats.zip_directory import ZipDirectory, ZipMember, read_zip_directory
from ckpt_inspect.formats.zip_records import DEFLATED, STORED
from ckpt_inspect.formats.zip_walk import walk_local_headers
from ckpt_inspect.scan.collector import Collector
from ckpt_inspect.scan.documents import scan_bytes
from ckpt_inspect.scan.nested import Nested
from ckpt_inspect.scan.streams import worth_a_look
from ckpt_inspect.storage import ByteSource, BytesSource, SliceSource

_RAW_STORAGE = re.compile(r"(?:.*/)?(?:data|constants|\.data)/[^/]+\Z", re.DOTALL)
_CHUNK = 1 << 16
_LZMA_MEMORY = 128 << 20
_BZIP2, _LZMA = 12, 14
_OTHER_METHODS = frozenset({_BZIP2, _LZMA})
_TAR_BLOCK = 512
_TAR_MEMBERS = 10_000
_MAX_RATIO_FROM = 16 << 20
_MAX_RATIO = 1000
_NPY_OBJECT = re.compile(rb"""['"](?:[|<>=]?O\d*|object_?)['"]""")


def scan_zip(
    source: ByteSource,
    collector: Collector,
    nested: Nested,
    place: str,
    depth: int,
    *,
    directory: ZipDirectory | None = None,
    skip: frozenset[int] = frozenset(),
    faults: bool = True,
) -> None:
    """Scan every member, those that only local headers name, and the bytes that belong to none.

    `skip` are indexes of members already judged; `faults` says whether the directory's own are still to be noted.
    """
    if directory is None:
        directory = read_zip_directory(source)
    if faults:
        for fault in directory.faults:
            collector.note_fault(fault, place)
    members = list(directory.members)
    listed = {member.header_offset for member in members}
    if any(fault.kind in ("zip-hidden", "zip-overlap", "zip-gap") for fault in directory.faults):
        members.extend(member for member in _hidden(source) if member.header_offset not in listed)
    for member in members:
        if member.index in skip and member.header_offset in listed:
            continue
        collector.members_left -= 1
        if collector.members_left < 0:
            collector.note("scan-limit", "suspicious", "the archive has more members than are scanned", place=place)
            collector.cover("partial")
            break
        if member.size or member.compressed:
            _scan_member(source, member, collector, nested, place, depth)
    _scan_around(source, directory, collector, nested, place, depth)


def _hidden(source: ByteSource) -> tuple[ZipMember, ...]:
    """Members that a reader going from the front meets, wherever local headers stand."""
    return walk_local_headers(source, FaultLog(), {})


def _scan_member(
    source: ByteSource, member: ZipMember, collector: Collector, nested: Nested, place: str, depth: int
) -> None:
    inside = f"{place}!{member.name}" if place else member.name
    raw = _RAW_STORAGE.match(member.name) is not None
    if member.method == STORED and raw and not worth_a_look(source.read_at(member.data_offset, 2)):
        return
    if member.method in _OTHER_METHODS:
        _scan_other_method(source, member, collector, nested, inside, depth)
        return
    # A flag of encryption does not encrypt: readers that ignore it see the bytes as they are.
    plain = replace(member, flags=member.flags & 0x0808)
    try:
        content = member_source(source, plain, collector.inflate)
    except FormatLimitError as error:
        collector.note_fault(error.fault, place)
        if member.method != STORED and error.fault.kind in ("zip-deflate", "zip-size-mismatch"):
            _scan_what_inflates(source, member, collector, nested, inside, depth)
        return
    nested(content, inside, depth + 1, sure=not raw)
    if member.method == DEFLATED and raw is False and member.compressed == member.size:
        nested(SliceSource(source, member.data_offset, member.compressed), inside, depth + 1, sure=False)


def _scan_other_method(
    source: ByteSource, member: ZipMember, collector: Collector, nested: Nested, place: str, depth: int
) -> None:
    """Members that torch cannot read and Python's zipfile can: bzip2 and LZMA (APPNOTE 4.4.5, 5.8)."""
    collector.note(
        "zip-method", "suspicious", f"compression method {member.method}, which torch does not read", place=place
    )
    raw = SliceSource(source, member.data_offset, member.compressed)
    if member.method == _BZIP2:
        make: _Factory = bz2.BZ2Decompressor
    else:
        head = raw.read_at(0, 9)
        if len(head) < 9 or head[2:4] != b"\x05\x00":
            collector.cover("malformed")
            return
        raw = SliceSource(raw, 9, raw.size - 9)
        properties, dictionary = head[4], min(int.from_bytes(head[5:9], "little"), _LZMA_MEMORY)
        rest, lc = divmod(properties, 9)
        pb, lp = divmod(rest, 5)
        chain = [{"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": dictionary}]

        def make() -> _Decoder:
            return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=chain)

    try:
        data = b"".join(_inflated(make, raw, collector, place))
    except (lzma.LZMAError, ValueError):
        collector.cover("malformed")
        return
    if data:
        nested(BytesSource(data), place, depth + 1)


def _scan_what_inflates(
    source: ByteSource, member: ZipMember, collector: Collector, nested: Nested, place: str, depth: int
) -> None:
    """A member whose header lies about method or size: scan what comes out, and the bytes as they lie."""
    raw = SliceSource(source, member.data_offset, member.compressed)
    data = b"".join(_inflated(lambda: zlib.decompressobj(-15), raw, collector, place))
    if data:
        nested(BytesSource(data), place, depth + 1, sure=False)
    nested(raw, place, depth + 1, sure=False)


def _scan_around(
    source: ByteSource, directory: ZipDirectory, collector: Collector, nested: Nested, place: str, depth: int
) -> None:
    """The bytes before the first member and behind the end, and the comment."""
    starts = [member.header_offset for member in directory.members]
    first = min(starts, default=0)
    if first > 0:
        nested(SliceSource(source, 0, first), f"{place}@0", depth + 1, sure=False)
    for fault in directory.faults:
        if fault.kind in ("zip-trailing", "zip-gap") and fault.offset is not None:
            end = min((start for start in starts if start > fault.offset), default=source.size)
            rest = SliceSource(source, fault.offset, end - fault.offset)
            nested(rest, f"{place}@{fault.offset}", depth + 1, sure=False)
    if directory.comment:
        comment = BytesSource(directory.comment)
        scan_bytes(comment, collector, f"{place}!(comment)")
        nested(comment, f"{place}!(comment)", depth + 1, sure=False)


class _Decoder(Protocol):
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


_Factory = Callable[[], _Decoder]
_DECODERS: dict[str, _Factory] = {
    "gzip": lambda: zlib.decompressobj(31),
    "zlib": lambda: zlib.decompressobj(15),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY),
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY),
}


def scan_compressed(
    kind: str, source: ByteSource, collector: Collector, nested: Nested, place: str, depth: int
) -> None:
    """Unpack gzip, bzip2, xz, LZMA or zlib within the file's budget and scan what comes out."""
    data = b"".join(_inflated(_DECODERS[kind], source, collector, place))
    if data:
        nested(BytesSource(data, name=source.name), f"{place}!({kind})" if place else f"({kind})", depth + 1)


def _inflated(make: _Factory, source: ByteSource, collector: Collector, place: str) -> Iterator[bytes]:
    """What one or more compressed streams hold, until the end, damage or the budget; the latter two are findings."""
    decoder: Any = make()
    position = produced = 0
    waiting = b""  # read and not yet taken by the decoder
    while True:
        if not waiting and getattr(decoder, "needs_input", True):
            waiting = source.read_at(position, _CHUNK)
            position += len(waiting)
            if not waiting:
                break
        try:
            part = decoder.decompress(waiting, _CHUNK)
        except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError):
            collector.note("scan-broken-compression", "unknown", "the compressed data are damaged", place=place)
            collector.cover("malformed")
            return
        waiting = getattr(decoder, "unconsumed_tail", b"")
        produced += len(part)
        if not collector.inflate.take(len(part)) or produced > max(_MAX_RATIO_FROM, _MAX_RATIO * position):
            collector.note("scan-bomb", "suspicious", f"more than {produced} bytes come out of {position}", place=place)
            collector.cover("partial")
            return
        yield part
        if decoder.eof:  # another stream may follow; readers of gzip, bzip2 and xz join them
            waiting = decoder.unused_data or source.read_at(position, _CHUNK)
            position += 0 if decoder.unused_data else len(waiting)
            if not waiting.strip(b"\x00"):
                return
            decoder = make()
    collector.note("scan-broken-compression", "unknown", "the compressed data end too early", place=place)
    collector.cover("malformed")


def scan_tar(source: ByteSource, collector: Collector, nested: Nested, place: str, depth: int) -> None:
    """Scan the members of a tar (POSIX.1-1988 headers, sizes octal or base-256)."""
    position = 0
    for _ in range(_TAR_MEMBERS):
        header = source.read_at(position, _TAR_BLOCK)
        if len(header) < _TAR_BLOCK or not header.strip(b"\x00"):
            return
        size = _tar_number(header[124:136])
        if size is None or size < 0 or position + _TAR_BLOCK + size > source.size:
            collector.note("scan-broken-compression", "unknown", "the tar is damaged", place=place, offset=position)
            collector.cover("malformed")
            left = source.size - position - _TAR_BLOCK
            nested(SliceSource(source, position + _TAR_BLOCK, left), place, depth + 1, sure=False)
            return
        name = header[:100].split(b"\x00")[0].decode("utf-8", "replace")
        if size and header[156:157] in (b"0", b"\x00", b"7", b"S"):
            inside = f"{place}!{name}" if place else name
            nested(SliceSource(source, position + _TAR_BLOCK, size), inside, depth + 1)
        position += _TAR_BLOCK + -(-size // _TAR_BLOCK) * _TAR_BLOCK
    collector.note("scan-limit", "suspicious", "the tar has more members than are scanned", place=place)
    collector.cover("partial")


def _tar_number(field: bytes) -> int | None:
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.split(b"\x00")[0].strip() or b"0", 8)
    except ValueError:
        return None


def scan_numpy(source: ByteSource, collector: Collector, nested: Nested, place: str, depth: int) -> None:
    """Scan a ``.npy``: an array of objects is a pickle behind the header (``numpy/lib/_format_impl.py``)."""
    head = source.read_at(0, 12)
    width = 2 if len(head) > 6 and head[6] == 1 else 4
    length = int.from_bytes(head[8 : 8 + width], "little")
    begin = 8 + width + length
    if length > 1 << 20 or begin > source.size:
        collector.note("scan-broken-compression", "unknown", "the numpy header is damaged", place=place)
        collector.cover("malformed")
        return
    header = source.read_at(8 + width, length)
    rest = SliceSource(source, begin, source.size - begin)
    if _NPY_OBJECT.search(header):
        collector.note("scan-object-array", "known", "an array of Python objects, which numpy unpickles", place=place)
        nested(rest, f"{place}@{begin}" if place else f"@{begin}", depth + 1)
    elif worth_a_look(rest.read_at(0, 2)):
        nested(rest, f"{place}@{begin}" if place else f"@{begin}", depth + 1, sure=False)
