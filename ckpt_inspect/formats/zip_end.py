"""Finds the end records of a zip file and the directory they point at, however they lie.

Readers disagree when the records do: CPython's zipfile counts the directory back from the end record, miniz
(torch's ``caffe2/serialize/inline_container.cc``) takes its stated offset. Both are looked at; miniz's is used,
because torch is what loads these files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.zip_records import (
    CENTRAL_SIGNATURE,
    END,
    END64,
    END64_SIGNATURE,
    END_SIGNATURE,
    LOCAL_SIGNATURE,
    LOCATOR,
    LOCATOR_SIGNATURE,
    LONGEST_COMMENT,
    SATURATED_16,
    SATURATED_32,
    End,
)
from ckpt_inspect.storage import ByteSource

_NEAR = 4096


@dataclass(frozen=True, slots=True)
class DirectoryPlace:
    """Where the central directory is: `shift` bytes stand before the archive its offsets were counted in."""

    start: int
    size: int
    shift: int


def find_end(source: ByteSource, log: FaultLog) -> End | None:
    """The last end record, or None when there is none within the longest comment of the file's end."""
    for reach in (_NEAR, END.size + LONGEST_COMMENT):
        base = max(0, source.size - reach)
        tail = source.read_at(base, source.size - base)
        found = _last_end(tail)
        if found is not None:
            return _read_end(source, tail, base, found, log)
        if base == 0:
            return None
    return None


def _last_end(tail: bytes) -> int | None:
    """Where the last end record whose comment fits begins; one whose comment ends with the file is preferred."""
    fitting: int | None = None
    position = tail.rfind(END_SIGNATURE)
    while position >= 0:
        if position + END.size <= len(tail):
            comment_end = position + END.size + END.unpack_from(tail, position)[7]
            if comment_end == len(tail):
                return position
            if fitting is None:
                fitting = position
        position = tail.rfind(END_SIGNATURE, 0, position + 3)
    return fitting


def _read_end(source: ByteSource, tail: bytes, base: int, position: int, log: FaultLog) -> End:
    _, disk, directory_disk, here, entries, size, offset, comment_length = END.unpack_from(tail, position)
    comment = tail[position + END.size : position + END.size + comment_length]
    trailing = len(tail) - (position + END.size + comment_length)
    where = base + position
    if trailing > 0:
        log.add("zip-trailing", f"{trailing} bytes follow the end of the archive", offset=source.size - trailing)
    elif trailing < 0:
        log.add("zip-truncated", f"the archive's comment is {-trailing} bytes shorter than stated", offset=where)
    if tail.find(END_SIGNATURE, position + END.size) >= 0 or _enclosed(tail, position):
        log.add("zip-ambiguous-end", "one end record lies in the comment of another; readers differ", offset=where)
    plain = End(where, entries, size, offset, comment, False, bool(disk or directory_disk or here != entries), where)
    return _zip64_end(source, plain, log) or plain


def _enclosed(tail: bytes, position: int) -> bool:
    """Whether an earlier end record claims everything after it, `position` included, as its comment."""
    earlier = tail.rfind(END_SIGNATURE, 0, position)
    while earlier >= 0:
        if earlier + END.size + END.unpack_from(tail, earlier)[7] == len(tail):
            return True
        earlier = tail.rfind(END_SIGNATURE, 0, earlier)
    return False


