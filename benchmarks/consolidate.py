"""How long `consolidate` takes beside `cp` of the same bytes and what a user would run instead: a Markdown table.

Makes ZeRO-2, ZeRO-3 and FSDP checkpoints of 4 ranks in the true format (``tests/builders/zero_at_scale.py``,
``dcp_at_scale.py``), runs the competitors in turn and reports medians: DeepSpeed's own `zero_to_fp32`, and `accelerate
merge-weights`. `cp` returns when the bytes are in memory; ``cp, sync`` when they are on the
device, which is what consolidate promises. The judge is a Python with deepspeed, accelerate and safetensors::

    python benchmarks/consolidate.py --judge /path/to/judge/bin/python
"""

from __future__ import annotations

import os.path
import sys

# A sibling of this script is called like a module of the standard library; the builders lie with the tests.
sys.path[0] = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests")

# ruff: noqa: E402
import argparse
import compileall
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

BUILDERS = Path(__file__).resolve().parent.parent / "tests" / "builders"


@dataclass(frozen=True)
class Case:
    """A kind of checkpoint: its title, the script and options that make it, and where its shards are."""

    title: str
    builder: str
    options: tuple[str, ...]
    shards: str = ""

    def reference(self, judge: str, checkpoint: Path, output: Path, dtype: str) -> tuple[str, list[str]] | None:
        """What a user would run instead, by name; None where nothing does the same."""
        if self.shards:
            command = [judge, "-m", "accelerate.commands.accelerate_cli", "merge-weights"]
            done = [*command, str(checkpoint / self.shards), str(output)]
            return ("accelerate merge-weights", done) if dtype == "float32" else None
        module = "zero_to_fp32" if dtype == "float32" else "zero_to_torch"
        more = [] if dtype == "float32" else ["--dtype", dtype]
        command = [judge, "-m", f"deepspeed.utils.{module}", str(checkpoint), str(output), "--safe_serialization"]
        return f"{module} --safe_serialization {' '.join(more)}".strip(), command + more


CASES = {
    "zero2": Case("ZeRO-2", "zero_at_scale.py", ("--stage", "2")),
    "zero3": Case("ZeRO-3", "zero_at_scale.py", ("--stage", "3")),
    "fsdp": Case("FSDP, rows", "dcp_at_scale.py", ("--way", "rows"), "pytorch_model_fsdp_0"),
    "columns": Case("DCP, columns", "dcp_at_scale.py", ("--way", "columns"), "pytorch_model_fsdp_0"),
}


@dataclass
class Series:
    """Runs of one competitor: wall seconds, CPU seconds, peak resident bytes."""

    name: str
    command: list[str]
    walls: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    @property
    def wall(self) -> float:
        return statistics.median(self.walls)

    @property
    def cpu(self) -> float:
        return statistics.median(self.cpus)

    @property
    def peak(self) -> int:
        return max(self.peaks)


def run(command: Sequence[str]) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and peak resident bytes of one process."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{said.read().decode(errors='replace')[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def alternate(series: Sequence[Series], rounds: int, clean: Path) -> None:
    """Run all competitors in turn, `rounds` times after one round that does not count; `clean` is emptied before each."""
    for number in range(rounds + 1):
        for one in series:
            shutil.rmtree(clean, ignore_errors=True)
            clean.mkdir()
            os.sync()
            wall, cpu, peak = run(one.command)
            if number:
                one.walls.append(wall)
                one.cpus.append(cpu)
                one.peaks.append(peak)


