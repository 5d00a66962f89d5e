"""`consolidate`: shards into one set of usable weights, or a check of weights made so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckpt_inspect.cli.options import JsonOption
from ckpt_inspect.cli.session import emit, note
from ckpt_inspect.errors import UsageError
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckpt_inspect.consolidate.api import ConsolidationResult
    from ckpt_inspect.consolidate.plan import Part, SourceFile
    from ckpt_inspect.consolidate.verify import Verification

_LAYOUTS = {"dcp": "FSDP shards (DCP)"}
_ENGINES = ("native", "deepspeed")


def consolidate(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="[PATH]",
            help="A run (its newest complete checkpoint), a checkpoint, a tag directory or a directory of FSDP shards.",
            show_default="the current directory",
        ),
    ] = Path(),
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="The directory to make; by default fp32-NAME beside the checkpoint."
        ),
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", "-t", help="The tag to use instead of the one in latest.")] = None,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            help="What floating tensors are written as: float32, bfloat16, float16, or auto: float32 from ZeRO, "
            "as saved from FSDP.",
        ),
    ] = "auto",
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", metavar="SIZE", help="Bytes one file may hold, as in 5GB.")
    ] = "5GB",
    exclude_frozen: Annotated[bool, typer.Option("--exclude-frozen", help="Leave frozen parameters out.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PATTERN", help="Write only tensors whose name matches, as in '*.lora_*'."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be copied from where, and stop.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Prove and read back everything, not samples.")] = False,
    verify_only: Annotated[
        bool, typer.Option("--verify-only", help="PATH is a finished output: check it against its record and shards.")
    ] = False,
    checksum: Annotated[
        bool, typer.Option("--checksum/--no-checksum", help="Record the sha256 of the weight files.")
    ] = True,
    replace: Annotated[bool, typer.Option("--replace", help="Exchange an earlier output for the new one.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write although a proof failed; the record says so.")] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, max=64, help="Files written at the same time.")
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="native, or deepspeed: the installed library, which executes pickles.")
    ] = "native",
    trust: Annotated[
        bool, typer.Option("--trust", help="Let --engine deepspeed execute pickles that scan does not know.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Join ZeRO, FSDP or universal shards into safetensors that from_pretrained loads, at the speed of a copy.

    The output appears in one step, after it was checked, with a consolidation.json that says where every byte is from.
    """
    if engine not in _ENGINES:
        raise UsageError(f"no engine {printable(engine, 40)}", remedy=f"use {' or '.join(_ENGINES)}")
    if verify_only:
        _verify(path, json)
        return
    if plan:
        _plan(path, tag, dtype, max_shard_size, exclude_frozen, only or [], verify, force, json)
        return
    from ckpt_inspect.cli.progress import progress
    from ckpt_inspect.consolidate.api import consolidate as run

    if engine == "deepspeed":
        from ckpt_inspect.consolidate.engine_deepspeed import EXECUTES

        note(f"ckpt-inspect: {EXECUTES}")
    result = run(
        path,
        output,
        dtype=dtype,
        tag=tag,
        max_shard_size=max_shard_size,
        exclude_frozen=exclude_frozen,
        only=only or (),
        verify=verify,
        checksum=checksum,
        replace=replace,
        force=force,
        jobs=jobs,
        engine="deepspeed" if engine == "deepspeed" else "native",
        trust=trust,
        progress=progress(),
    )
    if json:
        _print(document(path, result))
        return
    for warning in result.warnings:
        note(f"ckpt-inspect: {printable(warning, 400)}")
    emit(summary(result))


def document(path: Path, result: ConsolidationResult) -> dict[str, Any]:
    """The JSON document of a consolidation."""
    return {
        **_head(path),
        "output": str(result.output),
        "engine": result.engine,
        "layout": result.layout,
        "stage": result.stage,
        "world_size": result.world_size,
        "tag": result.tag,
        "dtype": result.dtype,
        "kind": result.kind,
        "files": list(result.files),
        "tensors": result.tensors,
        "parameters": result.parameters,
        "bytes_written": result.bytes_written,
        "seconds": round(result.seconds, 3),
        "verified": result.verified,
        "warnings": list(result.warnings),
    }


