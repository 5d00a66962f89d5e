"""Differential fuzzing of the pickle machine against CPython's C unpickler: mutated streams, two readers, one question.

Every name the C unpickler looks up must be among those the machine names; where one is not, or is not on the list of
allowed names, the scan of the stream must not call it clean or known. ``python -m fuzz.differential --streams 2000000``
from ``tests/`` runs as long as wanted and prints counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import struct
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckpt_inspect.formats.pickle_machine import PickleProgram, run_pickle
from ckpt_inspect.formats.pickle_opcodes import OPCODES, decode
from ckpt_inspect.scan import scan_source
from ckpt_inspect.scan.tiers import standing_of
from ckpt_inspect.storage import BytesSource

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
SLOW = 2.0
POOL = 3000
BATCH = 400

_TOKENS: tuple[bytes, ...] = (
    *(bytes([code]) for code in OPCODES),
    b"cposix\nsystem\n",
    b"c__builtin__\neval\n",
    b"iposix\nsystem\n",
    b"\x8c\x05posix\x8c\x06system\x93",
    b"X\x05\x00\x00\x00posix",
    b"(S'true'\ntR",
    b"\x85R",
    b")R",
    b")\x81",
    b"}b",
    b"\x80\x02",
    b"\x80\x04",
    b"\x95\x04\x00\x00\x00\x00\x00\x00\x00",
    b"\x95\x10\x00\x00\x00\x00\x00\x00\x00",
    b"q\x00",
    b"h\x00",
    b"p0\n",
    b"g0\n",
    b"I0x41\n",
    b"L010L\n",
    b"I01\n",
    b"I1\x00\n",
    b"F1.5\n",
    b"S'a'\n",
    b"Va\n",
    b"K\x01",
    b"M\x01\x00",
    b"J\x01\x00\x00\x00",
    b"\x8a\x01\x05",
    b"\x8b\x01\x00\x00\x00\x05",
    b"C\x02ab",
    b"B\x02\x00\x00\x00ab",
    b"\x8e\x02\x00\x00\x00\x00\x00\x00\x00ab",
    b"\x96\x02\x00\x00\x00\x00\x00\x00\x00ab",
    b"\x8d\x02\x00\x00\x00\x00\x00\x00\x00ab",
    b"T\x02\x00\x00\x00ab",
    b"U\x02ab",
    b"Pid\n",
    b"\x82\x01",
    b"(I1\nI2\nd",
    b"(lp0\n",
)


@dataclass
class Tally:
    """What a run of the fuzz did."""

    streams: int = 0
    reached: int = 0  # runs of the C unpickler that looked up a name
    unnamed: list[str] = field(default_factory=list)  # of those, with a name the machine did not name
    silent: list[str] = field(default_factory=list)  # and called clean or known: must stay empty
    crashes: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    child_deaths: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether nothing was found that must not be."""
        return not (self.silent or self.crashes or self.slow)


