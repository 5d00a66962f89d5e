"""Universal checkpoints: one whole float32 tensor per parameter in ``zero/<name>/fp32.pt``.

Written by deepspeed 0.19.8 ``checkpoint/ds_to_universal.py``; tensor- and pipeline-parallel checkpoints are whole here
too. Two things it does silently wrong are undone or found: a tied alias gets a file of its own made from the 16-bit
module (the owner's is used), and under `round_robin_gradients` parameters hold each other's values (the comparison with
the module says so). Buffers come from the model file, where integers are still integers.
"""

from __future__ import annotations

from collections.abc import Mapping

from ckpt_inspect.artifacts.universal import UniversalTensor, read_universal, read_universal_tensor
from ckpt_inspect.artifacts.zero_shards import ZeroShards, read_models
from ckpt_inspect.artifacts.zero_states import ModelState
from ckpt_inspect.consolidate.addresses import AddressError, check, flat_range
from ckpt_inspect.consolidate.agreement import Depth, compare, copies_in_module, judge
from ckpt_inspect.consolidate.draft import Draft, finish
from ckpt_inspect.consolidate.files import check_readable
from ckpt_inspect.consolidate.layouts import Piece, element_count
from ckpt_inspect.consolidate.named import collect_named
from ckpt_inspect.consolidate.parts import Trainable
from ckpt_inspect.consolidate.plan import Plan
from ckpt_inspect.consolidate.problems import Problem, note, refuse, warn
from ckpt_inspect.consolidate.reading import OpenFiles
from ckpt_inspect.errors import UnreadableError
from ckpt_inspect.formats.torch_archive import Tensor
from ckpt_inspect.printable import printable
from ckpt_inspect.storage import Entry

_AGAIN = "run ds_to_universal again"
_ROUND_ROBIN = (
    "ds_to_universal follows param_slice_mappings, which round_robin_gradients makes wrong: consolidate the checkpoint "
    "it was made from, or --force to write what is here"
)


def plan_universal(draft: Draft, *, exclude_frozen: bool, depth: Depth, force: bool) -> Plan:
    """The plan of a universal checkpoint."""
    selection = draft.selection
    models, broken = read_models(selection.tree, selection.files.model)
    draft.problems += check_readable(ZeroShards(tuple(models), (), tuple(broken)), selection.files)
    draft.sources.add_files(selection.files.model)
    values = _find_values(draft)
    model = models[0] if models else None
    _completeness(draft, values, model)
    draft.settle(force)
    partitioned = selection.files.partitioned_model
    _lay_out(draft, values, model, exclude_frozen=exclude_frozen)
    draft.settle(force)
    if model is not None:
        usable = models if partitioned else models[:1]
        draft.named = collect_named(
            usable,
            [trainable.name for trainable in draft.trainables],
            draft.sources,
            partitioned=partitioned,
            target=draft.target,
            exclude_frozen=exclude_frozen,
        )
        taken = {trainable.name for trainable in draft.trainables}
        draft.named.before = [tensor for tensor in draft.named.before if tensor.name not in taken]
        draft.problems += draft.named.problems
        if not partitioned and len(selection.files.mp_ranks) == 1:
            _compare(draft, model, depth)
    draft.settle(force)
    world = model.dp_world_size if model and model.dp_world_size else 1
    return finish(draft, "universal", None, world, model, "universal")


def _find_values(draft: Draft) -> dict[str, Entry]:
    """``fp32.pt`` of every parameter, by name."""
    found = read_universal(draft.selection.tree, draft.selection.directory)
    paths = {p.name: p.states["fp32"] for p in found.parameters if "fp32" in p.states} if found else {}
    entries = {name: draft.selection.tree.get(path) for name, path in paths.items()}
    return {name: entry for name, entry in entries.items() if entry is not None}


def _completeness(draft: Draft, values: Mapping[str, Entry], model: ModelState | None) -> None:
    """Z50: every parameter the model file names has a file, and the conversion came to its end."""
    selection = draft.selection
    prefix = f"{selection.directory}/" if selection.directory else ""
    if model is None:
        message = "no *_model_states.pt is here: buffers and tied parameters are unknown"
        remedy = f"copy it from the checkpoint this was made from, or {_AGAIN}"
        draft.problems.append(refuse("Z50", message, file=selection.directory or None, remedy=remedy, forceable=True))
        return
    wanted = [name for group in model.shapes or () for name, _ in group]
    missing = [name for name in wanted if name not in values]
    if missing:
        message = f"{len(missing)} of {len(wanted)} parameters have no fp32.pt: the conversion was interrupted or copied in part"
        path = f"{prefix}zero/{missing[0]}"
        draft.problems.append(refuse("Z50", message, file=path, tensor=missing[0], remedy=_AGAIN))
    if selection.tree.get(f"{prefix}zero/optimizer_state.pt") is None:
        message = "zero/optimizer_state.pt, which is written last, is missing: the conversion may not have finished"
        draft.problems.append(warn("Z50", message, file=selection.directory or None))
    if selection.tree.get(f"{prefix}tmp") is not None:
        draft.problems.append(note("Z50", "tmp/ of the conversion is still there", file=selection.directory or None))


