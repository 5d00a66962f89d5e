"""The engine "deepspeed": the installed library's own `zero_to_fp32`, for layouts the native one refuses, or as a judge.

It executes the checkpoint's pickles (``torch.load(weights_only=False)``), so it runs only when the inert scan knows
every global in them, or on request. The ``zero_to_fp32.py`` that lies in a checkpoint is never run. The tensors come
from deepspeed >= 0.14 ``utils/zero_to_fp32.py`` `get_fp32_state_dict_from_zero_checkpoint`; they are written here, so the
output is committed, recorded and named as the native engine's (deepspeed's own writer fails on tied weights).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckpt_inspect.consolidate.cast import TARGETS
from ckpt_inspect.consolidate.commit import Staging, check_target
from ckpt_inspect.consolidate.compose import compose
from ckpt_inspect.consolidate.execute import as_output_error, write_small
from ckpt_inspect.consolidate.interrupts import deferred_while_cleaning, signals_as_errors
from ckpt_inspect.consolidate.manifest import RECORD, RecordDraft, WrittenFile, build_record
from ckpt_inspect.consolidate.output import OutputFile, parse_size
from ckpt_inspect.consolidate.plan import Plan, PlannedTensor, SourceFile
from ckpt_inspect.consolidate.positional import write_all
from ckpt_inspect.consolidate.select import Selection, select
from ckpt_inspect.consolidate.sidecars import look_around
from ckpt_inspect.errors import ConsolidationError, UnsupportedLayoutError
from ckpt_inspect.formats.dtypes import BY_TORCH
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from ckpt_inspect.consolidate.api import ConsolidationResult

EXECUTES = "the engine deepspeed executes the checkpoint's pickles"


class EngineMissingError(ConsolidationError):
    """torch or deepspeed is not installed."""


class UntrustedPickleError(ConsolidationError):
    """A shard's pickle calls something that is not known to be harmless."""


def consolidate_with_deepspeed(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    *,
    dtype: str,
    tag: str | None,
    max_shard_size: str | int | None,
    exclude_frozen: bool,
    replace: bool,
    trust: bool,
) -> ConsolidationResult:
    """As :func:`ckpt_inspect.consolidate.api.consolidate` with the library's reader.

    Raises:
        EngineMissingError: torch or deepspeed is not installed.
        UntrustedPickleError: the scan does not know every global, and `trust` is not set.
        ConsolidationError: the library failed, or the output cannot be written.
    """
    from ckpt_inspect.consolidate.api import ConsolidationResult, output_directory

    started = time.monotonic()
    missing = [name for name in ("torch", "deepspeed") if find_spec(name) is None]
    if missing:
        raise EngineMissingError(
            f"the engine deepspeed needs {' and '.join(missing)}", remedy="pip install 'ckpt-inspect[deepspeed]'"
        )
    if output is not None:
        check_target(Path(output), replace=replace)
    selection = select(path, tag)
    if selection.universal:
        raise UnsupportedLayoutError(
            "the engine deepspeed does not read universal checkpoints", where=selection.where,
            remedy="use the native engine",
        )  # fmt: skip
    if not trust:
        refuse_unknown_pickles(selection)
    tensors, values, aliases = _load(selection, exclude_frozen)
    sources = tuple(
        SourceFile(file.path, file.size, selection.tree.get(file.path).mtime_ns)  # type: ignore[union-attr]
        for file in (*selection.files.model, *selection.files.optimizer)
    )
    plan = Plan(
        layout="deepspeed",
        stage=None,
        world_size=len(selection.files.optimizer),
        tag=selection.tag or None,
        root=str(selection.tree.root.resolve()),
        checkpoint=selection.where,
        sources=sources,
        tensors=tensors,
        aliases=aliases,
        warnings=(*selection.said, EXECUTES),
    )
    target = output_directory(plan, output, dtype)
    check_target(target, replace=replace)
    size = parse_size(max_shard_size) if isinstance(max_shard_size, str) else max_shard_size
    composition = compose(plan, look_around(Path(plan.checkpoint)), dtype=TARGETS[dtype], max_shard_size=size)
    with signals_as_errors(), Staging(target, replace=replace) as staging, deferred_while_cleaning():
        try:
            staging.reserve(composition.size)
            small = write_small(composition, staging)
            files = [_write(file, values, aliases, dtype, staging) for file in composition.files]
            warnings = (*plan.warnings, *composition.warnings, *staging.warnings)
            draft = RecordDraft(plan, composition, target, "deepspeed", dtype, (*files, *small), {}, warnings)
            staging.write(RECORD, build_record(draft))
            staging.commit()
        except OSError as error:
            raise as_output_error(error, target, composition.size) from error
    return ConsolidationResult(
        output=target,
        engine="deepspeed",
        layout=plan.layout,
        stage=None,
        world_size=plan.world_size,
        tag=plan.tag,
        dtype=dtype,
        kind=composition.kind,
        files=tuple(file.name for file in (*files, *small)),
        tensors=len(composition.tensors),
        parameters=sum(tensor.elements for tensor in composition.tensors),
        bytes_written=sum(file.size for file in (*files, *small)),
        seconds=time.monotonic() - started,
        verified=None,
        warnings=warnings,
    )


