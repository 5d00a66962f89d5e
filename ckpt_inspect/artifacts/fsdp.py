"""FSDP and torch distributed checkpoints (DCP): which directories and files there are, of how many ranks, and what is amiss.

Layouts: accelerate 1.15 ``utils/fsdp_utils.py`` (`save_fsdp_model`, `save_fsdp_optimizer`); DCP file names: torch 2.13
``distributed/checkpoint/filesystem.py`` (`DEFAULT_SUFFIX`, `_StoragePrefix`); safetensors form: ``_hf_utils.py``
(`SHARDED_FILE_NAME`). The metadata of a directory are read on first use: they grow with tensors times ranks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from ckpt_inspect.errors import UnreadableError
from ckpt_inspect.formats.dcp_items import ItemReader, mismatch
from ckpt_inspect.formats.dcp_metadata import (
    DcpChunk,
    DcpMetadata,
    DcpTensor,
    check_files,
    merge_metadata,
    read_dcp_metadata,
    read_dcp_safetensors,
)
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.json_document import read_json
from ckpt_inspect.formats.safetensors_header import read_safetensors_header
from ckpt_inspect.storage import Entry, LocalTree

Kind: TypeAlias = Literal["sharded", "full", "local", "dcp", "dcp-safetensors"]
Role: TypeAlias = Literal["model", "optimizer", "all"]

_SHARD = re.compile(r"__(\d{1,6})_(\d{1,6})\.distcp")
_RANK_METADATA = re.compile(r"__(\d{1,6})\.metadata")
_HF_SHARD = re.compile(r"shard-(\d{5,7})-model-\d{5,7}-of-\d{5,7}\.safetensors")
_MODEL_DIRECTORY = re.compile(r"pytorch_model_fsdp_\d{1,4}")
_OPTIMIZER_DIRECTORY = re.compile(r"optimizer_\d{1,4}")
_FULL_MODEL = re.compile(r"pytorch_model_fsdp(?:_\d{1,4})?\.bin")
_LOCAL_MODEL = re.compile(r"pytorch_model_fsdp(?:_\d{1,4})?_rank(\d{1,6})\.bin")
_OPTIMIZER_FILE = re.compile(r"optimizer(?:_\d{1,4})?\.bin")
_LOCAL_OPTIMIZER = re.compile(r"optimizer(?:_\d{1,4})?_rank(\d{1,6})\.bin")


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One file of shards: `path` in the tree, the `rank` its name states from 0 (None: none), bytes, mtime in ns."""

    path: str
    rank: int | None
    size: int
    mtime_ns: int

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class DcpDirectory:
    """One directory of a distributed checkpoint. `path` and all files are relative to the tree.

    `metadata_files` are ``.metadata`` or, from a save without coordination, ``__{rank}.metadata``; `temporary` what an
    interrupted save left; `megatron` whether ``metadata.json`` or ``common.pt`` of Megatron's `torch_dist` lie beside.
    """

    tree: LocalTree
    path: str
    role: Role
    form: Literal["pickle", "safetensors"]
    files: tuple[ShardFile, ...]
    metadata_files: tuple[str, ...]
    temporary: tuple[str, ...]
    megatron: bool

    @property
    def ranks(self) -> tuple[int, ...]:
        """Every rank a file name states, ascending."""
        return tuple(sorted({file.rank for file in self.files if file.rank is not None}))

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(file.size for file in self.files)

    @cached_property
    def metadata(self) -> DcpMetadata | None:
        """What the checkpoint holds and where; None where no metadata can be read."""
        if self.form == "safetensors":
            headers = {}
            for file in self.files:
                with self.tree.open(file.path) as source:
                    headers[file.name] = read_safetensors_header(source)
            return read_dcp_safetensors(headers)
        parts: dict[str, DcpMetadata] = {}
        for path in self.metadata_files:
            with self.tree.open(path) as source:
                parts[path] = read_dcp_metadata(source)
        return next(iter(parts.values())) if len(parts) == 1 else merge_metadata(parts) if parts else None

    @cached_property
    def faults(self) -> tuple[Fault, ...]:
        """What is wrong with names, metadata, tiling and the extent of items; reads the metadata."""
        log = FaultLog()
        if self.form == "pickle" and not self.metadata_files:
            log.add("dcp-no-metadata", "there are shards and no .metadata: the save did not finish", place=self.path)
        for path in self.temporary:
            log.add("dcp-temporary", "a save was interrupted before it renamed its metadata", place=path)
        missing = [rank for rank in range(max(self.ranks, default=-1) + 1) if rank not in self.ranks]
        if missing and self.form == "pickle":  # the safetensors writer leaves out ranks that hold nothing
            shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
            log.add("dcp-rank-missing", f"ranks {shown} have no file though higher ones do", place=self.path)
        try:
            metadata = self.metadata
        except UnreadableError as error:
            log.add("unreadable", error.what, place=self.path)
            return log.sealed()
        if metadata is not None:
            log.extend(metadata.faults)
            check_files(metadata, {self.relative(file.path): file.size for file in self.files}, log)
            if metadata.tensors or metadata.items:
                used = set(metadata.files)
                for file in self.files:
                    if self.relative(file.path) not in used and file.size:
                        log.add("dcp-file-unused", "a shard file the metadata do not name", place=file.path)
        return log.sealed()

    @cached_property
    def item_faults(self) -> tuple[Fault, ...]:
        """Chunks whose place holds something else, one a file; reads the header of every item."""
        log = FaultLog()
        metadata = self.metadata
        by_file: dict[str, list[tuple[DcpTensor, DcpChunk]]] = {}
        for tensor in metadata.tensors.values() if metadata is not None else ():
            for chunk in tensor.chunks:
                if chunk.numel and chunk.form == "torch" and not chunk.transforms:
                    by_file.setdefault(chunk.file, []).append((tensor, chunk))
        reader = ItemReader()
        for file in self.files:
            with self.tree.open(file.path) as source:
                for tensor, chunk in by_file.get(self.relative(file.path), ()):
                    if chunk.offset + chunk.length > source.size:
                        break  # `faults` says so
                    wrong = mismatch(reader.read(source, chunk, tensor.dtype), source, tensor, chunk)
                    if wrong is not None:
                        message = f"the part at byte {chunk.offset} {wrong}"
                        log.add("dcp-item-other", message, offset=chunk.offset, place=file.path)
                        break
        return log.sealed()

    def relative(self, path: str) -> str:
        """A path of the tree as the metadata write it: from this directory."""
        return path[len(self.path) + 1 :] if self.path else path

    def absolute(self, file: str) -> str:
        """The path in the tree of a file the metadata name."""
        return f"{self.path}/{file}" if self.path else file

    @property
    def missing(self) -> tuple[str, ...]:
        """Files the metadata name and the directory does not hold, as paths in the tree."""
        if self.metadata is None:
            return ()
        present = {self.relative(file.path) for file in self.files}
        return tuple(self.absolute(file) for file in self.metadata.files if file not in present)


