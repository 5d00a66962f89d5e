"""One directory, whole or absent: everything is written to a hidden sibling and takes its name in one rename.

``docs/consolidate.md`` describes the steps. While it is written the directory is
``.NAME.ckpt-inspect-partial.PID.STAMP``, locked by its writer and readable by its owner only. An exception or a
signal removes it; after SIGKILL it stays under that name, unlocked, and the next writer of NAME reports it, or removes
it when it is older than a day.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ckpt_inspect.consolidate.filesystem import free_bytes, supports_direct_writes
from ckpt_inspect.consolidate.gather import Way
from ckpt_inspect.consolidate.rename import exchange, rename_to_new
from ckpt_inspect.errors import OutputError

RECORD = "consolidation.json"
MARK = ".ckpt-inspect-partial."
STALE_SECONDS = 24 * 3600
DIRECT_MINIMUM = 16 << 20  # smaller files are written through the cache: setting up costs more than it saves


@dataclass(frozen=True, slots=True)
class Partial:
    """A directory another writer of the same output left, or is writing."""

    path: Path
    pid: int
    started_ns: int
    locked: bool


class OutputExistsError(OutputError):
    """Something is at the output path already."""


class OutputBusyError(OutputError):
    """Another process is writing the same output."""


class NoSpaceError(OutputError):
    """The file system cannot hold the output."""


class Staging:
    """The directory to be; a context manager that removes it unless :meth:`commit` was called.

    Args:
        target: the final path.
        replace: whether an output of an earlier consolidation there may be exchanged for the new one.

    Raises:
        OutputExistsError: something is there that must not be replaced.
        OutputBusyError: another process is writing to the same target and began earlier.
        OutputError: the directory cannot be made.
    """

    def __init__(self, target: Path, *, replace: bool = False) -> None:
        self.target = target
        self.replace = replace
        self.warnings: list[str] = []
        self.path = target.with_name(_partial_name(target.name, time.time_ns()))
        self._lock: int | None = None
        self._unsynced: list[int] = []
        self._committed = False

    def __enter__(self) -> Self:
        check_target(self.target, replace=self.replace)
        try:
            self._make()
            self._lock = _lock_directory(self.path)
            self._yield_to_others()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._unsynced:
            with suppress(OSError):
                os.close(self._unsynced.pop())
        if not self._committed:
            self._remove()
        self._unlock()

    def _make(self) -> None:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            os.mkdir(self.path, 0o700)
        except OSError as error:
            raise OutputError(
                f"cannot make the output: {error.strerror}",
                where=str(self.target),
                remedy="choose another place with -o",
            ) from error

    def reserve(self, size: int) -> None:
        """Check that the file system has room for `size` bytes and one per cent.

        Raises:
            NoSpaceError: it has not.
        """
        free = free_bytes(self.path)
        needed = size + size // 100 + (1 << 20)
        if free is not None and free < needed:
            left = [partial for partial in partials(self.target) if not partial.locked]
            remedy = "free some, or choose another place with -o"
            if left:
                remedy += f"; {left[0].path.name} is left from an interrupted run and can be deleted"
            raise NoSpaceError(f"needs {needed} bytes, {free} are free", where=str(self.target.parent), remedy=remedy)

    def create(self, name: str, size: int, *, direct: bool = False) -> tuple[int, Way]:
        """Open a new file of `size` bytes for writing (0: not known); returns its descriptor and how to write to it.

        `direct` asks for O_DIRECT where the file is large enough and the file system is a local one.

        Raises:
            OSError: the file cannot be made, or has no room.
        """
        path = self.path / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        for flag in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):
            flags |= getattr(os, flag, 0)
        fast = supports_direct_writes(self.path)
        descriptor = -1
        way: Way = "kernel" if hasattr(os, "copy_file_range") else "buffered"
        if direct and fast and size and size >= DIRECT_MINIMUM:
            with suppress(OSError):  # EINVAL: a mount that only looks local
                descriptor = os.open(path, flags | os.O_DIRECT, 0o666)
                way = "direct"
            if descriptor < 0:
                with suppress(FileNotFoundError):  # Linux leaves the file it refused to open
                    os.unlink(path)
        if descriptor < 0:
            descriptor = os.open(path, flags, 0o666)
        if fast and size:
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
                    os.close(descriptor)
                    raise
        return descriptor, way

    def write(self, name: str, data: bytes) -> None:
        """Write a small file whole; :meth:`commit` makes it durable.

        Its writeback begins now: one after the other, every file would wait for a journal commit of its own.
        """
        descriptor, _ = self.create(name, 0)
        self._unsynced.append(descriptor)
        view = memoryview(data)
        while len(view):
            view = view[os.write(descriptor, view) :]
        with suppress(OSError, AttributeError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def commit(self) -> None:
        """Give the directory its final name. Files from :meth:`create` must have been synchronised by their writers.

        Raises:
            OutputExistsError: another process was faster.
            OutputError: the rename failed; nothing has the final name.
        """
        while self._unsynced:
            descriptor = self._unsynced.pop()
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        for directory, _, _ in os.walk(self.path, topdown=False):
            os.chmod(directory, 0o777 & ~_umask())
            sync_directory(Path(directory))
        try:
            old = self._exchange() if self.replace and os.path.lexists(self.target) else self._rename()
        except FileExistsError as error:
            raise OutputExistsError(
                "appeared while this was written: another process was faster", where=str(self.target)
            ) from error
        self._committed = True
        try:
            sync_directory(self.target.parent)
        except OSError as error:
            self.warnings.append(
                f"the output is complete and visible, but may not survive a power failure: {error.strerror}"
            )
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
            if old.exists():
                self.warnings.append(f"the replaced output could not be deleted: {old}")

    def _rename(self) -> Path | None:
        rename_to_new(self.path, self.target)
        return None

    def _exchange(self) -> Path:
        """Swap with the output that is there; returns where that one is now."""
        check_target(self.target, replace=True)  # it may have become something else meanwhile
        if exchange(self.path, self.target):
            return self.path
        aside = self.target.with_name(_partial_name(self.target.name, time.time_ns()))
        os.rename(self.target, aside)
        try:
            rename_to_new(self.path, self.target)
        except BaseException:
            os.rename(aside, self.target)
            raise
        return aside

    def _yield_to_others(self) -> None:
        mine = _parse_partial(self.path, self.target.name)
        for partial in partials(self.target):
            if partial.path == self.path:
                continue
            if partial.locked:
                if mine is None or (partial.started_ns, partial.pid) < (mine.started_ns, mine.pid):
                    raise OutputBusyError(
                        f"is being written by process {partial.pid}",
                        where=str(self.target),
                        remedy="wait for it, or choose another output with -o",
                    )
            elif time.time_ns() - partial.started_ns > STALE_SECONDS * 10**9:
                shutil.rmtree(partial.path, ignore_errors=True)
                self.warnings.append(f"removed {partial.path.name}, left by an interrupted run more than a day ago")
            else:
                self.warnings.append(f"{partial.path.name} is left from an interrupted run and can be deleted")

    def _remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.exists():  # the directory may have been made unwritable, or a file appeared meanwhile
            with suppress(OSError):
                os.chmod(self.path, 0o700)
            shutil.rmtree(self.path, ignore_errors=True)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def check_target(target: Path, *, replace: bool) -> None:
    """Refuse a path that something is at; with `replace` an earlier output of this program, or nothing else.

    Raises:
        OutputExistsError: says what is there.
    """
    if not os.path.lexists(target):
        return
    if not replace:
        raise OutputExistsError("exists already", where=str(target), remedy="choose another with -o, or give --replace")
    if target.is_symlink() or not target.is_dir():
        raise OutputExistsError("is not a directory and is never replaced", where=str(target))
    if not (target / RECORD).is_file() and any(target.iterdir()):
        raise OutputExistsError(
            f"holds no {RECORD}, so it is not an output of consolidate and is never replaced",
            where=str(target),
            remedy="choose another with -o",
        )


def partials(target: Path) -> list[Partial]:
    """Directories beside `target` that a writer of it uses or left."""
    found: list[Partial] = []
    with suppress(OSError):
        for entry in os.scandir(target.parent):
            partial = _parse_partial(Path(entry.path), target.name)
            if partial is not None and entry.is_dir(follow_symlinks=False):
                found.append(partial)
    return sorted(found, key=lambda partial: partial.started_ns)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Systems that cannot open directories have nothing to do here."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # file systems without directory sync say so like this
            raise
    finally:
        os.close(descriptor)


def _partial_name(name: str, now_ns: int) -> str:
    return f".{name}{MARK}{os.getpid()}.{now_ns:x}-{os.urandom(3).hex()}"


def _parse_partial(path: Path, name: str) -> Partial | None:
    prefix = f".{name}{MARK}"
    if not path.name.startswith(prefix):
        return None
    pid, _, stamp = path.name[len(prefix) :].partition(".")
    try:
        return Partial(path, int(pid), int(stamp.partition("-")[0], 16), _is_locked(path))
    except ValueError:
        return None


def _lock_directory(path: Path) -> int | None:
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with suppress(OSError):  # some network file systems have no locks
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _is_locked(path: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
