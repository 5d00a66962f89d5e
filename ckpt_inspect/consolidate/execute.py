"""Carry a composition out: stage, gather with a few threads, read back, record, commit."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ckpt_inspect.consolidate.commit import NoSpaceError, Staging
from ckpt_inspect.consolidate.compose import Composition
from ckpt_inspect.consolidate.gather import Cancelled, Gathered, gather, needs_cast
from ckpt_inspect.consolidate.interrupts import deferred_while_cleaning, signals_as_errors
from ckpt_inspect.consolidate.manifest import RECORD, RecordDraft, WrittenFile, build_record
from ckpt_inspect.consolidate.output import OutputFile
from ckpt_inspect.consolidate.plan import Plan
from ckpt_inspect.consolidate.sidecars import Sidecar
from ckpt_inspect.consolidate.sources import SourceFiles
from ckpt_inspect.consolidate.verify import reread
from ckpt_inspect.errors import OutputError
from ckpt_inspect.printable import printable
from ckpt_inspect.progress import NullProgress, Progress, SharedProgress

MOST_WORKERS = 4
_RECORD_ESTIMATE = 1 << 20
_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


@dataclass(frozen=True, slots=True)
class Written:
    """What is there now: every file with its checksum, overflows per tensor, remarks about the commit."""

    files: tuple[WrittenFile, ...]
    overflows: Mapping[str, int]
    warnings: tuple[str, ...]


def execute(
    plan: Plan,
    composition: Composition,
    target: Path,
    *,
    dtype: str,
    replace: bool = False,
    jobs: int | None = None,
    verify: bool = False,
    checksum: bool = True,
    progress: Progress | None = None,
) -> Written:
    """Write `composition` to `target` in one step.

    Args:
        plan: where the bytes come from.
        composition: what to write.
        target: the directory to make.
        dtype: torch's name of the floating type written, for the record.
        replace: exchange an earlier output for the new one.
        jobs: weight files written at the same time; by default as many as there are processors, at most 4.
        verify: read everything back, not only headers and samples.
        checksum: compute the sha256 of every file.
        progress: told of bytes gathered.

    Raises:
        OutputError: the output exists, is being written by another process, or cannot be written.
        SourceChangedError: a shard changed while it was read.
        UnreadableError: a shard cannot be read.
        VerificationError: what was written does not read back.
    """
    progress = SharedProgress(progress or NullProgress())
    with signals_as_errors(), Staging(target, replace=replace) as staging, deferred_while_cleaning():
        try:
            staging.reserve(composition.size + _RECORD_ESTIMATE)
            with closing(SourceFiles(Path(plan.root), composition.sources)) as sources:
                sources.check_unchanged()
                small = write_small(composition, staging)
                progress.start(sum(file.size for file in composition.files), "bytes", "writing")
                try:
                    gathered = _gather_all(composition.files, sources, staging, jobs, checksum, progress)
                finally:
                    progress.finish()
                sources.check_unchanged()
                weights = [
                    WrittenFile(file.name, file.size, done.sha256)
                    for file, done in zip(composition.files, gathered, strict=True)
                ]
                _read_back(composition, staging, weights, sources, progress, complete=verify)
            overflows = {name: count for done in gathered for name, count in done.overflows.items()}
            warnings = (*plan.warnings, *composition.warnings, *overflow_warnings(overflows, dtype), *staging.warnings)
            files = (*weights, *small)
            draft = RecordDraft(plan, composition, target, "native", dtype, files, overflows, warnings)
            staging.write(RECORD, build_record(draft))
            before = len(staging.warnings)
            staging.commit()
        except OSError as error:
            raise as_output_error(error, target, composition.size) from error
    return Written(files, overflows, (*warnings, *staging.warnings[before:]))


def overflow_warnings(overflows: Mapping[str, int], dtype: str) -> list[str]:
    """One line for all values that were finite and are not any more."""
    if not overflows:
        return []
    name, count = max(overflows.items(), key=lambda item: item[1])
    remedy = "; bfloat16 keeps the range of float32" if dtype == "float16" else ""
    return [
        f"{sum(overflows.values())} values of {len(overflows)} tensors are too large for {dtype} and became infinite "
        f"(most in {printable(name)}: {count}){remedy}"
    ]


def as_output_error(error: OSError, target: Path, size: int) -> OutputError:
    """What a failed write means to a person."""
    if error.errno in _FULL:
        return NoSpaceError(
            f"no space left while writing {size} bytes; nothing was left behind",
            where=str(target.parent),
            remedy="free some, or choose another place with -o",
        )
    if error.errno == errno.EFBIG:
        return OutputError(
            "a file would become larger than the file system or ulimit -f allows; nothing was left behind",
            where=str(target),
            remedy="write smaller files with --max-shard-size",
        )
    if error.errno == errno.EROFS:
        return OutputError("the file system is read-only", where=str(target.parent), remedy="choose another with -o")
    return OutputError(
        f"cannot write: {error.strerror or type(error).__name__}; nothing was left behind",
        where=str(target),
        remedy="choose another place with -o",
    )


def _gather_all(
    files: tuple[OutputFile, ...],
    sources: SourceFiles,
    staging: Staging,
    jobs: int | None,
    checksum: bool,
    progress: Progress,
) -> list[Gathered]:
    stop = threading.Event()
    workers = max(1, min(jobs or os.cpu_count() or 1, MOST_WORKERS if jobs is None else jobs, len(files)))

    def work(file: OutputFile) -> Gathered:
        if stop.is_set():
            raise Cancelled
        descriptor, way = staging.create(file.name, file.size, direct=not needs_cast(file))
        try:
            done = gather(file, sources, descriptor, way=way, checksum=checksum, progress=progress, stop=stop)
            os.fsync(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # some file systems report a failed write only here
        return done

    if workers == 1:
        return [work(file) for file in files]
    from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, file) for file in files]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    for future in futures:
        if not future.cancelled() and future.exception() is not None and not isinstance(future.exception(), Cancelled):
            future.result()
    return [future.result() for future in futures]


def write_small(composition: Composition, staging: Staging) -> list[WrittenFile]:
    """Configuration, tokenizer and the like; every file whole and on the device when this returns."""
    written: list[WrittenFile] = []

    def write(name: str, data: bytes) -> None:
        staging.write(name, data)
        written.append(WrittenFile(name, len(data), hashlib.sha256(data).hexdigest()))

    for name, data in composition.documents.items():
        write(name, data)
    for copy in composition.copies:
        write(copy.name, _content(copy))
    return written


def _content(copy: Sidecar) -> bytes:
    data = copy.read()
    if len(data) != copy.size:
        raise OutputError(f"{printable(copy.path)} changed while it was copied", where=str(copy.tree.root))
    return data


def _read_back(
    composition: Composition,
    staging: Staging,
    weights: list[WrittenFile],
    sources: SourceFiles,
    progress: Progress,
    *,
    complete: bool,
) -> None:
    if complete:
        progress.start(sum(file.size for file in weights), "bytes", "reading back")
    try:
        reread(staging.path, composition.files, weights, sources, complete=complete, progress=progress)
    finally:
        if complete:
            progress.finish()
