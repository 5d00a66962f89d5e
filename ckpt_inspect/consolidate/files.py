"""Whether the files of a tag directory are those of one job: kinds, ranks, prefixes, worlds, versions.

Runs before any layout is planned. Sources: deepspeed 0.19.8 ``runtime/engine.py`` (names),
``utils/zero_to_fp32.py`` `parse_optim_states` (what it counts).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ckpt_inspect.artifacts.zero_files import TagFiles, classify
from ckpt_inspect.artifacts.zero_nodes import walk
from ckpt_inspect.artifacts.zero_shards import ZeroShards, trained_dtype
from ckpt_inspect.artifacts.zero_states import ModelState, OptimizerState
from ckpt_inspect.consolidate.problems import Problem, note, refuse, warn
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.knowledge import faults as fault_table
from ckpt_inspect.printable import printable
from ckpt_inspect.storage import Entry

# Fault kinds that mean that the end of a file is not there.
_TRUNCATIONS = frozenset({"zip-truncated", "pickle-truncated", "torch-truncated", "legacy-truncated"})
_REMEDIES = {
    "torch-not-torch": (
        "copy it again; if another checkpoint engine wrote it (DataStates, Nebula), load it with that engine and save "
        "it with DeepSpeed's own"
    )
}
_SHOWN_RANKS = 6
_ONE_SAVE_MINUTES = 10
_UNIVERSAL = "convert it with `python -m deepspeed.checkpoint.ds_to_universal` and consolidate the result"


def check_kinds(files: TagFiles) -> list[Problem]:
    """Layouts that are recognised by the names of their files and not merged: pipeline, experts, parts, model parallel."""
    if files.layers:
        message = (
            f"this is a pipeline-parallel checkpoint: {_count(len(files.layers), 'layer file')} hold the module in "
            f"{_count(len(files.mp_ranks), 'stage')}, whose optimizer shards do not name parameters as the model does"
        )
        remedy = f"{_UNIVERSAL}; the layer files hold every 16-bit weight of their layer"
        return [refuse("Z15", message, file=files.layers[0].path, remedy=remedy)]
    if files.experts or files.expert_optimizer:
        count = len({(file.layer, file.expert) for file in files.experts})
        message = (
            f"this is a mixture-of-experts checkpoint: {count} experts are in files of their own, and their optimizer "
            "groups are partitioned over fewer ranks than the rest"
        )
        remedy = (
            "the 16-bit weights are whole: the shared ones in mp_rank_00_model_states.pt, each expert's in its "
            f"layer_*_expert_* file; for float32, {_UNIVERSAL}"
        )
        first = (files.experts or files.expert_optimizer)[0]
        return [refuse("Z16", message, file=first.path, remedy=remedy)]
    if len(files.mp_ranks) > 1:
        message = (
            f"this checkpoint is split over {len(files.mp_ranks)} model-parallel ranks (mp_rank "
            f"{', '.join(f'{rank:02d}' for rank in files.mp_ranks[:8])}): tensor-parallel slices join by rules the "
            "shards do not record"
        )
        first = next(file for file in files.model + files.optimizer if file.mp_rank == files.mp_ranks[1])
        return [refuse("Z15", message, file=first.path, remedy=_UNIVERSAL)]
    if files.parts:
        names = sorted({file.name.rpartition("-")[0] for file in files.parts})
        message = f"{printable(names[0])} was written in {len(files.parts)} parts by DeepSpeed's FastFileWriter"
        remedy = "join the parts of each file in order (cat NAME-0.N NAME-1.N ... > NAME) and try again"
        return [refuse("layout", message, file=files.parts[0].path, remedy=remedy)]
    return []


def check_entries(entries: Iterable[Entry]) -> list[Problem]:
    """Z20: names of DeepSpeed's files at which no file is: a link that leads nowhere or out, a directory, a pipe."""
    problems: list[Problem] = []
    for entry in entries:
        file = classify(entry)
        if entry.kind == "file" or file is None:
            continue
        message = f"is no file: {entry.problem or f'a {entry.kind} lies in its place'}"
        remedy = "put the file itself there; links out of the checkpoint are not followed"
        problems.append(refuse("Z20", message, file=entry.path, rank=file.rank, remedy=remedy))
    return problems


def check_readable(shards: ZeroShards, files: TagFiles) -> list[Problem]:
    """Files that cannot be read, are something else, or are damaged where it matters."""
    sizes = {file.path: file.size for file in files.all}
    problems = [
        refuse("Z20", f"cannot be read: {fault.message}", file=file.path, rank=file.rank)
        for file, fault in shards.unreadable
    ]
    for model in shards.models:
        problems += _faults(model, sizes, [other.path for other in files.model])
    for optimizer in shards.optimizers:
        problems += _faults(optimizer, sizes, [other.path for other in files.optimizer])
    return problems


