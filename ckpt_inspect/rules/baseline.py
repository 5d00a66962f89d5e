"""Known findings: a file that lists them, so that only new ones count."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ckpt_inspect.errors import UsageError
from ckpt_inspect.formats.json_document import read_json
from ckpt_inspect.rules.finding import Finding
from ckpt_inspect.storage import LocalFile

SCHEMA = "ckpt-inspect/baseline/1"


def read_baseline(path: Path) -> frozenset[str]:
    """The fingerprints of the known findings.

    Raises:
        UsageError: there is no such file, or it is not a baseline.
    """
    if not path.is_file():
        raise UsageError("no such baseline", where=str(path), remedy="make one with --write-baseline")
    with LocalFile(path) as source:
        document = read_json(source)
    value = document.value
    known = value.get("findings") if isinstance(value, Mapping) and value.get("schema") == SCHEMA else None
    if not isinstance(known, list) or not all(isinstance(item, dict) for item in known):
        raise UsageError(f"not a baseline (schema {SCHEMA})", where=str(path))
    return frozenset(str(item.get("fingerprint", "")) for item in known)


def baseline_text(findings: Iterable[Finding]) -> str:
    """The file that makes `findings` known, one line each with its message for the reader of a diff."""
    rows = [
        {"fingerprint": finding.fingerprint, "rule": finding.rule, "path": finding.path, "message": finding.message}
        for finding in findings
    ]
    return json.dumps({"schema": SCHEMA, "findings": rows}, indent=1, ensure_ascii=True) + "\n"


def without_known(findings: Iterable[Finding], known: frozenset[str]) -> tuple[tuple[Finding, ...], int]:
    """The findings that are new, and how many were known."""
    kept: list[Finding] = []
    dropped = 0
    for finding in findings:
        if finding.fingerprint in known:
            dropped += 1
        else:
            kept.append(finding)
    return tuple(kept), dropped
