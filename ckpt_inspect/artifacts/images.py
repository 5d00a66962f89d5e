"""PNG files: their size in pixels, and whether they are whole.

Format: PNG specification (W3C), 5.2 signature, 11.2.2 IHDR, 5.3 chunk layout; LLaMA-Factory ``extras/ploting.py`` and
ms-swift write loss curves in it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_inspect.formats.fault_log import FaultLog

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_MAX_CHUNKS = 10_000


@dataclass(frozen=True, slots=True)
class Image:
    """Width and height in pixels, None where the header cannot be read."""

    width: int | None
    height: int | None
    faults: tuple[Fault, ...]


def read_png(source: ByteSource) -> Image:
    """Read the header of a PNG and look whether its end is there. Never raises for content."""
    faults = FaultLog()
    head = source.read_at(0, 33)
    if head[:8] != SIGNATURE or head[12:16] != b"IHDR" or len(head) < 33:
        faults.add("image-not-png", "does not begin as a PNG does" if source.size else "is empty", offset=0)
        return Image(None, None, faults.sealed())
    width, height = struct.unpack(">II", head[16:24])
    if zlib.crc32(head[12:29]) != int.from_bytes(head[29:33], "big"):
        faults.add("image-damaged", "the checksum of the header is wrong", offset=29)
    if source.read_at(source.size - len(_END), len(_END)) != _END and not _has_end(source):
        faults.add("image-damaged", "ends before the image does", offset=source.size)
    return Image(width, height, faults.sealed())


def _has_end(source: ByteSource) -> bool:
    """Whether the chunks lead to an end, for files with something after it."""
    offset = len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        head = source.read_at(offset, 8)
        if len(head) < 8:
            return False
        length = int.from_bytes(head[:4], "big")
        offset += 12 + length
        if offset > source.size:
            return False
        if head[4:] == b"IEND":
            return True
    return False
