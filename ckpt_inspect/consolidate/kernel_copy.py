"""``copy_file_range``: the kernel copies, and shares or offloads extents where the file system can.

Where it does not work (across devices, old kernels, some FUSE and network file systems) the range is copied by
position instead.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ckpt_inspect.consolidate.positional import read_into, write_all

STEP = 16 << 20
BUFFER = 1 << 20
_HASH_BUFFER = 1 << 18
_UNSUPPORTED = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM, errno.EACCES, errno.ETXTBSY}
)


def copy_range(
    source: int, target: int, source_offset: int, target_offset: int, length: int, *, name: str
) -> Iterator[int]:
    """Copy bytes between open files, by the kernel where it can; yields what each step copied.

    Raises:
        UnreadableError: the source ends before `length` bytes.
        OSError: the write failed.
    """
    kernel: Callable[..., int] | None = getattr(os, "copy_file_range", None)
    buffer: memoryview | None = None
    while length > 0:
        count = 0
        if kernel is not None:
            try:
                count = kernel(source, target, min(length, STEP), source_offset, target_offset)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
            if count == 0:  # refused, at the end of the file, or a file system that pretends: positional reads tell
                kernel = None
        if count == 0:
            buffer = buffer if buffer is not None else memoryview(bytearray(BUFFER))
            count = min(length, BUFFER)
            read_into(source, buffer[:count], source_offset, name=name)
            write_all(target, buffer[:count], target_offset)
        source_offset += count
        target_offset += count
        length -= count
        yield count


class Watermark:
    """How far a file has been written, for one that reads behind."""

    def __init__(self) -> None:
        self._height = 0
        self._finished = False
        self._condition = threading.Condition()

    def rise(self, height: int) -> None:
        """`height` bytes are there now."""
        with self._condition:
            self._height = height
            self._condition.notify()

    def finish(self) -> None:
        """No more will come."""
        with self._condition:
            self._finished = True
            self._condition.notify()

    def above(self, position: int) -> int:
        """Wait until more than `position` bytes are there; returns how many, or `position` when no more will come."""
        with self._condition:
            self._condition.wait_for(lambda: self._height > position or self._finished)
            return self._height


class Follower:
    """Hashes a file behind its writer, while the pages are still in memory."""

    def __init__(self, descriptor: int, size: int, written: Watermark) -> None:
        self._descriptor, self._size, self._written = descriptor, size, written
        self._digest: Any = hashlib.sha256()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            buffer = memoryview(bytearray(_HASH_BUFFER))
            position = 0
            while position < self._size:
                height = self._written.above(position)
                if height <= position:
                    return
                count = min(len(buffer), height - position)
                read_into(self._descriptor, buffer[:count], position, name="the new file")
                self._digest.update(buffer[:count])
                position += count
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            self._failure = error

    def join(self) -> None:
        """Wait for the thread."""
        self._thread.join()

    def result(self) -> str:
        """The sha256 of the whole file; raises what went wrong while reading it."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return str(self._digest.hexdigest())
