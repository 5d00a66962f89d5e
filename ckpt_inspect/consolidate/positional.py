"""Reads and writes by position, complete or an error, on systems with and without ``pread``."""

from __future__ import annotations

import errno
import os
import threading

from ckpt_inspect.errors import UnreadableError

_seek_lock = threading.Lock()


def read_into(descriptor: int, into: memoryview, offset: int, *, name: str) -> None:
    """Fill `into` from `offset`.

    Raises:
        UnreadableError: the file ends early, or cannot be read.
    """
    while len(into):
        try:
            count = _read_once(descriptor, into, offset)
        except OSError as error:
            raise UnreadableError(f"cannot read at byte {offset}: {error.strerror}", where=name) from error
        if count == 0:
            raise UnreadableError(f"ends at byte {offset}, more was expected", where=name)
        into = into[count:]
        offset += count


def _read_once(descriptor: int, into: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [into], offset)
    if hasattr(os, "pread"):
        data = os.pread(descriptor, len(into), offset)
    else:
        with _seek_lock:
            os.lseek(descriptor, offset, os.SEEK_SET)
            data = os.read(descriptor, len(into))
    into[: len(data)] = data
    return len(data)


def write_at(descriptor: int, data: memoryview, offset: int) -> int:
    """Write some of `data` at `offset`; returns how many bytes."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    with _seek_lock:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, data)


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; raises `OSError` as the system does."""
    while len(data):
        written = write_at(descriptor, data, offset)
        if written == 0:
            raise OSError(errno.EIO, "the system wrote nothing")
        data = data[written:]
        offset += written
