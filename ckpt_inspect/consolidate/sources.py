"""The shards as open files: opened on demand, closed when too many are open, checked for change before and after."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ckpt_inspect.consolidate.plan import SourceFile
from ckpt_inspect.errors import ConsolidationError
from ckpt_inspect.printable import printable
from ckpt_inspect.storage import LocalFile

_RESERVED_DESCRIPTORS = 64


class SourceChangedError(ConsolidationError):
    """A shard was written, replaced or cut while it was read; what was gathered from it is worth nothing."""


class SourceFiles:
    """Open shards of one plan, shared by threads; the least recently used are closed first.

    Args:
        root: directory the paths of `sources` are relative to.
        sources: the files of the plan, by index.
        limit: files kept open; by default what ``ulimit -n`` allows, at most 1024.
        check_times: whether another mtime makes it another file; a copy of the shards may have one.

    Raises:
        SourceChangedError: on opening a file whose size or mtime is not the planned one.
    """

    def __init__(
        self, root: Path, sources: Sequence[SourceFile], *, limit: int | None = None, check_times: bool = True
    ) -> None:
        self.root = root
        self._check_times = check_times
        self.sources = sources
        self._limit = limit if limit is not None else _open_file_limit()
        self._open: OrderedDict[int, LocalFile] = OrderedDict()
        self._users: dict[int, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def use(self, index: int) -> Iterator[LocalFile]:
        """The open file of source `index`; it stays open inside the block."""
        with self._lock:
            file = self._open.get(index)
            if file is None:
                self._close_oldest()
                file = self._opened(index)
                self._open[index] = file
            self._open.move_to_end(index)
            self._users[index] = self._users.get(index, 0) + 1
        try:
            yield file
        finally:
            with self._lock:
                self._users[index] -= 1

    def path(self, index: int) -> Path:
        """Where source `index` lies."""
        return self.root / self.sources[index].path

    def check_unchanged(self) -> None:
        """Raise if any source is no longer the file that was planned, read or not.

        Raises:
            SourceChangedError: names the first such file.
        """
        for index in range(len(self.sources)):
            try:
                status = os.stat(self.path(index))
            except OSError as error:
                raise self._changed(index, f"is gone: {error.strerror}") from error
            if not self._is_same(index, status.st_size, status.st_mtime_ns):
                raise self._changed(index, "was written")
            with self._lock:
                file = self._open.get(index)
                if file is not None and file.changed():
                    raise self._changed(index, "was replaced")

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            for file in self._open.values():
                file.close()
            self._open.clear()

    def _is_same(self, index: int, size: int, mtime_ns: int) -> bool:
        source = self.sources[index]
        return size == source.size and (mtime_ns == source.mtime_ns or not self._check_times)

    def _opened(self, index: int) -> LocalFile:
        file = LocalFile(self.path(index))
        if not self._is_same(index, file.size, file.identity.mtime_ns):
            file.close()
            raise self._changed(index, "was written")
        return file

    def _changed(self, index: int, what: str) -> SourceChangedError:
        source = self.sources[index]
        rank = f" (rank {source.rank})" if source.rank is not None else ""
        return SourceChangedError(
            f"{printable(source.path)}{rank} {what} while it was read",
            where=str(self.root),
            remedy="wait until training has finished saving, then run again",
        )

    def _close_oldest(self) -> None:
        while len(self._open) >= self._limit:
            idle = next((index for index in self._open if not self._users.get(index)), None)
            if idle is None:  # every file is in use: one descriptor too many is better than none
                return
            self._open.pop(idle).close()


def _open_file_limit() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 256
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return 1024
    return max(8, min(1024, soft - _RESERVED_DESCRIPTORS))
