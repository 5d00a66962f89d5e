"""Reads a zip file from its front, header by header, where its directory is missing: a save that was cut short.

torch writes members without sizes in their headers and a data descriptor after each (APPNOTE 4.3.9), so the end of a
member is either known from elsewhere (the element counts in ``data.pkl``) or searched for within a budget.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TypeAlias

from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.zip_names import check_name, decode_name
from ckpt_inspect.formats.zip_records import (
    CENTRAL_SIGNATURE,
    DESCRIPTOR_SIGNATURE,
    FLAG_DESCRIPTOR,
    LOCAL_SIGNATURE,
    MAX_MEMBERS,
    LocalHeader,
    ZipMember,
    local_length,
    parse_local,
)
from ckpt_inspect.storage import ByteSource

SEARCH_BUDGET = 64 << 20
_CHUNK = 1 << 20
_HEADER_READ = 512
_LONGEST = 28  # a descriptor of 64 bits and the signature of the next record

_Found: TypeAlias = tuple[int, int, int, int]


def walk_local_headers(source: ByteSource, log: FaultLog, sizes: Mapping[str, int]) -> tuple[ZipMember, ...]:
    """Members from the front of the file to where it breaks off; what ends the walk is noted in `log`.

    `sizes` gives bytes by name without root ("data/0"). A last member that the file cuts has the size it should have,
    where that is known, so that its `end` lies past the file.
    """
    members: list[ZipMember] = []
    budget = SEARCH_BUDGET
    position = 0
    while len(members) < MAX_MEMBERS:
        header = _header(source, position)
        if header is None:
            _note_end(source, position, log)
            break
        name = decode_name(header.raw_name, header.flags)
        check_name(name, position, log)
        data = position + header.length
        compressed, size, crc, after = header.compressed, header.size, header.crc, data + header.compressed
        if header.flags & FLAG_DESCRIPTOR and not compressed:
            known = sizes.get(name.partition("/")[2])
            found = _descriptor_at(source, data, known) if known is not None else None
            if found is None and known is not None and data + known > source.size:
                found = (known, known, 0, data + known)
            if found is None:
                found = _search_descriptor(source, data, budget)
                budget -= min(budget, (found[3] if found else source.size) - data)
            if found is None:
                left = source.size - data
                if left > SEARCH_BUDGET:
                    log.add(
                        "zip-walk-limit", "the end of a member was not searched for further", offset=data, place=name
                    )
                found = (left, left, 0, source.size)
                members.append(_walked(header, name, position, data, found, len(members)))
                log.add("zip-member-bounds", "the file ends inside this member", offset=position, place=name)
                break
            compressed, size, crc, after = found
        member = _walked(header, name, position, data, (compressed, size, crc, after), len(members))
        members.append(member)
        if member.end > source.size:
            message = f"the file ends {member.end - source.size} bytes before this member does"
            log.add("zip-member-bounds", message, offset=position, place=name)
            break
        position = after
    return tuple(members)


def _walked(header: LocalHeader, name: str, position: int, data: int, found: _Found, index: int) -> ZipMember:
    compressed, size, crc, _ = found
    return ZipMember(name, header.raw_name, header.method, header.flags, crc, compressed, size, position, data, index)


def _header(source: ByteSource, position: int) -> LocalHeader | None:
    window = source.read_at(position, _HEADER_READ)
    header = parse_local(window)
    length = local_length(window)
    if header is None and length is not None:
        header = parse_local(source.read_at(position, length))
    return header


def _note_end(source: ByteSource, position: int, log: FaultLog) -> None:
    left = source.size - position
    signature = source.read_at(position, 4)
    if signature == CENTRAL_SIGNATURE or left <= 0:
        return  # every member was there; the missing end record is already noted
    if signature == LOCAL_SIGNATURE:
        log.add("zip-member-bounds", "the file ends inside a member's header", offset=position)
    else:
        log.add("zip-local-header", "there is no member where the next should begin", offset=position)


def _descriptor_at(source: ByteSource, data: int, size: int) -> _Found | None:
    """(compressed, size, crc, offset after) when a descriptor for `size` stored bytes follows them."""
    return _parse_descriptor(source.read_at(data + size, _LONGEST), 0, data, data + size)


def _parse_descriptor(window: bytes, at: int, data: int, offset: int) -> _Found | None:
    """A descriptor whose stated compressed size is exactly the distance to the member's data, 32 or 64 bits wide.

    Where both widths fit, the one that another record or the end of the file follows.
    """
    if window[at : at + 4] != DESCRIPTOR_SIGNATURE:
        return None
    fitting: list[_Found] = []
    for layout, length in (("<3L", 16), ("<LQQ", 24)):
        if at + length > len(window):
            break
        crc, compressed, size = struct.unpack_from(layout, window, at + 4)
        if compressed == offset - data:
            found = compressed, size, crc, offset + length
            if window[at + length : at + length + 4] in (LOCAL_SIGNATURE, CENTRAL_SIGNATURE, b""):
                return found
            fitting.append(found)
    return fitting[0] if fitting else None


def _search_descriptor(source: ByteSource, data: int, budget: int) -> _Found | None:
    position = data
    limit = min(source.size, data + budget)
    while position < limit:
        window = source.read_at(position, min(_CHUNK, limit - position) + _LONGEST)
        at = window.find(DESCRIPTOR_SIGNATURE)
        while at >= 0:
            found = _parse_descriptor(window, at, data, position + at)
            if found is not None:
                return found
            at = window.find(DESCRIPTOR_SIGNATURE, at + 1)
        position += _CHUNK
    return None
