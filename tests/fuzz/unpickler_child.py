"""The judge of the differential fuzz: CPython's C unpickler in a process of its own, with nothing to call.

Reads batches of length-prefixed streams from standard input and answers each batch with one JSON line: for each stream
the names it looked up and how it ended, once over a file without `peek` (a read across a frame drops its rest) and once
over a buffered one. `find_class` returns a class that accepts anything and does nothing, so no name of a stream is ever
resolved. Limits on memory and CPU make an allocation bomb an error of this process alone.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import struct
import sys
from typing import Any

MEMORY = (
    64 << 20
)  # beyond what it has: little, so that a stream that asks for gigabytes, or a memo of as much, fails at once
CPU_SECONDS = 3600


class Inert:
    """Stands for every class and function of a stream: takes any arguments, any state, any item."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return Inert()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def add(self, item: Any) -> None:
        pass

    def update(self, items: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other


NAMES: list[tuple[str, str]] = []


class Judge(pickle.Unpickler):
    """Looks up nothing and notes what it was asked for."""

    def find_class(self, module: str, name: str) -> Any:
        NAMES.append((module, name))
        return Inert

    def persistent_load(self, pid: Any) -> Any:
        return Inert()


def judge(stream: bytes, *, peek: bool) -> dict[str, Any]:
    """The names one unpickler looks up in `stream`, and how it ends."""
    NAMES.clear()
    file: Any = io.BytesIO(stream)
    if peek:
        file = io.BufferedReader(file)
    try:
        Judge(file).load()
        end = "value"
    except Exception as error:  # noqa: BLE001  # whatever it raises is an answer
        end = type(error).__name__
    return {"names": [[repr(module)[1:-1], repr(name)[1:-1]] for module, name in NAMES], "end": end}


def main() -> None:
    with open("/proc/self/statm", encoding="ascii") as pages:
        limit = int(pages.read().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    source, out = sys.stdin.buffer, sys.stdout
    while True:
        head = source.read(4)
        if len(head) < 4:
            return
        lengths = struct.unpack(f"<{struct.unpack('<I', head)[0]}I", source.read(4 * struct.unpack("<I", head)[0]))
        streams = [source.read(length) for length in lengths]
        answers = [[judge(stream, peek=False), judge(stream, peek=True)] for stream in streams]
        out.write(json.dumps(answers) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