def _faults(state: ModelState | OptimizerState, sizes: Mapping[str, int], peers: Sequence[str]) -> list[Problem]:
    if state.keys and not state.faults:
        return []
    table = fault_table()
    who = f"the file of rank {state.rank}" if state.rank is not None else "the model file"
    empty = not state.keys
    errors = [fault for fault in state.faults if table.get(fault.kind, {}).get("severity", "error") == "error"]
    if not errors and not empty:
        return [
            warn("Z22", f"{fault.message} [{fault.kind}]", file=state.path, rank=state.rank)
            for fault in state.faults
            if table.get(fault.kind, {}).get("severity") == "warning"
        ]
    cut = [fault for fault in errors if fault.kind in _TRUNCATIONS]  # it explains what else is missing
    fault = next(iter(cut or errors), Fault("zero-no-state", "holds no DeepSpeed state"))
    row = table.get(fault.kind, {})
    remedy = (
        _REMEDIES.get(fault.kind) or _clause(row.get("remedy", "")) or f"copy {who} again from where it was written"
    )
    truncated = fault.kind in _TRUNCATIONS
    place = f" at byte {fault.offset}" if fault.offset is not None else ""
    message = f"{who} cannot be used: {printable(fault.message, 200)}{place} [{fault.kind}]"
    largest = max((sizes.get(path, 0) for path in peers), default=0)
    if largest > sizes.get(state.path, 0):
        message += f"; it holds {sizes.get(state.path, 0)} bytes, another rank's {largest}"
    check = "Z21" if truncated else "Z20"
    forceable = not empty  # what could be read is there; every tensor still has to lie inside the file
    return [refuse(check, message, file=state.path, rank=state.rank, remedy=remedy, forceable=forceable)]


def _clause(sentence: str) -> str:
    """A sentence of the fault table as the end of a line."""
    text = sentence.strip().removesuffix(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def choose_prefix(files: TagFiles, model: ModelState | None) -> tuple[TagFiles, list[Problem]]:
    """Z13: keep the optimizer files of one prefix, the one `ds_config` of the model file calls for."""
    prefixes = sorted({file.prefix for file in files.optimizer})
    if len(prefixes) < 2:
        return files, []
    wanted = "bf16_" if model is not None and trained_dtype(model.config) == "bfloat16" else ""
    if wanted not in prefixes:
        wanted = prefixes[0]
    counts = Counter(file.prefix or "no prefix" for file in files.optimizer)
    message = (
        "optimizer files of two jobs lie here: "
        + ", ".join(f"{count} with {prefix}" for prefix, count in sorted(counts.items()))
        + "; the element type was changed under the same tag"
    )
    other = next(file for file in files.optimizer if file.prefix != wanted)
    remedy = f"move the files with {other.prefix or 'no'} prefix away: the model file asks for {wanted or 'no prefix'}"
    kept = tuple(file for file in files.optimizer if file.prefix == wanted)
    chosen = TagFiles(files.model, kept, files.experts, files.expert_optimizer, files.layers, files.parts)
    return chosen, [refuse("Z13", message, file=other.path, remedy=remedy, forceable=True)]


def check_ranks(files: TagFiles, optimizers: Sequence[OptimizerState]) -> tuple[list[OptimizerState], list[Problem]]:
    """Z10, Z11, Z12: exactly the ranks 0 ... W-1, where every file records W. The states to use, in rank order."""
    by_rank = {state.rank: state for state in optimizers if state.rank is not None}
    problems: list[Problem] = []
    worlds = {rank: state.world_size for rank, state in by_rank.items()}
    lowest = min(by_rank)
    world = worlds[lowest]
    if world is None or world < 1:
        message = "records no partition_count" if world is None else f"says {world} ranks took part"
        remedy = "the file is not as DeepSpeed wrote it: copy it again"
        return [], [refuse("key", message, file=by_rank[lowest].path, rank=lowest, remedy=remedy)]
    inside = [rank for rank in sorted(by_rank) if rank < world]
    outside = [rank for rank in sorted(by_rank) if rank >= world]
    disagreeing = [rank for rank in inside if worlds[rank] != world]
    if disagreeing:
        return [], [_mixed_worlds(worlds, by_rank, disagreeing[0])]
    if len(inside) < world:
        first_missing = [rank for rank in range(len(inside) + _SHOWN_RANKS) if rank < world and rank not in by_rank]
        return [], [_missing(files, first_missing, world, len(inside), by_rank[lowest])]
    if outside:
        others = sorted({str(worlds[rank]) for rank in outside})
        first = by_rank[outside[0]]
        message = (
            f"{_count(world, 'rank')} took part, say their files, but there are files of {_ranks(outside)} that say "
            f"{' or '.join(others)}: left over from an earlier save under this tag"
        )
        remedy = f"move the files of {_ranks(outside)} away"
        problems.append(refuse("Z11", message, file=first.path, rank=outside[0], remedy=remedy, forceable=True))
    return [by_rank[rank] for rank in inside], problems


def _missing(files: TagFiles, missing: Sequence[int], world: int, present: int, state: OptimizerState) -> Problem:
    prefix = files.optimizer[0].prefix
    name = f"{prefix}zero_pp_rank_{missing[0]}_mp_rank_00_optim_states.pt"
    more = world - present - len(missing[:_SHOWN_RANKS])
    message = (
        f"{name} is missing: the files of {present} of {world} ranks are here, not {_ranks(missing[:_SHOWN_RANKS])}"
        f"{f' and {more} more' if more else ''}"
    )
    remedy = (
        f"copy it from the node of rank {missing[0]} (without shared storage each node keeps its own files); "
        "if the save was interrupted, use an earlier checkpoint"
    )
    return refuse("Z10", message, file=state.path.rpartition("/")[0] or None, rank=missing[0], remedy=remedy)


def _mixed_worlds(worlds: dict[int, int | None], states: dict[int, OptimizerState], first: int) -> Problem:
    groups: dict[int | None, list[int]] = {}
    for rank, world in worlds.items():
        groups.setdefault(world, []).append(rank)
    table = "; ".join(f"{_ranks(sorted(ranks))}: {world}" for world, ranks in sorted(groups.items(), key=str))
    message = f"the files disagree on how many ranks took part ({table}): two jobs saved under this tag"
    remedy = "restore the files of one of the jobs, or use another checkpoint"
    return refuse("Z12", message, file=states[first].path, rank=first, remedy=remedy)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:_SHOWN_RANKS])
    more = f" and {len(ranks) - _SHOWN_RANKS} more" if len(ranks) > _SHOWN_RANKS else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}{more}"


