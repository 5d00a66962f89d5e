"""What one DeepSpeed model file or optimizer file states: shapes, addresses of tensors, steps, versions. No weights.

Every key is optional here, because each era lacks some (``knowledge/deepspeed_eras.toml``). Sources: deepspeed 0.19.8
``runtime/engine.py`` `_common_checkpoint_state`, ``runtime/zero/stage_1_and_2.py`` and ``stage3.py`` `state_dict`,
``runtime/bf16_optimizer.py``, ``runtime/fp16/fused_optimizer.py`` and ``unfused_optimizer.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckpt_inspect.artifacts.zero_nodes import (
    NamedShapes,
    fragment,
    integer,
    integers,
    mapping,
    named_shapes,
    plain,
    sequence,
    shape_groups,
    text,
    walk,
)
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.pickle_machine import Node, as_mapping
from ckpt_inspect.formats.torch_archive import Tensor, TorchArchive, open_torch
from ckpt_inspect.knowledge import load
from ckpt_inspect.storage import ByteSource


@dataclass(frozen=True, slots=True)
class StageZeroState:
    """The optimizer of stage 0 inside a model file.

    `flat` holds one vector per group (fused), `shaped` lists of shaped tensors per group (unfused); one of them is None.
    """

    flat: tuple[Tensor, ...] | None
    shaped: tuple[tuple[Tensor, ...], ...] | None


@dataclass(frozen=True, slots=True)
class ModelState:
    """One ``*_model_states.pt``. `module` is None under pipeline parallelism; absent keys are None."""

    path: str
    rank: int | None
    keys: tuple[str, ...]
    module: Mapping[str, Tensor] | None
    module_other: tuple[str, ...]
    buffer_names: tuple[str, ...] | None
    shapes: tuple[NamedShapes, ...] | None
    frozen_shapes: NamedShapes | None
    frozen: Mapping[str, Tensor] | None
    shared: tuple[tuple[str, str], ...] | None
    stage_zero: StageZeroState | None
    optimizer_present: bool
    global_steps: int | None
    skipped_steps: int | None
    dp_world_size: int | None
    mp_world_size: int | None
    tp_degree: int | None
    pp_degree: int | None
    ds_version: str | None
    config: Mapping[str, Any]
    experts: bool
    autoep: bool
    universal_info: Mapping[str, Any] | None
    big_endian: bool
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """An optimizer's step counter for one group: a number, or the 0-dim tensor that holds it."""

    group: int
    value: float | None
    tensor: Tensor | None


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """One ``*_optim_states.pt``. `layout` is a row of `masters` in the table, None when no master weights are there.

    `settings` are the plain numbers of each parameter group of the optimizer (`lr`, `betas` ...), alike on all ranks.
    """

    path: str
    rank: int | None
    layout: str | None
    stage: int | None
    masters: tuple[Tensor, ...]
    swap_ids: tuple[str | None, ...]
    partition_counts: tuple[int, ...] | None
    group_paddings: tuple[int, ...] | None
    alignment_paddings: tuple[tuple[int, ...], ...] | None
    slices: tuple[Mapping[str, tuple[int, int]], ...] | None
    steps: tuple[Step, ...]
    settings: tuple[Mapping[str, Any], ...]
    elastic: bool | None
    moments: tuple[str, ...]
    shapes: tuple[NamedShapes, ...] | None
    ds_version: str | None
    autoep: bool
    big_endian: bool
    keys: tuple[str, ...]
    faults: tuple[Fault, ...]

    @property
    def world_size(self) -> int | None:
        """Ranks the largest group is partitioned over."""
        return max(self.partition_counts) if self.partition_counts else None

    @property
    def expert_groups(self) -> bool:
        """Whether groups are partitioned over different numbers of ranks, as expert groups are."""
        return self.partition_counts is not None and len(set(self.partition_counts)) > 1


