"""The shared collection: hostile pickles at or above the verdict they deserve, real runs never accused, in little memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ckpt_inspect.scan import rank, scan_path

pytestmark = pytest.mark.shared

CHILD = """
import json, resource, sys
from ckpt_inspect.scan import scan_path
base = resource.getrusage(resource.RUSAGE_SELF)
file, = scan_path(sys.argv[1]).files
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([file.verdict, file.coverage, [f.kind for f in file.findings],
                  used.ru_utime + used.ru_stime - base.ru_utime - base.ru_stime, used.ru_maxrss // 1024]))
"""
SECONDS, MEGABYTES = 2.0, 300
BENIGN_GROUP = "benign"

# What a rule of the manifest is called here; rules that are about content `check` judges, not a scan, are left out.
KINDS: dict[str, tuple[str, ...]] = {
    "PKL-EXPANSION": ("pickle-expansion",),
    "PKL-DEPTH": ("pickle-depth",),
    "PKL-STACK": ("pickle-stack", "pickle-limit"),
    "PKL-MEMO": ("pickle-memo-index", "pickle-memo", "pickle-limit"),
    "PKL-TRUNCATED": ("pickle-truncated",),
    "PKL-BIGINT": ("pickle-integer-size",),
    "PKL-FRAME": ("pickle-frame", "pickle-frame-size"),
    "PKL-PROTO": ("pickle-protocol", "pickle-second-protocol"),
    "PKL-TYPE": ("pickle-value", "pickle-type"),
    "PKL-CYCLE": ("pickle-cycle",),
    "TPL-SSTI": ("template-code", "template-loads"),
    "TPL-DOS": ("template-endless",),
    "TPL-SYNTAX": ("template-syntax",),
}


def manifest(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "manifest.json").read_text())  # type: ignore[no-any-return]


def in_a_child(path: Path) -> tuple[str, str, list[str], float, int]:
    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))

    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=False, preexec_fn=limits
    )
    assert done.returncode == 0, f"{path}: {done.stderr[-800:]}"
    verdict, coverage, kinds, seconds, megabytes = json.loads(done.stdout)
    return verdict, coverage, kinds, seconds, megabytes


def test_every_hostile_pickle_is_judged_as_it_deserves(shared: Path) -> None:
    folder = shared / "samples" / "pickle"
    wrong = []
    for row in manifest(folder):
        (found,) = scan_path(folder / row["path"]).files
        if row["group"] == BENIGN_GROUP:
            right = found.verdict in ("clean", "known")
        else:
            right = rank(found.verdict) >= rank(row["min_verdict"]) and bool(found.findings)
        if not right:
            wrong.append((row["path"], row["min_verdict"], found.verdict))
    assert wrong == []


def test_abnormal_files_are_named_in_little_time_and_memory(shared: Path) -> None:
    wrong = []
    for folder in (shared / "samples" / "abnormal", shared / "samples" / "safetensors"):
        for row in manifest(folder):
            verdict, _, kinds, seconds, megabytes = in_a_child(folder / row["path"])
            if seconds > SECONDS or megabytes > MEGABYTES:
                wrong.append((row["path"], f"{seconds:.2f} s, {megabytes} MB"))
            expected = KINDS.get(row.get("expected_rule") or "")
            if expected is not None and not set(kinds) & set(expected):
                wrong.append((row["path"], f"{row['expected_rule']}: {verdict} {kinds}"))
            if row["expected_verdict"] == "clean" and verdict != "clean":
                wrong.append((row["path"], f"legal, and called {verdict}: {kinds}"))
    assert wrong == []


def test_real_runs_and_published_files_are_never_accused(shared: Path) -> None:
    counts: Counter[str] = Counter()
    accused = []
    for root in (shared / "runs", shared / "corpus", shared / "base"):
        for directory in sorted(path for path in root.iterdir() if path.is_dir()):
            for file in scan_path(directory).files:
                counts[file.verdict] += 1
                if rank(file.verdict) >= rank("suspicious"):
                    accused.append((directory.name, file.path, [finding.message for finding in file.findings]))
    assert accused == []
    assert sum(counts.values()) > 1000
    assert counts["unknown"] <= 0.02 * sum(counts.values()), counts