def check_model_files(
    files: TagFiles, models: Sequence[ModelState], world: int, *, partitioned: bool, frozen: bool = True
) -> tuple[list[ModelState], list[Problem]]:
    """Z17, Z30: the model file is there; under stage 3 one per rank, all naming the same parameters."""
    usable = [model for model in models if model.keys]
    place = next((file.path.rpartition("/")[0] for file in files.optimizer), "") or None
    if not partitioned:
        if not usable:
            remedy = "copy it from the node of rank 0: it alone names the parameters"
            return [], [refuse("Z17", "mp_rank_00_model_states.pt is missing", file=place, rank=0, remedy=remedy)]
        return usable[:1], []
    by_rank = {model.rank: model for model in usable if model.rank is not None}
    if 0 not in by_rank:
        remedy = "copy it from the node of rank 0: it names the parameters"
        message = "zero_pp_rank_0_mp_rank_00_model_states.pt is missing"
        return [], [refuse("Z17", message, file=place, rank=0, remedy=remedy)]
    first = by_rank[0]
    missing = sorted(set(range(world)) - by_rank.keys())
    problems: list[Problem] = []
    if missing and first.frozen_shapes and frozen:
        message = (
            f"zero_pp_rank_{missing[0]}_mp_rank_00_model_states.pt is missing ({_ranks(missing)}), with slices of "
            f"{_count(len(first.frozen_shapes), 'frozen parameter')}"
        )
        remedy = f"copy it from the node of rank {missing[0]}, or leave frozen parameters out with --exclude-frozen"
        return [], [refuse("Z17", message, file=place, rank=missing[0], remedy=remedy)]
    if missing:
        message = f"model files are missing ({_ranks(missing)}); nothing in them is needed"
        problems.append(warn("Z17", message, file=place))
    for rank in sorted(by_rank):
        if rank >= world:
            continue
        problem = _same_names(first, by_rank[rank])
        if problem:
            return [], [problem]
    return [by_rank[rank] for rank in range(world) if rank in by_rank], problems


def _same_names(first: ModelState, other: ModelState) -> Problem | None:
    if first.shapes == other.shapes and first.frozen_shapes == other.frozen_shapes:
        return None
    mine = dict(pair for group in first.shapes or () for pair in group)
    theirs = dict(pair for group in other.shapes or () for pair in group)
    differing = [name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)]
    name = min(differing, default=None)
    what = (
        f"{printable(name)} is {_shape(theirs.get(name))} on rank {other.rank} and {_shape(mine.get(name))} on rank 0"
        if name is not None
        else f"the order of parameters on rank {other.rank} is not that of rank 0"
    )
    remedy = "these files are of different runs; copy the whole tag directory again"
    return refuse("Z30", what, file=other.path, rank=other.rank, tensor=name, remedy=remedy)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))


