"""Mutated files of every format: no reader raises, none takes long, none accepts what its reference rejects.

``CKPT_INSPECT_FUZZ_COUNT=1000000`` is the nightly mode; the seed changes from run to run and is printed.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest

from ckpt_inspect.formats.json_document import read_json
from ckpt_inspect.formats.safetensors_header import read_safetensors_header
from ckpt_inspect.formats.shard_index import read_shard_index
from ckpt_inspect.formats.torch_archive import open_torch
from ckpt_inspect.formats.zip_directory import read_zip_directory
from ckpt_inspect.storage import BytesSource
from fuzz import readers
from fuzz.mutations import MUTATIONS

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


def test_a_safetensors_reader_that_accepts_too_much_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        readers, "TOLERATED", frozenset({"safetensors-json", "safetensors-offsets", "safetensors-size"})
    )
    tally = readers.run("safetensors", 300, 1)
    assert any("the library says" in failure for failure in tally.failures)


def test_a_safetensors_reader_that_accepts_too_little_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "TOLERATED", frozenset())
    tally = readers.run("safetensors", 2000, 1)
    assert any("the library reads it" in failure for failure in tally.failures)


def test_inputs_reach_behind_the_outermost_layer() -> None:
    """Fuzz that never gets past a length or a directory tests nothing: a share of the inputs is read to its end."""
    rng = random.Random(1)

    def share(target: str, whole: Callable[[bytes], bool]) -> float:
        pool = readers.seeds(target)
        return sum(whole(MUTATIONS[target](rng, pool)) for _ in range(400)) / 400

    assert share("safetensors", lambda data: not read_safetensors_header(BytesSource(data)).faults) > 0.02
    assert share("json", lambda data: read_json(BytesSource(data)).complete) > 0.1
    assert share("torch", lambda data: bool(list(open_torch(BytesSource(data)).tensors()))) > 0.03
    assert share("zip", lambda data: bool(read_zip_directory(BytesSource(data)).members)) > 0.3
    assert share("index", lambda data: bool(read_shard_index(BytesSource(data), {}).shards)) > 0.05
