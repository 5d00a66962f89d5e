"""Where bytes come from: sizes, positional reads and directory listings. Local files today.

An object store is one more class with the methods of :class:`ByteSource`. Opening follows the rules for
untrusted trees (FIFOs and devices are never opened, links out of the tree only in the shape of the Hugging Face
cache): see ``docs/security.md``.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self, TypeVar, runtime_checkable

from ckpt_inspect.errors import PathNotFoundError, UnreadableError
from ckpt_inspect.memo import Memo

T = TypeVar("T")

EntryKind = Literal["file", "directory", "link", "special", "unreadable"]

MAX_ENTRIES = 200_000
MAX_DEPTH = 32
_SMALL = 256 << 10  # bytes; one read of so much costs less than the dozens of small ones a reader makes


@runtime_checkable
class ByteSource(Protocol):
    """Random access to one immutable run of bytes."""

    @property
    def name(self) -> str:
        """What to call it in a message: a path, or `file!member` for a part of a file."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes `[offset, offset + length)`, cut at the end of the source. Never moves a shared position."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What must not change while a file is read: device, inode, size in bytes, mtime in nanoseconds."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """The identity in a stat result."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class LocalFile:
    """A regular file, opened once, read by position; a small one is read once and kept until it is closed.

    Raises:
        PathNotFoundError: nothing is there.
        UnreadableError: not a regular file, or the system refuses to open it.
    """

    def __init__(self, path: Path, *, name: str | None = None, memo: Memo | None = None) -> None:
        self.path = path
        self._name = name if name is not None else str(path)
        # O_NONBLOCK: opening a FIFO that nobody writes to would block for ever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)
        flags |= getattr(os, "O_BINARY", 0)
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # a device may act on open, so look first
                raise UnreadableError("not a regular file", where=self._name)
            self._fd = os.open(path, flags)
        except FileNotFoundError:
            raise PathNotFoundError("no such file", where=self._name) from None
        except OSError as error:
            raise UnreadableError(f"cannot open: {error.strerror}", where=self._name) from error
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise UnreadableError("not a regular file", where=self._name)
        self.identity = FileIdentity.of(status)
        self._whole: bytes | None = None
        self._digest: bytes | None = None
        self._memo = memo

    @property
    def name(self) -> str:
        """The path as given."""
        return self._name

    @property
    def size(self) -> int:
        """Length in bytes when it was opened."""
        return self.identity.size

    def fileno(self) -> int:
        """The open descriptor, for `copy_file_range`."""
        return self._fd

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes at `offset`, cut at the end of the file."""
        if offset < 0 or length <= 0:
            return b""
        if self.identity.size > _SMALL:
            return self._read(offset, length)
        return self._content()[offset : offset + length]

    def _content(self) -> bytes:
        if self._whole is None:
            self._whole = self._read(0, self.identity.size)
        return self._whole

    def once(self, topic: Hashable, compute: Callable[[], T]) -> T:
        """`compute()`, which must depend on the file's bytes and `topic` alone; for small files once per content."""
        if self._memo is None or self.identity.size > _SMALL:
            return compute()
        if self._digest is None:
            self._digest = hashlib.sha256(self._content()).digest()
        return self._memo.once((topic, self.identity.size, self._digest), self.identity.size, compute)

    def _read(self, offset: int, length: int) -> bytes:
        parts: list[bytes] = []
        while length > 0:
            try:
                part = _pread(self._fd, length, offset)
            except OSError as error:
                raise UnreadableError(f"cannot read at byte {offset}: {error.strerror}", where=self._name) from error
            if not part:
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def changed(self) -> bool:
        """Whether the file was replaced, resized or written since it was opened."""
        try:
            return FileIdentity.of(os.stat(self.path)) != self.identity
        except OSError:
            return True

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def once(source: ByteSource, topic: Hashable, compute: Callable[[], T]) -> T:
    """`compute()`, which must depend on the bytes of `source` and `topic` alone: once per content where that is kept."""
    return source.once(topic, compute) if isinstance(source, LocalFile) else compute()


def _pread(fd: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, min(length, 1 << 30), offset)
    os.lseek(fd, offset, os.SEEK_SET)  # Windows has no positional read; sources are not shared between threads there
    return os.read(fd, min(length, 1 << 30))


class BytesSource:
    """Bytes in memory: a member already inflated, or a test's input."""

    def __init__(self, data: bytes, *, name: str = "<bytes>") -> None:
        self._data = data
        self._name = name

    @property
    def name(self) -> str:
        """What to call it."""
        return self._name

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._data)

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes at `offset`."""
        return self._data[offset : offset + length] if offset >= 0 and length > 0 else b""


class SliceSource:
    """A window of another source: a zip member, one item of a `.distcp` file."""

    def __init__(self, source: ByteSource, offset: int, length: int, *, name: str | None = None) -> None:
        self._source = source
        self._offset = offset
        self._size = max(0, min(length, source.size - offset))
        self._name = name if name is not None else source.name

    @property
    def name(self) -> str:
        """What to call it."""
        return self._name

    @property
    def size(self) -> int:
        """Length in bytes, cut where the source ends."""
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes at `offset` of the window."""
        if offset < 0 or offset >= self._size:
            return b""
        return self._source.read_at(self._offset + offset, min(length, self._size - offset))


