"""The weights of a directory, whatever their format: one file, or shards with their index, described by headers alone.

Names and the order in which loaders look: `transformers/modeling_utils.py` 5.23 `_get_resolved_checkpoint_files`
(``model.safetensors``, its index, ``pytorch_model.bin``, its index), `peft/utils/save_and_load.py` 0.21
`load_peft_weights` (``adapter_model.safetensors``, then ``.bin``), LLaMA-Factory 0.9.5 `extras/constants.py`
(``value_head.safetensors``, ``.bin``), accelerate 1.15 `utils/constants.py` (``pytorch_model_fsdp.bin``).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, NamedTuple, TypeAlias

from ckpt_inspect.errors import CkptInspectError
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.safetensors_header import read_safetensors_header
from ckpt_inspect.formats.shard_index import NUMBERED, ShardIndex, check_shards, read_shard_index
from ckpt_inspect.storage import Entry, LocalTree

WeightKind: TypeAlias = Literal["safetensors", "torch", "gguf"]
WeightRole: TypeAlias = Literal["model", "adapter", "value_head"]

# Stems (the name without shard number and suffix) in the order loaders prefer them, and what they hold.
_STEMS: tuple[tuple[str, WeightRole], ...] = (
    (r"model", "model"),
    (r"pytorch_model", "model"),
    (r"pytorch_model_fsdp(_\d+)?", "model"),
    (r"(pytorch_)?model[._][A-Za-z0-9_]+", "model"),
    (r"diffusion_pytorch_model(\..+)?", "model"),
    (r"consolidated(\.\d\d)?", "model"),
    (r"hf_model_\d{4}_\d+", "model"),
    (r"adapter_model", "adapter"),
    (r"adapter_\d+", "adapter"),
    (r"pytorch_lora_weights", "adapter"),
    (r"value_head", "value_head"),
)
_FILE = re.compile(r"(?P<stem>.+?)(?P<shard>-\d{5,}-of-\d{5,})?(?P<suffix>\.safetensors|\.bin|\.pth?|\.gguf)")
_INDEX = re.compile(r"(?P<stem>.+?)(?P<suffix>\.safetensors|\.bin|\.pth?)\.index(\.[A-Za-z0-9_]+)?\.json")


class WeightTensor(NamedTuple):
    """One tensor: `nbytes` of its elements, `offset` of its first byte in `file` (None where it has no such byte)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str
    offset: int | None

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class WeightSet:
    """The weights a loader would take from a directory.

    Attributes:
        kind: file format; "gguf" is named and not read.
        role: what the weights are of.
        tensors: in the order of the files and of their bytes in each.
        files: the files that belong to the set and are here, relative to the tree's root.
        index: the index of sharded weights.
        file_faults: (file, fault), the index included.
        others: weight files in the same directory that the loader would not look at.
        metadata: ``__metadata__`` of the first safetensors file.
        index_path: the index's path in the tree.
    """

    kind: WeightKind
    role: WeightRole
    tensors: tuple[WeightTensor, ...]
    files: tuple[str, ...]
    index: ShardIndex | None
    file_faults: tuple[tuple[str, Fault], ...]
    others: tuple[str, ...] = ()
    metadata: Mapping[str, str] | None = None
    index_path: str | None = None

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Everything wrong with any of the files; notes about alignment included."""
        return tuple(fault for _, fault in self.file_faults)

    @property
    def parameters(self) -> int:
        """Elements of all tensors, of two that share their bytes (tied weights in a torch file) one."""
        return sum(tensor.numel for tensor in self._distinct())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, of two that share their bytes one."""
        return sum(tensor.nbytes for tensor in self._distinct())

    def _distinct(self) -> Iterator[WeightTensor]:
        seen: set[tuple[str, int, tuple[int, ...]]] = set()
        for tensor in self.tensors:
            if tensor.offset is not None and self.kind == "torch":
                place = (tensor.file, tensor.offset, tensor.shape)
                if place in seen:
                    continue
                seen.add(place)
            yield tensor


