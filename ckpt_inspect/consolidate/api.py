"""The library's door to consolidation: plan, write, verify, or iterate over the tensors without writing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from ckpt_inspect.consolidate.cast import TARGETS, target_dtype
from ckpt_inspect.consolidate.commit import check_target
from ckpt_inspect.consolidate.compose import TORCH_NAMES, Composition, compose, floating_type
from ckpt_inspect.consolidate.execute import execute
from ckpt_inspect.consolidate.output import MAX_SHARD_SIZE, parse_size
from ckpt_inspect.consolidate.plan import Plan, PlannedTensor
from ckpt_inspect.consolidate.planning import AUTO, DTYPES
from ckpt_inspect.consolidate.planning import plan_consolidation as _plan
from ckpt_inspect.consolidate.sidecars import look_around
from ckpt_inspect.consolidate.sources import SourceFiles
from ckpt_inspect.consolidate.verify import Verification, verify_output
from ckpt_inspect.errors import OutputError, UsageError
from ckpt_inspect.printable import printable
from ckpt_inspect.progress import Progress

Engine = Literal["native", "deepspeed"]
_SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True, slots=True)
class ConsolidationResult:
    """What was written.

    `output` is the directory; `files` the names in it; `bytes_written` counts all of them; `seconds` is wall time;
    `verified` is True when everything was read back, False never (that is an error), None when only headers and
    samples were.
    """

    output: Path
    engine: str
    layout: str
    stage: int | None
    world_size: int
    tag: str | None
    dtype: str
    kind: str
    files: tuple[str, ...]
    tensors: int
    parameters: int
    bytes_written: int
    seconds: float
    verified: bool | None
    warnings: tuple[str, ...]


def plan_consolidation(
    path: str | os.PathLike[str],
    *,
    tag: str | None = None,
    dtype: str = AUTO,
    exclude_frozen: bool = False,
    only: Iterable[str] = (),
    verify: bool = False,
    force: bool = False,
) -> Plan:
    """How the checkpoint at `path` becomes one set of weights; writes nothing.

    Args:
        path: a run (its newest complete checkpoint), a checkpoint, a tag directory or a directory of FSDP shards.
        tag: the tag to use instead of the one `latest` names.
        dtype: what floating tensors are written as: "float32", "bfloat16", "float16", or "auto": float32 for DeepSpeed's
            master weights, the type that was saved for a distributed checkpoint.
        exclude_frozen: leave frozen parameters out.
        only: shell patterns of tensor names; nothing else is planned.
        verify: compare every master weight with the 16-bit module, not samples.
        force: turn refusals that leave the bytes in doubt into warnings.

    Raises:
        ConsolidationError: nothing can be written; the subclass and the message say why.
        UnreadableError: the path cannot be read.
        UsageError: an argument is wrong.
    """
    return _plan(
        path,
        tag=tag,
        exclude_frozen=exclude_frozen,
        only=only,
        dtype=_dtype(dtype),
        depth="complete" if verify else "sample",
        force=force,
    )


def consolidate(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    dtype: str = AUTO,
    tag: str | None = None,
    max_shard_size: str | int | None = MAX_SHARD_SIZE,
    exclude_frozen: bool = False,
    only: Iterable[str] = (),
    verify: bool = False,
    checksum: bool = True,
    replace: bool = False,
    force: bool = False,
    jobs: int | None = None,
    engine: Engine = "native",
    trust: bool = False,
    progress: Progress | None = None,
) -> ConsolidationResult:
    """Turn the shards at `path` into one directory of usable weights, whole or not at all.

    Args:
        path: a run, a checkpoint, a tag directory or a directory of FSDP shards.
        output: the directory to make; by default beside the checkpoint, its name with the type in front
            (``fp32-checkpoint-500``).
        dtype: what floating tensors are written as: "float32", "bfloat16", "float16", or "auto": float32 for DeepSpeed's
            master weights, the type that was saved for a distributed checkpoint.
        tag: the tag to use instead of the one `latest` names.
        max_shard_size: bytes a file may hold, or a text like "5GB"; None writes one file.
        exclude_frozen: leave frozen parameters out.
        only: shell patterns of tensor names; nothing else is written.
        verify: prove and read back everything, not samples.
        checksum: record the sha256 of the weight files.
        replace: exchange an earlier output at `output` for the new one.
        force: write although the proof failed where the bytes exist; recorded as warnings.
        jobs: weight files written at the same time.
        engine: "native", or "deepspeed" for the installed library, which executes the checkpoint's pickles.
        trust: let the engine "deepspeed" read pickles that are not known to be harmless.
        progress: told of bytes written.

    Raises:
        ConsolidationError: nothing was written; the subclass and the message say why.
        VerificationError: what was written does not read back; it was removed.
        UnreadableError: the path cannot be read.
        UsageError: an argument is wrong.
    """
    started = time.monotonic()
    dtype = _dtype(dtype)
    patterns = tuple(only)
    if engine == "deepspeed":
        from ckpt_inspect.consolidate.engine_deepspeed import consolidate_with_deepspeed

        if patterns or verify:
            raise UsageError("--only and --verify need the native engine")
        return consolidate_with_deepspeed(
            path,
            output,
            dtype="float32" if dtype == AUTO else dtype,
            tag=tag,
            max_shard_size=max_shard_size,
            exclude_frozen=exclude_frozen,
            replace=replace,
            trust=trust,
        )
    if output is not None:  # the cheapest refusal first
        check_target(Path(output), replace=replace)
    plan = plan_consolidation(
        path, tag=tag, dtype=dtype, exclude_frozen=exclude_frozen, only=patterns, verify=verify, force=force
    )
    composition = compose_output(plan, dtype=dtype, max_shard_size=max_shard_size, narrowed=bool(patterns))
    dtype = floating_type(composition.tensors) if dtype == AUTO else dtype
    target = output_directory(plan, output, dtype)
    check_target(target, replace=replace)
    written = execute(
        plan,
        composition,
        target,
        dtype=dtype,
        replace=replace,
        jobs=jobs,
        verify=verify,
        checksum=checksum,
        progress=progress,
    )
    return ConsolidationResult(
        output=target,
        engine="native",
        layout=plan.layout,
        stage=plan.stage,
        world_size=plan.world_size,
        tag=plan.tag,
        dtype=dtype,
        kind=composition.kind,
        files=tuple(file.name for file in written.files),
        tensors=len(composition.tensors),
        parameters=sum(tensor.elements for tensor in composition.tensors),
        bytes_written=sum(file.size for file in written.files),
        seconds=time.monotonic() - started,
        verified=True if verify else None,
        warnings=written.warnings,
    )


def compose_output(
    plan: Plan, *, dtype: str = AUTO, max_shard_size: str | int | None = MAX_SHARD_SIZE, narrowed: bool = False
) -> Composition:
    """What the output of a plan holds, file by file; writes nothing.

    Raises:
        OutputError: a tensor cannot be stored in safetensors.
    """
    size = parse_size(max_shard_size) if isinstance(max_shard_size, str) else max_shard_size
    around = look_around(Path(plan.checkpoint))
    target = _dtype(dtype)
    wanted = plan.facts.get("dtype") if target == AUTO else TARGETS[target]
    return compose(plan, around, dtype=wanted, max_shard_size=size, narrowed=narrowed)


def output_directory(plan: Plan, output: str | os.PathLike[str] | None, dtype: str) -> Path:
    """Where the output goes: as asked, else beside the checkpoint. `dtype` is the torch name of what is written.

    The type stands in front of the name: one that begins with ``checkpoint-`` would be counted, and deleted, by the
    Trainer's rotation (transformers 5.23 ``trainer_utils.py`` `sort_checkpoints`).

    Raises:
        OutputError: the place is inside the shards, or holds them.
    """
    checkpoint = Path(plan.checkpoint).absolute()
    beside = checkpoint.parent / f"{_SHORT.get(dtype, dtype)}-{checkpoint.name}"
    target = Path(output).absolute() if output is not None else beside
    real = Path(os.path.realpath(target))
    shards = Path(os.path.realpath(checkpoint / plan.tag)) if plan.tag else Path(os.path.realpath(checkpoint))
    if real == Path(os.path.realpath(checkpoint)) or real.is_relative_to(shards) or shards.is_relative_to(real):
        raise OutputError("is where the shards are", where=str(target), remedy="choose another place with -o")
    return target


def verify_consolidation(
    directory: str | os.PathLike[str], *, shards: bool = True, progress: Progress | None = None
) -> Verification:
    """Check a finished output against its record, and against its shards where they are still there.

    Args:
        directory: an output of `consolidate`.
        shards: compare with the shards too.
        progress: told of bytes compared.

    Raises:
        NotAFormatError: the directory holds no `consolidation.json`.
        VerificationError: the record cannot be understood. What else is wrong is in `Verification.problems`.
    """
    return verify_output(Path(directory), shards=shards, progress=progress)


def iter_tensors(
    path: str | os.PathLike[str],
    *,
    tag: str | None = None,
    dtype: str | None = None,
    exclude_frozen: bool = False,
    only: Iterable[str] = (),
    force: bool = False,
) -> Iterator[tuple[str, Any]]:
    """Every tensor of the checkpoint as (name, array), one at a time, without writing.

    Arrays are numpy's; bfloat16 and float8 ones have the types of ml_dtypes. Tied names come last, each with an array
    of its own.

    Args:
        path: a run (its newest complete checkpoint), a checkpoint, or a tag directory.
        tag: the tag to use instead of the one `latest` names.
        dtype: "float32", "bfloat16" or "float16"; None keeps the type the shards hold.
        exclude_frozen: leave frozen parameters out.
        only: shell patterns of tensor names; nothing else is read.
        force: turn refusals that leave the bytes in doubt into warnings.

    Raises:
        ConsolidationError: the tensors cannot be put together; the subclass and the message say why.
        UnreadableError: the path cannot be read.
        UsageError: an argument is wrong, or numpy has no type for what the shards hold.
    """
    import numpy

    from ckpt_inspect.consolidate.filling import Filler

    plan = plan_consolidation(path, tag=tag, exclude_frozen=exclude_frozen, only=only, force=force)
    target = TARGETS.get(_dtype(dtype)) if dtype is not None else None
    by_name = {tensor.name: tensor for tensor in plan.tensors}
    names = [*by_name, *(alias for alias in plan.aliases if plan.aliases[alias] in by_name)]
    patterns = tuple(only)
    with closing(SourceFiles(Path(plan.root), plan.sources)) as sources:
        for name in names:
            if patterns and not any(fnmatchcase(name, pattern) for pattern in patterns):
                continue
            tensor = by_name[plan.aliases.get(name, name)]
            kind = target_dtype(tensor.source_dtype, target) if target else tensor.source_dtype
            wanted = PlannedTensor(name, tensor.shape, tensor.source_dtype, kind, tensor.ranges, tensor.origin)
            array = numpy.empty(tensor.shape, _numpy_type(kind))
            if array.nbytes:
                flat: Any = array.reshape(-1).view(numpy.uint8)
                Filler(b"", (wanted,), sources).fill(memoryview(flat))
            yield name, array
        sources.check_unchanged()


def _numpy_type(name: str) -> Any:
    import numpy

    from ckpt_inspect.formats.dtypes import BY_NAME

    plain = {
        "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8",
        "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8", "C128": "<c16",
    }  # fmt: skip
    if name in plain:
        return numpy.dtype(plain[name])
    import ml_dtypes

    torch_name = BY_NAME[name].torch
    kind = getattr(ml_dtypes, torch_name, None) if torch_name else None
    if kind is None:
        raise UsageError(f"numpy has no type for {printable(name)}", remedy="name other tensors with only=")
    return numpy.dtype(kind)


def _dtype(name: str) -> str:
    """The torch name of a dtype as people write it, or "auto"."""
    if name == AUTO:
        return AUTO
    key = DTYPES.get(str(name).removeprefix("torch.").lower())
    if key is None:
        raise UsageError(f"unknown dtype {printable(name, 40)}", remedy=f"use one of {AUTO}, {', '.join(TARGETS)}")
    return TORCH_NAMES[key]
