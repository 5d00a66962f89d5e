"""What looking costs: `show` and `tensors` on checkpoints too large to load, beside the libraries a user would load them with.

::

    python benchmarks/inspect.py                     # a table in Markdown
    python benchmarks/inspect.py --python JUDGE      # the peers in another interpreter, one that has torch

Built on the fly, in the true formats and sparse: a ZeRO-3 checkpoint of 256 ranks that appears to take 1 TB, a safetensors
model of 100,000 tensors, a trainer_state.json of 100,000 entries. Each command runs in a process of its own; CPU seconds and
peak memory are the operating system's (`wait4`), the best of three runs.
"""

from __future__ import annotations

import os.path
import sys

# This script's directory must not come first: the script is called like the standard library's `inspect`.
sys.path[:1] = [os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests")]

import argparse
import json
import os
import platform
import random
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from builders.deepspeed import Job, Model, Parameter, config_of, model_state, save_latest, shape_list
from builders.torch_files import save_zip, tensor, with_attributes
from builders.zips import Hole

RANKS, PARAMETERS = 256, 1000
TENSORS, ENTRIES = 100_000, 100_000
MEMORY_LIMIT_MB = 300

TORCH = """
import sys, torch
from pathlib import Path
count = 0
def walk(value):
    global count
    if isinstance(value, torch.Tensor):
        count += 1
    elif isinstance(value, dict):
        for item in value.values():
            walk(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            walk(item)
for path in sorted(Path(sys.argv[1]).rglob("*.pt")):
    walk(torch.load(path, mmap=True, weights_only=False))
print(count)
"""
# A small process that starts the command: a child begins with the peak memory of what forked it.
MEASURE = """
import os, sys, time
began = time.monotonic()
child = os.fork()
if child == 0:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
print([usage.ru_utime + usage.ru_stime, time.monotonic() - began, usage.ru_maxrss / 1024])
sys.exit(os.waitstatus_to_exitcode(status))
"""
SAFE_OPEN = """
import sys
from safetensors import safe_open
with safe_open(sys.argv[1], framework="np") as file:
    print(len([(name, file.get_slice(name).get_shape(), file.get_slice(name).get_dtype()) for name in file.keys()]))
"""
JSON_LOAD = """
import json, sys
print(len(json.load(open(sys.argv[1]))["log_history"]))
"""


@dataclass(frozen=True)
class Cost:
    """One command's best run."""

    cpu: float
    wall: float
    peak_mb: float


def sparse_zero3(directory: Path, apparent_bytes: float) -> None:
    """`checkpoint-8` of stage 3: 12 bytes per parameter in all, spread over the ranks, none of them on the disk."""
    per_parameter = int(apparent_bytes / 12 / PARAMETERS)
    side = int(per_parameter**0.5)
    # Zeros that take no memory: only their shape is written.
    values = np.broadcast_to(np.float32(0), (side, side))
    model = Model([Parameter(f"model.layers.{n // 10}.part_{n % 10}.weight", values) for n in range(PARAMETERS)])
    job = Job(stage=3, world=RANKS, plain_stage=True)
    tag = directory / "checkpoint-8" / "global_step8"
    tag.mkdir(parents=True)
    save_latest(tag.parent, "global_step8")
    held = PARAMETERS * -(-side * side // RANKS)
    module = {parameter.name: tensor("BF16", (0,)) for parameter in model.parameters}
    state = model_state(model, job, module, shape_list([model.parameters], job), {})
    for rank in range(RANKS):
        save_zip(tag / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt", state)

        def vector() -> Any:
            return tensor("F32", (held,), Hole(4 * held))

        optimizer = {
            "zero_stage": 3,
            "loss_scaler": None,
            "overflow": False,
            "partition_count": RANKS,
            "optimizer_state_dict": {
                "state": {0: {"step": 8, "exp_avg": vector(), "exp_avg_sq": vector()}},
                "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "params": [0]}],
            },
            "fp32_flat_groups": [with_attributes(vector(), {"ds_id": f"0_{PARAMETERS - 1}"})],
        }
        value = {"optimizer_state_dict": optimizer, "ds_config": config_of(job), "ds_version": job.version}
        save_zip(tag / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", value)


def wide_model(directory: Path) -> None:
    """`model.safetensors` of 100,000 expert tensors; the data is a hole."""
    directory.mkdir()
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for number in range(TENSORS):
        end = offset + 2 * 64 * 128
        name = f"model.layers.{number // 768}.mlp.experts.{number % 768 // 3}.{'gud'[number % 3]}_proj.weight"
        header[name] = {"dtype": "BF16", "shape": [64, 128], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(file.tell() + offset)
    (directory / "config.json").write_text('{"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}')


def long_run(directory: Path) -> None:
    """A run whose `trainer_state.json` logged 100,000 times."""
    directory.mkdir()
    choose = random.Random(1)
    history = [
        {
            "epoch": step / 1000,
            "grad_norm": choose.random(),
            "learning_rate": 1e-4 * (1 - step / ENTRIES),
            "loss": 1 + choose.random(),
            "step": step,
        }
        for step in range(1, ENTRIES + 1)
    ]
    state = {
        "epoch": 100.0,
        "global_step": ENTRIES,
        "log_history": history,
        "max_steps": ENTRIES,
        "num_train_epochs": 100,
    }
    (directory / "trainer_state.json").write_text(json.dumps(state, indent=2))


def measure(command: Sequence[str], runs: int) -> Cost | None:
    """The least CPU time, wall time and peak memory of `runs` runs; None where the command fails."""
    costs = []
    for _ in range(runs):
        done = subprocess.run(
            [sys.executable, "-S", "-c", MEASURE, *command], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            print(f"failed: {' '.join(command[:4])}\n{done.stderr[-500:]}", file=sys.stderr)
            return None
        costs.append(Cost(*json.loads(done.stdout)))
    return Cost(min(cost.cpu for cost in costs), min(cost.wall for cost in costs), min(cost.peak_mb for cost in costs))


def row(case: str, what: str, cost: Cost | None, peer: Cost | None) -> str:
    if cost is None:
        return f"| {case} | {what} | - | - | - | - | - |"
    ratio = f"{peer.cpu / cost.cpu:.1f} x" if peer is not None and peer is not cost else ""
    memory = f"{peer.peak_mb / cost.peak_mb:.1f} x" if peer is not None and peer is not cost else ""
    return f"| {case} | {what} | {cost.cpu:.2f} | {cost.wall:.2f} | {cost.peak_mb:.0f} | {ratio} | {memory} |"


def machine() -> str:
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next((line.split(":", 1)[1].strip() for line in cpuinfo.open() if line.startswith("model name")), "")
    return f"{os.cpu_count()} x {model or platform.machine()}, {platform.system()}, Python {platform.python_version()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter the peers run in")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where to build (a file system with sparse files)")
    parser.add_argument("--terabytes", type=float, default=1.0, help="apparent size of the ZeRO-3 checkpoint")
    arguments = parser.parse_args()
    ours = [sys.executable, "-m", "ckpt_inspect"]
    peers = [arguments.python, "-c"]
    lines = []
    over = []
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        root = Path(name)
        sparse_zero3(root / "zero", arguments.terabytes * 1e12)
        wide_model(root / "wide")
        long_run(root / "long")
        zero = root / "zero" / "checkpoint-8"
        apparent = sum(path.stat().st_size for path in zero.rglob("*.pt")) / 1e12
        # case, what, path, verbs, peer
        cases: list[tuple[str, Path, list[list[str]], str, list[str]]] = [
            (
                f"ZeRO-3, {RANKS} ranks, {apparent:.2f} TB",
                zero,
                [["show"], ["tensors"]],
                "torch.load(mmap=True) of every file",
                [*peers, TORCH, str(zero)],
            ),
            (
                f"{TENSORS:,} tensors",
                root / "wide",
                [["show"], ["tensors"], ["tensors", "--json"]],
                "safetensors.safe_open, every shape",
                [*peers, SAFE_OPEN, str(root / "wide" / "model.safetensors")],
            ),
            (
                f"{ENTRIES:,} log entries",
                root / "long",
                [["show"]],
                "json.load",
                [*peers, JSON_LOAD, str(root / "long" / "trainer_state.json")],
            ),
        ]
        for case, path, verbs, peer_name, peer_command in cases:
            peer = measure(peer_command, min(arguments.runs, 2))
            for verb in verbs:
                cost = measure([*ours, *verb[:1], str(path), *verb[1:]], arguments.runs)
                lines.append(row(case, f"`{' '.join(verb)}`", cost, peer))
                if cost is not None and cost.peak_mb >= MEMORY_LIMIT_MB:
                    over.append(f"{case} {verb}: {cost.peak_mb:.0f} MB")
            lines.append(row(case, peer_name, peer, peer))
    print(f"{machine()}; best of {arguments.runs}\n")
    print("| what | with | CPU s | wall s | peak MB | CPU of the peer | memory of the peer |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines))
    for problem in over:
        print(f"over {MEMORY_LIMIT_MB} MB: {problem}", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
