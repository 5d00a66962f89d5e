"""Ranges of many files into one: read, cast, hash and write in step, with nothing larger than a block in memory.

Three ways to write, best first:

direct
    Linux, local disks: blocks are filled by positional reads, hashed while they are in the cache and written with
    O_DIRECT. The new file takes no page cache, and its bytes are on the device when the call returns.
kernel
    ``copy_file_range``: the kernel copies, and shares or offloads where the file system can; ranges that need a cast
    go through a block. The hash is taken from the new file while its pages are still in memory.
buffered
    Positional reads and writes, everywhere else (macOS, Windows).

Which one is faster, with numbers: ``docs/benchmarks.md``.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import queue
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from ckpt_inspect.consolidate.filling import Filler, runs
from ckpt_inspect.consolidate.kernel_copy import Follower, Watermark, copy_range
from ckpt_inspect.consolidate.output import OutputFile
from ckpt_inspect.consolidate.positional import write_all
from ckpt_inspect.consolidate.sources import SourceFiles
from ckpt_inspect.progress import NullProgress, Progress

Way = Literal["direct", "kernel", "buffered"]

BLOCK = 1 << 20
SLOTS = 4
DIRECT_ALIGNMENT = 4096


class Cancelled(Exception):  # noqa: N818 - not an error: another thread failed first
    """Another worker failed; this one stopped."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was written to one file: its sha256 (None when none was asked for) and overflows per tensor."""

    sha256: str | None
    overflows: Mapping[str, int] = field(default_factory=dict)


def gather(
    file: OutputFile,
    sources: SourceFiles,
    descriptor: int,
    *,
    way: Way,
    checksum: bool = True,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Gathered:
    """Write `file` to an empty, open `descriptor` from its start.

    Args:
        file: what to write.
        sources: the shards its tensors point into.
        descriptor: open for reading and writing; with O_DIRECT for the way "direct".
        way: how to write.
        checksum: whether to compute the sha256 of the file.
        progress: told of bytes written.
        stop: set by another thread to make this one give up; the file is then incomplete.

    Raises:
        OSError: writing failed (no space left, file too large, I/O error).
        UnreadableError: a source ended early or cannot be read.
        SourceChangedError: a source is not the file that was planned.
        Cancelled: `stop` was set.
    """
    job = _Job(file, sources, descriptor, checksum, progress or NullProgress(), stop or threading.Event())
    return _by_kernel(job) if way == "kernel" else _by_blocks(job, direct=way == "direct")


@dataclass(frozen=True, slots=True)
class _Job:
    file: OutputFile
    sources: SourceFiles
    descriptor: int
    checksum: bool
    progress: Progress
    stop: threading.Event

    def filler(self) -> Filler:
        return Filler(self.file.header, [placed.tensor for placed in self.file.tensors], self.sources)


class _Slab:
    """A few page-aligned blocks, on huge pages where the system grants them (O_DIRECT pins every page it writes)."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, SLOTS * BLOCK)
        with suppress(AttributeError, OSError, ValueError):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        view = memoryview(self._map)
        self.blocks = [view[index * BLOCK : (index + 1) * BLOCK] for index in range(SLOTS)]


def _by_blocks(job: _Job, *, direct: bool) -> Gathered:
    """This thread fills blocks and hashes them while they are in its core's cache; another one writes them.

    A third thread for the hash costs more than it saves: every block then crosses from core to core twice.
    """
    filler = job.filler()
    slab = _Slab()
    free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
    for empty in slab.blocks:
        free.put(empty)
    filled: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
    digest: Any = hashlib.sha256() if job.checksum else None
    failures: list[BaseException] = []

    def write_blocks() -> None:
        position = 0
        try:
            while (item := filled.get()) is not None:
                block, length = item
                _write_block(job.descriptor, block, length, position, direct=direct)
                position += length
                job.progress.advance(length)
                free.put(block)
        except BaseException as error:  # noqa: BLE001 - carried to the filling thread
            failures.append(error)
            free.put(None)

    writer = threading.Thread(target=write_blocks, daemon=True)
    writer.start()
    try:
        while (block := free.get()) is not None:
            if job.stop.is_set():
                raise Cancelled
            length = filler.fill(block)
            if digest is not None:
                digest.update(block[:length])
            if length:
                filled.put((block, length))
            if length < BLOCK:
                break
    finally:
        filled.put(None)
        writer.join()
    if failures:
        raise failures[0]
    return Gathered(digest.hexdigest() if digest is not None else None, filler.overflows)


def _write_block(descriptor: int, block: memoryview, length: int, position: int, *, direct: bool) -> None:
    """Write a block whole. The last one of a file may be short: written directly it is padded, then the file is cut."""
    if not direct:
        write_all(descriptor, block[:length], position)
        return
    padded = -(-length // DIRECT_ALIGNMENT) * DIRECT_ALIGNMENT
    block[length:padded] = bytes(padded - length)
    try:
        write_all(descriptor, block[:padded], position)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _through_the_cache(descriptor)  # the device wants another alignment
        write_all(descriptor, block[:padded], position)
    if padded != length:
        os.ftruncate(descriptor, position + length)


def _through_the_cache(descriptor: int) -> None:
    import fcntl

    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT)


def _by_kernel(job: _Job) -> Gathered:
    header = memoryview(job.file.header)
    filler = Filler(b"", (), job.sources)
    block = memoryview(bytearray(BLOCK))
    written = Watermark()
    follower = Follower(job.descriptor, job.file.size, written) if job.checksum else None
    position = 0

    def passed(length: int) -> None:
        nonlocal position
        if job.stop.is_set():
            raise Cancelled
        position += length
        written.rise(position)
        job.progress.advance(length)

    try:
        write_all(job.descriptor, header, 0)
        passed(len(header))
        for run in runs(placed.tensor for placed in job.file.tensors):
            if run.tensor is not None:
                for length in filler.fill_run(run, block):
                    write_all(job.descriptor, block[:length], position)
                    passed(length)
                continue
            with job.sources.use(run.source) as source:
                name = str(job.sources.path(run.source))
                for length in copy_range(source.fileno(), job.descriptor, run.offset, position, run.length, name=name):
                    passed(length)
        return Gathered(follower.result() if follower else None, filler.overflows)
    finally:
        written.finish()
        if follower is not None:
            follower.join()
