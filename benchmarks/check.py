"""`check` over many runs: wall time, CPU time and peak memory, beside reading the same bytes with `cat`.

python benchmarks/check.py [--runs 500] [--source DIRECTORY_OF_RUNS]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def measured(command: list[str]) -> tuple[float, float, float, str]:
    """Wall seconds, CPU seconds of the process and its children, peak resident MB of the largest, standard output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, after.ru_maxrss / 1024, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--source", type=Path, default=FIXTURES)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    sources = sorted(path for path in options.source.iterdir() if any(path.glob("checkpoint-*")))
    with tempfile.TemporaryDirectory() as scratch:
        runs = []
        for number in range(options.runs):
            target = Path(scratch) / f"run-{number:04}"
            shutil.copytree(sources[number % len(sources)], target)
            runs.append(str(target))
        rows = []
        for count in (options.runs // 10, options.runs):
            command = [sys.executable, "-m", "ckpt_inspect", "check", "--jobs", str(options.jobs), "--format", "json"]
            wall, cpu, memory, output = measured([*command, *runs[:count]])
            checked = len(json.loads(output)["runs"])
            files = [os.path.join(at, name) for run in runs[:count] for at, _, names in os.walk(run) for name in names]
            listing = Path(scratch) / "files"
            listing.write_text("\0".join(files))
            peer, *_ = measured(["sh", "-c", f"xargs -0 cat < {listing} > /dev/null"])
            rows.append((checked, wall, cpu, cpu / checked, memory, wall / peer))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| runs | wall s | CPU s | CPU s per run | peak MB of a process | x `cat` of all files |")
    print("| --- | --- | --- | --- | --- | --- |")
    for checked, wall, cpu, each, memory, ratio in rows:
        print(f"| {checked} | {wall:.1f} | {cpu:.1f} | {each:.3f} | {memory:.0f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