@dataclass(frozen=True, slots=True)
class _Family:
    """Files that make up one set: all with one stem and suffix, sharded or not."""

    stem: str
    suffix: str
    sharded: bool
    role: WeightRole
    rank: int
    files: tuple[Entry, ...]
    index: Entry | None

    @property
    def order(self) -> tuple[int, bool, bool, str]:
        """What a loader looks for first comes first."""
        return self.rank, self.suffix != ".safetensors", self.sharded, self.stem


def read_weights(tree: LocalTree, directory: str) -> WeightSet | None:
    """The set a loader would take from `directory` (relative to the tree's root), None where there are no weights."""
    families = _families(tree, directory)
    if not families:
        return None
    first, rest = families[0], families[1:]
    others = tuple(entry.path for family in rest if family.role == first.role for entry in family.files)
    return replace(_read(tree, directory, first), others=others)


def read_weight_sets(tree: LocalTree, directory: str) -> tuple[WeightSet, ...]:
    """Every set in `directory`, in the order in which loaders look."""
    return tuple(_read(tree, directory, family) for family in _families(tree, directory))


def read_weight_file(tree: LocalTree, path: str) -> tuple[tuple[WeightTensor, ...], tuple[Fault, ...]]:
    """The tensors of one file, by what its bytes are."""
    tensors, faults, _ = _read_file(tree, path)
    return tensors, faults


def _families(tree: LocalTree, directory: str) -> list[_Family]:
    groups: dict[tuple[str, str, bool], list[Entry]] = {}
    indexes: dict[tuple[str, str], Entry] = {}
    for entry in children(tree, directory):
        if entry.kind not in ("file", "link", "unreadable"):
            continue
        if match := _FILE.fullmatch(entry.name):
            key = (match["stem"], match["suffix"], match["shard"] is not None)
            groups.setdefault(key, []).append(entry)
        elif match := _INDEX.fullmatch(entry.name):
            indexes.setdefault((match["stem"], match["suffix"]), entry)
    for stem, suffix in indexes:  # an index whose shards are all missing is still a set, and says what is missing
        if (stem, suffix, False) not in groups:
            groups.setdefault((stem, suffix, True), [])
    families = []
    for (stem, suffix, sharded), entries in groups.items():
        place = _place(stem, suffix)
        if place is not None:
            rank, role = place
            index = indexes.get((stem, suffix)) if sharded else None
            families.append(_Family(stem, suffix, sharded, role, rank, tuple(entries), index))
    return sorted(families, key=lambda family: family.order)


def _place(stem: str, suffix: str) -> tuple[int, WeightRole] | None:
    for rank, (pattern, role) in enumerate(_STEMS):
        if re.fullmatch(pattern, stem):
            return (rank if role == "model" else 100 + rank), role
    if suffix == ".safetensors" or suffix == ".gguf":
        return 50, "model"
    return None  # a .bin or .pt of another name is something else: training_args.bin, optimizer.pt


def children(tree: LocalTree, directory: str) -> Iterator[Entry]:
    """The entries that lie directly in a directory."""
    entries = tree.entries()
    prefix = f"{directory}/" if directory else ""
    for position in range(bisect_left(entries, prefix, key=lambda entry: entry.path), len(entries)):
        entry = entries[position]
        if not entry.path.startswith(prefix):
            break
        if "/" not in entry.path[len(prefix) :]:
            yield entry


def _below(tree: LocalTree, directory: str) -> dict[str, int]:
    """Sizes of all files below a directory, by path relative to it."""
    entries = tree.entries()
    prefix = f"{directory}/" if directory else ""
    found: dict[str, int] = {}
    for position in range(bisect_left(entries, prefix, key=lambda entry: entry.path), len(entries)):
        entry = entries[position]
        if not entry.path.startswith(prefix):
            break
        if entry.kind == "file":
            found[entry.path[len(prefix) :]] = entry.size
    return found


