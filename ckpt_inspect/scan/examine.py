"""Looks at one file by its bytes and hands each part to whoever knows its format, with one budget for all of it."""

from __future__ import annotations

import re

from ckpt_inspect.formats.pickle_machine import run_pickle
from ckpt_inspect.formats.pickle_program import PickleProgram
from ckpt_inspect.formats.sniff import sniff
from ckpt_inspect.formats.torch_archive import open_torch
from ckpt_inspect.formats.torch_opened import TorchArchive
from ckpt_inspect.formats.zip_directory import split_archives
from ckpt_inspect.formats.zip_end import last_archive_start
from ckpt_inspect.scan.archives import scan_compressed, scan_numpy, scan_tar, scan_zip
from ckpt_inspect.scan.collector import Collector, LimitReachedError
from ckpt_inspect.scan.documents import scan_gguf, scan_hdf5, scan_json, scan_safetensors, scan_template, scan_text
from ckpt_inspect.scan.programs import ProgramJudge
from ckpt_inspect.scan.streams import OPENERS, judge_program, scan_hidden, scan_stream
from ckpt_inspect.scan.tiers import Expectation
from ckpt_inspect.scan.weights_only import WeightsOnly, weights_only
from ckpt_inspect.storage import ByteSource, SliceSource

_TORCH = frozenset({"zip", "legacy-torch", "pickle"})
_UNREADABLE_ARCHIVES = {"7z": "dangerous", "rar": "dangerous", "zstd": "suspicious", "lz4": "suspicious"}
_COMPRESSED = frozenset({"gzip", "bzip2", "xz", "zlib", "lzma"})
_LOOKED_INTO = frozenset({"safetensors", "gguf", "tar"})
"""Formats that may begin with opcodes of a pickle: a length, a name, letters."""
_PROGRAMS = (b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"\xfe\xed\xfa\xcf")
_TEXT_SAMPLE = 4096
_SAFE_NAMES = re.compile(r"\.(?:safetensors|json|jsonl|txt|md|ya?ml|png|jinja|csv|html)\Z", re.IGNORECASE)
_LOADED_NAMES = re.compile(
    r"\.(?:pkl|pickle|p|pt|pth|ckpt|bin|th|joblib|dill|metadata|distcp|npy|npz)\Z", re.IGNORECASE
)
_OLD_JOBLIB = re.compile(rb"ZF(?:0x[0-9a-f]+) *(?=\x78[\x01\x5e\x9c\xda])")  # joblib/numpy_pickle_compat.py
_CODE_FORMATS = frozenset({"pickle", "legacy-torch", "zip", "7z", "rar", "tar", "gzip", "bzip2", "xz", "zlib", "lzma"})