def read_model_state(source: ByteSource, path: str, rank: int | None) -> ModelState:
    """Read a model file; `path` and `rank` are recorded as given."""
    archive = open_torch(source)
    root = as_mapping(archive.value)
    module = mapping(root.get("module"))
    tensors: dict[str, Tensor] = {}
    other: list[str] = []
    for key, node in module or ():
        tensor = archive.tensor(node)
        if isinstance(key, str) and tensor is not None:
            tensors[key] = tensor
        elif isinstance(key, str):
            other.append(key)
    dimensions = plain(root.get("checkpoint_parallel_dimensions"))
    config = plain(root.get("ds_config"))
    shared = mapping(root.get("shared_params"))
    info = plain(root.get("universal_checkpoint_info"))
    experts = root.get("num_experts")
    return ModelState(
        path=path,
        rank=rank,
        keys=tuple(root),
        module=tensors if module is not None else None,
        module_other=tuple(other),
        buffer_names=_names(root.get("buffer_names")),
        shapes=shape_groups(root.get("param_shapes")),
        frozen_shapes=named_shapes(root.get("frozen_param_shapes")),
        frozen=_tensors(archive, root.get("frozen_param_fragments")),
        shared=_shared(shared),
        stage_zero=_stage_zero(archive, root.get("optimizer")),
        optimizer_present=root.get("optimizer") is not None,
        global_steps=integer(root.get("global_steps")),
        skipped_steps=integer(root.get("skipped_steps")),
        dp_world_size=integer(root.get("dp_world_size")),
        mp_world_size=integer(root.get("mp_world_size")),
        tp_degree=_plain_int(walk(dimensions, "tp_degree")),
        pp_degree=_plain_int(walk(dimensions, "pp_degree")),
        ds_version=text(root.get("ds_version")),
        config=config if isinstance(config, dict) else {},
        experts=bool(sequence(experts)) if sequence(experts) is not None else bool(integer(experts)),
        autoep=root.get("ds_autoep_layers") is not None or root.get("autoep_layers") is not None,
        universal_info=info if isinstance(info, dict) else None,
        big_endian=archive.byteorder == "big",
        faults=archive.faults,
    )


def read_optimizer_state(source: ByteSource, path: str, rank: int | None) -> OptimizerState:
    """Read an optimizer file; `path` and `rank` are recorded as given."""
    archive = open_torch(source)
    root = as_mapping(archive.value)
    state = as_mapping(root.get("optimizer_state_dict"))
    layout, groups = None, None
    for row in load("deepspeed_eras")["masters"]:
        if row["key"] in state:
            layout, groups = row["layout"], sequence(state[row["key"]])
            break
    stage = integer(state.get("zero_stage"))
    if layout == "zero12" and stage is None:
        layout = "bf16_optimizer"
    masters = tuple(archive.tensor(node) for node in groups or ()) if layout != "stage1_sub_partitions" else ()
    base = state.get("base_optimizer_state") if layout != "zero3" else state.get("optimizer_state_dict")
    counts = state.get("partition_count")
    single = integer(counts)
    slices = sequence(state.get("param_slice_mappings"))
    alignment = sequence(state.get("param_alignment_paddings"))
    shapes = root.get("param_shapes")
    return OptimizerState(
        path=path,
        rank=rank,
        layout=layout if all(tensor is not None for tensor in masters) else None,
        stage=stage,
        masters=tuple(tensor for tensor in masters if tensor is not None),
        swap_ids=tuple(_swap_id(tensor) for tensor in masters if tensor is not None),
        partition_counts=(single,) if single is not None else integers(counts),
        group_paddings=integers(state.get("group_paddings")),
        alignment_paddings=_integer_lists(alignment),
        slices=tuple(_slices(group) for group in slices) if slices is not None else None,
        steps=_steps(archive, base, state.get("base_optimizer_state_step")),
        settings=tuple(_settings(group) for group in sequence(as_mapping(base).get("param_groups")) or ()),
        elastic=isinstance(base, list) if base is not None else None,
        moments=_moments(base),
        shapes=shape_groups(shapes if shapes is not None else state.get("param_shapes")),
        ds_version=text(root.get("ds_version")) or text(state.get("ds_version")),
        autoep=state.get("ds_zero_partition_groups") is not None,
        big_endian=archive.byteorder == "big",
        keys=tuple(state),
        faults=archive.faults,
    )


