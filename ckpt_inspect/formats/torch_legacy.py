"""Torch's stream of pickles, the default before 1.6 and still written with `_use_new_zipfile_serialization=False`.

``torch/serialization.py`` `_legacy_save`: magic number, protocol 1001, system information, the object, the sorted list
of storage keys, then for each key an int64 element count and the bytes, always little-endian
(``torch/csrc/generic/StorageMethods.cpp``, `THPStorage_writeFileRaw`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.pickle_machine import PickleLimits, PickleProgram, run_pickle
from ckpt_inspect.formats.pickle_nodes import Node
from ckpt_inspect.formats.sniff import LEGACY_TORCH_MAGIC
from ckpt_inspect.formats.torch_opened import TorchArchive
from ckpt_inspect.formats.torch_storages import claimed_storages, text
from ckpt_inspect.formats.torch_types import Storage
from ckpt_inspect.storage import ByteSource

_PROTOCOL = 1001
_OBJECT = 3
_PICKLES = 5


def open_legacy(source: ByteSource, limits: PickleLimits) -> TorchArchive:
    """Open a stream that begins with the magic number."""
    log = FaultLog()
    programs: list[PickleProgram] = []
    position = 0
    for _ in range(_PICKLES):
        program = run_pickle(source, position, limits=limits)
        programs.append(program)
        position = program.end
        if program.coverage != "complete":
            log.add("torch-truncated", "the stream ends or breaks inside one of its pickles", offset=position)
            break
    if programs[0].value != LEGACY_TORCH_MAGIC:
        log.add("torch-legacy-header", "the magic number is computed, not written", offset=0)
    if len(programs) > 1 and programs[1].value != _PROTOCOL:
        log.add("torch-legacy-header", "the protocol version is not 1001", offset=programs[1].start)
    main = programs[_OBJECT] if len(programs) > _OBJECT else None
    storages: Mapping[str, Storage] = {}
    if main is not None:
        claimed = claimed_storages(main.events, log)
        storages = claimed
        if len(programs) == _PICKLES and programs[-1].coverage == "complete":
            storages = _placed(source, programs[-1].value, position, claimed, log)
    return TorchArchive(
        "legacy",
        sniffed="legacy-torch",
        file_size=source.size,
        main=main,
        programs=tuple(programs),
        storages=storages,
        faults=log.sealed(),
        program_offset=0,
    )


def _placed(
    source: ByteSource, keys: Node, position: int, claimed: dict[str, Storage], log: FaultLog
) -> dict[str, Storage]:
    """Follow the counts from storage to storage; the first that cannot be followed ends it."""
    placed = dict(claimed)
    if type(keys) is not list:
        log.add("torch-legacy-header", "there is no list of storage keys", offset=position)
        return placed
    listed: set[str] = set()
    for node in keys:
        key = text(node) if type(node) is not int else str(node)
        storage = claimed.get(key) if key is not None else None
        if key is None or storage is None or key in listed:
            message = "the list of storages names one that the object does not"
            log.add("torch-storage-missing", message, offset=position, place=key)
            return placed
        listed.add(key)
        count = int.from_bytes(source.read_at(position, 8), "little", signed=True)
        if position + 8 > source.size:
            log.add("torch-truncated", "the stream ends before this storage", offset=source.size, place=key)
            return placed
        if count != storage.numel:
            message = f"the pickle says {storage.numel} elements, the record {count}"
            log.add("torch-storage-size", message, offset=position, place=key)
            if count < 0 or count > storage.numel:
                return placed
        else:
            placed[key] = replace(storage, file_offset=position + 8)
        position += 8 + (count if storage.dtype is None else storage.dtype.nbytes(count))
        if position > source.size:
            message = f"the stream ends {position - source.size} bytes before this storage does"
            log.add("torch-truncated", message, offset=source.size, place=key)
            return placed
    for key in claimed.keys() - listed:
        if claimed[key].location != "meta":
            log.add("torch-storage-missing", "the object names a storage that is not in the stream", place=key)
    if position < source.size:
        log.add("torch-legacy-trailing", f"{source.size - position} bytes follow the last storage", offset=position)
    return placed
