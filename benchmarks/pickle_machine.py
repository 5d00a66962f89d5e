"""How fast the pickle machine reads, beside what else reads pickles: opcodes per CPU second, on the same streams.

``python benchmarks/pickle_machine.py`` prints a table. `genops` only decodes, the unpicklers build objects of a stub class;
fickling is measured where it is installed (``pip install fickling``).
"""

from __future__ import annotations

import os.path
import sys

# This directory holds a script called like a module of the standard library; the builders lie with the tests.
sys.path[0] = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests")

# ruff: noqa: E402
import gc
import io
import pickle
import pickletools
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from builders.pickles import Called, Name, Persistent, dump

from ckpt_inspect.formats.pickle_machine import run_pickle
from ckpt_inspect.scan import scan_source
from ckpt_inspect.storage import BytesSource

REPEATS = 7


def state_dict(tensors: int) -> bytes:
    """``data.pkl`` of a model, opcode for opcode as torch writes it."""
    rebuild, storage, hooks = (
        Name("torch._utils", "_rebuild_tensor_v2"),
        Name("torch", "FloatStorage"),
        Name("collections", "OrderedDict"),
    )
    pairs = []
    for number in range(tensors):
        pid = Persistent(("storage", storage, str(number), "cpu", 4096))
        pairs.append(
            (
                f"model.layers.{number}.self_attn.q_proj.weight",
                Called(rebuild, (pid, 0, (64, 64), (64, 1), False, Called(hooks))),
            )
        )
    return dump(Called(hooks, pairs=pairs), 2)


def plain(entries: int, protocol: int) -> bytes:
    """What a log or a tokenizer would be."""
    return pickle.dumps(
        {f"key.{number}": [number, number / 3, "x", (1, 2, 3), {"a": number}] for number in range(entries)}, protocol
    )


class Stub:
    """Takes anything."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Stub:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class CUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return Stub

    def persistent_load(self, pid: Any) -> Any:
        return pid


class PythonUnpickler(pickle._Unpickler):  # type: ignore[name-defined,misc]
    def find_class(self, module: str, name: str) -> Any:
        return Stub

    def persistent_load(self, pid: Any) -> Any:
        return pid


def best(work: Callable[[], Any]) -> float:
    """The least CPU seconds of several runs."""
    least = float("inf")
    for _ in range(REPEATS):
        gc.collect()
        begin = time.process_time()
        work()
        least = min(least, time.process_time() - begin)
    return least


def readers() -> dict[str, Callable[[bytes], Any]]:
    found: dict[str, Callable[[bytes], Any]] = {
        "ckpt-inspect run_pickle": lambda stream: run_pickle(BytesSource(stream)),
        "ckpt-inspect scan": lambda stream: scan_source(BytesSource(stream), "x.pkl"),
        "pickletools.genops": lambda stream: sum(1 for _ in pickletools.genops(stream)),
        "pickle._Unpickler (Python)": lambda stream: PythonUnpickler(io.BytesIO(stream)).load(),
        "pickle.Unpickler (C)": lambda stream: CUnpickler(io.BytesIO(stream)).load(),
    }
    try:
        from fickling.fickle import Pickled, check_safety  # type: ignore[import-not-found]  # optional

        found["fickling Pickled.load"] = Pickled.load
        found["fickling check_safety"] = lambda stream: check_safety(Pickled.load(stream))
    except ImportError:
        pass
    return found


def main() -> None:
    streams = {
        "state dict, 4,000 tensors": state_dict(4000),
        "plain data, protocol 2": plain(8000, 2),
        "plain data, protocol 4": plain(8000, 4),
    }
    print(f"{'stream':<28}{'reader':<30}{'opcodes/s':>14}{'times ours':>12}")
    for title, stream in streams.items():
        opcodes = sum(1 for _ in pickletools.genops(stream))
        ours = 0.0
        for name, read in readers().items():
            seconds = best(partial(read, stream))
            ours = ours or seconds
            print(f"{title:<28}{name:<30}{opcodes / seconds:>14,.0f}{seconds / ours:>11.2f}x")
        print()


if __name__ == "__main__":
    main()
