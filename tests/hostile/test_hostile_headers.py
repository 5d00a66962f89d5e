"""The shared collection of hostile safetensors files, JSON documents and indexes: each is described, none raises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.json_document import read_json
from ckpt_inspect.formats.safetensors_header import read_safetensors_header
from ckpt_inspect.formats.shard_index import read_shard_index
from ckpt_inspect.knowledge import faults as fault_table
from ckpt_inspect.storage import LocalFile

pytestmark = pytest.mark.shared

# The collection's descriptive rule names and the kinds of ours that say the same.
SAME = {
    "ST-TRUNC": {"safetensors-short", "safetensors-truncated", "safetensors-header-length"},
    "ST-HDRLEN": {"safetensors-header-length"},
    "ST-JSON": {"safetensors-json", "safetensors-no-header", "safetensors-start", "safetensors-padding"},
    "ST-JSON-DEPTH": {"safetensors-depth"},
    "ST-TRAILING": {"safetensors-trailing"},
    "ST-UTF8": {"safetensors-utf8"},
    "ST-TYPE": {"safetensors-entry"},
    "ST-DUPKEY": {"safetensors-duplicate-name", "safetensors-metadata"},
    "ST-META": {"safetensors-metadata", "safetensors-metadata-null", "safetensors-large-metadata"},
    "ST-OVERLAP": {"safetensors-overlap"},
    "ST-HOLE": {"safetensors-hole"},
    "ST-OFFSET": {"safetensors-offset"},
    "ST-OVERFLOW": {"safetensors-overflow"},
    "ST-SIZE": {"safetensors-size"},
    "ST-DTYPE": {"safetensors-dtype"},
    "ST-ALIGN": {"safetensors-misaligned"},
    "ST-RANK": {"safetensors-rank"},
    "STR-BIDI": {"safetensors-name"},
    "STR-CONTROL": {"safetensors-name", "index-name"},
    "FMT-EXT-MISMATCH": {"safetensors-other-format"},
    "FMT-LFS": {"safetensors-lfs-pointer"},
    "JSON-DEPTH": {"json-too-deep"},
    "JSON-NONFINITE": {"json-nan-token", "json-float-overflow"},
    "JSON-BOM": {"json-bom"},
    "JSON-ENCODING": {"json-encoding", "json-utf8"},
    "JSON-SURROGATE": {"json-surrogate"},
    "JSON-SYNTAX": {"json-syntax", "json-trailing"},
    "JSON-TRUNC": {"json-truncated"},
    "JSON-NUL": {"json-nul"},
    "JSON-EMPTY": {"json-empty"},
    "JSON-SHAPE": {"json-not-object"},
    "JSON-DUPKEY": {"json-duplicate-key"},
    "JSON-HUGE": {"json-huge-int", "json-too-large"},
    "IDX-PATH": {"index-traversal", "index-path"},
    "IDX-MISSING": {"index-missing-shard"},
    "IDX-TYPE": {"index-type", "index-no-map"},
}
ELSEWHERE = {"JSON-TYPE"}  # the type of a field is its artifact's to judge


def manifest(shared: Path, folder: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((shared / "samples" / folder / "manifest.json").read_text())
    return [{**row, "file": shared / "samples" / folder / row["path"]} for row in rows]


def problems(row: dict[str, Any], faults: tuple[Fault, ...]) -> str | None:
    """What is wrong with our judgement of one sample."""
    table = fault_table()
    kinds = {fault.kind for fault in faults}
    serious = {kind for kind in kinds if table[kind]["severity"] != "note"}
    rule = row["expected_rule"]
    if rule is None:
        return f"{row['path']}: legal, and called {sorted(serious)}" if serious else None
    if rule in ELSEWHERE:
        return None
    return None if kinds & SAME[rule] else f"{row['path']}: {rule}, and called {sorted(kinds)}"


def test_every_safetensors_sample_is_judged_right(shared: Path) -> None:
    wrong = []
    for row in manifest(shared, "safetensors"):
        with LocalFile(row["file"]) as source:
            wrong.append(problems(row, read_safetensors_header(source).faults))
    assert len(wrong) > 30
    assert [problem for problem in wrong if problem] == []


def test_every_json_sample_is_judged_right(shared: Path) -> None:
    wrong = []
    rows = [row for row in manifest(shared, "abnormal") if row["path"].startswith("files/json/")]
    for row in rows:
        with LocalFile(row["file"]) as source:
            faults = read_json(source, want_object=True).faults
        if row["expected_rule"] == "STR-CONTROL":  # an index with hostile names, not broken JSON
            with LocalFile(row["file"]) as source:
                faults = read_shard_index(source).faults
        wrong.append(problems(row, faults))
    assert len(wrong) > 10
    assert [problem for problem in wrong if problem] == []


def test_every_index_sample_is_judged_right_and_opens_nothing_outside(shared: Path) -> None:
    wrong = []
    for row in manifest(shared, "abnormal"):
        if "/index/" not in row["path"]:
            continue
        directory = row["file"].parent
        present = {path.relative_to(directory).as_posix(): path.stat().st_size for path in directory.rglob("*")}
        with LocalFile(row["file"]) as source:
            index = read_shard_index(source, present)
        wrong.append(problems(row, index.faults))
        assert all((directory / shard).resolve().is_relative_to(directory.resolve()) for shard in index.shards)
    assert len(wrong) > 5
    assert [problem for problem in wrong if problem] == []


READ_ALL = """
import resource, sys
from pathlib import Path
from ckpt_inspect.formats.json_document import read_json, read_json_lines
from ckpt_inspect.formats.safetensors_header import read_safetensors_header
from ckpt_inspect.formats.shard_index import read_shard_index
from ckpt_inspect.storage import LocalFile
for path in sorted(Path(sys.argv[1]).rglob("*")):
    if path.is_file():
        for reader in (read_json, read_json_lines, read_safetensors_header, read_shard_index):
            with LocalFile(path) as source:
                reader(source)
status = Path("/proc/self/status")  # ru_maxrss begins with what the parent had when it forked
lines = status.read_text().splitlines() if status.exists() else []
peak = next((line.split()[1] for line in lines if line.startswith("VmHWM")), None)
print(peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_every_sample_of_every_kind_passes_every_reader_without_a_traceback_in_300_mb(shared: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(shared / "samples")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.stderr == ""
    assert int(child.stdout) < 300 * 1024