@dataclass(frozen=True)
class FsdpState:
    """What FSDP left in a checkpoint directory.

    `kind`: "sharded" (accelerate's ``pytorch_model_fsdp_N/``), "full" and "local" (one file for all, or one a rank),
    "dcp" (a plain DCP directory), "dcp-safetensors" (its safetensors form). `model_files` and `optimizer_files` are the
    files of "full" and "local". `world_size` is counted as `world_size_evidence` says, None where nothing tells it.
    """

    kind: Kind
    directories: tuple[DcpDirectory, ...]
    model_files: tuple[ShardFile, ...]
    optimizer_files: tuple[ShardFile, ...]
    world_size: int | None
    world_size_evidence: str

    @property
    def model(self) -> DcpDirectory | None:
        """The directory with the model's shards."""
        return next((directory for directory in self.directories if directory.role != "optimizer"), None)

    @property
    def optimizer(self) -> DcpDirectory | None:
        """The directory with the optimizer's shards."""
        return next((directory for directory in self.directories if directory.role == "optimizer"), None)

    @property
    def metadata(self) -> DcpMetadata | None:
        """The metadata of the model, None where it has none; reads them on first use."""
        return self.model.metadata if self.model is not None else None

    @property
    def missing(self) -> tuple[str, ...]:
        """Files that metadata name and that are not there."""
        return tuple(path for directory in self.directories for path in directory.missing)

    @cached_property
    def faults(self) -> tuple[Fault, ...]:
        """Everything wrong with the directories and the files' ranks."""
        log = FaultLog()
        for directory in self.directories:
            log.extend(directory.faults)
        ranks = {file.rank for file in self.model_files if file.rank is not None}
        missing = [rank for rank in range(max(ranks, default=-1) + 1) if rank not in ranks]
        if missing:
            shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
            log.add("dcp-rank-missing", f"ranks {shown} have no file though higher ones do")
        if {directory.role for directory in self.directories} == {"optimizer"}:
            log.add("fsdp-no-model", "there are optimizer shards and no model shards")
        counts = {len(directory.ranks) for directory in self.directories if directory.ranks}
        if len(counts) > 1:
            log.add("fsdp-rank-count", "model and optimizer were written by different numbers of ranks")
        return log.sealed()


