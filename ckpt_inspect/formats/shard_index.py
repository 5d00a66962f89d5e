"""The index of a sharded model: which file holds which tensor, checked against what lies beside it.

Writers: `transformers/modeling_utils.py` 5.23 `save_pretrained` and `huggingface_hub/serialization/_torch.py`
(`<prefix>.index.json` with `metadata.total_size` in bytes of tensors and `weight_map`). Loaders join the file names of the
map to the directory unchecked (transformers issues 46097 and 47176), so every name is checked here first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.json_document import read_json
from ckpt_inspect.storage import ByteSource

NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{5,})-of-(?P<total>\d{5,})(?P<suffix>\.[A-Za-z0-9.]+)")
_DRIVE = re.compile(r"[A-Za-z]:")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")
_ODD_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """`weight_map` from tensor to shard as written; `shards` are the names that may be opened, in order of first use.

    `total_size` is what the writer said all tensors take together, in bytes; None where it said nothing usable.
    """

    weight_map: dict[str, str]
    shards: tuple[str, ...]
    total_size: int | None
    metadata: dict[str, Any]
    faults: tuple[Fault, ...]


def read_shard_index(source: ByteSource, present: Mapping[str, int] | None = None) -> ShardIndex:
    """Read an index. `present` names the files beside it (relative to its directory) with their sizes in bytes.

    With `present`, shards that are missing, empty, or left over from another save become faults.
    """
    log = FaultLog()
    document = read_json(source, want_object=True)
    log.extend(document.faults)
    metadata = document.mapping.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {}
    weight_map, shards, refused = _weight_map(document.mapping, log, read=document.complete)
    total = _total_size(metadata, log)
    _check_numbers(shards, log)
    if present is not None:
        _check_present(shards, present, refused, log)
    return ShardIndex(weight_map, tuple(shards), total, metadata, log.sealed())


def check_shards(index: ShardIndex, shards: Mapping[str, Iterable[tuple[str, int]]]) -> tuple[Fault, ...]:
    """Compare the map with what the shards really hold: for each shard read, its tensors with their size in bytes.

    Shards not given are not judged, and the sum is compared only when every shard of the index is given.
    """
    log = FaultLog()
    held: dict[str, str] = {}
    total = 0
    for shard, tensors in shards.items():
        for name, nbytes in tensors:
            total += nbytes
            if name in held:
                log.add("index-duplicate-tensor", f"also in {held[name]}, and in {shard}", place=name)
                continue
            held[name] = shard
            listed = index.weight_map.get(name)
            if listed is None:
                log.add("index-unlisted-tensor", f"is in {shard}, and the index does not know it", place=name)
            elif listed != shard:
                log.add("index-wrong-shard", f"the index says {listed}, it lies in {shard}", place=name)
    for name, shard in index.weight_map.items():
        if shard in shards and name not in held:
            log.add("index-absent-tensor", f"the index says {shard}, which does not hold it", place=name)
    if index.total_size is not None and set(index.shards) <= shards.keys() and total != index.total_size:
        message = f"the index says {index.total_size:,} bytes, the tensors take {total:,}"
        log.add("index-total-size", message, place="metadata.total_size")
    return log.sealed()


def path_problem(name: str) -> tuple[str, str] | None:
    """Why a file name out of an index must not be joined to the directory: fault kind and clause; None if it may be.

    A plain name or a relative path in normal form may. Judged for Windows and POSIX alike, wherever this runs.
    """
    if not name:
        return "index-path", "the file name is empty"
    if any(unicodedata.category(character) in _ODD_CATEGORIES for character in name):
        return "index-path", "control or invisible characters in the file name"
    if name.startswith(("\\\\", "//")):
        return "index-traversal", "names a network share"
    if name.startswith(("/", "\\", "~")):
        return "index-traversal", "is an absolute path"
    if _SCHEME.match(name):
        return "index-traversal", "is a URL"
    if _DRIVE.match(name):
        return "index-traversal", "names a drive"
    parts = re.split(r"[/\\]", name)
    if ".." in parts:
        return "index-traversal", "leads out of the directory"
    if "\\" in name:
        return "index-path", "has a backslash: a path on Windows, a strange name elsewhere"
    if ":" in name:
        return "index-path", "has a colon: a hidden stream of a file on Windows"
    if "." in parts or "" in parts:
        return "index-path", "is not a path in normal form"
    if any(_DEVICE.fullmatch(part) for part in parts):
        return "index-path", "names a device on Windows"
    return None


def _weight_map(document: dict[str, Any], log: FaultLog, *, read: bool) -> tuple[dict[str, str], list[str], set[str]]:
    """The map, the shards that may be opened, and those that may not."""
    given = document.get("weight_map")
    if not isinstance(given, dict):
        if read and "json-not-object" not in log:
            log.add("index-no-map", "has no weight_map object")
        return {}, [], set()
    if read and not given:
        log.add("index-no-map", "its weight_map is empty")
    weight_map: dict[str, str] = {}
    problems: dict[str, bool] = {}
    for name, shard in given.items():
        if not isinstance(shard, str):
            log.add("index-type", "the file name is not a string", place=name)
            continue
        weight_map[name] = shard
        if shard not in problems:
            problem = path_problem(shard)
            problems[shard] = problem is not None
            if problem is not None:
                log.add(problem[0], problem[1], place=shard)
        if not (name.isascii() and name.isprintable()) and _odd(name):
            log.add("index-name", "control, bidirectional or invisible characters in a tensor's name", place=name)
    allowed = [shard for shard, refused in problems.items() if not refused]
    return weight_map, allowed, {shard for shard, refused in problems.items() if refused}


def _odd(name: str) -> bool:
    return any(unicodedata.category(character) in _ODD_CATEGORIES for character in name)


def _total_size(metadata: dict[str, Any], log: FaultLog) -> int | None:
    value = metadata.get("total_size")
    if type(value) is float and value.is_integer():  # written by scripts that divide
        value = int(value)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        log.add("index-type", "total_size is not a number of bytes", place="metadata.total_size")
        return None
    return value


def _check_numbers(shards: list[str], log: FaultLog) -> None:
    """Shards named ``x-00001-of-00003`` must be 1 to 3 of 3."""
    families: dict[tuple[str, int, str], set[int]] = {}
    for shard in shards:
        if match := NUMBERED.fullmatch(shard):
            family = (match["stem"], int(match["total"]), match["suffix"])
            families.setdefault(family, set()).add(int(match["number"]))
    if len(families) > 1:
        log.add("index-numbering", "the shards belong to several sets of different count or name")
    for (stem, total, suffix), numbers in families.items():
        if len(families) == 1 and len(numbers) != total:
            message = f"the names say {total:,} shards, the index uses {len(numbers):,}"
            log.add("index-numbering", message, place=f"{stem}-*-of-{total:05}{suffix}")


def _check_present(shards: list[str], present: Mapping[str, int], refused: set[str], log: FaultLog) -> None:
    for shard in shards:
        size = present.get(shard)
        if size is None:
            log.add("index-missing-shard", "the index names it and it is not here", place=shard)
        elif size == 0:
            log.add("index-missing-shard", "the index names it and it is empty", place=shard)
    known = set(shards)
    stems = {(match["stem"], match["suffix"]) for shard in shards if (match := NUMBERED.fullmatch(shard))}
    for name in present:
        match = NUMBERED.fullmatch(name)
        if match and name not in known and name not in refused and (match["stem"], match["suffix"]) in stems:
            log.add("index-extra-shard", "a shard beside the index that the index does not name", place=name)
