"""DeepSpeed checkpoints in their true format, without torch: what each rank of stages 0 to 3 writes.

Follows DeepSpeed's own code, not the reader's: ``runtime/zero/stage_1_and_2.py`` (`_round_robin_reorder`, parameter
alignment, `groups_padding`, `link_hp_params`), ``runtime/zero/stage3.py`` (sub-groups, ceil partitions),
``runtime/bf16_optimizer.py``, ``runtime/fp16/*fused_optimizer.py`` and ``runtime/engine.py``, version 0.19.8.

::

    model = Model([Parameter("w", values), ...], buffers={"steps": ...}, ties={"head.weight": "emb.weight"})
    save_zero12(directory, model, Job(stage=2, world=4))
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from builders.pickles import Called, Instance, Name
from builders.torch_files import TensorSpec, save_legacy, save_zip, tensor, torch_name, view, with_attributes

Array = Any
DTYPES: dict[str, Any] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "BOOL": np.dtype("?"),
    "F64": np.dtype("<f8"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FRAGMENT = Name("deepspeed.utils.tensor_fragment", "fragment_address")
OLD_FRAGMENT = Name("deepspeed.runtime.bf16_optimizer", "fragment_address")
STAGE = Name("deepspeed.runtime.zero.config", "ZeroStageEnum")
SCALER = Name("deepspeed.runtime.fp16.loss_scaler", "LossScaler")
GARBAGE = np.float32(-12345.678)


@dataclass
class Parameter:
    """A parameter with its float32 master values; a frozen one exists only rounded to the module's type."""

    name: str
    values: Array
    frozen: bool = False
    group: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.values.shape)

    @property
    def optimized(self) -> bool:
        return not self.frozen and self.values.size > 0


@dataclass
class Model:
    """Parameters in module order, persistent buffers, and ties (alias -> owner)."""

    parameters: list[Parameter]
    buffers: dict[str, Array] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)


@dataclass
class Job:
    """How a checkpoint is written.

    `trim`: "each" rank its own padding (0.16.4 and later), "last" rank only (before), "none" (BF16_Optimizer).
    `order`: "little" or "big". `drop`: keys left out of the model file, `drop_optimizer`: of the optimizer state.
    `garbage`: put nonsense into all padding. `layout`: "zip" or "legacy". `files`: extra keys of every model file.
    """

    stage: int = 2
    world: int = 2
    dtype: str = "BF16"
    master: str = "F32"
    version: str = "0.19.8"
    step: int = 8
    skipped: int = 0
    alignment: bool = False
    round_robin: bool = False
    elastic: bool = False
    optimizer: str = "adam"
    trim: str = "each"
    sub_group: int = 10**9
    exclude_frozen: bool = False
    nvme: bool = False
    order: str = "little"
    layout: str = "zip"
    era: str = "2.13"
    garbage: bool = False
    plain_stage: bool = False
    plain_shapes: bool = False
    single_shapes: bool = False
    shapes_in_optimizer: bool = False
    drop: tuple[str, ...] = ()
    drop_optimizer: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        return "bf16_" if self.dtype == "BF16" else ""


def rounded(values: Array, dtype: str) -> Array:
    """Values as the module holds them."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values).astype(DTYPES[dtype])


def expected(model: Model, job: Job) -> dict[str, Array]:
    """What consolidation to float32 has to give, aliases included, from the values and not from any file."""
    out: dict[str, Array] = {}
    for name, values in model.buffers.items():
        kept = module_buffer(values, job)
        out[name] = kept.astype("<f4") if kept.dtype.kind == "f" or kept.dtype == DTYPES["BF16"] else kept
    for parameter in model.parameters:
        if parameter.optimized:
            out[parameter.name] = rounded(parameter.values, job.master).astype("<f4")
        elif not job.exclude_frozen or not (parameter.frozen or job.stage == 3):
            # Without elements but not frozen: it stays in the module, and only there when frozen ones are excluded.
            out[parameter.name] = rounded(parameter.values, job.dtype).astype("<f4")
    for alias, owner in model.ties.items():
        if owner in out:
            out[alias] = out[owner]
    return out


def module_buffer(values: Array, job: Job) -> Array:
    """A buffer after `module.half()` or `.bfloat16()`: floating ones are rounded, others stay."""
    return rounded(values, job.dtype) if values.dtype.kind == "f" else values


def spec(values: Array, job: Job) -> TensorSpec:
    """A tensor with a storage of its own."""
    dtype = NAMES[values.dtype]
    return tensor(dtype, tuple(int(size) for size in values.shape), raw(values, job))


def raw(values: Array, job: Job) -> bytes:
    """Bytes in the order of the job."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if job.order == "big" and flat.dtype.itemsize > 1:
        return flat.view(f"<u{flat.dtype.itemsize}").byteswap().tobytes()
    return flat.tobytes()


