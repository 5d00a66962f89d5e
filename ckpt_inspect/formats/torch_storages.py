"""Storages of a torch file: what their persistent ids claim, and where their bytes are.

Persistent ids: ``torch/serialization.py`` 2.13, `_save` (zip: five fields) and `_legacy_save` (six, the last describes
a view of another storage in files older than torch 0.4).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ckpt_inspect.formats.dtypes import BY_STORAGE, DType
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.pickle_nodes import Global, Node, PersistentId
from ckpt_inspect.formats.torch_types import Storage

_UNTYPED = frozenset({"UntypedStorage", "_UntypedStorage", "TypedStorage", "_TypedStorage"})
_LOCATION = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}(?::[0-9]{1,5})?\Z")
_KEY = re.compile(r"[A-Za-z0-9_.\-]{1,64}\Z")
MAX_NUMEL = 1 << 62


@dataclass(frozen=True, slots=True)
class StorageId:
    """One reference to a storage. `view` is (offset, length) in elements within the storage, None for all of it."""

    key: str
    dtype: DType | None
    numel: int
    location: str
    view: tuple[int, int] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes the whole storage takes."""
        return self.numel if self.dtype is None else self.dtype.nbytes(self.numel)


def text(node: Node) -> str | None:
    """A string, also where Python 2 wrote it as bytes."""
    if type(node) is str:
        return node
    return node.decode("latin-1") if type(node) is bytes else None


def storage_id(node: Node) -> StorageId | None:
    """The reference in a persistent id, or None when it is not one torch would accept."""
    pid = node.pid if type(node) is PersistentId else node
    if type(pid) is not tuple or len(pid) not in (5, 6) or text(pid[0]) != "storage":
        return None
    cls, key, location, numel = pid[1], text(pid[2]), text(pid[3]), pid[4]
    if type(cls) is not Global or key is None or location is None or type(numel) is not int:
        return None
    dtype = BY_STORAGE.get(cls.name)
    if (dtype is None and cls.name not in _UNTYPED) or cls.module.partition(".")[0] != "torch":
        return None
    view = pid[5] if len(pid) == 6 else None
    part: tuple[int, int] | None = None
    if view is not None:
        if type(view) is not tuple or len(view) != 3 or type(view[1]) is not int or type(view[2]) is not int:
            return None
        part = (view[1], view[2])
    return StorageId(key, dtype, numel, location, part)


def claimed_storages(events: Iterable[Node], log: FaultLog) -> dict[str, Storage]:
    """Every storage the program refers to, in the order met, without offsets; odd claims are noted."""
    storages: dict[str, Storage] = {}
    for event in events:
        if type(event) is not PersistentId:
            continue
        claim = storage_id(event)
        if claim is None:
            if not _is_module_id(event.pid):
                log.add("torch-persistent-id", "a persistent id that is not a storage of torch", offset=event.offset)
            continue
        known = storages.get(claim.key)
        if known is None:
            _check_claim(claim, event.offset, log)
            storages[claim.key] = Storage(
                claim.key, claim.dtype, claim.numel, max(claim.nbytes, 0), claim.location, None
            )
        elif known.nbytes != claim.nbytes:
            message = f"one storage is said to have {known.nbytes} bytes and {claim.nbytes} bytes"
            log.add("torch-storage-conflict", message, offset=event.offset, place=claim.key)
        elif known.dtype is None and claim.dtype is not None:
            storages[claim.key] = replace(known, dtype=claim.dtype, numel=claim.numel)
    return storages


def _is_module_id(pid: Node) -> bool:
    """Files of torch 0.x keep the source of module classes under ids ("module", class, file, source)."""
    return type(pid) is tuple and len(pid) == 4 and text(pid[0]) == "module"


def _check_claim(claim: StorageId, offset: int, log: FaultLog) -> None:
    if not _KEY.match(claim.key):
        log.add("torch-storage-key", "a storage key no torch writes", offset=offset, place=claim.key)
    if not _LOCATION.match(claim.location):
        log.add("torch-device", "a device no torch has", offset=offset, place=claim.location)
    if claim.numel < 0 or claim.numel > MAX_NUMEL:
        log.add("torch-storage-size", f"a storage of {claim.numel} elements", offset=offset, place=claim.key)
