"""`latest` and `latest_universal`: the plain-text file that names the tag DeepSpeed loads.

Written in place, without a rename, by rank 0 while other ranks may still be writing (deepspeed 0.19.8
``runtime/engine.py`` `save_checkpoint`), and read with ``strip()`` (`load_checkpoint`). An empty one resolves to the
directory itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.storage import ByteSource

_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class LatestTag:
    """The tag as DeepSpeed would read it; None where the file names none. A tag may hold slashes."""

    tag: str | None
    faults: tuple[Fault, ...] = ()


def read_latest_tag(source: ByteSource) -> LatestTag:
    """Read the tag; a tag that leads out of the directory is a fault and is not given."""
    raw = source.read_at(0, _MAX_BYTES + 1)
    if not raw.strip():
        return LatestTag(None, (Fault("latest-empty", "names no tag: the save was cut off while writing it"),))
    if len(raw) > _MAX_BYTES:
        return LatestTag(None, (Fault("latest-not-a-tag", f"is {source.size} bytes long, not a tag"),))
    try:
        tag = raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        return LatestTag(None, (Fault("latest-not-a-tag", "is not text", offset=error.start),))
    if any(ord(character) < 0x20 for character in tag):
        return LatestTag(None, (Fault("latest-not-a-tag", "holds control characters or several lines", place=tag),))
    path = PurePosixPath(tag.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return LatestTag(None, (Fault("latest-escapes", "names a directory outside this one", place=tag),))
    return LatestTag(str(path))
