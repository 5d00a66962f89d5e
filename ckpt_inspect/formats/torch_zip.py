"""Torch's zip archives, from torch 1.4 on, and TorchScript's.

``torch/serialization.py`` `_save` and ``caffe2/serialize/inline_container.cc``. Members below one root directory:
``data.pkl``, ``data/<key>``, ``version``; ``byteorder`` from torch 2.0, ``.format_version``, ``.storage_alignment``
and ``.data/serialization_id`` from later ones. TorchScript adds ``constants.pkl`` and ``code/``.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ckpt_inspect.formats.fault_log import FaultLog, FormatLimitError
from ckpt_inspect.formats.pickle_machine import PickleLimits, PickleProgram, run_pickle
from ckpt_inspect.formats.pickle_memory import PickleMemory
from ckpt_inspect.formats.sniff import sniff
from ckpt_inspect.formats.torch_opened import Byteorder, TorchArchive
from ckpt_inspect.formats.torch_storages import claimed_storages
from ckpt_inspect.formats.torch_types import Storage
from ckpt_inspect.formats.zip_content import InflateBudget, member_source
from ckpt_inspect.formats.zip_directory import ZipDirectory, ZipMember, read_zip_directory
from ckpt_inspect.storage import ByteSource

_ORDINARY = re.compile(
    r"(?:data\.pkl|constants\.pkl|version|byteorder|\.format_version|\.storage_alignment|model\.json"
    r"|(?:data|constants|\.data|code|extra)/.*|[^/]*\.debug_pkl|bytecode\.pkl|mobile_debug_handles\.pkl|attributes\.pkl|traced_inputs\.pkl)\Z",
    re.DOTALL,
)
_CONTAINERS = frozenset({"zip", "pickle", "legacy-torch", "tar", "gzip", "bzip2", "xz", "7z", "rar", "zstd", "lz4"})
_SCRIPT_PICKLES = ("constants.pkl", "bytecode.pkl", "traced_inputs.pkl", "attributes.pkl", "mobile_debug_handles.pkl")
_MAX_EXTRA_LOOKED_AT = 64
# kMinSupportedFileFormatVersion and kMaxSupportedFileFormatVersion of caffe2/serialize/versions.h
_VERSIONS = range(1, 11)


def open_zip(source: ByteSource, limits: PickleLimits, memory: PickleMemory | None = None) -> TorchArchive:
    """Open a zip; one without ``data.pkl`` has era "unknown"."""
    log = FaultLog()
    directory = read_zip_directory(source)
    root = _root(directory, log)
    budget = InflateBudget()
    program = _run(source, directory, f"{root}data.pkl", budget, limits, log, memory)
    if program is None:
        if not directory.find(f"{root}data.pkl"):
            log.add("torch-no-data-pkl", "the archive holds no data.pkl, so torch.load does not read it")
        log.extend(directory.faults)
        return TorchArchive(
            "unknown", sniffed="zip", file_size=source.size, root=root, directory=directory, faults=log.sealed()
        )
    storages = claimed_storages(program.events, log)
    if not directory.complete:
        sizes = {f"data/{key}": storage.nbytes for key, storage in storages.items()}
        directory = read_zip_directory(source, sizes)
    log.extend(directory.faults)
    script = directory.find(f"{root}constants.pkl") is not None
    others = [_run(source, directory, f"{root}{name}", budget, limits, log) for name in _SCRIPT_PICKLES if script]
    placed = _placed(source, directory, root, storages, log)
    if not directory.complete:
        _note_truncation(source, placed, log)
    _check_records(source, directory, root, log)
    member = directory.find(f"{root}data.pkl")
    _check_unreferenced(directory, root, storages, program, log)
    return TorchArchive(
        "torchscript" if script else "zip",
        sniffed="zip",
        file_size=source.size,
        main=program,
        programs=(program, *(other for other in others if other is not None)),
        root=root.rstrip("/"),
        byteorder=_byteorder(source, directory, root, log),
        storages=placed,
        directory=directory,
        faults=log.sealed(),
        format_version=_small(source, directory, f"{root}.format_version"),
        program_offset=member.data_offset if member is not None and member.stored else None,
    )


def _root(directory: ZipDirectory, log: FaultLog) -> str:
    """The directory inside, with its slash: that of the first member, as torch's reader takes it."""
    with_pickle = [m.name[: -len("data.pkl")] for m in directory.members if m.name.endswith(("/data.pkl",))]
    roots = list(dict.fromkeys(root for root in with_pickle if root.count("/") == 1))
    first = directory.members[0].name.partition("/") if directory.members else ("", "", "")
    root = first[0] + first[1] if first[1] else ""
    if len(roots) > 1:
        log.add("torch-two-roots", f"{len(roots)} directories inside each hold a data.pkl; torch reads the first")
    if f"{root}data.pkl" not in {f"{name}data.pkl" for name in roots} and roots:
        log.add("torch-root", "the first member is not in the directory of data.pkl; torch does not load it")
        return roots[0]
    return root


