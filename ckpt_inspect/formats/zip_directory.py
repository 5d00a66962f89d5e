"""The directory of a zip file as torch and others read it, with every lie between its records named.

Tolerant: a broken archive is described as far as it goes (:mod:`ckpt_inspect.formats.zip_walk` reads local headers
where the directory is gone). Reads the directory and one local header per member, never a member's bytes. Field
layouts: APPNOTE 6.3.10; what torch writes: ``caffe2/serialize/inline_container.cc`` and miniz 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.zip_end import DirectoryPlace, find_end, last_archive_start, locate_directory
from ckpt_inspect.formats.zip_names import check_duplicates, check_name, decode_name
from ckpt_inspect.formats.zip_records import (
    CENTRAL_SIGNATURE,
    DEFLATED,
    END_SIGNATURE,
    FLAG_DESCRIPTOR,
    FLAGS_OF_ENCRYPTION,
    FLAGS_ORDINARY,
    LOCAL,
    LOCAL_SIGNATURE,
    MAX_MEMBERS,
    STORED,
    CentralEntry,
    LocalHeader,
    ZipMember,
    local_length,
    parse_central,
    parse_local,
)
from ckpt_inspect.formats.zip_walk import walk_local_headers
from ckpt_inspect.printable import printable
from ckpt_inspect.storage import ByteSource, SliceSource

__all__ = ["ZipDirectory", "ZipMember", "looks_like_zip", "read_zip_directory", "split_archives"]

MAX_DIRECTORY_BYTES = 256 << 20
MAX_RATIO = 100
_RATIO_FROM = 1 << 20  # small members of zeros compress a thousandfold in honest archives

_WINDOW = 256 << 10
_NEIGHBOUR = 4096
_LONGEST_DESCRIPTOR = 24


@dataclass(frozen=True, slots=True)
class ZipDirectory:
    """The members in directory order, and what is wrong with the archive.

    `complete` is False where the directory itself was missing or cut and members were found by walking.
    """

    members: tuple[ZipMember, ...]
    faults: tuple[Fault, ...]
    comment: bytes = b""
    zip64: bool = False
    complete: bool = True
    _by_name: Mapping[str, ZipMember] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {member.name: member for member in self.members})

    def find(self, name: str) -> ZipMember | None:
        """The last member of that name, the one torch and zipfile take."""
        return self._by_name.get(name)


def looks_like_zip(source: ByteSource) -> bool:
    """Whether the first bytes are those of a zip file (an empty archive counts)."""
    return source.read_at(0, 4) in (LOCAL_SIGNATURE, END_SIGNATURE)


def read_zip_directory(source: ByteSource, sizes: Mapping[str, int] | None = None) -> ZipDirectory:
    """Read the directory, or walk the local headers where there is none.

    `sizes` helps the walk: bytes each member should have, by the last part of its name after the root ("data/0"),
    so that it need not search for the end of a member whose header states no size.
    """
    log = FaultLog()
    end = find_end(source, log)
    place = locate_directory(source, end, log) if end is not None else None
    if end is None:
        log.add("zip-truncated", "the archive has no end record: its writer stopped early or the copy is cut")
    if end is not None and end.disks:
        log.add("zip-disks", "the end record speaks of several disks", offset=end.offset)
    if end is None or place is None:
        members = walk_local_headers(source, log, sizes or {})
        return ZipDirectory(members, log.sealed(), b"" if end is None else end.comment, complete=False)
    entries = _central_entries(source, place, end.entries, log)
    members = _with_local_headers(source, entries, place, log)
    _check_extents(source, members, place, log)
    check_duplicates([member.name for member in members], log)
    return ZipDirectory(members, log.sealed(), end.comment, end.zip64)


def split_archives(source: ByteSource) -> tuple[SliceSource, ...]:
    """The archives of a file that is several of them one after another, in file order (a ``.distcp`` file is).

    Empty where the bytes are not archives through and through.
    """
    parts: list[SliceSource] = []
    rest: ByteSource = source
    end = source.size
    while end > 0 and len(parts) < MAX_MEMBERS:
        start = last_archive_start(rest)
        if start is None:
            return ()
        parts.append(SliceSource(source, start, end - start, name=f"{source.name}@{start}"))
        rest, end = SliceSource(source, 0, start), start
    return tuple(reversed(parts)) if end == 0 else ()


def _central_entries(source: ByteSource, place: DirectoryPlace, stated: int, log: FaultLog) -> list[CentralEntry]:
    if place.size > MAX_DIRECTORY_BYTES:
        log.add("zip-too-many-members", f"the directory takes {place.size} bytes; the first part is read")
    directory = source.read_at(place.start, min(place.size, MAX_DIRECTORY_BYTES))
    entries: list[CentralEntry] = []
    position = 0
    while len(entries) < MAX_MEMBERS:
        parsed = parse_central(directory, position)
        if parsed is None:
            break
        entry, position = parsed
        entries.append(entry)
    else:
        log.add("zip-too-many-members", f"more than {MAX_MEMBERS} members; the others are not read")
        return entries
    if position < len(directory):
        cut = directory[position : position + 4] == CENTRAL_SIGNATURE
        what = "is cut inside an entry" if cut else "holds something that is not an entry"
        log.add("zip-directory-truncated", f"the directory {what}", offset=place.start + position)
    # An end record without zip64 counts entries modulo 2**16.
    if len(entries) != stated and len(entries) & 0xFFFF != stated:
        log.add("zip-count", f"the end record counts {stated} members, the directory holds {len(entries)}")
    return entries


def _with_local_headers(
    source: ByteSource, entries: list[CentralEntry], place: DirectoryPlace, log: FaultLog
) -> tuple[ZipMember, ...]:
    """Read every local header, neighbours in one read, and compare it with its entry."""
    offsets = [entry.raw_offset + place.shift for entry in entries]
    order = sorted(range(len(entries)), key=offsets.__getitem__)
    members: list[ZipMember | None] = [None] * len(entries)
    first = 0
    while first < len(order):
        base = offsets[order[first]]
        last = first
        reach = base + LOCAL.size + len(entries[order[first]].raw_name) + 256
        while last + 1 < len(order):
            offset = offsets[order[last + 1]]
            if offset > reach + _NEIGHBOUR or offset - base > _WINDOW:
                break
            last += 1
            reach = offset + LOCAL.size + len(entries[order[last]].raw_name) + 256
        window = source.read_at(base, reach - base) if 0 <= base < source.size else b""
        for index in order[first : last + 1]:
            members[index] = _member(source, entries[index], offsets[index], index, window, base, log)
        first = last + 1
    return tuple(member for member in members if member is not None)


def _member(
    source: ByteSource, entry: CentralEntry, offset: int, index: int, window: bytes, base: int, log: FaultLog
) -> ZipMember:
    name = decode_name(entry.raw_name, entry.flags)
    length = local_length(window, offset - base)
    local = parse_local(window, offset - base)
    if local is None and length is not None:  # a header with a long extra field: alignment may need up to 64 KiB
        local = parse_local(source.read_at(offset, length))
    if local is None:
        log.add("zip-local-header", "the directory points where no local header is", offset=offset, place=name)
    else:
        _compare(entry, local, name, offset, log)
    check_name(name, offset, log)
    _check_entry(entry, name, offset, log)
    data_offset = offset + local.length if local is not None else -1
    return ZipMember(
        name,
        entry.raw_name,
        entry.method,
        entry.flags,
        entry.crc,
        entry.compressed,
        entry.size,
        offset,
        data_offset,
        index,
    )


def _compare(entry: CentralEntry, local: LocalHeader, name: str, offset: int, log: FaultLog) -> None:
    if local.raw_name != entry.raw_name:
        other = decode_name(local.raw_name, local.flags)
        log.add("zip-name-mismatch", f"the local header names it {printable(other)}", offset=offset, place=name)
    if local.method != entry.method:
        message = f"the local header says method {local.method}, the directory {entry.method}"
        log.add("zip-method-mismatch", message, offset=offset, place=name)
    if local.flags != entry.flags:
        message = f"the local header has flags {local.flags:#06x}, the directory {entry.flags:#06x}"
        log.add("zip-flags-mismatch", message, offset=offset, place=name)
    # With a data descriptor the header may leave sizes and CRC zero; torch always does.
    descriptor = bool(local.flags & FLAG_DESCRIPTOR)
    for what, here, there in (
        ("size", local.size, entry.size),
        ("compressed size", local.compressed, entry.compressed),
        ("CRC", local.crc, entry.crc),
    ):
        if here != there and not (descriptor and here == 0):
            kind = "zip-crc-mismatch" if what == "CRC" else "zip-size-mismatch"
            message = f"the local header states {what} {here}, the directory {there}"
            log.add(kind, message, offset=offset, place=name)


def _check_entry(entry: CentralEntry, name: str, offset: int, log: FaultLog) -> None:
    if entry.flags & FLAGS_OF_ENCRYPTION:
        log.add("zip-encrypted", "the member is flagged as encrypted", offset=offset, place=name)
    if entry.flags & ~(FLAGS_ORDINARY | FLAGS_OF_ENCRYPTION):
        message = f"the member has unusual flags {entry.flags:#06x}; some readers refuse it and others do not"
        log.add("zip-flag", message, offset=offset, place=name)
    if entry.method not in (STORED, DEFLATED):
        log.add("zip-method", f"compression method {entry.method} is not read here", offset=offset, place=name)
    elif entry.method == STORED and entry.compressed != entry.size and not entry.flags & FLAGS_OF_ENCRYPTION:
        message = f"stored as it is, yet {entry.compressed} bytes in the file for {entry.size} bytes of content"
        log.add("zip-size-mismatch", message, offset=offset, place=name)
    elif entry.method == DEFLATED and entry.size > max(_RATIO_FROM, MAX_RATIO * entry.compressed):
        message = f"{entry.compressed} bytes would become {entry.size}"
        log.add("zip-bomb", message, offset=offset, place=name)
    if entry.zip64_short:
        log.add("zip-zip64", "the zip64 field of an entry is missing or too short", offset=offset, place=name)
    if entry.disk not in (0, 0xFFFF):
        log.add("zip-disks", f"the member is said to be on disk {entry.disk}", offset=offset, place=name)


def _check_extents(source: ByteSource, members: tuple[ZipMember, ...], place: DirectoryPlace, log: FaultLog) -> None:
    """Members must follow one another without sharing a byte, and end before the directory."""
    ordered = sorted(members, key=lambda member: member.header_offset)
    if ordered and place.shift == 0 and ordered[0].header_offset > 0:
        count = ordered[0].header_offset
        if source.read_at(0, 4) == LOCAL_SIGNATURE:
            log.add("zip-hidden", f"{count} bytes before the first member begin with a member not listed", offset=0)
        else:
            log.add("zip-prefix", f"{count} bytes stand before the first member", offset=0)
    reached = 0
    previous: ZipMember | None = None
    for member in ordered:
        if previous is not None:
            if member.header_offset < reached:
                log.add("zip-overlap", "two members share bytes", offset=member.header_offset, place=member.name)
            elif member.header_offset > reached:
                _check_gap(source, reached, member.header_offset, bool(previous.flags & FLAG_DESCRIPTOR), log)
        if member.end > source.size:
            message = f"the member ends {member.end - source.size} bytes after the file does"
            log.add("zip-member-bounds", message, offset=member.header_offset, place=member.name)
        if member.end >= reached:
            reached = member.end
            previous = member
    if previous is not None and reached > place.start:
        log.add("zip-overlap", "a member and the directory share bytes", offset=place.start, place=previous.name)
    elif previous is not None:
        _check_gap(source, reached, place.start, bool(previous.flags & FLAG_DESCRIPTOR), log)


def _check_gap(source: ByteSource, start: int, end: int, descriptor: bool, log: FaultLog) -> None:
    gap = end - start
    if gap <= (_LONGEST_DESCRIPTOR if descriptor else 0):
        return
    head = source.read_at(start, _LONGEST_DESCRIPTOR + 4)
    if LOCAL_SIGNATURE in head:
        log.add("zip-hidden", f"{gap} bytes between members hold a member the directory does not list", offset=start)
    else:
        log.add("zip-gap", f"{gap} bytes between members belong to none", offset=start)
