"""Mutated files of every format: no reader raises, none takes long, none accepts what its reference rejects.

``CKPT_INSPECT_FUZZ_COUNT=1000000`` is the nightly mode; the seed changes from run to run and is printed.
"""

from __future__ import annotations

import os
import time

import pytest

from fuzz import readers

COUNT = int(os.environ.get("CKPT_INSPECT_FUZZ_COUNT", "300"))


@pytest.mark.parametrize("target", sorted(readers.READERS))
def test_mutated_files_are_described_not_fatal(target: str) -> None:
    seed = int(os.environ.get("CKPT_INSPECT_FUZZ_SEED", str(int(time.time()))))
    print(f"seed {seed}")
    tally = readers.run(target, COUNT, seed)
    assert tally.failures == []
    assert tally.slow == []


@pytest.mark.parametrize("target", sorted(readers.READERS))
def test_a_failing_reader_would_be_noticed(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes) -> None:
        raise ValueError("broken")

    monkeypatch.setitem(readers.READERS, target, fail)
    assert readers.run(target, 5, 1).failures