def write(path: Path, value: Any, job: Job) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if job.layout == "legacy":
        save_legacy(path, value)
    else:
        save_zip(path, value, era=job.era, byteorder=job.order)


def size_of(shape: Sequence[int], job: Job) -> Any:
    return tuple(shape) if job.plain_shapes else Called(torch_name("torch", "Size"), (tuple(shape),))


def config_of(job: Job) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": {"stage": job.stage, "round_robin_gradients": job.round_robin},
        "bf16": {"enabled": job.dtype == "BF16"},
        "fp16": {"enabled": job.dtype == "F16"},
    }


def groups_of(model: Model) -> list[list[Parameter]]:
    """Optimized parameters by group, empty groups dropped."""
    numbers = sorted({parameter.group for parameter in model.parameters if parameter.optimized})
    return [[p for p in model.parameters if p.optimized and p.group == number] for number in numbers]


def round_robin(parameters: list[Parameter], world: int) -> list[Parameter]:
    """`_round_robin_reorder`."""
    dealt: dict[int, list[Parameter]] = {}
    for index, parameter in enumerate(parameters):
        dealt.setdefault(index % world, []).append(parameter)
    return [parameter for hand in dealt.values() for parameter in hand]


@dataclass
class Flat:
    """One group as stages 1 and 2 flatten it: order, offsets, padding after each parameter, values, their end."""

    order: list[Parameter]
    original: list[Parameter]
    offsets: list[int]
    paddings: list[int]
    values: Array
    used: int


