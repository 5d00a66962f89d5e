"""The pickle machine against CPython's C unpickler: the corpus always, mutations for as long as is asked.

``CKPT_INSPECT_FUZZ_SECONDS=60`` is the mode for every commit, a few hours are the nightly one; each run starts from another
seed, which it prints. A stream found once goes into ``corpus/`` as a `.hex` file and is replayed for ever.
"""

from __future__ import annotations

import os
import random
import sys
import time

import pytest

from ckpt_inspect.formats import pickle_rare
from ckpt_inspect.formats.pickle_machine import run_pickle
from ckpt_inspect.formats.pickle_nodes import Node
from ckpt_inspect.formats.pickle_state import Machine
from ckpt_inspect.scan import rank, scan_source
from ckpt_inspect.storage import BytesSource
from fuzz import differential

SECONDS = float(os.environ.get("CKPT_INSPECT_FUZZ_SECONDS", "3"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the judge needs resource limits of Linux")


@pytest.fixture
def child() -> differential.Child:
    made = differential.Child()
    yield made  # type: ignore[misc]
    made.close()


def test_the_corpus_is_read_as_the_c_unpickler_reads_it(child: differential.Child) -> None:
    tally = differential.Tally()
    streams = differential.seeds()
    assert len(streams) >= 30
    for stream, answers in zip(streams, child.ask(streams), strict=True):
        program = differential.read(stream, tally)
        assert program is not None
        differential.compare(stream, program, answers, tally)
    assert tally.clean
    assert tally.unnamed == []
    assert tally.reached > 20


def test_mutated_streams_show_every_name_the_c_unpickler_looks_up() -> None:
    seed = int(os.environ.get("CKPT_INSPECT_FUZZ_SEED", str(int(time.time()))))
    print(f"seed {seed}")
    tally = differential.run(SECONDS, seed)
    assert tally.streams > 0
    assert tally.crashes == []
    assert tally.silent == []
    assert tally.slow == []


def test_the_judge_notices_a_name_that_we_would_miss(child: differential.Child) -> None:
    stream = b"\x80\x02cposix\nsystem\n."
    program = run_pickle(BytesSource(b"\x80\x02N."))
    tally = differential.Tally()
    (answers,) = child.ask([stream])
    differential.compare(stream, program, answers, tally)
    assert len(tally.unnamed) == 2


def test_a_machine_that_ignores_an_opcode_is_caught(child: differential.Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant on purpose: STACK_GLOBAL leaves a value and names nothing."""

    def names_nothing(m: Machine, stack: list[Node], pos: int, here: int) -> int:
        del stack[-2:]
        stack.append(None)
        return pos

    monkeypatch.setitem(pickle_rare.RARE, 0x93, names_nothing)
    assert differential.run(60, 1, streams=2000).unnamed
    stream = b"\x80\x04\x8c\x05posix\x8c\x06system\x93."
    tally = differential.Tally()
    program = differential.read(stream, tally)
    assert program is not None
    differential.compare(stream, program, child.ask([stream])[0], tally)
    assert tally.silent
    assert not tally.clean


def test_a_scan_that_allows_what_it_names_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lenient:
        verdict = "clean"

    monkeypatch.setattr(differential, "scan_source", lambda *args, **options: Lenient())
    tally = differential.run(60, 1, streams=400)
    assert tally.silent
    assert tally.unnamed == []


def test_a_stream_that_kills_the_judge_is_survived(child: differential.Child, monkeypatch: pytest.MonkeyPatch) -> None:
    (alive,) = child.ask([b"N."])
    assert alive is not None
    assert child.process is not None
    child.process.kill()
    child.process.wait()
    assert child.ask([b"N."]) == [None]
    assert child.ask([b"N."])[0] is not None


def test_random_bytes_and_mutations_never_make_a_scan_raise() -> None:
    rng = random.Random(5)
    pool = differential.seeds()
    for _ in range(300):
        found = scan_source(BytesSource(differential.mutate(rng, pool)), "stream.pkl")
        assert found.coverage == "complete" or rank(found.verdict) >= rank("unknown")
