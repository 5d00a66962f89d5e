"""ZeRO-1, ZeRO-2 and BF16_Optimizer: one flat vector per parameter group, cut into one partition per rank.

Source: deepspeed 0.19.8 ``utils/zero_to_fp32.py`` `_zero2_merge_trainable_params`, with these corrections: sums are
exact where the version makes them exact, every rank is read, and files that ``BF16_Optimizer`` wrote (no `zero_stage`;
``runtime/bf16_optimizer.py`` `state_dict`) are taken too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckpt_inspect.artifacts.zero_nodes import NamedShapes
from ckpt_inspect.artifacts.zero_states import ModelState, OptimizerState
from ckpt_inspect.consolidate.addresses import AddressError, Sources, check, flat_range
from ckpt_inspect.consolidate.layouts import LayoutError, Piece, align_up, element_count, flat_pieces
from ckpt_inspect.consolidate.parts import Trainable
from ckpt_inspect.consolidate.problems import Problem, note, refuse, refused, warn
from ckpt_inspect.knowledge import load
from ckpt_inspect.printable import printable

_TWO_RUNS = "these files are of different runs; copy the whole tag directory again, or give the one that is whole"


def alignment(world: int) -> int:
    """Elements the flat buffer of a group is padded to a multiple of."""
    factor: int = load("deepspeed_eras")["alignment"]["nccl_start_alignment_factor"]
    return factor * world


def plan_zero12(
    model: ModelState, optimizers: Sequence[OptimizerState], sources: Sources
) -> tuple[list[Trainable], list[Problem], dict[str, Any]]:
    """The trainable parameters in flat-buffer order, what is wrong, and the sums.

    `optimizers` are all ranks in order. Nothing is planned when a problem refuses and cannot be forced.
    """
    problems: list[Problem] = []
    first = optimizers[0]
    shapes = model.shapes if model.shapes is not None else first.shapes
    if shapes is None:
        message = "there is no param_shapes in the model file nor in the optimizer files: names and shapes are unknown"
        remedy = "DeepSpeed saves them since 0.3.13; load the checkpoint with the version that wrote it"
        return [], [refuse("key", message, file=model.path, remedy=remedy)], {}
    groups = len(first.masters)
    for state in optimizers:
        if len(state.masters) != groups:
            message = f"holds {len(state.masters)} parameter groups, rank {first.rank} holds {groups}"
            return [], [refuse("Z33", message, file=state.path, rank=state.rank, remedy=_TWO_RUNS)], {}
        for group in range(groups):
            problems += _unreadable(state, group, sources)
    if problems:
        return [], problems, {}
    totals = [sum(state.masters[group].shape[0] for state in optimizers) for group in range(groups)]
    if len(shapes) == 1 and groups > 1:  # before 0.5.4 one mapping held every group
        shapes = _split_groups(shapes[0], totals, len(optimizers)) or shapes
    if len(shapes) != groups:
        message = f"param_shapes names {len(shapes)} groups, the ranks saved {groups}"
        return [], [refuse("Z33", message, file=model.path, remedy=_TWO_RUNS)], {}
    trainables: list[Trainable] = []
    sums: list[dict[str, Any]] = []
    for group in range(groups):
        problems += _element_type(optimizers, group)
        problems += _equal_partitions(optimizers, group)
        if not refused(problems):
            trainables += _plan_group(shapes[group], optimizers, group, sources, problems, sums)
    return trainables, problems, {"groups": sums}


def _plan_group(
    shapes: NamedShapes,
    optimizers: Sequence[OptimizerState],
    group: int,
    sources: Sources,
    problems: list[Problem],
    sums: list[dict[str, Any]],
) -> list[Trainable]:
    partitions = [state.masters[group].shape[0] for state in optimizers]
    numels = [element_count(shape) for _, shape in shapes]
    paddings, found = _alignment_paddings(optimizers, group, len(shapes))
    problems += found
    saved, wanted = sum(partitions), sum(numels) + sum(paddings or ())
    sums.append(
        {
            "group": group,
            "parameters": len(shapes),
            "elements": sum(numels),
            "saved": saved,
            "alignment_padding": sum(paddings or ()),
            "tail_padding": saved - wanted,
        }
    )
    problems += _sum(optimizers, group, saved, wanted, len(shapes))
    if refused(problems):
        return []
    try:
        pieces = flat_pieces(numels, partitions, paddings)
    except LayoutError as error:  # a forced deficit still cannot be planned
        name = printable(shapes[error.index or 0][0])
        problems.append(refuse("Z31", f"{name} does not fit: {error}", file=optimizers[-1].path, tensor=name))
        return []
    problems += _slice_mappings(shapes, pieces, optimizers, group)
    out: list[Trainable] = []
    for (name, shape), parts in zip(shapes, pieces, strict=True):
        ranges = tuple(
            flat_range(
                optimizers[part.rank].masters[group],
                sources.index(optimizers[part.rank].path),
                part.start,
                part.elements,
                big_endian=optimizers[part.rank].big_endian,
            )
            for part in parts
        )
        out.append(Trainable(name, shape, optimizers[0].masters[group].dtype, ranges, group, parts))
    return out


def _split_groups(shapes: NamedShapes, totals: Sequence[int], world: int) -> tuple[NamedShapes, ...] | None:
    """One mapping of all groups cut where the sums of the groups fall, None when they fall inside a parameter."""
    out: list[NamedShapes] = []
    position = 0
    for index, total in enumerate(totals):
        count, start = 0, position
        while position < len(shapes) and (
            index == len(totals) - 1 or count + element_count(shapes[position][1]) <= total
        ):
            count += element_count(shapes[position][1])
            position += 1
        if not count <= total <= align_up(count, alignment(world)):
            return None
        out.append(shapes[start:position])
    return tuple(out) if position == len(shapes) else None


def _unreadable(state: OptimizerState, group: int, sources: Sources) -> list[Problem]:
    tensor = state.masters[group]
    try:
        check(tensor, sources.size(sources.index(state.path)))
        if len(tensor.shape) != 1 or not (tensor.contiguous or tensor.nbytes == 0):
            raise AddressError("it is not one contiguous vector")
    except AddressError as error:
        message = f"the partition of group {group} on rank {state.rank} cannot be read: {error}"
        remedy = f"copy the file of rank {state.rank} again from where it was written"
        return [refuse("Z23", message, file=state.path, rank=state.rank, remedy=remedy)]
    return []


def _element_type(optimizers: Sequence[OptimizerState], group: int) -> list[Problem]:
    first = optimizers[0].masters[group].dtype
    for state in optimizers:
        if state.masters[group].dtype != first:
            message = f"group {group} is {state.masters[group].dtype}, on rank {optimizers[0].rank} it is {first}"
            return [refuse("Z37", message, file=state.path, rank=state.rank, remedy=_TWO_RUNS)]
    if first != "F32":
        message = f"the master weights of group {group} are {first}, not F32: there is no more precision to recover"
        return [warn("Z37", message)]
    return []


def _equal_partitions(optimizers: Sequence[OptimizerState], group: int) -> list[Problem]:
    """Every rank owns an equal partition: what it saved plus the padding it trimmed is one number."""
    sizes: dict[int, OptimizerState] = {}
    for state in optimizers:
        if state.group_paddings is None or len(state.group_paddings) <= group:
            return []
        padding = 0 if state.layout == "bf16_optimizer" else state.group_paddings[group]
        sizes.setdefault(state.masters[group].shape[0] + padding, state)
    if len(sizes) <= 1:
        return []
    (size, one), (other_size, other) = list(sizes.items())[:2]
    message = (
        f"group {group}: rank {other.rank} owns a partition of {other_size} elements, rank {one.rank} one of {size}"
    )
    if _trims_last_rank_only(one.ds_version) and max(sizes) - min(sizes) < alignment(len(optimizers)):
        return [note("Z35", f"{message}: this version trimmed the last rank only", file=other.path, rank=other.rank)]
    return [refuse("Z35", message, file=other.path, rank=other.rank, remedy=_TWO_RUNS, forceable=True)]


def _trims_last_rank_only(version: str | None) -> bool:
    """Whether a version trims padding of the last rank only (before 0.16.4); unknown versions may."""
    if version is None:
        return True
    numbers = [int(part) for part in version.split("+")[0].split(".")[:3] if part.isdigit()]
    return numbers < [0, 16, 4]


def _alignment_paddings(
    optimizers: Sequence[OptimizerState], group: int, parameters: int
) -> tuple[tuple[int, ...] | None, list[Problem]]:
    first = optimizers[0]
    if first.alignment_paddings is None or len(first.alignment_paddings) <= group:
        return None, []
    paddings = first.alignment_paddings[group]
    for state in optimizers:
        other = state.alignment_paddings
        if other is None or len(other) <= group or other[group] != paddings:
            message = f"group {group}: its param_alignment_paddings differ from those of rank {first.rank}"
            return paddings, [refuse("Z33", message, file=state.path, rank=state.rank, remedy=_TWO_RUNS)]
    if len(paddings) != parameters or min(paddings, default=0) < 0:
        message = f"group {group}: {len(paddings)} param_alignment_paddings for {parameters} parameters"
        return paddings, [refuse("Z33", message, file=first.path, rank=first.rank, remedy=_TWO_RUNS)]
    return paddings, []


def _sum(optimizers: Sequence[OptimizerState], group: int, saved: int, wanted: int, parameters: int) -> list[Problem]:
    """Z31. Trimmed files hold exactly what the parameters need; untrimmed and old ones also the tail padding."""
    first = optimizers[0]
    if saved == wanted:
        return []
    numbers = f"group {group}: {parameters} parameters need {wanted} elements, {len(optimizers)} ranks saved {saved}"
    if saved < wanted:
        remedy = (
            "a rank file is of another run or the world size is wrong; nothing can be recovered from fewer elements"
        )
        return [refuse("Z31", numbers, file=first.path, remedy=remedy)]
    if saved > align_up(wanted, alignment(len(optimizers))):
        message = f"{numbers}, more than padding explains"
        remedy = "the model file is of another run, or the flat buffer is padded in a way this version does not know"
        return [refuse("Z31", message, file=first.path, remedy=remedy)]
    if first.layout == "bf16_optimizer":
        recorded = sum(sum((state.group_paddings or ())[group : group + 1]) for state in optimizers)
        if recorded in {saved - wanted, (saved - wanted) * len(optimizers)}:
            return []
    return [warn("Z31", f"{numbers}: the last {saved - wanted} are taken for padding", file=first.path)]


def _slice_mappings(
    shapes: NamedShapes, pieces: Sequence[tuple[Piece, ...]], optimizers: Sequence[OptimizerState], group: int
) -> list[Problem]:
    """Z34: where each rank says its fragments start. The order of shapes decides; this is a hint for the proof.

    Under `round_robin_gradients` without alignment padding DeepSpeed records the addresses of the original order
    (``runtime/zero/stage_1_and_2.py`` `_link_all_hp_params`), which are wrong.
    """
    planned: list[dict[str, tuple[int, int]]] = [{} for _ in optimizers]
    for (name, _), parts in zip(shapes, pieces, strict=True):
        for part in parts:
            planned[part.rank][name] = (part.start, part.elements)
    for state, expected in zip(optimizers, planned, strict=True):
        if state.slices is None or len(state.slices) <= group:
            continue
        recorded = state.slices[group]
        differing = sorted(name for name in expected if expected[name] != recorded.get(name))
        if differing or len(recorded) > len(expected):
            message = (
                f"group {group}: {len(differing)} of {len(expected)} addresses in param_slice_mappings of rank "
                f"{state.rank} contradict the order of param_shapes"
            )
            remedy = "nothing here settles which is right; --force follows param_shapes, as zero_to_fp32 does"
            first = next(iter(differing), None)
            return [
                refuse("Z34", message, file=state.path, rank=state.rank, tensor=first, remedy=remedy, forceable=True)
            ]
    return []
