"""Tensors that are not in the optimizer: buffers, frozen parameters, aliases, and what only the module still holds.

Sources: deepspeed 0.19.8 ``utils/zero_to_fp32.py`` `parse_model_states`, `_zero2_merge_frozen_params`,
`_zero3_merge_frozen_params`; ``runtime/engine.py`` `_get_shared_params`, `_get_zero_frozen_param_attributes`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ckpt_inspect.artifacts.zero_states import ModelState
from ckpt_inspect.consolidate.addresses import AddressError, Sources, check, flat_range, whole_ranges
from ckpt_inspect.consolidate.layouts import element_count, partition_share, shared_pieces
from ckpt_inspect.consolidate.parts import planned
from ckpt_inspect.consolidate.plan import Origin, PlannedTensor, Range
from ckpt_inspect.consolidate.problems import Problem, note, refuse, warn
from ckpt_inspect.formats.torch_archive import Tensor
from ckpt_inspect.printable import printable


@dataclass(slots=True)
class Named:
    """Tensors to write before and after the trainable ones, aliases not to write, and what was found wrong."""

    before: list[PlannedTensor] = field(default_factory=list)
    after: list[PlannedTensor] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def collect_named(
    models: Sequence[ModelState],
    trainable: Collection[str],
    sources: Sources,
    *,
    partitioned: bool,
    target: str,
    exclude_frozen: bool,
    expected_in_module: bool = False,
) -> Named:
    """Everything but the trainable parameters.

    Args:
        models: the model files in rank order; one unless `partitioned`.
        trainable: names the optimizer holds.
        partitioned: stage 3, where `module` holds placeholders and every rank a slice of each frozen parameter.
        target: the type floating tensors are written in.
        exclude_frozen: leave frozen parameters out.
        expected_in_module: stage 0, where parameters without a master are no surprise.
    """
    first = models[0]
    named = Named()
    _buffers(first, named, sources, target)
    if not exclude_frozen:
        _frozen(models, named, sources, target, partitioned=partitioned)
    known = {tensor.name for tensor in named.before} | set(trainable)
    _aliases(first, named, known, partitioned=partitioned, exclude_frozen=exclude_frozen)
    lost = [
        name
        for name in first.module or ()
        if name not in known and name not in named.aliases and name not in set(first.buffer_names or ())
    ]
    if exclude_frozen:
        frozen = {name for name, _ in first.frozen_shapes or ()}
        lost = [name for name in lost if first.frozen_shapes is None and partitioned and name not in frozen]
    if partitioned:
        _placeholders(first, named, lost, sources, target)
    else:
        _from_module(first, named, lost, sources, target, expected=expected_in_module)
    if first.module_other:
        names = ", ".join(printable(name, 40) for name in first.module_other[:3])
        message = f"{len(first.module_other)} entries of the module are no tensors and are left out: {names}"
        named.problems.append(warn("Z40", message, file=first.path))
    return named


def whole(
    name: str, tensor: Tensor, path: str, sources: Sources, origin: Origin, target: str, *, big_endian: bool
) -> PlannedTensor | Problem:
    """A tensor taken as it lies in one file, or why it cannot be."""
    source = sources.index(path)
    try:
        ranges = whole_ranges(tensor, source, sources.size(source), big_endian=big_endian)
    except AddressError as error:
        message = f"{printable(name)} cannot be read: {error}"
        return refuse("Z23", message, file=path, tensor=name, remedy="copy the file again from where it was written")
    return planned(name, tensor.shape, tensor.dtype, ranges, origin, target)


def _add(found: PlannedTensor | Problem, tensors: list[PlannedTensor], problems: list[Problem]) -> None:
    if isinstance(found, Problem):
        problems.append(found)
    else:
        tensors.append(found)


def _buffers(model: ModelState, named: Named, sources: Sources, target: str) -> None:
    module: Mapping[str, Tensor] = model.module or {}
    wanted = set(model.buffer_names or ())
    for name, tensor in module.items():
        if name in wanted:
            found = whole(name, tensor, model.path, sources, "buffer", target, big_endian=model.big_endian)
            _add(found, named.before, named.problems)
    absent = [name for name in model.buffer_names or () if name not in module]
    if absent:
        message = f"{len(absent)} buffers are listed but not saved: {', '.join(printable(n, 60) for n in absent[:3])}"
        named.problems.append(warn("Z43", message, file=model.path))


def _frozen(models: Sequence[ModelState], named: Named, sources: Sources, target: str, *, partitioned: bool) -> None:
    first = models[0]
    for name, shape in first.frozen_shapes or ():
        found = (
            _frozen_slices(name, shape, models, sources, target)
            if partitioned
            else _frozen_whole(name, shape, first, sources, target)
        )
        _add(found, named.before, named.problems)


def _frozen_whole(
    name: str, shape: tuple[int, ...], model: ModelState, sources: Sources, target: str
) -> PlannedTensor | Problem:
    tensor = (model.frozen or {}).get(name) or (model.module or {}).get(name)
    if tensor is None:
        message = f"the frozen parameter {printable(name)} has a shape but no values"
        return refuse("Z17", message, file=model.path, tensor=name, remedy="the file is incomplete: copy it again")
    if tensor.shape != shape:
        message = f"the frozen parameter {printable(name)} is {list(tensor.shape)}, its recorded shape is {list(shape)}"
        return refuse("Z30", message, file=model.path, tensor=name, remedy="the file is not as DeepSpeed wrote it")
    return whole(name, tensor, model.path, sources, "frozen", target, big_endian=model.big_endian)


def _frozen_slices(
    name: str, shape: tuple[int, ...], models: Sequence[ModelState], sources: Sources, target: str
) -> PlannedTensor | Problem:
    world, numel = len(models), element_count(shape)
    ranges: list[Range] = []
    dtype = "F32"
    for piece in shared_pieces(numel, 0, world):
        model = models[piece.rank]
        tensor = (model.frozen or {}).get(name)
        if tensor is None:
            message = f"rank {model.rank} saved no slice of the frozen parameter {printable(name)}"
            remedy = "the files are of different runs: copy the whole tag directory again"
            return refuse("Z30", message, file=model.path, rank=model.rank, tensor=name, remedy=remedy)
        if piece.rank == 0:
            dtype = tensor.dtype
        held, source = element_count(tensor.shape), sources.index(model.path)
        try:
            check(tensor, sources.size(source))
            if not tensor.contiguous:
                raise AddressError("its slice is not contiguous")
            if held != partition_share(numel, world):
                wanted = partition_share(numel, world)
                raise AddressError(f"the slice holds {held} elements where {world} ranks make slices of {wanted}")
            if tensor.dtype != dtype:
                raise AddressError(f"the slice is {tensor.dtype}, on rank 0 it is {dtype}")
        except AddressError as error:
            message = f"the frozen parameter {printable(name)} cannot be read on rank {model.rank}: {error}"
            remedy = f"copy the file of rank {model.rank} again from where it was written"
            return refuse("Z32", message, file=model.path, rank=model.rank, tensor=name, remedy=remedy)
        ranges.append(flat_range(tensor, source, piece.start, piece.elements, big_endian=model.big_endian))
    if numel == 0 and (empty := (models[0].frozen or {}).get(name)) is not None:
        dtype = empty.dtype
    return planned(name, shape, dtype, tuple(ranges), "frozen", target)


def _aliases(
    model: ModelState, named: Named, known: Collection[str], *, partitioned: bool, exclude_frozen: bool
) -> None:
    module: Mapping[str, Tensor] = model.module or {}
    frozen = {name for name, _ in model.frozen_shapes or ()} | (set() if partitioned else set(module))
    for alias, owner in model.shared or ():
        if owner in known or (owner in frozen and not exclude_frozen):
            if alias != owner:
                named.aliases[alias] = owner
        elif owner not in frozen:
            message = f"{printable(alias)} shares the values of {printable(owner)}, which is not in the checkpoint"
            named.problems.append(warn("Z41", message, file=model.path, tensor=alias))
    # Before 0.9.1, under stage 0, and where one parent holds a module twice (`named_children` passes the second over
    # in `_get_shared_params`), only the module says what is shared: by the place in its storage. What the shards hold
    # owns its place; among the rest the first in the order of the module does. Placeholders of stage 3 have no values
    # but a storage per parameter: one that two parameters with values share tells nothing.
    places: dict[tuple[str, int, tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for name, tensor in module.items():
        if (tensor.nbytes or partitioned) and name not in named.aliases:
            place = (tensor.storage_key, tensor.storage_offset, tensor.shape, tensor.stride)
            places.setdefault(place, []).append(name)
    for names in places.values():
        owners = [name for name in names if name in known]
        if not module[names[0]].nbytes and len(owners) != 1:
            continue
        owner = (owners or names)[0]
        named.aliases.update({name: owner for name in names if name != owner and name not in known})


def _from_module(
    model: ModelState, named: Named, lost: Sequence[str], sources: Sources, target: str, *, expected: bool
) -> None:
    module = model.module or {}
    for name in lost:
        found = whole(name, module[name], model.path, sources, "module", target, big_endian=model.big_endian)
        _add(found, named.after, named.problems)
    if lost and not expected:
        dtypes = ", ".join(sorted({module[name].dtype for name in lost}))
        message = (
            f"{len(lost)} parameters are in no optimizer shard (ZeRO-1 does not save frozen ones there) and were taken "
            f"from the module as {dtypes}: {', '.join(printable(name, 60) for name in lost[:3])}"
            f"{' ...' if len(lost) > 3 else ''}"
        )
        named.problems.append(warn("Z40", message, file=model.path))


def _placeholders(model: ModelState, named: Named, lost: Sequence[str], sources: Sources, target: str) -> None:
    module = model.module or {}
    empty: list[str] = []
    for name in lost:
        tensor = module[name]
        if tensor.nbytes == 0:
            empty.append(name)
            continue
        found = whole(name, tensor, model.path, sources, "buffer", target, big_endian=model.big_endian)
        _add(found, named.before, named.problems)
    if empty:
        message = (
            f"{len(empty)} names of the module have no values in any shard: "
            f"{', '.join(printable(name, 60) for name in empty[:3])}{' ...' if len(empty) > 3 else ''}"
        )
        named.problems.append(warn("Z40", message, file=model.path))
    if model.buffer_names is None and len(lost) > len(empty):
        named.problems.append(note("Z43", "the file lists no buffers; tensors with values were taken for buffers"))