def read_fsdp(tree: LocalTree, directory: str) -> FsdpState | None:
    """What FSDP or DCP left in `directory` ("" for the root), which may itself be a DCP directory; None: nothing.

    Costs a look at the listing, except where only headers tell the safetensors form from ordinary weights.
    """
    children: dict[str, list[Entry]] = {}
    prefix = f"{directory}/" if directory else ""
    for entry in tree.entries():
        if entry.kind == "file" and entry.path.startswith(prefix):
            children.setdefault(entry.parent, []).append(entry)
    own = children.get(directory, [])
    found = [
        read_dcp_directory(tree, parent, entries)
        for parent, entries in sorted(children.items())
        if parent == directory or (parent.rpartition("/")[0] == directory and _sub_role(parent) is not None)
    ]
    directories = tuple(sorted((d for d in found if d is not None), key=lambda d: d.role == "optimizer"))
    if directories:
        return _of_directories(directories, _files(own, _OPTIMIZER_FILE, _LOCAL_OPTIMIZER))
    full, local = _files(own, _FULL_MODEL, None), _files(own, None, _LOCAL_MODEL)
    if not full and not local:
        return None
    optimizer = _files(own, _OPTIMIZER_FILE, _LOCAL_OPTIMIZER)
    ranks = {file.rank for file in (*local, *optimizer) if file.rank is not None}
    evidence = "the ranks in the file names" if ranks else "one file holds the whole; nothing tells the number of ranks"
    kind: Kind = "full" if full else "local"
    return FsdpState(kind, (), full or local, optimizer, max(ranks) + 1 if ranks else None, evidence)


def _sub_role(path: str) -> Role | None:
    name = path.rpartition("/")[2]
    if _MODEL_DIRECTORY.fullmatch(name) or name in ("sharded", "model", "dist_ckpt"):
        return "model"
    return "optimizer" if _OPTIMIZER_DIRECTORY.fullmatch(name) or name == "optim" else None


def is_fsdp_name(name: str) -> bool:
    """Whether a directory is called as a part of a checkpoint: ``pytorch_model_fsdp_0``, ``optimizer_0``, ``sharded``."""
    return _sub_role(name) is not None


