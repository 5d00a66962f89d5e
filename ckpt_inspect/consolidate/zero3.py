"""ZeRO-3: every rank holds ceil(numel / world) elements of every parameter, sub-group by sub-group.

Source: deepspeed 0.19.8 ``utils/zero_to_fp32.py`` `_zero3_merge_trainable_params` and `_zero3_merge_frozen_params`;
optimizers on NVMe: ``runtime/swap_tensor/optimizer_utils.py`` (raw little-endian files named after `ds_id`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckpt_inspect.artifacts.zero_nodes import NamedShapes
from ckpt_inspect.artifacts.zero_states import ModelState, OptimizerState
from ckpt_inspect.consolidate.addresses import AddressError, Sources, check, flat_range, item_size
from ckpt_inspect.consolidate.layouts import Piece, element_count, partition_share, share_starts, shared_pieces
from ckpt_inspect.consolidate.parts import Trainable
from ckpt_inspect.consolidate.plan import Range
from ckpt_inspect.consolidate.problems import Problem, note, refuse, warn
from ckpt_inspect.knowledge import load
from ckpt_inspect.printable import printable
from ckpt_inspect.storage import Entry

_TWO_RUNS = "these files are of different runs; copy the whole tag directory again, or give the one that is whole"


@dataclass(frozen=True, slots=True)
class _Flat:
    """Where one rank's flat tensor of one sub-group lies: a place in a file, its elements and their type."""

    source: int
    offset: int
    elements: int
    dtype: str
    swap: bool


def plan_zero3(
    model: ModelState,
    optimizers: Sequence[OptimizerState],
    sources: Sources,
    swap_files: Mapping[str, Entry],
) -> tuple[list[Trainable], list[Problem], dict[str, Any]]:
    """The trainable parameters in sub-group order, what is wrong, and the sums.

    `swap_files` are the files below ``offloaded_tensors``, by path relative to the tag directory.
    """
    shapes = model.shapes
    if shapes is None:
        message = "there is no param_shapes: names and shapes are unknown"
        remedy = "DeepSpeed saves them since 0.3.13; load the checkpoint with the version that wrote it"
        return [], [refuse("key", message, file=model.path, remedy=remedy)], {}
    world = len(optimizers)
    first = optimizers[0]
    for state in optimizers:
        if len(state.masters) != len(first.masters):
            message = f"holds {len(state.masters)} sub-groups, rank {first.rank} holds {len(first.masters)}"
            return [], [refuse("Z33", message, file=state.path, rank=state.rank, remedy=_TWO_RUNS)], {}
    groups = _sub_groups(shapes, [tensor.shape[0] if tensor.shape else 1 for tensor in first.masters], world)
    if groups is None or len(groups) != len(first.masters):
        message = f"param_shapes names {len(shapes)} sub-groups, the ranks saved {len(first.masters)}"
        return [], [refuse("Z33", message, file=model.path, remedy=_TWO_RUNS)], {}
    problems: list[Problem] = []
    trainables: list[Trainable] = []
    sums: list[dict[str, Any]] = []
    swapped = 0
    for index, group in enumerate(groups):
        numels = [element_count(shape) for _, shape in group]
        starts = share_starts(numels, world)
        flats: list[_Flat] = []
        for state in optimizers:
            flat, found = _locate(state, index, starts[-1], sources, swap_files)
            problems += found
            if flat is not None:
                swapped += state.masters[index].nbytes == 0 and starts[-1] > 0
                flats.append(flat)
        if len(flats) != world:
            continue
        problems += _same_type(optimizers, flats, index)
        sums.append(
            {
                "group": index,
                "parameters": len(group),
                "elements": sum(numels),
                "per_rank": starts[-1],
                "padding": starts[-1] * world - sum(numels),
            }
        )
        size = item_size(flats[0].dtype)
        for (name, shape), numel, start in zip(group, numels, starts, strict=False):
            pieces = shared_pieces(numel, start, world)
            ranges = tuple(
                Range(
                    flats[p.rank].source, flats[p.rank].offset + p.start * size, p.elements * size, flats[p.rank].swap
                )
                for p in pieces
            )
            trainables.append(Trainable(name, shape, flats[0].dtype, ranges, index, pieces))
    if swapped:
        problems.append(note("Z32", f"{swapped} sub-group partitions were read from NVMe swap files"))
    return trainables, problems, {"groups": sums}