def make(directory: Path, case: Case, size: int) -> int:
    """Write a checkpoint in a process of its own: peak memory is inherited from the process that starts another."""
    command = [sys.executable, str(BUILDERS / case.builder), str(directory), *case.options, "--bytes", str(size)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def ours(checkpoint: Path, output: Path, dtype: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "ckpt_inspect", "consolidate", str(checkpoint), "-o", str(output), "--dtype", dtype,
            "-q", *options]  # fmt: skip


def table(title: str, series: Sequence[Series], copy: Series, reference: Series | None) -> str:
    lines = [
        f"### {title}",
        "",
        "| job | wall s, median (least to most) | CPU s | peak RSS MB | wall / cp | reference wall / wall | "
        "reference CPU / CPU |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in series:
        against = "" if reference is None else f"{reference.wall / one.wall:.1f}"
        against_cpu = "" if reference is None else f"{reference.cpu / one.cpu:.1f}"
        lines.append(
            f"| {one.name} | {one.wall:.2f} ({min(one.walls):.2f} to {max(one.walls):.2f}) | {one.cpu:.2f} | "
            f"{one.peak / 1e6:.0f} | {one.wall / copy.wall:.2f} | {against} | {against_cpu} |"
        )
    return "\n".join(lines) + "\n"


def compare(case: Case, dtype: str, size: int, checkpoint: Path, work: Path, judge: str | None, rounds: int) -> str:
    """One table: one kind of checkpoint, one output type."""
    sample = work / "sample"
    shutil.rmtree(sample, ignore_errors=True)
    run(ours(checkpoint, sample, dtype))
    weights = sample / "model.safetensors"
    clean = work / "clean"
    copied = str(clean / "copy")
    copy = Series("`cp` of the output", ["cp", str(weights), copied])
    durable = Series("`cp`, `sync`", ["sh", "-c", f"cp '{weights}' '{copied}' && sync '{copied}'"])
    series = [
        Series("consolidate", ours(checkpoint, clean / "out", dtype)),
        Series("consolidate --no-checksum", ours(checkpoint, clean / "out", dtype, "--no-checksum")),
        copy,
        durable,
    ]
    reference = None
    instead = case.reference(judge, checkpoint, clean / "out", dtype) if judge is not None else None
    if instead is not None:
        reference = Series(*instead)
        series.append(reference)
    alternate(series, rounds, clean)
    length = weights.stat().st_size
    return table(
        f"{case.title} to {dtype}: {length / 1e9:.2f} GB written of {size / 1e9:.2f} GB fp32", series, copy, reference
    )


def memory(dtype: str, checkpoint: Path, work: Path) -> int:
    """Peak resident bytes of one run."""
    clean = work / "clean"
    shutil.rmtree(clean, ignore_errors=True)
    clean.mkdir()
    return run(ours(checkpoint, clean / "out", dtype))[2]


def machine() -> str:
    """What this ran on, without names."""
    cpu = "unknown processor"
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if Path("/proc/cpuinfo").exists():
        rows = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = rows[0].partition(":")[2].strip() if rows else cpu
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"{os.cpu_count()} x {cpu}, {memory_bytes / 2**30:.0f} GiB, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}; load average at the start {load}"
    )


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", help="a Python that has deepspeed; without it there is no reference")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", type=float, default=1e9, help="float32 bytes of the model for times")
    parser.add_argument("--large", type=float, default=3e9, help="float32 bytes of the model for memory, 0 for none")
    parser.add_argument("--directory", type=Path, help="where to work; needs about 12 x --bytes or 5 x --large")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    arguments = parser.parse_args()
    print(f"Machine: {machine()}.\n", flush=True)
    # An installed package has its byte code; a checkout run with PYTHONDONTWRITEBYTECODE compiles at every start.
    compileall.compile_dir(str(BUILDERS.parents[1] / "ckpt_inspect"), quiet=1)
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="consolidate-benchmark-") as name:
        work = Path(name)
        peaks: dict[tuple[str, str], list[int]] = {}
        for case in (CASES[name] for name in arguments.cases.split(",")):
            size = make(work / "made", case, int(arguments.bytes))
            checkpoint = work / "made" / "checkpoint-8"
            for dtype in arguments.dtypes.split(","):
                print(compare(case, dtype, size, checkpoint, work, arguments.judge, arguments.rounds), flush=True)
                peaks[case.title, dtype] = [memory(dtype, checkpoint, work)]
            shutil.rmtree(work / "made")
            if arguments.large:
                make(work / "made", case, int(arguments.large))
                for dtype in arguments.dtypes.split(","):
                    peaks[case.title, dtype].append(memory(dtype, work / "made" / "checkpoint-8", work))
                shutil.rmtree(work / "made")
        print("### Peak memory\n\n| layout | output | MB at each size |\n| --- | --- | --- |")
        for (title, dtype), values in peaks.items():
            print(f"| {title} | {dtype} | {', '.join(f'{value / 1e6:.0f}' for value in values)} |")
        print(json.dumps({"sizes": [arguments.bytes, arguments.large]}))


if __name__ == "__main__":
    main()