def flatten(parameters: list[Parameter], job: Job) -> Flat:
    """The flat master vector of a group, padded to 2 x world elements."""
    order = round_robin(parameters, job.world) if job.round_robin else parameters
    unit = 16 // math.gcd(16, DTYPES[job.dtype].itemsize) if job.alignment else 1
    offsets, paddings, position = [], [], 0
    for index, parameter in enumerate(order):
        offsets.append(position)
        position += parameter.values.size
        paddings.append(0 if index == len(order) - 1 else -position % unit)
        position += paddings[-1]
    total = -(-position // (2 * job.world)) * 2 * job.world
    values = np.full(total, GARBAGE if job.garbage else 0, dtype="<f4")
    for parameter, offset in zip(order, offsets, strict=True):
        values[offset : offset + parameter.values.size] = parameter.values.reshape(-1)
    return Flat(order, parameters, offsets, paddings, values, position)


def slices(flat: Flat, job: Job, rank: int) -> Any:
    """`link_hp_params`: with round robin and no inner padding the offsets of the original order, which are wrong."""
    share = len(flat.values) // job.world
    if any(flat.paddings):
        by_name = {p.name: offset for p, offset in zip(flat.order, flat.offsets, strict=True)}
        offsets = [by_name[p.name] for p in flat.original]
    else:
        offsets = list(np.cumsum([0, *(p.values.size for p in flat.original)]))[:-1]
    out: OrderedDict[str, Any] = OrderedDict()
    for parameter, offset in zip(flat.original, offsets, strict=True):
        start = max(int(offset), rank * share)
        end = min(int(offset) + parameter.values.size, (rank + 1) * share)
        if start < end:
            cls = FRAGMENT if job.version != "0.7.3" else OLD_FRAGMENT
            out[parameter.name] = Instance(cls, {"numel": end - start, "start": start - rank * share})
    return out


def states(vectors: list[Array], job: Job, count: int) -> Any:
    """`base_optimizer_state` (or stage 3's `optimizer_state_dict`) for the flat vectors of a rank."""
    per_group: list[dict[str, Any]] = []
    for vector in vectors:
        if job.optimizer == "sgd":
            per_group.append({})
            continue
        step: Any = spec(np.array(count, dtype="<f4"), job) if job.optimizer == "adam" else count
        moment = np.clip(vector, -1, 1) * np.float32(0.001)
        per_group.append({"step": step, "exp_avg": spec(moment, job), "exp_avg_sq": spec(moment * moment, job)})
    if job.elastic:
        return per_group
    return {
        "state": {index: state for index, state in enumerate(per_group) if state},
        # a schedule: no two steps have the same rate
        "param_groups": [
            {"lr": 1e-3 / (1 + count), "betas": (0.9, 0.999), "params": [index]} for index in range(len(vectors))
        ],
    }


def module_of(model: Model, job: Job, flats: Sequence[Flat] = ()) -> OrderedDict[str, Any]:
    """`module.state_dict()` of stages 0 to 2: parameters of a group are views of one flat 16-bit storage."""
    places: dict[str, TensorSpec] = {}
    for flat in flats:
        storage = spec(rounded(flat.values, job.dtype), job)
        for parameter, offset in zip(flat.order, flat.offsets, strict=True):
            places[parameter.name] = view(storage, parameter.shape, offset=offset)
    out: OrderedDict[str, Any] = OrderedDict()
    for parameter in model.parameters:
        if parameter.frozen and job.exclude_frozen:
            continue
        if parameter.name not in places:
            places[parameter.name] = spec(rounded(parameter.values, job.dtype), job)
        out[parameter.name] = places[parameter.name]
    for name, values in model.buffers.items():
        out[name] = spec(module_buffer(values, job), job)
    for alias, owner in model.ties.items():
        if owner in out:
            out[alias] = out[owner]
    return out


def model_state(model: Model, job: Job, module: Any, shapes: Any, frozen: Any, *, rank: int = 0) -> dict[str, Any]:
    """`_common_checkpoint_state`, with client state spread over the top level."""
    keep_frozen = job.stage >= 2 and not job.exclude_frozen
    out: dict[str, Any] = {
        "module": module,
        "buffer_names": list(model.buffers),
        "optimizer": None,
        "param_shapes": shapes,
        "frozen_param_shapes": OrderedDict((p.name, size_of(p.shape, job)) for p in model.parameters if not p.optimized)
        if keep_frozen
        else None,
        "shared_params": dict(model.ties) if rank == 0 else {},
        "frozen_param_fragments": frozen if keep_frozen else None,
        "lr_scheduler": None,
        "data_sampler": None,
        "random_ltd": None,
        "sparse_tensor_module_names": Called(Name("builtins", "set"), ([],)),
        "skipped_steps": job.skipped,
        "global_steps": job.step + job.skipped,
        "global_samples": job.step * 4,
        "dp_world_size": job.world,
        "mp_world_size": 1,
        "ds_config": config_of(job),
        "ds_version": job.version,
        **job.extra,
    }
    return {key: value for key, value in out.items() if key not in job.drop}


def shape_list(groups: Sequence[Sequence[Parameter]], job: Job) -> Any:
    mappings = [OrderedDict((p.name, size_of(p.shape, job)) for p in group) for group in groups]
    if job.single_shapes:
        return OrderedDict(item for mapping in mappings for item in mapping.items())
    return mappings


def save_zero12(directory: Path, model: Model, job: Job, *, bf16_optimizer: bool = False) -> None:
    """A tag directory of stage 1 or 2, or of BF16_Optimizer."""
    if bf16_optimizer:
        job = replace(job, stage=1, trim="none")
    flats = [flatten(group, job) for group in groups_of(model)]
    shapes = shape_list([flat.order for flat in flats], job)
    module = module_of(model, job, flats)
    frozen = OrderedDict((p.name, module[p.name]) for p in model.parameters if p.name in module and not p.optimized)
    state = model_state(model, job, module, None if job.shapes_in_optimizer else shapes, frozen)
    if job.shapes_in_optimizer:
        del state["param_shapes"]
    write(directory / "mp_rank_00_model_states.pt", state, job)
    for rank in range(job.world):
        name = f"{job.prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        write(directory / name, _zero12_rank(flats, shapes, job, rank, bf16_optimizer), job)


def _zero12_rank(flats: list[Flat], shapes: Any, job: Job, rank: int, bf16_optimizer: bool) -> dict[str, Any]:
    saved, paddings, vectors = [], [], []
    for flat in flats:
        share = len(flat.values) // job.world
        left, last = rank * share, rank == job.world - 1
        exact = min(share, max(0, left + share - flat.used))
        padding = {"each": exact, "last": len(flat.values) - flat.used if last else 0}.get(
            job.trim, len(flat.values) - flat.used if last else 0
        )
        paddings.append(padding)
        partition = spec(rounded(flat.values[left : left + share], job.master), job)
        kept = share if job.trim == "none" else len(range(share)[: share - padding])
        saved.append(view(partition, (kept,), requires_grad=True))
        trimmed = flat.values[left : left + (share if not job.elastic else kept)]
        vectors.append(trimmed)
    state: dict[str, Any] = {
        "loss_scaler": Instance(SCALER, {"cur_scale": 1.0, "dynamic": False}),
        "dynamic_loss_scale": False,
        "overflow": False,
        "clip_grad": 1.0,
        "base_optimizer_state": states(vectors, job, job.step),
        "single_partition_of_fp32_groups": saved,
        "zero_stage": job.stage if job.plain_stage else Called(STAGE, (job.stage,)),
        "group_paddings": paddings,
        "param_alignment_paddings": [flat.paddings for flat in flats],
        "partition_count": [job.world] * len(flats),
        "ds_version": job.version,
        "param_slice_mappings": [slices(flat, job, rank) for flat in flats],
    }
    if bf16_optimizer:
        for key in ("zero_stage", "loss_scaler", "overflow", "dynamic_loss_scale", "param_alignment_paddings"):
            del state[key]
    for key in job.drop_optimizer:
        state.pop(key, None)
    out = {"optimizer_state_dict": state, "ds_config": config_of(job), "ds_version": job.version}
    if job.shapes_in_optimizer:
        out["param_shapes"] = shapes
    return out


def sub_groups(model: Model, job: Job) -> list[list[Parameter]]:
    """`_create_fp16_sub_groups`: parameters of a group until a sub-group is full."""
    out: list[list[Parameter]] = []
    for group in groups_of(model):
        current: list[Parameter] = []
        size = 0
        for parameter in group:
            current.append(parameter)
            size += parameter.values.size
            if size >= job.sub_group:
                out.append(current)
                current, size = [], 0
        if current:
            out.append(current)
    return out


def share_of(values: Array, job: Job, rank: int) -> Array:
    """A rank's slice of one parameter under stage 3: ceil(numel / world) elements, the last ones padding."""
    flat = values.reshape(-1)
    share = -(-flat.size // job.world)
    out = np.full(share, GARBAGE if job.garbage else 0, dtype=flat.dtype)
    mine = flat[rank * share : (rank + 1) * share]
    out[: mine.size] = mine
    return out


def save_zero3(directory: Path, model: Model, job: Job) -> None:
    """A tag directory of stage 3."""
    job = replace(job, stage=3)
    groups = sub_groups(model, job)
    ids = {parameter.name: index for index, parameter in enumerate(model.parameters)}
    for rank in range(job.world):
        module: OrderedDict[str, Any] = OrderedDict()
        for parameter in model.parameters:
            if not (parameter.frozen and job.exclude_frozen):
                module[parameter.name] = tensor(job.dtype, (0,))
        for name, values in model.buffers.items():
            module[name] = spec(module_buffer(values, job), job)
        for alias, owner in model.ties.items():
            if owner in module:
                module[alias] = module[owner]
        frozen = OrderedDict(
            (p.name, spec(share_of(rounded(p.values, job.dtype), job, rank), job))
            for p in model.parameters
            if not p.optimized
        )
        state = model_state(model, job, module, shape_list(groups, job), frozen, rank=rank)
        write(directory / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt", state, job)
        flats, vectors = [], []
        for group in groups:
            vector = np.concatenate([share_of(parameter.values, job, rank) for parameter in group])
            vectors.append(vector)
            name = f"{ids[group[0].name]}_{ids[group[-1].name]}"
            if job.nvme:
                swap = directory / "offloaded_tensors" / f"rank{rank:02d}" / f"{name}.tensor.swp"
                swap.parent.mkdir(parents=True, exist_ok=True)
                swap.write_bytes(raw(vector, job) + b"\xa5" * (-len(vector) * 4 % 1024))
                vector = vector[:0]
            flats.append(with_attributes(spec(rounded(vector, job.master), job), {"ds_id": name}))
        optimizer = {
            "zero_stage": 3 if job.plain_stage else Called(STAGE, (3,)),
            "loss_scaler": Instance(SCALER, {"cur_scale": 1.0, "dynamic": False}),
            "dynamic_loss_scale": False,
            "overflow": False,
            "partition_count": job.world,
            "optimizer_state_dict": states(vectors, job, job.step),
            "fp32_flat_groups": flats,
        }
        for key in job.drop_optimizer:
            optimizer.pop(key, None)
        value = {"optimizer_state_dict": optimizer, "ds_config": config_of(job), "ds_version": job.version}
        write(directory / f"{job.prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", value, job)


def save_stage0(directory: Path, model: Model, job: Job, *, fused: bool = False, masters: bool = True) -> None:
    """A tag directory of stage 0: one file, masters without names."""
    job = replace(job, stage=0, exclude_frozen=False)
    module = module_of(model, job)
    state = model_state(model, job, module, None, None)
    state["shared_params"] = None
    groups = groups_of(model)
    optimizer: dict[str, Any] = {"dynamic_loss_scale": False, "cur_scale": 1.0, "cur_iter": 0}
    if masters and fused:
        optimizer["fp32_groups_flat"] = [
            spec(np.concatenate([p.values.reshape(-1) for p in group]).astype("<f4"), job) for group in groups
        ]
    elif masters:
        optimizer["fp32_groups"] = [[spec(p.values, job) for p in group] for group in groups]
    optimizer["optimizer_state_dict"] = {"state": {}, "param_groups": []}
    state["optimizer"] = optimizer
    write(directory / "mp_rank_00_model_states.pt", state, job)


def save_latest(checkpoint: Path, tag: str) -> None:
    """`latest`, without a newline."""
    (checkpoint / "latest").write_text(tag)


def save_universal(
    directory: Path,
    model: Model,
    job: Job,
    *,
    flat: bool = False,
    vocabulary: dict[str, int] | None = None,
    mp_ranks: int = 1,
    rounded_aliases: bool = True,
) -> None:
    """What ds_to_universal makes of stages 1 and 2, or (`flat`) of stage 3.

    `vocabulary`: rows kept of padded vocabularies, stripped as a view of the whole storage. `rounded_aliases`: a tied
    alias gets a file of its own made from the 16-bit module, as the tool does.
    """
    zero = directory / "zero"
    stage = 3 if flat else job.stage
    job = replace(job, stage=stage)
    for parameter in model.parameters:
        if parameter.optimized:
            whole = spec(parameter.values.reshape(-1) if flat else parameter.values, job)
            rows = (vocabulary or {}).get(parameter.name)
            if rows is not None:
                whole = view(whole, (rows, *parameter.shape[1:]))
            value: Any = whole if flat else {"cat_dim": 0, "param": whole}
            if rows is not None:
                value["vocab_tensor"] = True
            write(zero / parameter.name / "fp32.pt", value, job)
            write(zero / parameter.name / "exp_avg.pt", value, job)
    module = {p.name: rounded(p.values, job.dtype) for p in model.parameters}
    module.update({name: module_buffer(values, job) for name, values in model.buffers.items()})
    module.update({alias: module[owner] for alias, owner in model.ties.items()})
    if not flat:
        for name, values in module.items():
            if not (zero / name / "fp32.pt").exists() and (rounded_aliases or name not in model.ties):
                write(zero / name / "fp32.pt", {"param": spec(values.astype("<f4"), job)}, job)
    write(zero / "optimizer_state.pt", {"param_groups": []}, job)
    groups = groups_of(model)
    for mp in range(mp_ranks):
        frozen = OrderedDict((p.name, spec(module[p.name], job)) for p in model.parameters if not p.optimized)
        held = OrderedDict((name, spec(values, job)) for name, values in module.items())
        state = model_state(model, job, held, shape_list(groups, job), frozen)
        if vocabulary:
            state["universal_checkpoint_info"] = {"original_vocab_size": min(vocabulary.values())}
        if not flat:
            write(directory / f"mp_rank_{mp:02d}_model_states.pt", state, job)
    if flat:
        for rank in range(job.world):
            placeholders = OrderedDict((p.name, tensor(job.dtype, (0,))) for p in model.parameters)
            placeholders.update((name, spec(module[name], job)) for name in model.buffers)
            placeholders.update((alias, tensor(job.dtype, (0,))) for alias in model.ties)
            frozen = OrderedDict(
                (p.name, spec(share_of(module[p.name], job, rank), job)) for p in model.parameters if not p.optimized
            )
            state = model_state(model, job, placeholders, shape_list(groups, job), frozen, rank=rank)
            write(directory / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt", state, job)