def _read(tree: LocalTree, directory: str, family: _Family) -> WeightSet:
    kind: WeightKind = "torch"
    if family.suffix in (".safetensors", ".gguf"):
        kind = "safetensors" if family.suffix == ".safetensors" else "gguf"
    prefix = f"{directory}/" if directory else ""
    faults: list[tuple[str, Fault]] = []
    index: ShardIndex | None = None
    paths = [entry.path for entry in family.files]
    if family.index is not None:
        index = _read_index(tree, family.index.path, _below(tree, directory), faults)
        if index is not None and index.shards:
            named = [f"{prefix}{shard}" for shard in index.shards]
            paths = [path for path in named if (entry := tree.get(path)) is not None and entry.kind == "file"]
    elif family.sharded:
        faults.extend((paths[0], fault) for fault in _unindexed(family))
    tensors: list[WeightTensor] = []
    metadata: Mapping[str, str] | None = None
    for path in paths if kind != "gguf" else ():
        found, file_faults, file_metadata = _read_file(tree, path)
        tensors.extend(found)
        faults.extend((path, fault) for fault in file_faults)
        metadata = metadata if metadata is not None else file_metadata
    if index is not None and family.index is not None:
        broken = {path for path, _ in faults} - {tensor.file for tensor in tensors}  # nothing known of what they hold
        held: dict[str, list[tuple[str, int]]] = {path[len(prefix) :]: [] for path in paths if path not in broken}
        for tensor in tensors:
            held[tensor.file[len(prefix) :]].append((tensor.name, tensor.nbytes))
        faults.extend((family.index.path, fault) for fault in check_shards(index, held))
    return WeightSet(
        kind,
        family.role,
        tuple(tensors),
        tuple(paths),
        index,
        tuple(faults),
        metadata=metadata,
        index_path=family.index.path if family.index is not None else None,
    )


def _read_index(
    tree: LocalTree, path: str, present: Mapping[str, int], faults: list[tuple[str, Fault]]
) -> ShardIndex | None:
    try:
        with tree.open(path) as source:
            index = read_shard_index(source, present)
    except CkptInspectError as error:
        faults.append((path, Fault("unreadable", error.what)))
        return None
    faults.extend((path, fault) for fault in index.faults)
    return index


def _unindexed(family: _Family) -> tuple[Fault, ...]:
    """What the names of shards without an index tell."""
    log = FaultLog()
    log.add("index-absent", "shards without the index that says which tensor is in which", place=family.stem)
    numbers = {
        (int(match["number"]), int(match["total"]))
        for entry in family.files
        if (match := NUMBERED.fullmatch(entry.name)) is not None
    }
    totals = {total for _, total in numbers}
    if len(totals) > 1:
        log.add("index-numbering", "the shards belong to several sets of different count")
    else:
        for total in totals:
            here = len(numbers)
            if here < total:
                log.add("index-missing-shard", f"the names say {total:,} shards, {here:,} are here", place=family.stem)
    return log.sealed()


def _read_file(
    tree: LocalTree, path: str
) -> tuple[tuple[WeightTensor, ...], tuple[Fault, ...], Mapping[str, str] | None]:
    try:
        with tree.open(path) as source:
            if path.endswith(".safetensors"):
                header = read_safetensors_header(source)
                return (
                    tuple(
                        WeightTensor(item.name, item.dtype, item.shape, item.nbytes, path, item.file_offset)
                        for item in header.tensors
                    ),
                    header.faults,
                    header.metadata,
                )
            from ckpt_inspect.formats.torch_archive import open_torch

            archive = open_torch(source)
            found = tuple(
                WeightTensor(name, tensor.dtype, tensor.shape, tensor.nbytes, path, tensor.file_offset)
                for name, tensor in archive.tensors()
            )
            return found, archive.faults, None
    except CkptInspectError as error:
        return (), (Fault("unreadable", error.what),), None
