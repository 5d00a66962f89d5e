"""Torch distributed checkpoints (DCP), as FSDP saves them: every tensor a tiling of boxes, every box an item of a file.

``torch/distributed/checkpoint`` 1.13 to 2.13; accelerate 1.15 ``utils/fsdp_utils.py``; the safetensors form of
``hf_storage.py``. torch's own consolidation of that form writes 0-dim tensors as zero and fails on integers
(2.13 ``_consolidate_hf_safetensors.py``); here they are tensors like others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from ckpt_inspect.artifacts.fsdp import DcpDirectory
from ckpt_inspect.consolidate.adapters import is_adapter_only
from ckpt_inspect.consolidate.addresses import AddressError, Sources, check, item_size, must_swap
from ckpt_inspect.consolidate.dcp_names import ModelNames, model_names
from ckpt_inspect.consolidate.dcp_problems import fault_problems, global_problems
from ckpt_inspect.consolidate.dcp_select import DcpSelection
from ckpt_inspect.consolidate.dcp_ties import tied_names
from ckpt_inspect.consolidate.parts import planned
from ckpt_inspect.consolidate.plan import Plan, PlannedTensor
from ckpt_inspect.consolidate.problems import Problem, note, refuse, settle, warn
from ckpt_inspect.consolidate.tiling import Box, TilingError, tile
from ckpt_inspect.errors import UnreadableError
from ckpt_inspect.formats.dcp_items import ItemReader, mismatch
from ckpt_inspect.formats.dcp_types import DcpChunk, DcpMetadata, DcpTensor
from ckpt_inspect.printable import printable
from ckpt_inspect.storage import ByteSource

_TORCH_SAVE = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch SHARDS FILE loads it all into one file"
_TOGETHER = "copy the shards and .metadata of one save together"
_FLAT = "_flat_param"


@dataclass(slots=True)
class DcpDraft:
    """A plan in the making; `target` None keeps the types that were saved."""

    selection: DcpSelection
    target: str | None
    sources: Sources = field(default_factory=Sources)
    problems: list[Problem] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def directory(self) -> DcpDirectory:
        """The directory of shards."""
        return self.selection.directory

    def settle(self, force: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Raise what refuses; else warnings and notes."""
        return settle(self.problems, str(self.selection.tree.root), force=force)


def plan_dcp(draft: DcpDraft, *, exclude_frozen: bool, force: bool) -> Plan:
    """The plan of a distributed checkpoint, before proof; its problems are in `draft`.

    Raises:
        ConsolidationError: nothing can be written.
    """
    directory = draft.directory
    _check_kind(draft)
    draft.settle(force)
    metadata = directory.metadata
    names = model_names(metadata) if metadata is not None else None
    needed = set(names.tensors.values()) if names is not None and names.tensors else None
    draft.problems += fault_problems(directory, needed)
    if metadata is not None:
        draft.problems += global_problems(directory, metadata)
    draft.settle(force)
    if metadata is None or names is None:  # every way here has a fault
        raise refuse("Z48", "there is no metadata", file=directory.path or None).exception(draft.selection.where)
    _check_names(draft, metadata, names)
    draft.settle(force)
    if exclude_frozen:
        message = "the checkpoint does not say which parameters are frozen: all were kept"
        draft.problems.append(warn("Z40", message, file=directory.path or None))
    tensors = _lay_out(draft, metadata, names)
    draft.settle(force)
    files = draft.sources.files()
    aliases = tied_names(tensors, files, draft.selection.tree, Path(draft.selection.where))
    kept = tuple(tensor for tensor in tensors if tensor.name not in aliases)
    adapter = is_adapter_only(kept, ())
    if adapter:
        draft.problems.append(note("Z42", "only adapter weights are in the checkpoint: the base model was not saved"))
    draft.facts |= {"form": metadata.form, "save_id": metadata.save_id, "dcp_version": metadata.version}
    return Plan(
        layout="dcp",
        stage=None,
        world_size=max(directory.ranks, default=0) + 1,
        tag=draft.selection.tag,
        root=str(draft.selection.tree.root.resolve()),
        checkpoint=draft.selection.where,
        sources=files,
        tensors=kept,
        aliases=aliases,
        adapter_only=adapter,
    )


def _check_kind(draft: DcpDraft) -> None:
    """Megatron's form, and optimizers."""
    directory = draft.directory
    place = directory.path or None
    if directory.megatron:
        message = (
            "is a Megatron torch_dist checkpoint: its tensors have Megatron-Core's names and stacked layers, "
            "which no loader of Hugging Face weights knows"
        )
        remedy = "convert it with the framework that wrote it (Megatron Bridge, or tools/checkpoint/convert.py)"
        draft.problems.append(refuse("megatron", message, file=place, remedy=remedy))
    elif directory.role == "optimizer":
        draft.problems.append(_optimizer(draft))


def _optimizer(draft: DcpDraft) -> Problem:
    model = next((one for one in draft.selection.beside if one.role != "optimizer"), None)
    remedy = f"give {printable(model.path)} for the weights" if model is not None else "no weights lie beside it"
    message = "holds the optimizer's states, no weights"
    return refuse("optimizer", message, file=draft.directory.path or None, remedy=f"{remedy}; {_TORCH_SAVE}")


