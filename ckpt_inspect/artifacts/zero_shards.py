"""One DeepSpeed tag directory: what stage, how many ranks, which files are there and which are not.

:func:`read_zero_tag` opens two files whatever the number of ranks; :func:`read_all_ranks` opens every one.
Sources: deepspeed 0.19.8 ``runtime/engine.py`` `save_checkpoint`, ``utils/zero_to_fp32.py`` `parse_optim_states`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ckpt_inspect.artifacts.zero_files import TagFiles, ZeroFile, group_files
from ckpt_inspect.artifacts.zero_nodes import walk
from ckpt_inspect.artifacts.zero_states import ModelState, OptimizerState, read_model_state, read_optimizer_state
from ckpt_inspect.artifacts.zero_twins import TwinReader
from ckpt_inspect.errors import UnreadableError
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.storage import LocalTree

# No job is larger; a count beyond it is damage, and would only cost memory.
_MOST_RANKS = 65_536

Unreadable: TypeAlias = tuple[ZeroFile, Fault]


@dataclass(frozen=True, slots=True)
class ZeroTag:
    """A tag directory as far as rank 0 and the file names tell.

    Attributes:
        tag: its path relative to the tree, "" when the tree is the tag directory itself.
        stage: 0 to 3; None when no file says so.
        optimizer_class: "zero12", "zero3", "bf16_optimizer", "stage0", "stage1_sub_partitions" or None.
        world_size: ranks the optimizer is partitioned over: as rank 0 recorded it, else counted from the names.
        model_parallel: tensor times pipeline ranks.
        dtype: "bfloat16", "float16" or "float32": the type the module was trained in.
        parameters: elements of all trainable and frozen parameters rank 0 names; None when it names none.
        missing_ranks, extra_ranks: against `world_size`.
    """

    tag: str
    stage: int | None
    optimizer_class: str | None
    world_size: int | None
    model_parallel: int
    ds_version: str | None
    dtype: str | None
    dp_world_size: int | None
    global_steps: int | None
    skipped_steps: int | None
    parameters: int | None
    model_files: tuple[ZeroFile, ...]
    optim_files: tuple[ZeroFile, ...]
    expert_files: tuple[ZeroFile, ...]
    layer_files: tuple[ZeroFile, ...]
    missing_ranks: tuple[int, ...]
    extra_ranks: tuple[int, ...]
    faults: tuple[Fault, ...]

    @property
    def complete(self) -> bool:
        """Whether every file that should be there is, as far as the names and rank 0 tell."""
        return not (self.missing_ranks or self.extra_ranks or self.faults) and bool(self.model_files)


@dataclass(frozen=True, slots=True)
class ZeroShards:
    """What every file of a tag states, in rank order; `unreadable` are files no state could be made from."""

    models: tuple[ModelState, ...]
    optimizers: tuple[OptimizerState, ...]
    unreadable: tuple[Unreadable, ...]


def tag_files(tree: LocalTree, directory: str) -> TagFiles:
    """The DeepSpeed files directly in a directory of the tree ("" for its root)."""
    return group_files(entry for entry in tree.entries() if entry.parent == directory)


def read_zero_tag(tree: LocalTree, directory: str) -> ZeroTag:
    """The tag directory at `directory`, from its file names and the files of rank 0."""
    files = tag_files(tree, directory)
    faults: list[Fault] = [
        Fault("zero-empty-file", "the file is empty", place=file.path) for file in files.all if file.size == 0
    ]
    model = _first(files.model)
    optimizer = _first(files.optimizer)
    model_state = _read(tree, model, faults, read_model_state) if model else None
    optimizer_state = _read(tree, optimizer, faults, read_optimizer_state) if optimizer else None
    return _describe(directory, files, model_state, optimizer_state, faults)


def read_models(tree: LocalTree, files: Sequence[ZeroFile]) -> tuple[list[ModelState], list[Unreadable]]:
    """Read model files; a pickle program met again is not interpreted again (:mod:`.zero_twins`).

    Only the first file's `module` counts: under stage 3 the others hold the same placeholders.
    """
    models: list[ModelState] = []
    unreadable: list[Unreadable] = []
    twins = TwinReader()
    for file in files:
        try:
            with tree.open(file.path) as source:
                state = twins.find(source, file.path, file.rank) if len(files) > 1 else None
                if state is None:
                    state = read_model_state(source, file.path, file.rank)
                    state = _slim(state, models[0]) if models else state
                    twins.remember(state)
        except UnreadableError as error:
            unreadable.append((file, Fault("zero-unreadable", error.what, place=file.path)))
            continue
        models.append(state)
    return models, unreadable


def _slim(state: ModelState, first: ModelState) -> ModelState:
    """The state of a later rank without what only rank 0's is asked for, sharing what is equal."""
    return replace(
        state,
        module={} if state.module is not None else None,
        shapes=first.shapes if state.shapes == first.shapes else state.shapes,
        frozen_shapes=first.frozen_shapes if state.frozen_shapes == first.frozen_shapes else state.frozen_shapes,
        buffer_names=first.buffer_names if state.buffer_names == first.buffer_names else state.buffer_names,
        config={},
        stage_zero=None,
    )