def refuse_unknown_pickles(selection: Selection) -> None:
    """Raise unless the inert scan knows every global the tag's files would call.

    Raises:
        UntrustedPickleError: names the file, its verdict and the global.
    """
    from ckpt_inspect.scan import scan_source

    kinds = [(file, "zero_model_states") for file in selection.files.model]
    kinds += [(file, "zero_optimizer_shard") for file in selection.files.optimizer]
    for file, kind in kinds:
        with selection.tree.open(file.path) as source:
            found = scan_source(source, file.path, artifact=kind)
        if found.verdict in ("clean", "known") and found.coverage == "complete":
            continue
        raise UntrustedPickleError(
            f"{printable(file.path)} is {found.verdict} (coverage {found.coverage}): loading it could execute code",
            where=str(selection.tree.root),
            remedy="look at it with ckpt-inspect scan; --trust executes it all the same",
        )


def _load(
    selection: Selection, exclude_frozen: bool
) -> tuple[tuple[PlannedTensor, ...], dict[str, Any], dict[str, str]]:
    """The state dict the library reads, as plans without ranges, tensors by name, and names that share memory."""
    # deepspeed writes to standard output, which may have to be one JSON document
    with contextlib.redirect_stdout(sys.stderr):
        try:
            library = import_module("deepspeed.utils.zero_to_fp32")
            state: Mapping[str, Any] = library.get_fp32_state_dict_from_zero_checkpoint(
                selection.where, tag=selection.tag or None, exclude_frozen_parameters=exclude_frozen
            )
        except Exception as error:  # the library raises whatever it meets
            raise ConsolidationError(
                f"deepspeed failed: {type(error).__name__}: {printable(error, 300)}", where=selection.where
            ) from error
    tensors: list[PlannedTensor] = []
    values: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    owners: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.dtype)
        if tensor.numel() and key in owners:
            aliases[name] = owners[key]
            continue
        owners[key] = name
        kind = BY_TORCH[str(tensor.dtype).removeprefix("torch.")].name
        tensors.append(PlannedTensor(name, tuple(tensor.shape), kind, kind, (), "master"))
        values[name] = tensor
    return tuple(tensors), values, aliases


def _write(
    file: OutputFile, values: Mapping[str, Any], aliases: Mapping[str, str], dtype: str, staging: Staging
) -> WrittenFile:
    """One file, tensor by tensor, through the cache."""
    from ckpt_inspect.consolidate.peft_names import file_name

    torch: Any = import_module("torch")
    digest = hashlib.sha256()
    descriptor, _ = staging.create(file.name, 0)
    renamed = {file_name(name, "default"): tensor for name, tensor in values.items()}
    try:
        position = 0

        def put(data: memoryview) -> None:
            nonlocal position
            write_all(descriptor, data, position)
            digest.update(data)
            position += len(data)

        put(memoryview(file.header))
        for placed in file.tensors:
            name = placed.tensor.name
            tensor = values.get(name, renamed.get(name))
            if tensor is None:
                tensor = values[aliases.get(name, next(o for o, a in aliases.items() if a == name))]
            tensor = tensor.detach().cpu()
            if tensor.is_floating_point():
                tensor = tensor.to(getattr(torch, dtype))
            if tensor.numel():
                put(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return WrittenFile(file.name, file.size, digest.hexdigest())