@dataclass(frozen=True, slots=True)
class Entry:
    """One name below a tree's root; `path` is relative with forward slashes, `size` in bytes."""

    path: str
    kind: EntryKind
    size: int
    mtime_ns: int
    link_target: str | None = None
    problem: str | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The directory, '' for the root."""
        return self.path.rpartition("/")[0]


class LocalTree:
    """A directory as an immutable listing, and the only way to open what is in it.

    A link is shown as the file it leads to when its target stays inside the root or has the shape of the Hugging
    Face cache (``snapshots/<revision>/<file> -> ../../blobs/<hash>``); any other link is an entry of kind "link"
    with `problem` set, and is never opened. Several trees may share a `memo` of what small files hold.
    """

    def __init__(self, root: Path, *, memo: Memo | None = None) -> None:
        self.root = root
        self._memo = Memo() if memo is None else memo
        try:
            status = os.stat(root)
        except FileNotFoundError:
            raise PathNotFoundError("no such file or directory", where=str(root)) from None
        except OSError as error:
            raise UnreadableError(f"cannot read: {error.strerror}", where=str(root)) from error
        if not stat.S_ISDIR(status.st_mode):
            raise UnreadableError("not a directory", where=str(root))
        self._real_root = Path(os.path.realpath(root))
        self.truncated = False
        self._entries = tuple(self._walk())
        self._by_path = {entry.path: entry for entry in self._entries}

    def entries(self) -> tuple[Entry, ...]:
        """Everything below the root, sorted by path, directories included; cut at `MAX_ENTRIES` (`truncated`)."""
        return self._entries

    def get(self, path: str) -> Entry | None:
        """The entry at a relative path."""
        return self._by_path.get(path)

    def open(self, path: str) -> LocalFile:
        """Open a regular file of the listing.

        Raises:
            PathNotFoundError: not in the listing.
            UnreadableError: listed as something that must not be opened, or the system refuses.
        """
        entry = self._by_path.get(path)
        full = self.root / path
        if entry is None:
            raise PathNotFoundError("no such file", where=str(full))
        if entry.kind != "file":
            raise UnreadableError(entry.problem or f"is a {entry.kind}, not a file", where=str(full))
        return LocalFile(full, memo=self._memo)

    def _walk(self) -> Iterator[Entry]:
        pending: list[tuple[str, str, int]] = [("", str(self.root), 0)]  # plain strings: 100,000 paths are many
        seen: set[tuple[int, int]] = set()
        count = 0
        found: list[Entry] = []
        while pending:
            prefix, directory, depth = pending.pop()
            try:
                children = sorted(os.scandir(directory), key=lambda child: child.name)
            except OSError as error:
                found.append(Entry(prefix, "unreadable", 0, 0, problem=f"cannot list: {error.strerror}"))
                continue
            for child in children:
                count += 1
                if count > MAX_ENTRIES:
                    self.truncated = True
                    break
                path = f"{prefix}/{child.name}" if prefix else child.name
                entry = self._entry(path, child.path)
                found.append(entry)
                if entry.kind == "directory" and depth < MAX_DEPTH:
                    try:
                        status = os.stat(child.path)
                    except OSError:  # it went away since it was listed
                        continue
                    identity = (status.st_dev, status.st_ino)
                    if identity not in seen:
                        seen.add(identity)
                        pending.append((path, child.path, depth + 1))
        found.sort(key=lambda entry: entry.path)
        yield from found

    def _entry(self, path: str, full: str) -> Entry:
        try:
            status = os.lstat(full)
            target: str | None = None
            if stat.S_ISLNK(status.st_mode):
                target = os.readlink(full)
                problem = self._link_problem(full)
                if problem:
                    return Entry(path, "link", 0, status.st_mtime_ns, target, problem)
                status = os.stat(full)
        except OSError as error:
            return Entry(path, "unreadable", 0, 0, problem=f"cannot stat: {error.strerror}")
        if stat.S_ISDIR(status.st_mode):
            return Entry(path, "directory", 0, status.st_mtime_ns, target)
        if stat.S_ISREG(status.st_mode):
            return Entry(path, "file", status.st_size, status.st_mtime_ns, target)
        return Entry(path, "special", 0, status.st_mtime_ns, target, "a FIFO, socket or device is never opened")

    def _link_problem(self, full: str) -> str | None:
        real = Path(os.path.realpath(full))
        if not real.exists():
            return "the link leads nowhere"
        if real.is_relative_to(self._real_root) or _is_hub_cache_blob(real):
            return None
        return "the link leads out of the directory"


def _is_hub_cache_blob(real: Path) -> bool:
    """Whether a link target lies in ``models--org--name/blobs/<hash>`` (huggingface_hub's cache layout)."""
    name = real.name
    return (
        real.parent.name == "blobs"
        and real.parent.parent.name.startswith(("models--", "datasets--", "spaces--"))
        and len(name) >= 40
        and all(character in "0123456789abcdef" for character in name)
    )
