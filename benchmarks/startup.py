"""What starting costs: `import ckpt_inspect`, its public names, and small commands, beside `import torch` where it is installed.

::

    python benchmarks/startup.py [--python JUDGE] [--runs 9]

Each row is a new process. Wall time of an import is what ``-X importtime`` counts for it, without the interpreter's own start;
CPU seconds and peak memory are the operating system's (`wait4`) for the whole process; medians, byte code compiled before.
"""

from __future__ import annotations

import sys

sys.path[:1] = []  # a sibling of this script is called like the standard library's `inspect`

import argparse
import os
import platform
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = (
    "import ckpt_inspect",
    "from ckpt_inspect import open_run",
    "from ckpt_inspect import check",
    "from ckpt_inspect import consolidate",
)
COMMANDS = (["--version"], ["--help"], ["show", "fixtures/lora-resized"], ["check", "fixtures/lora-resized"])
PEERS = ("import torch", "import transformers", "import safetensors.torch", "from peft import PeftModel")
LIMIT_MS = 60.0  # of `import ckpt_inspect`


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over the runs of one process: import milliseconds (None for commands), CPU seconds, peak resident MB."""

    import_ms: float | None
    cpu_seconds: float
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter the peers run in")
    parser.add_argument("--runs", type=int, default=9)
    given = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} CPUs, median of {given.runs}\n")
    print("| | import | CPU | peak memory |\n| --- | ---: | ---: | ---: |")
    first = None
    for line in IMPORTS:
        cost = measured([sys.executable, "-X", "importtime", "-c", line], given.runs, imported=True)
        first = first if first is not None else cost.import_ms
        show(f"`{line}`", cost)
    for words in COMMANDS:
        show(f"`ckpt-inspect {' '.join(words)}`", measured([sys.executable, "-m", "ckpt_inspect", *words], given.runs))
    for line in PEERS:
        if subprocess.run([given.python, "-c", line], capture_output=True, check=False).returncode == 0:
            show(f"`{line}`", measured([given.python, "-X", "importtime", "-c", line], given.runs, imported=True))
    if first is not None and first > LIMIT_MS:
        sys.exit(f"import ckpt_inspect takes {first:.1f} ms, more than {LIMIT_MS:g}")


def measured(command: list[str], runs: int, *, imported: bool = False) -> Cost:
    """Run `command` `runs` times after one that is not counted."""
    found = [once(command, imported=imported) for _ in range(runs + 1)][1:]
    times = [cost.import_ms for cost in found if cost.import_ms is not None]
    return Cost(
        statistics.median(times) if times else None,
        statistics.median(cost.cpu_seconds for cost in found),
        statistics.median(cost.peak_mb for cost in found),
    )


def once(command: list[str], *, imported: bool) -> Cost:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if imported else subprocess.DEVNULL,
        text=True,
    ) as process:
        lines = process.stderr.read().splitlines() if process.stderr is not None else []
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
    scale = 1 if sys.platform == "darwin" else 1024
    milliseconds = import_milliseconds(lines) if imported else None
    return Cost(milliseconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * scale / 1e6)


def import_milliseconds(lines: list[str]) -> float:
    """The imports of the program itself: what stands at the outermost level after the interpreter's `site`."""
    total, started = 0, False
    for line in lines:
        if not line.startswith("import time:"):
            continue
        _, cumulative, name = line.removeprefix("import time:").split("|")
        if started and name.startswith(" ") and not name.startswith("  "):
            total += int(cumulative)
        started = started or name.strip() == "site"
    return total / 1000


def show(name: str, cost: Cost) -> None:
    taken = "" if cost.import_ms is None else f"{cost.import_ms:.1f} ms"
    print(f"| {name} | {taken} | {cost.cpu_seconds:.2f} s | {cost.peak_mb:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
