"""Which directories of a tree are DeepSpeed tags, what `latest` says, and which tag names are safe to follow.

`latest` is a text file with one tag, written in place without fsync by rank 0 alone, and read with ``strip()``
(deepspeed 0.19.8 ``runtime/engine.py`` `save_checkpoint`): it may be empty, stale or a lie.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ckpt_inspect.artifacts.zero_files import TagFiles, group_files, is_tag_directory
from ckpt_inspect.consolidate.problems import Problem, refuse
from ckpt_inspect.errors import UnreadableError
from ckpt_inspect.printable import printable
from ckpt_inspect.storage import Entry, LocalTree

_LATEST_LIMIT = 4096
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")
_NUMBER = re.compile(r"(\d{1,12})(?!.*\d)")


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag directory: its path in the tree ("" for the root), its files, and the checkpoint directory it is of."""

    directory: str
    files: TagFiles
    home: str
    universal: bool

    @property
    def name(self) -> str:
        """The tag as `latest` would say it: the path relative to the checkpoint directory."""
        return self.directory[len(self.home) + 1 :] if self.home else self.directory

    @property
    def number(self) -> int:
        """The last number in the tag's name, -1 without one."""
        match = _NUMBER.search(self.name)
        return int(match.group(1)) if match else -1

    @property
    def nbytes(self) -> int:
        """Bytes of its DeepSpeed files."""
        return sum(file.size for file in self.files.all)


def find_tags(tree: LocalTree) -> list[Tag]:
    """Every tag directory of the tree, with the nearest directory above it that is a checkpoint of its own."""
    children: dict[str, list[Entry]] = {}
    for entry in tree.entries():
        children.setdefault(entry.parent, []).append(entry)
    homes = {
        directory
        for directory, entries in children.items()
        if directory and any(entry.name in {"latest", "latest_universal"} for entry in entries)
    }
    homes |= {e.path for e in tree.entries() if e.kind == "directory" and _CHECKPOINT.fullmatch(e.name)}
    tags: list[Tag] = []
    for directory, entries in children.items():
        files = group_files(entries)
        universal = is_universal(directory, children)
        if is_tag_directory(files) or universal:
            tags.append(Tag(directory, files, _home(directory, homes), universal))
    return sorted(tags, key=lambda tag: (tag.home, tag.number, tag.directory))


def is_universal(directory: str, children: dict[str, list[Entry]]) -> bool:
    """Whether a directory holds ``zero/<parameter>/fp32.pt`` as ds_to_universal writes."""
    zero = f"{directory}/zero" if directory else "zero"
    return any(
        entry.name == "fp32.pt"
        for child in children.get(zero, ())
        if child.kind == "directory"
        for entry in children.get(child.path, ())
    )


def _home(directory: str, homes: Iterable[str]) -> str:
    known = set(homes)
    parent = directory.rpartition("/")[0]
    while parent and parent not in known:
        parent = parent.rpartition("/")[0]
    return parent


def checkpoint_number(directory: str) -> int | None:
    """N of a directory named ``checkpoint-N``."""
    match = _CHECKPOINT.fullmatch(directory.rpartition("/")[2])
    return int(match.group(1)) if match else None


def read_latest(tree: LocalTree, home: str, name: str = "latest") -> str | None:
    """The tag `latest` names, stripped; None where there is no such file that can be read."""
    path = f"{home}/{name}" if home else name
    entry = tree.get(path)
    if entry is None or entry.kind != "file":
        return None
    try:
        with tree.open(path) as file:
            return file.read_at(0, _LATEST_LIMIT).decode("utf-8-sig", "replace").strip().strip("\0").strip()
    except UnreadableError:
        return None


def unsafe_tag(tag: str) -> str | None:
    """Why a tag must not be joined to a path, None when it may."""
    if "\0" in tag or len(tag) > 1024 or "\n" in tag:
        return "is not a file name"
    if tag.startswith(("/", "\\", "~")) or re.match(r"[A-Za-z]:", tag):
        return "is an absolute path"
    if "\\" in tag:
        return "holds a backslash"
    if any(part in {"..", "."} for part in tag.split("/")):
        return "leads out of the checkpoint"
    return None


def check_tag(tag: str, origin: str, file: str | None) -> Problem | None:
    """Z02 and Z05: an empty or unsafe tag from `origin` ("latest" or "--tag")."""
    if not tag:
        message = f"{origin} is empty: the save was interrupted while it was written"
        return refuse("Z02", message, file=file, remedy="name the tag with --tag")
    reason = unsafe_tag(tag)
    if reason:
        message = f"{origin} says {printable(tag, 60)!r}, which {reason}"
        return refuse("Z05", message, file=file, remedy="name a directory below the checkpoint with --tag")
    return None
