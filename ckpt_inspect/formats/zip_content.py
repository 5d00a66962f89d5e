"""The bytes of zip members, inflated only within a budget, and their CRC.

A member stored as it is becomes a window of its source and costs nothing. Deflated members (an archive somebody
zipped again) are inflated into memory within :class:`InflateBudget`, one budget for a whole file or a whole scan.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.fault_log import FormatLimitError
from ckpt_inspect.formats.zip_directory import MAX_RATIO, ZipMember
from ckpt_inspect.formats.zip_records import DEFLATED, STORED
from ckpt_inspect.storage import ByteSource, BytesSource, SliceSource

DEFAULT_INFLATED = 64 << 20
_CHUNK = 1 << 20
_RATIO_FROM = 4 << 20


class InflateBudget:
    """How many inflated bytes may still be held, shared by everything opened on its account."""

    def __init__(self, total: int = DEFAULT_INFLATED) -> None:
        self.remaining = total

    def take(self, count: int) -> bool:
        """Use up `count` bytes; False when there were not as many."""
        self.remaining -= count
        return self.remaining >= 0


def member_source(source: ByteSource, member: ZipMember, budget: InflateBudget | None = None) -> ByteSource:
    """The content of a member as a source of its own.

    Raises:
        FormatLimitError: an unknown method, a broken deflate stream, more than the budget, or more than 100 bytes
            for each byte in the file.

    A member flagged as encrypted is given as its bytes lie: the flag alone hides nothing, and some readers ignore it.
    """
    _refuse_unreadable(member)
    name = f"{source.name}!{member.name}"
    if member.method == STORED:
        return SliceSource(source, member.data_offset, member.compressed, name=name)
    parts = list(_inflated(source, member, budget if budget is not None else InflateBudget()))
    return BytesSource(b"".join(parts), name=name)


def crc_of(source: ByteSource, member: ZipMember, advance: Callable[[int], None] | None = None) -> int:
    """CRC-32 of a member's content, in constant memory; `advance` is told the bytes of the file that were read.

    Compare it with `member.crc`, where 0 means that the writer did not compute one
    (``torch.serialization.set_crc32_options(False)``).

    Raises:
        FormatLimitError: as `member_source`; there is no limit on the size here.
    """
    _refuse_unreadable(member)
    crc = 0
    if member.method == STORED:
        position, end = member.data_offset, member.data_offset + member.compressed
        while position < end:
            data = source.read_at(position, min(_CHUNK, end - position))
            if not data:
                raise FormatLimitError(
                    Fault("zip-member-bounds", "the file ends inside the member", position, member.name)
                )
            crc = zlib.crc32(data, crc)
            position += len(data)
            if advance is not None:
                advance(len(data))
        return crc
    for part in _inflated(source, member, None, advance):
        crc = zlib.crc32(part, crc)
    return crc


def _refuse_unreadable(member: ZipMember) -> None:
    if member.method not in (STORED, DEFLATED):
        message = f"compression method {member.method} is not read here"
        raise FormatLimitError(Fault("zip-method", message, member.header_offset, member.name))
    if member.data_offset < 0:
        message = "the member's header is unreadable"
        raise FormatLimitError(Fault("zip-local-header", message, member.header_offset, member.name))


def _inflated(
    source: ByteSource,
    member: ZipMember,
    budget: InflateBudget | None,
    advance: Callable[[int], None] | None = None,
) -> Iterator[bytes]:
    decoder = zlib.decompressobj(-15)
    position, end = member.data_offset, member.data_offset + member.compressed
    produced = 0
    while position < end and not decoder.eof:
        data = source.read_at(position, min(_CHUNK, end - position))
        if not data:
            break
        position += len(data)
        if advance is not None:
            advance(len(data))
        while data and not decoder.eof:
            try:
                part = decoder.decompress(data, _CHUNK)
            except zlib.error:
                message = "the deflate stream is broken"
                raise FormatLimitError(Fault("zip-deflate", message, member.data_offset, member.name)) from None
            data = decoder.unconsumed_tail
            produced += len(part)
            _refuse_bomb(member, produced, len(part), budget)
            yield part
    if not decoder.eof or produced != member.size:
        message = f"the deflate stream gives {produced} bytes, the directory says {member.size}"
        raise FormatLimitError(Fault("zip-size-mismatch", message, member.data_offset, member.name))


def _refuse_bomb(member: ZipMember, produced: int, part: int, budget: InflateBudget | None) -> None:
    if budget is None:
        return
    if not budget.take(part):
        message = "inflating it would take more memory than a whole file is given"
        raise FormatLimitError(Fault("zip-bomb", message, member.data_offset, member.name))
    if produced > max(_RATIO_FROM, MAX_RATIO * member.compressed):
        message = f"{member.compressed} bytes become more than {MAX_RATIO} times as many"
        raise FormatLimitError(Fault("zip-bomb", message, member.data_offset, member.name))