def _names(node: Node) -> tuple[str, ...] | None:
    items = sequence(node)
    return tuple(item for item in items if isinstance(item, str)) if items is not None else None


def _plain_int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _tensors(archive: TorchArchive, node: Node) -> Mapping[str, Tensor] | None:
    pairs = mapping(node)
    if pairs is None:
        return None
    found = ((key, archive.tensor(value)) for key, value in pairs if isinstance(key, str))
    return {key: tensor for key, tensor in found if tensor is not None}


def _shared(pairs: list[tuple[Node, Node]] | None) -> tuple[tuple[str, str], ...] | None:
    if pairs is None:
        return None
    return tuple((key, value) for key, value in pairs if isinstance(key, str) and isinstance(value, str))


def _integer_lists(items: list[Node] | None) -> tuple[tuple[int, ...], ...] | None:
    if items is None:
        return None
    lists = [integers(item) for item in items]
    return tuple(item for item in lists if item is not None) if None not in lists else None


def _swap_id(tensor: Tensor) -> str | None:
    """`ds_id` of a flat group, the name of its swap file when the optimizer lives on NVMe."""
    attributes = tensor.attributes
    for pair in mapping(attributes) or ():
        if pair[0] == "ds_id" and isinstance(pair[1], str | int):
            return str(pair[1])
    return None


def _slices(node: Node) -> Mapping[str, tuple[int, int]]:
    found = ((key, fragment(value)) for key, value in mapping(node) or () if isinstance(key, str))
    return {key: address for key, address in found if address is not None}


def _stage_zero(archive: TorchArchive, node: Node) -> StageZeroState | None:
    state = as_mapping(node)
    flat = sequence(state.get("fp32_groups_flat"))
    if flat is not None:
        vectors = [archive.tensor(item) for item in flat]
        if all(vector is not None for vector in vectors):
            return StageZeroState(tuple(vector for vector in vectors if vector is not None), None)
    shaped = sequence(state.get("fp32_groups"))
    if shaped is not None:
        groups: list[tuple[Tensor, ...]] = []
        for group in shaped:
            tensors = [archive.tensor(item) for item in sequence(group) or ()]
            if any(tensor is None for tensor in tensors):
                return None
            groups.append(tuple(tensor for tensor in tensors if tensor is not None))
        return StageZeroState(None, tuple(groups))
    return None


def _per_group(base: Node) -> list[tuple[int, Mapping[str, Node]]]:
    """The optimizer state of each group: rigid `{state: {index: {...}}}`, or elastic, a list of dicts."""
    if isinstance(base, list):
        return [(index, as_mapping(item)) for index, item in enumerate(base)]
    out: list[tuple[int, Mapping[str, Node]]] = []
    for key, value in mapping(as_mapping(base).get("state")) or ():
        index = integer(key)
        if index is not None:
            out.append((index, as_mapping(value)))
    return out


def _steps(archive: TorchArchive, base: Node, shared_step: Node) -> tuple[Step, ...]:
    out: list[Step] = []
    for index, state in _per_group(base):
        if "step" in state:
            out.append(_step(archive, index, state["step"]))
    if not out and not isinstance(base, list):  # apex and DeepSpeed FusedAdam keep it in the parameter group
        for index, group in enumerate(sequence(as_mapping(base).get("param_groups")) or ()):
            values = as_mapping(group)
            if "step" in values:
                out.append(_step(archive, index, values["step"]))
    if not out and shared_step is not None:
        out.append(_step(archive, 0, shared_step))
    return tuple(step for step in out if step.value is not None or step.tensor is not None)


def _step(archive: TorchArchive, group: int, node: Node) -> Step:
    if isinstance(node, int | float) and not isinstance(node, bool):
        return Step(group, float(node), None)
    return Step(group, None, archive.tensor(node))


def _settings(group: Node) -> Mapping[str, Any]:
    values = plain(group)
    return {
        key: value
        for key, value in (values.items() if isinstance(values, dict) else ())
        if isinstance(value, int | float | list) and key != "params"
    }


def _moments(base: Node) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for _, state in _per_group(base):
        for key in state:
            if key != "step":
                names[key] = None
    return tuple(names)