def read_optimizers(tree: LocalTree, files: Sequence[ZeroFile]) -> tuple[list[OptimizerState], list[Unreadable]]:
    """Read optimizer files, each pickle program once."""
    optimizers: list[OptimizerState] = []
    unreadable: list[Unreadable] = []
    for file in files:
        try:
            with tree.open(file.path) as source:
                optimizers.append(read_optimizer_state(source, file.path, file.rank))
        except UnreadableError as error:
            unreadable.append((file, Fault("zero-unreadable", error.what, place=file.path)))
    return optimizers, unreadable


def read_all_ranks(tree: LocalTree, files: TagFiles) -> ZeroShards:
    """Read every model file and every optimizer file of a tag."""
    models, broken_models = read_models(tree, files.model)
    optimizers, broken_optimizers = read_optimizers(tree, files.optimizer)
    return ZeroShards(tuple(models), tuple(optimizers), (*broken_models, *broken_optimizers))


def trained_dtype(config: Any, prefixes: Iterable[str] = ()) -> str | None:
    """The element type of the module by `ds_config`, or by the prefix of the optimizer files."""
    for section, name in (("bf16", "bfloat16"), ("bfloat16", "bfloat16"), ("fp16", "float16")):
        if walk(config, section, "enabled") is True:
            return name
    if "bf16_" in set(prefixes):
        return "bfloat16"
    return "float32" if config else None


def parameter_count(model: ModelState, fallback: OptimizerState | None = None) -> int | None:
    """Elements of all trainable and frozen parameters, tied ones once; None when nothing names them."""
    shapes = model.shapes if model.shapes is not None else (fallback.shapes if fallback else None)
    named = {name: shape for group in (*(shapes or ()), model.frozen_shapes or ()) for name, shape in group}
    total = sum(_elements(shape) for shape in named.values())
    if model.module is None or model.rank is not None:  # every rank's own file: placeholders
        return total if shapes is not None else None
    known = {*named, *(model.buffer_names or ()), *(alias for alias, _ in model.shared or ())}
    places = {(t.storage_key, t.storage_offset) for name, t in model.module.items() if name in named}
    for name, tensor in model.module.items():  # stage 0, and what stage 1 keeps in the module only
        place = (tensor.storage_key, tensor.storage_offset)
        if name not in known and place not in places:
            places.add(place)
            total += _elements(tensor.shape)
    return total


def _elements(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _first(files: Sequence[ZeroFile]) -> ZeroFile | None:
    """The file of the lowest rank with any bytes: rank 0 where it is there."""
    with_bytes = [file for file in files if file.size > 0]
    return min(with_bytes, key=lambda file: (file.mp_rank, file.rank or 0), default=None)


def _read(tree: LocalTree, file: ZeroFile, faults: list[Fault], reader: Any) -> Any:
    try:
        with tree.open(file.path) as source:
            state = reader(source, file.path, file.rank)
    except UnreadableError as error:
        faults.append(Fault("zero-unreadable", error.what, place=file.path))
        return None
    faults.extend(replace(fault, place=fault.place or file.path) for fault in state.faults)
    return state


def _describe(
    directory: str,
    files: TagFiles,
    model: ModelState | None,
    optimizer: OptimizerState | None,
    faults: list[Fault],
) -> ZeroTag:
    ranks = {file.rank for file in files.optimizer if file.rank is not None}
    counted = len(ranks) or None
    recorded = optimizer.world_size if optimizer else None
    world = recorded or counted or (model.dp_world_size if model else None)
    per_mp: dict[int, set[int]] = {}
    for file in files.optimizer:
        if file.rank is not None:
            per_mp.setdefault(file.mp_rank, set()).add(file.rank)
    expected = set(range(world)) if world and 0 < world <= _MOST_RANKS and files.optimizer else set()
    missing = sorted({rank for present in per_mp.values() for rank in expected - present})
    extra = sorted(ranks - expected) if recorded else []
    degrees = (model.tp_degree or 1) * (model.pp_degree or 1) if model else 1
    model_parallel = max(len(files.mp_ranks), degrees, (model.mp_world_size or 1) if model else 1, 1)
    optimizer_class = optimizer.layout if optimizer else None
    stage = optimizer.stage if optimizer else None
    if optimizer_class == "bf16_optimizer":
        stage = _config_stage(model)
    elif optimizer is None and model is not None and not files.optimizer:
        stage, optimizer_class = (0, "stage0") if model.shapes is None else (_config_stage(model), None)
    elif stage is None and files.partitioned_model:
        stage = 3
    return ZeroTag(
        tag=directory,
        stage=stage,
        optimizer_class=optimizer_class,
        world_size=world,
        model_parallel=model_parallel,
        ds_version=(model.ds_version if model else None) or (optimizer.ds_version if optimizer else None),
        dtype=trained_dtype(model.config if model else {}, (file.prefix for file in files.optimizer)),
        dp_world_size=model.dp_world_size if model else None,
        global_steps=model.global_steps if model else None,
        skipped_steps=model.skipped_steps if model else None,
        parameters=parameter_count(model, optimizer) if model else None,
        model_files=files.model,
        optim_files=files.optimizer,
        expert_files=files.experts + files.expert_optimizer,
        layer_files=files.layers,
        missing_ranks=tuple(missing),
        extra_ranks=tuple(extra),
        faults=tuple(faults),
    )


def _config_stage(model: ModelState | None) -> int | None:
    stage = walk(model.config, "zero_optimization", "stage") if model else None
    return stage if isinstance(stage, int) and not isinstance(stage, bool) and 0 <= stage <= 3 else None