class Child:
    """The C unpickler's process, started again when a stream kills it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, streams: list[bytes]) -> list[list[dict[str, Any]] | None]:
        """What both readers did with each stream, None for one that the process died of."""
        answer = self._send(streams)
        if answer is not None:
            return list(answer)
        self.close()
        if len(streams) == 1:
            return [None]
        return [one for stream in streams for one in self.ask([stream])]

    def _send(self, streams: list[bytes]) -> list[list[dict[str, Any]]] | None:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(HERE / "unpickler_child.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        lengths = [len(stream) for stream in streams]
        try:
            self.process.stdin.write(struct.pack(f"<{1 + len(lengths)}I", len(lengths), *lengths) + b"".join(streams))
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            return None
        return json.loads(line) if line else None

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):  # what was still to be sent to a dead process
                        pipe.close()
            self.process = None


def seeds() -> list[bytes]:
    """The corpus: one stream per `.hex` file (comments after #), and every regression."""
    found: list[bytes] = []
    for path in sorted(CORPUS.glob("*.hex")):
        text = "".join(line.partition("#")[0] for line in path.read_text(encoding="ascii").splitlines())
        found.append(bytes.fromhex("".join(text.split())))
    return found


def mutate(rng: random.Random, pool: list[bytes]) -> bytes:
    """A stream made from one or two of the pool by a few edits: of bytes, or, as often, of whole opcodes."""
    return (_mutate_bytes if rng.random() < 0.5 else _mutate_opcodes)(rng, pool)


def _opcodes(stream: bytes) -> list[bytes]:
    return [whole for _, _, whole in decode(BytesSource(stream), limit=1000)]


def _mutate_opcodes(rng: random.Random, pool: list[bytes]) -> bytes:
    """Edits at the borders of opcodes, so that most of what follows is still read."""
    opcodes = _opcodes(rng.choice(pool))
    for _ in range(rng.randrange(1, 5)):
        kind = rng.randrange(6)
        at = rng.randrange(len(opcodes) + 1)
        if kind == 0:
            opcodes[at:at] = [rng.choice(_TOKENS)]
        elif kind == 1:
            del opcodes[at : at + rng.randrange(1, 3)]
        elif kind == 2:
            other = _opcodes(rng.choice(pool))
            start = rng.randrange(len(other) + 1)
            opcodes[at:at] = other[start : start + rng.randrange(1, 8)]
        elif kind == 3:
            opcodes[at:at] = opcodes[at : at + rng.randrange(1, 6)]
        elif kind == 4 and opcodes:
            other_at = rng.randrange(len(opcodes))
            at %= len(opcodes)
            opcodes[at], opcodes[other_at] = opcodes[other_at], opcodes[at]
        elif at < len(opcodes):
            opcodes[at] = rng.choice(_TOKENS)
    return b"".join(opcodes)[:4096]


def _mutate_bytes(rng: random.Random, pool: list[bytes]) -> bytes:
    stream = bytearray(rng.choice(pool))
    for _ in range(rng.randrange(1, 6)):
        kind = rng.randrange(9)
        at = rng.randrange(len(stream) + 1)
        if kind == 0 and stream:
            stream[at % len(stream)] = rng.randrange(256)
        elif kind == 1:
            stream[at:at] = rng.choice(_TOKENS)
        elif kind == 2:
            del stream[at : at + rng.randrange(1, 8)]
        elif kind == 3:
            other = rng.choice(pool)
            cut = rng.randrange(len(other) + 1)
            stream[at:] = other[cut:]
        elif kind == 4:
            length = rng.randrange(1, 16)
            stream[at:at] = stream[at : at + length]
        elif kind == 5 and stream:
            stream[at % len(stream)] = rng.choice(list(OPCODES))
        elif kind == 6:
            other = rng.choice(pool)
            start = rng.randrange(len(other) + 1)
            stream[at:at] = other[start : start + rng.randrange(1, 24)]
        elif kind == 7 and stream:
            stream[at % len(stream)] ^= 1 << rng.randrange(8)
        else:
            frame = struct.pack("<BQ", 0x95, rng.choice((0, 1, 2, 4, 8, 16, len(stream) - at, len(stream))))
            stream[at:at] = frame
    return bytes(stream[:4096])


def names_of(program: PickleProgram) -> dict[tuple[str, str], bool]:
    """The names of a program as a loader is asked for them, spelled like the judge spells them, and whether each is allowed."""
    return {
        (repr(found.raw_module)[1:-1], repr(found.raw_name)[1:-1]): standing_of(found.module, found.name).tier
        in ("T0", "T1")
        for found in program.globals
    }


def read(stream: bytes, tally: Tally) -> PickleProgram | None:
    """One stream through the machine; None when it raised."""
    tally.streams += 1
    begin = time.process_time()  # others use the machine too
    try:
        program = run_pickle(BytesSource(stream))
        assert program.effects is not None
    except Exception as error:  # noqa: BLE001  # any exception is the finding
        tally.crashes.append(f"{type(error).__name__}: {stream.hex()}")
        return None
    took = time.process_time() - begin
    tally.worst = max(tally.worst, took)
    if took > SLOW:
        tally.slow.append(stream.hex())
    return program


def compare(stream: bytes, program: PickleProgram, answers: list[dict[str, Any]] | None, tally: Tally) -> None:
    """What the machine named against what the C unpickler looked up."""
    if answers is None:
        tally.child_deaths += 1
        return
    ours = names_of(program)
    verdict = None
    for answer in answers:
        tally.ends[answer["end"]] += 1
        theirs = {(module, name) for module, name in answer["names"]}
        if not theirs:
            continue
        tally.reached += 1
        if all(ours.get(name, False) for name in theirs):
            continue
        if not theirs <= ours.keys():
            tally.unnamed.append(stream.hex())
        if verdict is None:
            verdict = scan_source(BytesSource(stream), "stream.pkl", loads=False).verdict
        if verdict in ("clean", "known"):
            tally.silent.append(stream.hex())


def run(seconds: float, seed: int, *, streams: int | None = None, log: bool = False) -> Tally:
    """Fuzz for so many seconds, or streams; those that behave in a new way join the pool."""
    rng = random.Random(seed)
    pool = seeds()
    tally, child = Tally(), Child()
    seen: set[tuple[Any, ...]] = set()
    stop = time.monotonic() + seconds
    told = time.monotonic()
    batch = list(pool)
    try:
        while True:
            programs = [(stream, read(stream, tally)) for stream in batch]
            whole = [(stream, program) for stream, program in programs if program is not None]
            for (stream, program), answers in zip(whole, child.ask([stream for stream, _ in whole]), strict=True):
                compare(stream, program, answers, tally)
                shape = _shape(program)
                if shape not in seen and len(pool) < POOL:
                    seen.add(shape)
                    pool.append(stream)
            if time.monotonic() > stop or (streams is not None and tally.streams >= streams):
                return tally
            if log and time.monotonic() - told > 30:
                told = time.monotonic()
                print(_line(tally), flush=True)
            batch = [mutate(rng, pool) for _ in range(BATCH)]
    finally:
        child.close()


def _shape(program: PickleProgram) -> tuple[Any, ...]:
    """How a program behaves, roughly: streams of one shape teach nothing new."""
    return (
        program.coverage,
        frozenset(fault.kind for fault in program.faults),
        frozenset(effect.opcode for effect in program.effects),
        min(program.opcodes, 64).bit_length(),
    )


def _line(tally: Tally) -> str:
    return (
        f"{tally.streams:,} streams, {tally.reached:,} reached a name, {len(tally.unnamed)} unnamed, "
        f"{len(tally.silent)} silent, {len(tally.crashes)} crashes, {len(tally.slow)} slow, "
        f"{tally.child_deaths} judge deaths, worst {tally.worst * 1000:.0f} ms"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--streams", type=int, help="stop after as many streams")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.monotonic()
    tally = run(options.seconds, options.seed, streams=options.streams, log=True)
    print(f"seed {options.seed}, {time.monotonic() - begun:.0f} s: {_line(tally)}")
    print(f"how the C unpickler ended: {dict(tally.ends.most_common())}")
    for title, streams in (
        ("silent", tally.silent),
        ("unnamed", tally.unnamed),
        ("crash", tally.crashes),
        ("slow", tally.slow),
    ):
        for stream in streams[:20]:
            print(title, stream)
    return 0 if tally.clean else 1


if __name__ == "__main__":
    sys.exit(main())