def _zip64_end(source: ByteSource, plain: End, log: FaultLog) -> End | None:
    locator_offset = plain.offset - LOCATOR.size
    locator = source.read_at(locator_offset, LOCATOR.size) if locator_offset >= 0 else b""
    if len(locator) < LOCATOR.size or not locator.startswith(LOCATOR_SIGNATURE):
        if plain.directory_offset == SATURATED_32 or plain.directory_size == SATURATED_32:
            log.add("zip-zip64", "the end record refers to a zip64 record that is not there", offset=plain.offset)
        return None
    _, disk, stated, disks = LOCATOR.unpack(locator)
    offsets = [offset for offset in (stated, locator_offset - END64.size) if _is_end64(source, offset)]
    if not offsets:
        log.add("zip-zip64", "the zip64 locator points where no zip64 record is", offset=locator_offset)
        return None
    offset = offsets[0]
    if offsets[-1] != offset:
        _note_second_archive(source, offsets[-1] - offset, offset, log)
    record = source.read_at(offset, END64.size)
    _, _, _, _, disk64, directory_disk, here, entries, size, directory_offset = END64.unpack(record)
    odd_disks = bool(disk or disks > 1 or disk64 or directory_disk or here != entries)
    if directory_offset + size > source.size:
        log.add(
            "zip-directory-bounds",
            f"the zip64 record puts a directory of {size} bytes at {directory_offset}, past the end of the file",
            offset=offset,
        )
        return replace(plain, directory_end=offset)
    agrees = all(
        narrow in (wide, limit)
        for narrow, wide, limit in (
            (plain.entries, entries, SATURATED_16),
            (plain.directory_size, size, SATURATED_32),
            (plain.directory_offset, directory_offset, SATURATED_32),
        )
    )
    if not agrees:
        log.add("zip-zip64", "the zip64 record and the end record disagree; readers differ", offset=offset)
    return End(plain.offset, entries, size, directory_offset, plain.comment, True, odd_disks, offset)


def _is_end64(source: ByteSource, offset: int) -> bool:
    return 0 <= offset <= source.size - END64.size and source.read_at(offset, 4) == END64_SIGNATURE


def _note_second_archive(source: ByteSource, shift: int, offset: int, log: FaultLog) -> None:
    if shift > 0 and source.read_at(0, 4) == LOCAL_SIGNATURE:
        log.add("zip-concatenated", f"another archive of {shift} bytes stands before the last one", offset=0)
    else:
        message = "the end records lead to two directories; readers differ in which they take"
        log.add("zip-ambiguous-directory", message, offset=offset)


def last_archive_start(source: ByteSource) -> int | None:
    """Where the archive that ends with `source` begins when others stand before it, as in a ``.distcp`` file.

    None where no end record closes the source exactly.
    """
    end_offset = source.size - END.size
    record = source.read_at(end_offset, END.size)
    if len(record) < END.size or not record.startswith(END_SIGNATURE):
        return None
    size, stated = END.unpack(record)[5:7]
    end64_offset = end_offset - LOCATOR.size - END64.size
    if _is_end64(source, end64_offset) and source.read_at(end_offset - LOCATOR.size, 4) == LOCATOR_SIGNATURE:
        size, stated = END64.unpack(source.read_at(end64_offset, END64.size))[8:10]
        end_offset = end64_offset
    start = end_offset - size - stated
    return int(start) if start >= 0 and source.read_at(start, 4) == LOCAL_SIGNATURE else None


def locate_directory(source: ByteSource, end: End, log: FaultLog) -> DirectoryPlace | None:
    """Where the central directory really is, or None when neither way of finding it leads to one."""
    stated = end.directory_offset
    counted = end.directory_end - end.directory_size
    if end.directory_size == 0 and end.entries == 0:
        return DirectoryPlace(end.directory_end, 0, 0)
    at_stated = stated + 4 <= source.size and source.read_at(stated, 4) == CENTRAL_SIGNATURE
    at_counted = counted >= 0 and source.read_at(counted, 4) == CENTRAL_SIGNATURE
    if at_stated:
        if at_counted and counted != stated:
            _note_second_archive(source, counted - stated, stated, log)
        size = min(end.directory_size, end.directory_end - stated) if end.directory_end > stated else 0
        if size < end.directory_size or (counted != stated and not at_counted):
            log.add("zip-directory-bounds", "the directory's stated size does not fit its place", offset=end.offset)
            size = max(size, end.directory_end - stated)
        return DirectoryPlace(stated, size, 0)
    if at_counted:
        shift = counted - stated if end.zip64 or stated != SATURATED_32 else 0
        if shift > 0 and source.read_at(0, 4) == LOCAL_SIGNATURE:
            log.add("zip-concatenated", f"another archive of {shift} bytes stands before the last one", offset=0)
        elif shift > 0:
            log.add("zip-prefix", f"{shift} bytes stand before the archive; torch does not load it", offset=0)
        elif shift < 0:
            log.add("zip-truncated", f"{-shift} bytes are missing before the directory", offset=counted)
        return DirectoryPlace(counted, end.directory_size, shift)
    log.add("zip-directory-bounds", "there is no directory where the end record puts it", offset=end.offset)
    return None