def _check_names(draft: DcpDraft, metadata: DcpMetadata, names: ModelNames) -> None:
    place = draft.directory.path or None
    if names.optimizer_only:
        draft.problems.append(_optimizer(draft))
    elif not names.tensors:
        held = ", ".join(printable(name, 40) for name in (*names.others, *metadata.items)) or "nothing"
        draft.problems.append(refuse("key", f"holds no tensors of a model, only {held}", file=place))
    flat = [name for name in names.tensors if name.rpartition(".")[2].startswith(_FLAT)]
    if flat:
        message = (
            f"{printable(flat[0])} is one of {len(flat)} flat parameters, saved without the shapes of what is in them"
        )
        remedy = "save with SHARDED_STATE_DICT from a training job of the same size"
        draft.problems.append(refuse("layout", message, file=place, tensor=flat[0], remedy=remedy))
    if names.items:
        shown = ", ".join(printable(name, 40) for name in names.items[:3])
        message = f"{len(names.items)} entries of the model are no tensors and are left out: {shown}"
        draft.problems.append(warn("Z40", message, file=place))
    if names.others:
        shown = ", ".join(f"{printable(name, 40)} ({count})" for name, count in names.others.items())
        draft.problems.append(note("Z40", f"not of the model and not written: {shown}", file=place))
        draft.facts["left_out"] = dict(names.others)


def _lay_out(draft: DcpDraft, metadata: DcpMetadata, names: ModelNames) -> list[PlannedTensor]:
    """Every tensor with its parts; files are read one after another, each once."""
    boxes = _boxes(draft, {name: metadata.tensors[name] for name in names.tensors.values()})
    tensors: list[PlannedTensor] = []
    for written, name in names.tensors.items():
        tensor = metadata.tensors[name]
        dtype = tensor.dtype or ""
        try:
            parts = tile(tensor.shape, boxes.get(name, []), item_size(dtype))
        except (TilingError, AddressError) as error:
            message = f"{printable(name)} cannot be put together: {error}"
            draft.problems.append(refuse("Z49", message, file=draft.directory.path or None, tensor=name))
            continue
        tensors.append(planned(written, tensor.shape, dtype, parts, "dcp", draft.target))
    return tensors


def _boxes(draft: DcpDraft, tensors: Mapping[str, DcpTensor]) -> dict[str, list[Box]]:
    """Where the bytes of every chunk are."""
    directory = draft.directory
    by_file: dict[str, list[tuple[str, DcpTensor, DcpChunk]]] = {}
    for name, tensor in tensors.items():
        for chunk in tensor.chunks:
            if chunk.numel:
                by_file.setdefault(chunk.file, []).append((name, tensor, chunk))
    for path in directory.metadata_files:
        entry = directory.tree.get(path)
        if entry is not None:
            draft.sources.add_entry(entry, None)
    known = {directory.relative(file.path): file for file in directory.files}
    boxes: dict[str, list[Box]] = {}
    reader = ItemReader()
    for name in sorted(by_file, key=lambda name: list(known).index(name) if name in known else -1):
        file = known.get(name)
        path = directory.absolute(name)
        if file is None:
            message = f"{printable(name)} is not a shard file of this directory"
            draft.problems.append(refuse("Z10", message, file=path))
            continue
        source = draft.sources.add(file.path, file.size, file.mtime_ns, file.rank)
        try:
            with directory.tree.open(path) as opened:
                for tensor_name, tensor, chunk in by_file[name]:
                    try:
                        box = _box(reader, opened, source, tensor, chunk)
                    except AddressError as error:
                        message = f"what .metadata calls {printable(tensor_name)} at byte {chunk.offset} {error}"
                        problem = refuse(
                            "Z49", message, file=path, rank=file.rank, tensor=tensor_name, remedy=_TOGETHER
                        )
                        draft.problems.append(problem)
                        break
                    boxes.setdefault(tensor_name, []).append(box)
        except UnreadableError as error:
            draft.problems.append(refuse("Z20", error.what, file=path, rank=file.rank))
    return boxes


def _box(reader: ItemReader, file: ByteSource, source: int, tensor: DcpTensor, chunk: DcpChunk) -> Box:
    """A chunk with the place of its elements.

    Raises:
        AddressError: the bytes there are not that chunk; the message is a clause about the place.
    """
    size = item_size(tensor.dtype or "")
    packed = tuple(accumulate(reversed(chunk.sizes[1:]), lambda one, two: one * two, initial=size))[::-1]
    if chunk.form == "raw":
        if chunk.length != chunk.numel * size:
            raise AddressError(f"has {chunk.length} bytes for {chunk.numel} elements")
        return Box(chunk.offsets, chunk.sizes, source, chunk.offset, packed[: len(chunk.sizes)])
    found = reader.read(file, chunk, tensor.dtype)
    wrong = mismatch(found, file, tensor, chunk)
    if found is None or wrong is not None:
        raise AddressError(wrong or "is no saved tensor")
    item = found.tensor
    try:
        check(item, file.size)
    except AddressError as error:
        raise AddressError(f"cannot be read: {error}") from None
    if item.file_offset is None or any(step < 0 for step in item.stride):
        raise AddressError("cannot be read: its elements do not lie in order")
    stride = tuple(step * size for step in item.stride)
    swap = must_swap(item.dtype, found.big_endian)
    return Box(chunk.offsets, chunk.sizes, source, item.file_offset, stride, swap)