def check_states(model: ModelState, optimizers: Sequence[OptimizerState], world: int) -> list[Problem]:
    """Z14, Z15, Z16, Z27, Z28: stage, worlds, versions and layouts as the files state them."""
    first = optimizers[0]
    problems: list[Problem] = []
    if model.autoep or any(state.autoep for state in optimizers):
        message = "this is an AutoEP checkpoint: expert parameters are partitioned over expert-replica groups"
        problems.append(refuse("Z16", message, file=model.path, remedy=_UNIVERSAL))
    if model.experts or any(state.expert_groups for state in optimizers):
        message = "groups are partitioned over different numbers of ranks: these are experts"
        problems.append(refuse("Z16", message, file=model.path, remedy=_UNIVERSAL))
    problems += check_degrees(model)
    for state in optimizers:
        if state.layout == "stage1_sub_partitions":
            message = (
                "optimizer partitions are interleaved sub-partitions, as ZeRO-1 of DeepSpeed before 0.3.17 wrote them"
            )
            remedy = (
                "no tool merges them: load the checkpoint with the DeepSpeed that wrote it and save it again; "
                "the 16-bit weights in mp_rank_00_model_states.pt are whole"
            )
            problems.append(refuse("layout", message, file=state.path, rank=state.rank, remedy=remedy))
            break
        if state.layout is None:
            message = "holds no master weights" + (
                f" (its optimizer keys: {', '.join(printable(key, 40) for key in state.keys[:6])})"
                if state.keys
                else ""
            )
            remedy = f"the file of rank {state.rank} is not a ZeRO optimizer state: copy it again"
            problems.append(refuse("key", message, file=state.path, rank=state.rank, remedy=remedy))
            break
        if (state.layout, state.stage) != (first.layout, first.stage):
            message = f"rank {state.rank} saved {_layout(state)}, rank {first.rank} saved {_layout(first)}: two jobs"
            problems.append(
                refuse("Z27", message, file=state.path, rank=state.rank, remedy="restore the files of one of the jobs")
            )
            break
    mics = walk(model.config, "zero_optimization", "mics_shard_size")
    if model.dp_world_size is not None and model.dp_world_size != world:
        message = f"the model file says {model.dp_world_size} data-parallel ranks, the optimizer files are of {world}"
        if isinstance(mics, int) and mics > 0:
            problems.append(note("Z14", f"{message} (MiCS shards of {mics})", file=model.path))
        else:
            remedy = "the model file and the optimizer files are of different jobs: restore those of one"
            problems.append(refuse("Z14", message, file=model.path, remedy=remedy, forceable=True))
    problems += _versions([model, *optimizers])
    if model.big_endian or any(state.big_endian for state in optimizers):
        problems.append(note("Z45", "the files are of a big-endian machine: bytes are swapped"))
    return problems


def check_times(files: TagFiles) -> list[Problem]:
    """Z29: a hint, no more: the files of one save are written within minutes, but copying may change their times."""
    times = [file.mtime_ns for file in files.model + files.optimizer]
    minutes = (max(times, default=0) - min(times, default=0)) // 60_000_000_000
    if minutes < _ONE_SAVE_MINUTES:
        return []
    return [note("Z29", f"the files were written over {minutes} minutes; if they were not copied, over two saves")]


def check_degrees(model: ModelState) -> list[Problem]:
    """Z15: the model file says that its module is one slice or one stage of several."""
    problems: list[Problem] = []
    degrees = (("tensor", model.tp_degree), ("pipeline", model.pp_degree), ("model", model.mp_world_size))
    for what, degree in degrees:
        if degree is not None and degree > 1:
            message = f"{what}-parallel over {degree} ranks, but only the files of one of them are here"
            problems.append(refuse("Z15", message, file=model.path, remedy=_UNIVERSAL))
    if model.module is None and "module" in model.keys:
        message = "the module is in layer files (pipeline parallelism), which are not here"
        problems.append(refuse("Z15", message, file=model.path, remedy=_UNIVERSAL))
    return problems


def _layout(state: OptimizerState) -> str:
    return f"ZeRO stage {state.stage}" if state.stage is not None else str(state.layout)


def _versions(states: Iterable[ModelState | OptimizerState]) -> list[Problem]:
    versions: dict[str, str] = {}
    for state in states:
        if state.ds_version is not None:
            versions.setdefault(state.ds_version, state.path)
    if len(versions) < 2:
        return []
    listed = ", ".join(f"{printable(version, 40)} ({printable(path)})" for version, path in list(versions.items())[:4])
    return [warn("Z28", f"the files were written by different DeepSpeed versions: {listed}")]
