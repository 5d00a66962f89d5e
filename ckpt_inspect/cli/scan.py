"""`scan`: what loading a file would run, and what it gives away."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ckpt_inspect.cli.options import JsonOption, RunPath
from ckpt_inspect.cli.progress import progress
from ckpt_inspect.cli.session import emit, output_width, use_color


class FailAt(StrEnum):
    """The mildest verdict that ends with exit code 1."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    SUSPICIOUS = "suspicious"
    DANGEROUS = "dangerous"


def scan(
    path: RunPath = Path(),
    json: JsonOption = False,
    every: Annotated[bool, typer.Option("--all", help="Show every file, name and remark.")] = False,
    fail_at: Annotated[
        FailAt,
        typer.Option("--fail-at", metavar="VERDICT", help="The mildest verdict that fails: unknown, suspicious, ..."),
    ] = FailAt.UNKNOWN,
    inflate: Annotated[
        int, typer.Option("--inflate", min=1, metavar="MIB", help="Memory for unpacking one file's contents.")
    ] = 64,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.1, help="Time for one file; the rest counts as not scanned.")
    ] = None,
) -> int:
    """Say which code each file would run if somebody loaded it, without loading it.

    Files are judged by their bytes, never by their names: pickles, torch archives of every era, tensor files, JSON,
    chat templates, model cards, and whatever lies packed inside them.

    Verdicts: clean (plain data), known (objects of known libraries), unknown, suspicious (no library writes this),
    dangerous (runs code). Exit codes: 0 nothing at or above --fail-at and no secret, 1 otherwise, 2 wrong usage,
    3 the path cannot be read.
    """
    from ckpt_inspect.scan import ScanLimits, rank, scan_path

    report = scan_path(path, limits=ScanLimits(inflated=inflate << 20, seconds=seconds), progress=progress())
    if json:
        from ckpt_inspect.report.json_text import json_text
        from ckpt_inspect.report.scan_document import scan_document

        emit(json_text(scan_document(report, path=str(path))))
    else:
        from ckpt_inspect.report.text_scan import scan_text

        emit(scan_text(report, width=output_width(), color=use_color(), every=every))
    leaks = any(found.kind == "secret" for file in report.files for found in file.findings)
    return 1 if leaks or rank(report.verdict) >= rank(fail_at.value) else 0