def verification_document(path: Path, report: Verification) -> dict[str, Any]:
    """The JSON document of `--verify-only`: the same keys, what concerns writing at zero, and what was found."""
    from ckpt_inspect.consolidate.manifest import read_record_of

    record = read_record_of(path)[0]
    head = record.document
    return {
        **_head(path),
        "output": report.directory,
        "engine": str(head.get("engine")),
        "layout": str(head.get("layout")),
        "stage": head.get("stage"),
        "world_size": head.get("world_size"),
        "dtype": str(head.get("dtype")),
        "files": [file.name for file in record.files],
        "tensors": len(record.tensors),
        "parameters": sum(recorded.tensor.elements for recorded in record.tensors),
        "bytes_written": 0,
        "seconds": 0.0,
        "verified": report.ok,
        "warnings": [*report.problems, *report.notes],
        "problems": list(report.problems),
        "bytes_covered": report.bytes_covered,
        "shards": report.shards,
    }


def summary(result: ConsolidationResult) -> str:
    """What was written, for a person."""
    rate = result.bytes_written / max(result.seconds, 1e-3)
    checked = "everything read back" if result.verified else "headers and samples read back"
    what = "adapter" if result.kind == "adapter" else "model"
    stage = f"ZeRO-{result.stage}" if result.stage else _LAYOUTS.get(result.layout, result.layout)
    return (
        f"{printable(result.output, 400)}: {what}, {result.tensors} tensors, {result.parameters:,} parameters, "
        f"{result.dtype}\n"
        f"  from {stage}, {result.world_size} ranks; {len(result.files)} files, {amount(result.bytes_written)} in "
        f"{result.seconds:.1f} s ({amount(rate)}/s); {checked}"
    )


def amount(count: float) -> str:
    """Bytes for a person: decimal units, three digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _plan(
    path: Path,
    tag: str | None,
    dtype: str,
    max_shard_size: str,
    exclude_frozen: bool,
    only: list[str],
    verify: bool,
    force: bool,
    json: bool,
) -> None:
    from ckpt_inspect.consolidate.api import compose_output, plan_consolidation

    planned = plan_consolidation(
        path, tag=tag, dtype=dtype, exclude_frozen=exclude_frozen, only=only, verify=verify, force=force
    )
    if json:
        _print(planned.to_json())
        return
    composition = compose_output(planned, dtype=dtype, max_shard_size=max_shard_size, narrowed=bool(only))
    for warning in (*planned.warnings, *composition.warnings):
        note(f"ckpt-inspect: {printable(warning, 400)}")
    lines = []
    for file in composition.files:
        lines.append(f"{printable(file.name)}  {len(file.tensors)} tensors, {amount(file.size)}")
        for placed in file.tensors:
            tensor = placed.tensor
            kind = tensor.dtype if tensor.dtype == tensor.source_dtype else f"{tensor.source_dtype} to {tensor.dtype}"
            shape = "x".join(map(str, tensor.shape)) or "scalar"
            lines.append(f"  {printable(tensor.name)}  {kind}  {shape}  {tensor.origin}")
            lines += [line for part in tensor.ranges for line in _places(part, composition.sources)]
    lines += [f"{printable(name)}  {len(data)} bytes" for name, data in composition.documents.items()]
    lines += [f"{printable(copy.name)}  copied, {amount(copy.size)}" for copy in composition.copies]
    lines += [f"{printable(name)} is stored as {printable(kept)}" for name, kept in composition.stored_once.items()]
    emit("\n".join(lines))


def _places(part: Part, sources: Sequence[SourceFile]) -> list[str]:
    """Where the bytes of a part lie."""
    from ckpt_inspect.consolidate.plan import ranges_of

    lines = [
        f"    {printable(sources[place.source].path)} [{place.offset}, {place.offset + place.length})"
        for place in ranges_of([part])
    ]
    return lines if len(lines) == 1 else [f"    {part.length} bytes, one row from each in turn:", *lines]


def _verify(path: Path, json: bool) -> None:
    from ckpt_inspect.cli.progress import progress
    from ckpt_inspect.consolidate.api import verify_consolidation

    report = verify_consolidation(path, progress=progress())
    if json:
        _print(verification_document(path, report))
    else:
        for remark in report.notes:
            note(f"ckpt-inspect: {printable(remark, 400)}")
        if report.ok:
            shards = "every byte equals the shards" if report.shards == "equal" else "the shards were not compared"
            emit(
                f"{printable(path, 400)}: whole and unchanged; {report.files} files, "
                f"{amount(report.bytes_covered)} checked, {shards}"
            )
    if not report.ok:
        if json:
            raise typer.Exit(1)
        report.check()


def _head(path: Path) -> dict[str, Any]:
    from ckpt_inspect import __version__

    return {"schema": "ckpt-inspect/consolidate/1", "tool_version": __version__, "path": str(path)}


def _print(value: dict[str, Any]) -> None:
    from ckpt_inspect.report.json_text import json_text

    emit(json_text(value))