def read_dcp_directory(tree: LocalTree, path: str, entries: list[Entry] | None = None) -> DcpDirectory | None:
    """One DCP directory of the tree, None where no file of it has a DCP name; `entries` are its files, if known."""
    if entries is None:
        entries = [entry for entry in tree.entries() if entry.kind == "file" and entry.parent == path]
    names = {entry.name: entry for entry in entries}
    shards = [_shard(entry, _SHARD) for entry in entries if entry.name.endswith(".distcp")]
    metadata = [".metadata"] if ".metadata" in names else []
    metadata = metadata or sorted((n for n in names if _RANK_METADATA.fullmatch(n)), key=_first_number)
    temporary = sorted(name for name in names if name.endswith(".metadata.tmp"))
    form: Literal["pickle", "safetensors"] = "pickle"
    if not shards and not temporary and ".metadata" not in metadata:
        # torch numbers these from 1: hf_storage.py prepare_global_plan
        shards = [_shard(entry, _HF_SHARD, first=1) for entry in entries if _HF_SHARD.fullmatch(entry.name)]
        form, metadata = "safetensors", []
        if not shards:
            return None
    shards.sort(key=lambda file: (file.rank if file.rank is not None else -1, file.name))
    prefix = f"{path}/" if path else ""
    return DcpDirectory(
        tree=tree,
        path=path,
        role=_sub_role(path) or "all",
        form=form,
        files=tuple(shards),
        metadata_files=tuple(prefix + name for name in metadata),
        temporary=tuple(prefix + name for name in temporary),
        megatron="common.pt" in names or _is_megatron(tree, prefix, names),
    )


def _is_megatron(tree: LocalTree, prefix: str, names: Mapping[str, Entry]) -> bool:
    """Whether ``metadata.json`` states the backend, as Megatron-Core ``dist_checkpointing/core.py`` writes it."""
    if "metadata.json" not in names:
        return False
    with tree.open(f"{prefix}metadata.json") as file:
        return "sharded_backend" in read_json(file, want_object=True).mapping


def _of_directories(directories: tuple[DcpDirectory, ...], optimizer: tuple[ShardFile, ...]) -> FsdpState:
    kind: Kind = "sharded" if any(_MODEL_DIRECTORY.fullmatch(_last(d.path)) for d in directories) else "dcp"
    if all(_OPTIMIZER_DIRECTORY.fullmatch(_last(d.path)) for d in directories):
        kind = "sharded"
    world = max((rank for d in directories for rank in d.ranks), default=-1) + 1
    if any(d.form == "safetensors" for d in directories):
        kind, evidence = "dcp-safetensors", "the highest number after `shard-`"
    else:
        evidence = "the highest rank in the names of the .distcp files" if world else "no file name states a rank"
    return FsdpState(kind, directories, (), optimizer, world or None, evidence)


def _files(
    entries: list[Entry], whole: re.Pattern[str] | None, ranked: re.Pattern[str] | None
) -> tuple[ShardFile, ...]:
    found = []
    for entry in entries:
        if ranked is not None and ranked.fullmatch(entry.name):
            found.append(_shard(entry, ranked))
        elif whole is not None and whole.fullmatch(entry.name):
            found.append(ShardFile(entry.path, None, entry.size, entry.mtime_ns))
    return tuple(sorted(found, key=lambda file: (file.rank if file.rank is not None else -1, file.name)))


def _shard(entry: Entry, pattern: re.Pattern[str], *, first: int = 0) -> ShardFile:
    match = pattern.fullmatch(entry.name)
    return ShardFile(entry.path, max(int(match[1]) - first, 0) if match else None, entry.size, entry.mtime_ns)


def _first_number(name: str) -> int:
    digits = re.search(r"\d+", name)
    return int(digits[0]) if digits else 0


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def rank_sizes(directory: DcpDirectory) -> Mapping[int, int]:
    """Bytes by rank; ranks of one save differ little unless the sharding is uneven."""
    sizes: dict[int, int] = {}
    for file in directory.files:
        if file.rank is not None:
            sizes[file.rank] = sizes.get(file.rank, 0) + file.size
    return sizes