def _lay_out(draft: Draft, values: Mapping[str, Entry], model: ModelState | None, *, exclude_frozen: bool) -> None:
    shapes = {name: shape for group in (model.shapes or () if model else ()) for name, shape in group}
    skipped = set(model.buffer_names or ()) if model else set()
    skipped |= {alias for alias, owner in (model.shared or () if model else ()) if owner in values}
    frozen = dict(model.frozen_shapes or ()) if model else {}
    if exclude_frozen:
        skipped |= set(frozen) | {name for name in values if shapes and name not in shapes}
    named = [name for name in shapes if name in values]
    others = sorted(name for name in values if name not in shapes and name not in skipped)
    known = {**shapes, **frozen}
    for name in [*(name for name in others if name in frozen), *named, *(n for n in others if n not in frozen)]:
        if name in skipped:
            continue
        entry = values[name]
        value = _read(draft, name, entry)
        if value is None or value.tensor is None:
            continue
        found = _whole(draft, name, entry, value, value.tensor, known.get(name), model)
        if isinstance(found, Problem):
            draft.problems.append(found)
        else:
            draft.trainables.append(found)


def _read(draft: Draft, name: str, entry: Entry) -> UniversalTensor | None:
    """The content of one ``fp32.pt``; None, with a problem noted, when it holds no tensor."""
    try:
        with draft.selection.tree.open(entry.path) as source:
            value = read_universal_tensor(source)
    except UnreadableError as error:
        draft.problems.append(refuse("Z20", error.what, file=entry.path, tensor=name))
        return None
    if value.tensor is None:
        reason = value.faults[0].message if value.faults else "it holds no tensor"
        message = f"{printable(name)} cannot be read: {printable(reason, 200)}"
        draft.problems.append(refuse("Z50", message, file=entry.path, tensor=name, remedy=_AGAIN))
        return None
    return value


def _whole(
    draft: Draft,
    name: str,
    entry: Entry,
    value: UniversalTensor,
    tensor: Tensor,
    shape: tuple[int, ...] | None,
    model: ModelState | None,
) -> Trainable | Problem:
    held = element_count(tensor.shape)
    wanted = tensor.shape
    if shape is not None and element_count(shape) == held:
        wanted = shape  # the stage 3 conversion saves flat vectors
    rows = model.universal_info.get("original_vocab_size") if model and model.universal_info else None
    if value.vocabulary and isinstance(rows, int) and len(wanted) > 1 and 0 < rows < wanted[0]:
        message = f"{wanted[0] - rows} padding rows of {printable(name)} were dropped (original_vocab_size {rows})"
        draft.problems.append(note("Z50", message, file=entry.path))
        wanted = (rows, *wanted[1:])
    elif shape is not None and wanted != shape and not value.vocabulary and len(draft.selection.files.mp_ranks) < 2:
        message = f"{printable(name)} holds {list(tensor.shape)}, the model file says {list(shape)}"
        return refuse("Z50", message, file=entry.path, tensor=name, remedy=_AGAIN)
    source = draft.sources.add_entry(entry, None)
    try:
        check(tensor, entry.size)
        if not (tensor.contiguous or held == 0):
            raise AddressError("it is not contiguous")
    except AddressError as error:
        message = f"{printable(name)} cannot be read: {error}"
        return refuse("Z23", message, file=entry.path, tensor=name, remedy=_AGAIN)
    count = element_count(wanted)
    ranges = (flat_range(tensor, source, 0, count, big_endian=value.big_endian),) if count else ()
    return Trainable(name, wanted, tensor.dtype, ranges, 0, (Piece(0, 0, count),) if count else ())


def _compare(draft: Draft, model: ModelState, depth: Depth) -> None:
    listed = draft.sources.files()
    with OpenFiles(draft.selection.tree, listed) as files:
        agreement = compare(draft.trainables, copies_in_module(model, listed), files, depth)
    place = f"{draft.selection.directory}/zero" if draft.selection.directory else "zero"
    draft.problems += judge(agreement, model.path, {0: place}, depth, remedy=_ROUND_ROBIN, ranked=False)
    draft.record(agreement, depth)
