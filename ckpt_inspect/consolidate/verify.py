"""Is a finished output still what was written? Sizes and checksums of every file, then the shards themselves.

Nothing is skipped silently: the report says how many bytes were covered and what could not be compared.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ckpt_inspect.consolidate.filling import Filler, window
from ckpt_inspect.consolidate.manifest import RECORD, Record, WrittenFile, read_record_of
from ckpt_inspect.consolidate.output import OutputFile, PlacedTensor
from ckpt_inspect.consolidate.positional import read_into
from ckpt_inspect.consolidate.sources import SourceFiles
from ckpt_inspect.errors import CkptInspectError, VerificationError
from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.formats.safetensors_header import read_safetensors_header
from ckpt_inspect.printable import printable
from ckpt_inspect.progress import NullProgress, Progress
from ckpt_inspect.storage import LocalFile

BLOCK = 1 << 20
SAMPLE_BYTES = 4096
SAMPLED_TENSORS = 64
_WEIGHTS = (".safetensors", ".safetensors.index.json")

Shards = Literal["equal", "differ", "missing", "changed", "unreadable", "not compared"]


@dataclass(slots=True)
class Verification:
    """What was found: `problems` fail the verification, `notes` say what was not covered.

    `shards`: "equal" when every byte was compared with the shards; "missing", "changed" or "unreadable" when they could
    not be; "not compared" when nobody asked, or something else was wrong before.
    """

    directory: str
    files: int = 0
    bytes_covered: int = 0
    tensors: int = 0
    shards: Shards = "not compared"
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def check(self) -> None:
        """Raise when something is wrong.

        Raises:
            VerificationError: names the first problem and how many more there are.
        """
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            raise VerificationError(
                self.problems[0] + more, where=self.directory, remedy="consolidate again with --replace"
            )


def verify_output(directory: Path, *, shards: bool = True, progress: Progress | None = None) -> Verification:
    """Check an output against its record, and against the shards it was made from where they are still there.

    Raises:
        NotAFormatError: the directory holds no record.
        VerificationError: the record itself cannot be understood.
    """
    progress = progress or NullProgress()
    record, raw = read_record_of(directory)
    report = Verification(str(directory))
    if not record.sealed:
        report.problems.append(f"{RECORD} was changed after it was written")
    report.bytes_covered += len(raw)
    progress.start(sum(file.size for file in record.files), "bytes", "checking")
    try:
        for file in record.files:
            _check_file(directory, file, report, progress)
    finally:
        progress.finish()
    _check_extra(directory, record, report)
    if report.ok:
        _check_headers(directory, record, report)
    if shards and report.ok:
        _compare_with_shards(directory, record, report, progress)
    return report


def _check_file(directory: Path, file: WrittenFile, report: Verification, progress: Progress) -> None:
    shown = printable(file.name)
    if not _is_plain_name(file.name):
        report.problems.append(f"{RECORD} names a file outside the directory: {shown}")
        return
    path = directory / file.name
    try:
        if stat.S_ISLNK(os.lstat(path).st_mode):
            report.problems.append(f"{shown} is a link")
            return
        with LocalFile(path) as opened:
            if opened.size != file.size:
                report.problems.append(f"{shown} has {opened.size} bytes, {file.size} were written")
                return
            if file.sha256 is None:
                report.notes.append(f"{shown} was written without a checksum")
                return
            digest = hash_file(opened, progress)
    except CkptInspectError as error:
        report.problems.append(f"{shown}: {error.what}")
        return
    except OSError as error:
        report.problems.append(f"{shown}: {error.strerror}")
        return
    report.files += 1
    report.bytes_covered += file.size
    if digest != file.sha256:
        report.problems.append(f"{shown} was changed: its sha256 is {digest}, {file.sha256} was written")


def hash_file(file: LocalFile, progress: Progress | None = None) -> str:
    """The sha256 of a file, read block by block.

    Raises:
        UnreadableError: it cannot be read to its end.
    """
    digest = hashlib.sha256()
    block = memoryview(bytearray(BLOCK))
    position = 0
    while position < file.size:
        count = min(BLOCK, file.size - position)
        read_into(file.fileno(), block[:count], position, name=file.name)
        digest.update(block[:count])
        position += count
        if progress is not None:
            progress.advance(count)
    return digest.hexdigest()


def _check_extra(directory: Path, record: Record, report: Verification) -> None:
    known = {file.name for file in record.files} | {RECORD}
    for found in sorted(_names(directory)):
        if found in known:
            continue
        if found.endswith(_WEIGHTS):
            report.problems.append(f"{printable(found)} was added: a loader might read it")
        else:
            report.notes.append(f"{printable(found)} was added after the output was written")


def _names(directory: Path) -> Iterator[str]:
    for where, _, files in os.walk(directory):
        for name in files:
            yield (Path(where) / name).relative_to(directory).as_posix()


def _check_headers(directory: Path, record: Record, report: Verification) -> None:
    """The tensors the files say they hold are those of the record."""
    for name, placed in _by_file(directory, record).items():
        with LocalFile(directory / name) as file:
            header = read_safetensors_header(file)
        held = {tensor.name: (tensor.dtype, tensor.shape) for tensor in header.tensors}
        wanted = {item.tensor.name: (item.tensor.dtype, item.tensor.shape) for item in placed}
        if held != wanted:
            odd = next(iter(sorted(set(held.items()) ^ set(wanted.items()))))[0]
            report.problems.append(f"{printable(name)} and {RECORD} disagree about tensor {printable(odd)}")
        report.tensors += len(held)


def _by_file(directory: Path, record: Record) -> dict[str, list[PlacedTensor]]:
    """The recorded tensors of every weight file at their places."""
    out: dict[str, list[PlacedTensor]] = {file.name: [] for file in record.files if file.name.endswith(".safetensors")}
    for recorded in record.tensors:
        placed = out.setdefault(recorded.file, [])
        placed.append(PlacedTensor(recorded.tensor, placed[-1].end if placed else 0))
    return out


def _compare_with_shards(directory: Path, record: Record, report: Verification, progress: Progress) -> None:
    if record.document.get("engine") != "native":
        report.notes.append("written by another engine: there is no plan to compare with the shards")
        return
    first = record.sources[0].path if record.sources else ""
    root = next((root for root in record.source_roots if first and (root / first).is_file()), None)
    if root is None:
        report.shards = "missing"
        report.notes.append("the shards are no longer there: only the checksums were compared")
        return
    touched = False
    for source in record.sources:
        try:
            status = os.stat(root / source.path)
        except OSError:
            report.shards = "missing"
            report.notes.append(f"{printable(source.path)} is no longer there: the shards were not compared")
            return
        if status.st_size != source.size:
            report.shards = "changed"
            report.notes.append(f"{printable(source.path)} has another size now: the shards were not compared")
            return
        touched = touched or status.st_mtime_ns != source.mtime_ns
    sources = SourceFiles(root, record.sources, check_times=False)
    total = sum(recorded.tensor.nbytes for recorded in record.tensors)
    progress.start(total, "bytes", "comparing with the shards")
    differing: str | None = None
    try:
        with closing(sources):
            for name, placed in _by_file(directory, record).items():
                with LocalFile(directory / name) as file:
                    differing = differing or _first_difference(file, placed, sources, progress)
    except CkptInspectError as error:
        report.shards = "unreadable"
        report.notes.append(f"the shards cannot be read: {printable(str(error), 300)}")
        return
    finally:
        progress.finish()
    if differing is None:
        report.shards = "equal"
    elif touched:
        report.shards = "changed"
        report.notes.append(f"the shards were written again since: {printable(differing)} differs")
    else:
        report.shards = "differ"
        report.problems.append(f"tensor {printable(differing)} differs from the shards")


def _first_difference(
    file: LocalFile, placed: Sequence[PlacedTensor], sources: SourceFiles, progress: Progress
) -> str | None:
    """The first tensor of a file whose bytes are not those its plan gives."""
    start = file.size - (placed[-1].end if placed else 0)
    expected, found = bytearray(BLOCK), bytearray(BLOCK)
    for item in placed:
        filler = Filler(b"", (item.tensor,), sources)
        position = start + item.begin
        while (count := filler.fill(memoryview(expected))) > 0:
            read_into(file.fileno(), memoryview(found)[:count], position, name=file.name)
            if expected[:count] != found[:count]:
                return item.tensor.name
            position += count
            progress.advance(count)
    return None


def reread(directory: Path, files: Sequence[OutputFile], written: Sequence[WrittenFile], sources: SourceFiles,
           *, complete: bool, progress: Progress) -> None:  # fmt: skip
    """Read back what was just written: header and samples of every file, or with `complete` all of it.

    The cached pages are dropped first where the system lets us, so that the device answers.

    Raises:
        VerificationError: what comes back is not what was written.
    """
    sums = {file.name: file for file in written}
    for output in files:
        with LocalFile(directory / output.name) as file:
            with suppress(OSError, AttributeError):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if file.size != output.size or file.read_at(0, len(output.header)) != output.header:
                raise VerificationError(
                    "the header read back is not the one written", where=str(directory / output.name)
                )
            wanted = sums[output.name].sha256
            if complete and wanted is not None:
                if hash_file(file, progress) != wanted:
                    raise VerificationError("the bytes read back are not those written", where=file.name)
            elif complete:
                differing = _first_difference(file, output.tensors, sources, progress)
                if differing is not None:
                    raise VerificationError(f"tensor {printable(differing)} was not written right", where=file.name)
            else:
                _check_samples(file, output, sources)


def _check_samples(file: LocalFile, output: OutputFile, sources: SourceFiles) -> None:
    step = max(1, len(output.tensors) // SAMPLED_TENSORS)
    for number, item in enumerate(output.tensors[::step]):
        tensor = item.tensor
        size = BY_NAME[tensor.dtype].bits // 8
        if tensor.nbytes == 0 or BY_NAME[tensor.dtype].bits % 8:
            continue
        count = min(tensor.elements, SAMPLE_BYTES // size)
        first = (tensor.elements - count) * (number % 3) // 2  # begin, middle and end in turn
        block = bytearray(count * size)
        Filler(b"", (window(tensor, first, count),), sources).fill(memoryview(block))
        if file.read_at(len(output.header) + item.begin + first * size, len(block)) != block:
            raise VerificationError(f"tensor {printable(tensor.name)} was not written right", where=file.name)


def _is_plain_name(name: str) -> bool:
    parts = name.split("/")
    return bool(name) and not name.startswith("/") and "\\" not in name and all(p not in ("", ".", "..") for p in parts)