def _sub_groups(shapes: Sequence[NamedShapes], sizes: Sequence[int], world: int) -> list[NamedShapes] | None:
    """`param_shapes` per sub-group. A file whose groups are not its sub-groups is cut where the sub-groups end."""
    if len(shapes) == len(sizes):
        return list(shapes)
    merged = [item for group in shapes for item in group]
    out: list[NamedShapes] = []
    position = 0
    for size in sizes:
        count, start = 0, position
        while position < len(merged) and count < size:
            count += partition_share(element_count(merged[position][1]), world)
            position += 1
        if count != size:
            return None
        out.append(tuple(merged[start:position]))
    while position < len(merged) and element_count(merged[position][1]) == 0 and out:
        out[-1] = (*out[-1], merged[position])
        position += 1
    return out if position == len(merged) else None


def _locate(
    state: OptimizerState, group: int, expected: int, sources: Sources, swap_files: Mapping[str, Entry]
) -> tuple[_Flat | None, list[Problem]]:
    """The flat tensor of a sub-group on one rank: in the optimizer file, or in a swap file when it is empty there."""
    tensor = state.masters[group]
    elements = element_count(tensor.shape)
    if elements == 0 and expected > 0:
        return _locate_swap(state, group, expected, sources, swap_files)
    if elements != expected:
        message = f"sub-group {group} on rank {state.rank}: the parameters need {expected} elements, the rank saved {elements}"
        return None, [refuse("Z32", message, file=state.path, rank=state.rank, remedy=_TWO_RUNS)]
    source = sources.index(state.path)
    try:
        check(tensor, sources.size(source))
        if not (tensor.contiguous or elements == 0):
            raise AddressError("it is not one contiguous vector")
        place = flat_range(tensor, source, 0, elements, big_endian=state.big_endian)
    except AddressError as error:
        message = f"sub-group {group} on rank {state.rank} cannot be read: {error}"
        remedy = f"copy the file of rank {state.rank} again from where it was written"
        return None, [refuse("Z23", message, file=state.path, rank=state.rank, remedy=remedy)]
    return _Flat(source, place.offset, elements, tensor.dtype, place.swap), []


def _locate_swap(
    state: OptimizerState, group: int, expected: int, sources: Sources, swap_files: Mapping[str, Entry]
) -> tuple[_Flat | None, list[Problem]]:
    table = load("deepspeed_eras")["nvme"]
    directory = f"{table['directory']}/{table['rank_directory'].format(rank=state.rank or 0)}"
    name = state.swap_ids[group]
    empty = f"sub-group {group} on rank {state.rank} is empty: its {expected} elements were offloaded to NVMe"
    if name is None or "/" in name or name.startswith("."):
        remedy = "the shard does not name its swap file; save again without offload_optimizer.device=nvme"
        return None, [refuse("Z32", empty, file=state.path, rank=state.rank, remedy=remedy)]
    path = f"{directory}/{table['master'].replace('{id}', name)}"
    entry = swap_files.get(path)
    if entry is None:
        remedy = f"copy {printable(path)} into the tag directory from the node of rank {state.rank}"
        return None, [refuse("Z32", empty, file=state.path, rank=state.rank, remedy=remedy)]
    if entry.size < expected * 4:
        message = f"holds {entry.size} bytes, sub-group {group} of rank {state.rank} needs {expected * 4}"
        remedy = f"copy the file again from the node of rank {state.rank}"
        return None, [refuse("Z32", message, file=entry.path, rank=state.rank, remedy=remedy)]
    # Swap buffers hold the optimizer's own type, float32 (partitioned_optimizer_swapper.py); the pickled empty
    # tensor is a fresh torch.Tensor() whatever the master's type was.
    return _Flat(sources.add_entry(entry, state.rank), 0, expected, "F32", swap=False), []


def _same_type(optimizers: Sequence[OptimizerState], flats: Sequence[_Flat], group: int) -> list[Problem]:
    first = flats[0].dtype
    for state, flat in zip(optimizers, flats, strict=True):
        if flat.dtype != first:
            message = f"sub-group {group} is {flat.dtype}, on rank {optimizers[0].rank} it is {first}"
            return [refuse("Z37", message, file=state.path, rank=state.rank, remedy=_TWO_RUNS)]
    if first != "F32":
        message = f"the master weights of sub-group {group} are {first}, not F32: there is no more precision to recover"
        return [warn("Z37", message)]
    return []


def frozen_pieces(numel: int, world: int) -> tuple[Piece, ...]:
    """The elements each rank holds of a frozen parameter under stage 3."""
    return shared_pieces(numel, 0, world)
