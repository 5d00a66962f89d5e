"""Ranges of many files into one: read, cast, hash and write in step, with nothing larger than a block in memory.

Three ways to write:

direct
    Linux, local disks, bytes that are not cast: blocks are filled by positional reads, hashed while they are in the
    cache and written with O_DIRECT. They pass through the processor once and take no page cache, whose pages cost a
    virtual machine more than the copy.
kernel
    ``copy_file_range``: the kernel copies, in two threads, and shares or offloads where the file system can; ranges that
    need a cast go through a block. A hash is taken from the new file while its pages are still in memory.
buffered
    Positional reads and writes, everywhere else (macOS, Windows).

The device starts writing while the rest is still being copied, so that the final fsync has little left to do. Which way
is faster where, with numbers: ``docs/benchmarks.md``.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from ckpt_inspect.consolidate.filling import Filler, Run, runs
from ckpt_inspect.consolidate.kernel_copy import Follower, Watermark, copy_range
from ckpt_inspect.consolidate.output import OutputFile
from ckpt_inspect.consolidate.positional import write_all
from ckpt_inspect.consolidate.sources import SourceFiles
from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.progress import NullProgress, Progress

Way = Literal["direct", "kernel", "buffered"]

BLOCK = 1 << 20
SLOTS = 4
DIRECT_ALIGNMENT = 4096
WRITEBACK_STEP = 32 << 20
COPY_THREADS = 2  # one waits for memory while the other copies


class Cancelled(Exception):  # noqa: N818 - not an error: another thread failed first
    """Another worker failed; this one stopped."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was written to one file: its sha256 (None when none was asked for) and overflows per tensor."""

    sha256: str | None
    overflows: Mapping[str, int] = field(default_factory=dict)


def needs_cast(file: OutputFile) -> bool:
    """Whether any element of the file changes its type."""
    return any(placed.tensor.dtype != placed.tensor.source_dtype for placed in file.tensors)


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

    def begin_writeback(self, start: int, end: int) -> None:
        """Tell the device to start on bytes already written; DONTNEED drops only pages that are clean."""
        with suppress(OSError, AttributeError):
            os.posix_fadvise(self.descriptor, start, end - start, os.POSIX_FADV_DONTNEED)


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
        position = begun = 0
        try:
            while (item := filled.get()) is not None:
                block, length = item
                _write_block(job.descriptor, block, length, position, direct=direct)
                position += length
                if not direct and position - begun >= WRITEBACK_STEP:
                    job.begin_writeback(begun, position)
                    begun = position
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
    write_all(job.descriptor, memoryview(job.file.header), 0)
    job.progress.advance(len(job.file.header))
    placed: list[tuple[Run, int]] = []
    position = len(job.file.header)
    for run in runs(item.tensor for item in job.file.tensors):
        placed.append((run, position))
        position += _written_length(run)
    if job.checksum:
        written = Watermark()
        follower = Follower(job.descriptor, job.file.size, written)
        try:
            written.rise(len(job.file.header))
            overflows = _copy_runs(job, placed, written.rise)
            return Gathered(follower.result(), overflows)
        finally:
            written.finish()
            follower.join()
    if len(placed) < COPY_THREADS or position < WRITEBACK_STEP:
        return Gathered(None, _copy_runs(job, placed, None))
    return Gathered(None, _copy_in_threads(job, placed, position))


def _copy_in_threads(job: _Job, placed: list[tuple[Run, int]], size: int) -> dict[str, int]:
    """Every thread copies one stretch of the file."""
    parts: list[list[tuple[Run, int]]] = [[] for _ in range(COPY_THREADS)]
    for run, position in placed:
        parts[min(COPY_THREADS - 1, position * COPY_THREADS // size)].append((run, position))
    overflows: dict[str, int] = {}
    failures: list[BaseException] = []
    lock = threading.Lock()
    stop = threading.Event()
    mine = _Job(job.file, job.sources, job.descriptor, False, job.progress, _Either(job.stop, stop))

    def work(part: list[tuple[Run, int]]) -> None:
        try:
            found = _copy_runs(mine, part, None)
            with lock:
                for name, count in found.items():
                    overflows[name] = overflows.get(name, 0) + count
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            with lock:
                failures.append(error)
            stop.set()

    threads = [threading.Thread(target=work, args=(part,), daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        stop.set()
        for thread in threads:
            thread.join()
        raise
    if failures:
        raise next((error for error in failures if not isinstance(error, Cancelled)), failures[0])
    return overflows


class _Either(threading.Event):
    """Set when itself or another event is."""

    def __init__(self, *others: threading.Event) -> None:
        super().__init__()
        self._others = others

    def is_set(self) -> bool:
        return super().is_set() or any(other.is_set() for other in self._others)


def _copy_runs(job: _Job, placed: Iterable[tuple[Run, int]], passed: Callable[[int], None] | None) -> dict[str, int]:
    """Copy runs to their places in order; `passed` is told how far the file is written."""
    filler = Filler(b"", (), job.sources)
    block: memoryview | None = None
    begun = position = -1
    for run, start in placed:
        if begun < 0:
            begun = start
        position = start
        if run.tensor is None:
            with job.sources.use(run.source) as source:
                name = str(job.sources.path(run.source))
                steps = copy_range(source.fileno(), job.descriptor, run.offset, position, run.length, name=name)
                for length in steps:
                    position += length
                    begun = _step(job, length, begun, position, passed)
            continue
        block = block if block is not None else memoryview(bytearray(BLOCK))
        for length in filler.fill_run(run, block):
            write_all(job.descriptor, block[:length], position)
            position += length
            begun = _step(job, length, begun, position, passed)
    return filler.overflows


def _step(job: _Job, length: int, begun: int, position: int, passed: Callable[[int], None] | None) -> int:
    """Account for `length` bytes written up to `position`; returns from where writeback has not begun."""
    if job.stop.is_set():
        raise Cancelled
    job.progress.advance(length)
    if passed is not None:
        passed(position)
    if position - begun < WRITEBACK_STEP:
        return begun
    job.begin_writeback(begun, position)
    return position


def _written_length(run: Run) -> int:
    if run.tensor is None:
        return run.length
    source, target = BY_NAME[run.tensor.source_dtype], BY_NAME[run.tensor.dtype]
    return run.length * target.bits // source.bits