class Examiner:
    """Examines one file. After :meth:`examine`, `format` is what it is and `loads` answers for weights_only, where asked for."""

    def __init__(
        self, collector: Collector, expectation: Expectation | None, name: str = "", *, loads: bool = True
    ) -> None:
        self._ask_torch = loads
        self._collector = collector
        self._expectation = expectation
        self._name = name
        self.format = "unknown"
        self.loads = WeightsOnly(None)

    def examine(self, source: ByteSource) -> None:
        """Add everything about the file to the collector."""
        self.format = sniff(source)
        try:
            self._part(source, "", 0, sure=True)
        except LimitReachedError:
            self._collector.note("scan-limit", "suspicious", "scanning took longer than a file is given")
            self._collector.cover("partial")
        if self.format in _CODE_FORMATS and _SAFE_NAMES.search(self._name):
            self._collector.note(
                "scan-extension", "suspicious", f"the name says something else, the content is {self.format}"
            )

    def _part(self, source: ByteSource, place: str, depth: int, *, sure: bool = True) -> None:
        collector = self._collector
        collector.tick()
        if source.size == 0:
            return
        kind = self.format if depth == 0 else sniff(source)
        if depth > collector.limits.nesting:
            if kind in _CODE_FORMATS or kind in _UNREADABLE_ARCHIVES:
                collector.note("scan-nesting", "suspicious", "archives lie deeper than they are followed", place=place)
                collector.cover("partial")
            return
        if kind == "pickle" and depth == 0 and self._may_be_text(source):
            self.format = kind = "unknown"
        if kind in _TORCH:
            self._torch(kind, source, place, depth, sure=sure)
        elif kind == "tar":
            collector.note("torch-tar", "known", "a tar, as torch 0.1 wrote", place=place)
            if depth == 0:
                self.loads = WeightsOnly(False, "it is a tar, which only versions before 2.6 load")
            scan_tar(source, collector, self._part, place, depth)
        elif kind in _COMPRESSED:
            self._compressed(kind, source, place, depth, sure=sure)
        elif kind in _UNREADABLE_ARCHIVES:
            if sure:
                verdict = "dangerous" if _UNREADABLE_ARCHIVES[kind] == "dangerous" else "suspicious"
                message = f"the content is a {kind} archive, which is not read here"
                collector.note("scan-archive", verdict, message, place=place)  # type: ignore[arg-type]
                collector.cover("partial")
        elif kind == "numpy":
            scan_numpy(source, collector, self._part, place, depth)
        elif kind == "safetensors":
            if sure or depth == 0:
                scan_safetensors(source, collector, place)
        elif kind == "json":
            scan_json(source, collector, place, self._name if depth == 0 else place)
        elif kind == "elf":
            if sure:
                collector.note("scan-executable", "suspicious", "a program of an operating system", place=place)
        elif kind == "gguf":
            scan_gguf(source, collector, place)
        elif kind == "unknown":
            self._unknown(source, place, depth, sure=sure)
        elif kind == "zeros":
            if sure:
                collector.note(
                    "torch-zeros", "unknown", "the content begins with zeros and was never written", place=place
                )
                collector.cover("malformed")
        elif kind == "hdf5":
            scan_hdf5(source, collector, place)
        elif kind == "html":
            scan_text(source, collector, place)
        if kind not in ("zip", "unknown") and kind not in _COMPRESSED:
            self._second_identity(kind, source, place, depth)

    def _may_be_text(self, source: ByteSource) -> bool:
        """Whether it only looks like a pickle of protocol 0: a list of words that begins "cat", "dog" does."""
        return source.read_at(0, 1) != b"\x80" and _LOADED_NAMES.search(self._name) is None

    def _torch(self, kind: str, source: ByteSource, place: str, depth: int, *, sure: bool) -> None:
        collector = self._collector
        if not sure:
            judge = ProgramJudge(collector, None)
            if kind == "zip":
                scan_zip(source, collector, self._part, place, depth)
            else:
                scan_hidden(source, collector, judge, self._part, place, depth)
            return
        if kind == "zip":
            parts = split_archives(source)
            if len(parts) > 1:
                for part in parts:
                    self._zip(part, f"{place}{part.name[part.name.rindex('@') :]}", depth)
                return
            self._zip(source, place, depth)
            return
        archive = open_torch(source)
        # Outside torch's own files a tensor brings its storage as a nested torch file, not as a persistent id.
        plain = kind == "pickle" and any(_loads_bytes(program) for program in archive.programs)
        for fault in archive.faults:
            if not fault.kind.startswith("pickle-") and not (plain and fault.kind == "torch-tensor-arguments"):
                collector.note_fault(fault, place)
        judge = ProgramJudge(collector, self._expectation, legacy=kind == "legacy-torch")
        end = _storages_end(archive, source) if kind == "legacy-torch" else None
        scan_stream(source, collector, judge, self._part, place, depth, programs=archive.programs, storages_end=end)
        if depth == 0 and self._ask_torch:
            self.loads = weights_only(archive, source)

    def _zip(self, source: ByteSource, place: str, depth: int) -> None:
        collector = self._collector
        archive = open_torch(source)
        for fault in archive.faults:
            if not fault.kind.startswith("pickle-"):
                collector.note_fault(fault, place)
        judge = ProgramJudge(collector, self._expectation, torchscript=archive.era == "torchscript")
        judged = self._judge_records(archive, source, judge, place, depth)
        scan_zip(
            source,
            collector,
            self._part,
            place,
            depth,
            directory=archive.directory,
            skip=judged,
            faults=False,
        )
        if depth == 0 and self._ask_torch:
            content = _record(archive, source)
            self.loads = weights_only(archive, content)

    def _judge_records(
        self, archive: TorchArchive, source: ByteSource, judge: ProgramJudge, place: str, depth: int
    ) -> frozenset[int]:
        """Judge the pickles that opening the archive has already read; the indexes of their members."""
        directory = archive.directory
        if directory is None or archive.era not in ("zip", "torchscript"):
            return frozenset()
        judged: set[int] = set()
        root = f"{archive.root}/" if archive.root else ""
        for name, program in zip(("data.pkl", "constants.pkl"), archive.programs, strict=False):
            member = directory.find(root + name)
            content = _record(archive, source, name)
            if member is None or content is None:
                continue
            inside = f"{place}!{member.name}" if place else member.name
            self._judge(program, content, judge, inside, depth)
            judged.add(member.index)
        return frozenset(judged)

    def _judge(self, program: PickleProgram, content: ByteSource, judge: ProgramJudge, place: str, depth: int) -> None:
        scan_stream(content, self._collector, judge, self._part, place, depth + 1, programs=(program,))

    def _compressed(self, kind: str, source: ByteSource, place: str, depth: int, *, sure: bool) -> None:
        if not sure:
            probe = Collector(self._collector.limits)
            scan_compressed(kind, source, probe, lambda *_, **__: None, place, depth)
            if probe.coverage != "complete":
                return
        else:
            self._collector.note("scan-compressed", "known", f"the content is compressed ({kind})", place=place)
        scan_compressed(kind, source, self._collector, self._part, place, depth)

    def _unknown(self, source: ByteSource, place: str, depth: int, *, sure: bool) -> None:
        collector = self._collector
        head = source.read_at(0, _TEXT_SAMPLE)
        packed = _older_compression(head)
        if packed is not None and sure:
            kind, skipped = packed
            if depth == 0:
                self.format = kind
            self._compressed(kind, SliceSource(source, skipped, source.size - skipped), place, depth, sure=True)
            return
        if scan_hidden(source, collector, ProgramJudge(collector, None), self._part, place, depth):
            if depth == 0:
                self.format = "pickle"
            return
        if (sure or depth == 0) and _is_program(head):
            collector.note("scan-executable", "suspicious", "a program of an operating system", place=place)
            return
        if not sure:
            return
        name = self._name if depth == 0 else place
        if depth == 0 and _LOADED_NAMES.search(name):
            self._misnamed(source, head)
        elif name.endswith(".safetensors"):
            scan_safetensors(source, collector, place)
        elif name.endswith(".json"):
            scan_json(source, collector, place, name)
        elif name.endswith(".jinja"):
            scan_template(source, collector, place)
        else:
            scan_text(source, collector, place, name)

    def _misnamed(self, source: ByteSource, head: bytes) -> None:
        """Bytes of no known format under a name that loaders unpickle: read them as what the loader takes them for."""
        collector = self._collector
        collector.note(
            "scan-no-format", "unknown", "the name is one that is unpickled, the content is of no known format"
        )
        collector.cover("malformed")
        if head[:1] and head[0] in OPENERS:
            judge = ProgramJudge(collector, self._expectation)
            judge_program(run_pickle(source), source, collector, judge, self._part, "", 0)
        scan_text(source, collector, "")

    def _second_identity(self, kind: str, source: ByteSource, place: str, depth: int) -> None:
        """Two programs would load two things from one file: a pickle whose first argument another format's head is, and a
        zip that ends where another format began."""
        if kind in _LOOKED_INTO and scan_hidden(
            source, self._collector, ProgramJudge(self._collector), self._part, place, depth
        ):
            self._collector.note("scan-polyglot", "suspicious", f"is {kind} and a pickle as well", place=place)
        start = last_archive_start(source)
        if start is None:
            return
        self._collector.note(
            "scan-polyglot", "suspicious", f"begins as {kind} and ends as a zip archive", place=place, offset=start
        )
        part = SliceSource(source, start, source.size - start)
        self._part(part, f"{place}@{start}", depth + 1)