def _run(
    source: ByteSource,
    directory: ZipDirectory,
    name: str,
    budget: InflateBudget,
    limits: PickleLimits,
    log: FaultLog,
    memory: PickleMemory | None = None,
) -> PickleProgram | None:
    member = directory.find(name)
    if member is None:
        return None
    try:
        content = member_source(source, member, budget)
    except FormatLimitError as error:
        log.extend([error.fault])
        return None
    if member.method != 0:
        log.add("torch-compressed", "data.pkl is compressed: somebody packed the archive again", place=name)
    program = run_pickle(content, limits=limits) if memory is None else memory.run(content, limits)
    if program.end < content.size and program.coverage == "complete":
        log.add("torch-pickle-trailing", f"{content.size - program.end} bytes follow the pickle", place=name)
    return program


def _small(source: ByteSource, directory: ZipDirectory, name: str) -> str | None:
    """A record of a few bytes as text."""
    member = directory.find(name)
    if member is None or member.size > 64:
        return None
    try:
        return member_source(source, member).read_at(0, 64).decode("latin-1")
    except FormatLimitError:
        return None


def _byteorder(source: ByteSource, directory: ZipDirectory, root: str, log: FaultLog) -> Byteorder:
    stated = _small(source, directory, f"{root}byteorder")
    if stated == "big":
        return "big"
    if stated not in (None, "little"):
        log.add("torch-byteorder", "the byteorder record says neither little nor big", place=f"{root}byteorder")
    return "little"


def _check_records(source: ByteSource, directory: ZipDirectory, root: str, log: FaultLog) -> None:
    version = _small(source, directory, f"{root}version") or _small(source, directory, f"{root}.data/version")
    if version is None and directory.complete:
        log.add("torch-version", "the archive has no version record; torch does not load it")
    elif version is not None:
        number = version.strip()
        if not (number.isascii() and number.isdigit()) or len(number) > 4 or int(number) not in _VERSIONS:
            log.add("torch-version", "the version record names no version torch has written", place=f"{root}version")
    looked_at = 0
    for member in directory.members:
        inside = member.name[len(root) :]
        if member.name.startswith(root) and _ORDINARY.match(inside):
            if not inside.startswith("extra/"):
                continue
        else:
            log.add("torch-extra-member", "a member no torch writes", offset=member.header_offset, place=member.name)
        looked_at += 1
        if looked_at <= _MAX_EXTRA_LOOKED_AT and member.stored and member.size:
            inner = sniff(member_source(source, member))
            if inner in _CONTAINERS:
                message = f"a {inner} file lies inside the archive"
                log.add("zip-nested", message, offset=member.header_offset, place=member.name)


def _placed(
    source: ByteSource, directory: ZipDirectory, root: str, storages: dict[str, Storage], log: FaultLog
) -> dict[str, Storage]:
    """The storages with their offsets; a record of another size, or none, is noted and gets no offset."""
    placed: dict[str, Storage] = {}
    for key, storage in storages.items():
        member = directory.find(f"{root}data/{key}")
        placed[key] = storage
        if member is None:
            if storage.location != "meta" and directory.complete:
                log.add("torch-storage-missing", "the pickle names a storage the archive does not hold", place=key)
            continue
        if member.size != storage.nbytes:
            message = f"the pickle says {storage.nbytes} bytes, the record has {member.size}"
            if directory.complete or member.end <= source.size:
                log.add("torch-storage-size", message, offset=member.header_offset, place=key)
            continue
        if member.stored:
            placed[key] = replace(storage, file_offset=member.data_offset)
        else:
            _note_unaddressable(member, key, log)
    return placed


def _note_unaddressable(member: ZipMember, key: str, log: FaultLog) -> None:
    message = "the storage is compressed or encrypted; its bytes have no place in the file"
    log.add("torch-compressed", message, offset=member.header_offset, place=key)


def _note_truncation(source: ByteSource, storages: dict[str, Storage], log: FaultLog) -> None:
    wanted = sum(storage.nbytes for storage in storages.values())
    whole = [s for s in storages.values() if s.file_offset is not None and s.file_offset + s.nbytes <= source.size]
    message = f"{len(whole)} of {len(storages)} storages are whole; the file has {source.size} of over {wanted} bytes"
    log.add("torch-truncated", message)


def _check_unreferenced(
    directory: ZipDirectory, root: str, storages: dict[str, Storage], program: PickleProgram, log: FaultLog
) -> None:
    if program.coverage != "complete":
        return
    prefix = f"{root}data/"
    for member in directory.members:
        if member.name.startswith(prefix) and member.name[len(prefix) :] not in storages and member.size:
            message = "a storage the pickle does not name"
            log.add("torch-storage-unused", message, offset=member.header_offset, place=member.name)
