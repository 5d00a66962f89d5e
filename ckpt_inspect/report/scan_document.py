"""The `scan --json` document: every file with its verdict, coverage, names and findings."""

from __future__ import annotations

from typing import Any

from ckpt_inspect import __version__, knowledge
from ckpt_inspect.printable import printable
from ckpt_inspect.scan import VERDICTS, ScanFinding, ScannedFile, ScannedGlobal, ScanReport

_NAME_LIMIT = 400


def scan_document(report: ScanReport, *, path: str | None = None) -> dict[str, Any]:
    """The document; text that came out of files has passed `printable`."""
    verdicts = [file.verdict for file in report.files]
    return {
        "schema": "ckpt-inspect/scan/1",
        "tool_version": __version__,
        "path": path if path is not None else report.path,
        "table_version": report.table_version,
        "summary": {verdict: verdicts.count(verdict) for verdict in VERDICTS},
        "files": [_file(file) for file in report.files],
        "problems": list(report.problems),
    }


def _file(file: ScannedFile) -> dict[str, Any]:
    return {
        "path": printable(file.path, _NAME_LIMIT),
        "format": file.format,
        "verdict": file.verdict,
        "coverage": file.coverage,
        "globals": [_global(found) for found in file.globals],
        "findings": [_finding(found) for found in file.findings],
        "loads_with_weights_only": file.loads_with_weights_only,
        "reason": printable(file.reason, _NAME_LIMIT) if file.reason is not None else None,
        "artifact": file.artifact,
    }


def _global(found: ScannedGlobal) -> dict[str, Any]:
    return {
        "name": printable(found.name, _NAME_LIMIT),
        "use": found.use,
        "tier": found.tier,
        "reason": found.reason,
        "place": printable(found.place, _NAME_LIMIT),
        "offset": found.offset,
        "count": found.count,
    }


def _finding(found: ScanFinding) -> dict[str, Any]:
    row = knowledge.faults().get(found.kind, {})
    return {
        "kind": found.kind,
        "verdict": found.verdict,
        "severity": found.severity,
        "message": found.message,
        "place": printable(found.place, _NAME_LIMIT),
        "offset": found.offset,
        "meaning": row.get("meaning", ""),
        "remedy": row.get("remedy", ""),
    }