def _loads_bytes(program: PickleProgram) -> bool:
    return any(found.dotted == "torch.storage._load_from_bytes" for found in program.globals)


def _older_compression(head: bytes) -> tuple[str, int] | None:
    """Compression that joblib reads and that has hardly a mark of its own: LZMA alone, and zlib behind its old header."""
    if head.startswith(b"\x5d\x00\x00") and len(head) > 13:
        return "lzma", 0
    old = _OLD_JOBLIB.match(head)
    return ("zlib", old.end()) if old is not None else None


def _is_program(head: bytes) -> bool:
    return head.startswith(_PROGRAMS) and (head[:2] != b"MZ" or b"PE\x00\x00" in head)


def _storages_end(archive: TorchArchive, source: ByteSource) -> int:
    """Where the raw storages of a legacy stream end; the end of the file where one of them could not be followed."""
    if any(storage.file_offset is None for storage in archive.storages.values()):
        return source.size
    ends = [
        storage.file_offset + storage.nbytes for storage in archive.storages.values() if storage.file_offset is not None
    ]
    last = archive.programs[-1].end if archive.programs else 0
    return max([last, *ends])


def _record(archive: TorchArchive, source: ByteSource, name: str = "data.pkl") -> ByteSource | None:
    """A record of a torch zip, None where it cannot be read."""
    from ckpt_inspect.formats.fault_log import FormatLimitError
    from ckpt_inspect.formats.zip_content import member_source

    if archive.directory is None:
        return None
    root = f"{archive.root}/" if archive.root else ""
    member = archive.directory.find(root + name)
    if member is None:
        return None
    try:
        return member_source(source, member)
    except FormatLimitError:
        return None


__all__ = ["Examiner", "judge_program"]
