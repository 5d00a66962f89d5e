"""The collection of hostile archives: each lie gets its name, quickly, in little memory, and without an exception."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.shared

# The manifest's descriptive rule names, and the fault kinds that say the same here; any one of them is right.
EXPECTED = {
    "ZIP-BOMB": {"zip-bomb"},
    "ZIP-OVERLAP": {"zip-overlap"},
    "ZIP-HEADER-MISMATCH": {"zip-method-mismatch", "zip-size-mismatch", "zip-name-mismatch", "zip-crc-mismatch"},
    "ZIP-PATH": {"zip-path", "zip-nul-name"},
    "STR-CONTROL": {"zip-control-name", "zip-nul-name", "torch-storage-key"},
    "ZIP-DUP": {"zip-duplicate", "zip-case-duplicate"},
    "ZIP-MULTIROOT": {"torch-two-roots"},
    "ZIP-NO-EOCD": {"zip-truncated"},
    "ZIP-CD": {"zip-count", "zip-directory-bounds", "zip-directory-truncated", "zip-zip64", "zip-disks"},
    "ZIP-PREFIX": {"zip-prefix"},
    "ZIP-TRAILING": {"zip-trailing"},
    "ZIP-FLAG": {"zip-encrypted", "zip-flag"},
    "ZIP-METHOD": {"zip-method"},
    "ZIP-NESTED": {"zip-nested"},
    "ZIP-MISSING": {"torch-storage-missing", "torch-no-data-pkl"},
    "PT-STORAGE-SIZE": {"torch-storage-size"},
    "PT-STORAGE-MISSING": {"torch-storage-missing"},
    "PT-VERSION": {"torch-version"},
    "PT-BYTEORDER": {"torch-byteorder"},
    "PT-VIEW-BOUNDS": {"torch-view-bounds"},
    "PT-OVERFLOW": {"torch-overflow"},
    "PT-ALIASING": {"torch-aliasing"},
    "PT-EXPAND": {"torch-expand"},
    "PT-RANK": {"torch-rank"},
    "PT-DEVICE": {"torch-device"},
}

LOOK = """
import json, resource, sys, time
from pathlib import Path
from ckpt_inspect.formats.torch_archive import open_torch
from ckpt_inspect.storage import LocalFile
for name in sys.stdin.read().splitlines():
    start = time.process_time()
    with LocalFile(Path(name)) as source:
        archive = open_torch(source)
        tensors = sum(1 for _ in archive.tensors())
        kinds = sorted({fault.kind for fault in archive.faults})
    print(json.dumps({"kinds": kinds, "tensors": tensors, "seconds": time.process_time() - start,
                      "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}), flush=True)
"""


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))


def test_every_hostile_archive_is_named_for_what_it_is(shared: Path) -> None:
    folder = shared / "samples" / "abnormal"
    rows = [row for row in json.loads((folder / "manifest.json").read_text()) if row["area"] in ("zip", "tensor")]
    assert len(rows) >= 20
    names = "\n".join(str(folder / row["path"]) for row in rows)
    run = subprocess.run(
        [sys.executable, "-c", LOOK], input=names, capture_output=True, text=True, preexec_fn=limited, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    wrong = []
    for row, answer in zip(rows, answers, strict=True):
        expected = EXPECTED.get(row["expected_rule"])
        assert expected is not None, f"no fault kind stands for {row['expected_rule']}"
        if not expected & set(answer["kinds"]):
            wrong.append((row["path"], row["expected_rule"], answer["kinds"]))
        assert answer["seconds"] < row["max_seconds"], row["path"]
        assert answer["megabytes"] < row["max_rss_mb"], row["path"]
    assert not wrong
