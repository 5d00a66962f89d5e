"""Equal pickles are interpreted once, whatever archive they lie in, and never confused with others."""

from __future__ import annotations

import pytest
from builders.torch_files import tensor, zip_bytes

from ckpt_inspect.formats import pickle_memory
from ckpt_inspect.formats.pickle_machine import DEFAULT, PickleLimits
from ckpt_inspect.formats.pickle_memory import PickleMemory
from ckpt_inspect.formats.torch_archive import open_torch
from ckpt_inspect.storage import BytesSource


def archive(root: str, values: bytes, name: str = "w") -> BytesSource:
    return BytesSource(zip_bytes({name: tensor("F32", (3,), values), "b": tensor("F32", (1,))}, root=root))


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the machine ran."""
    runs: list[int] = []
    real = pickle_memory.run_pickle

    def run(*arguments: object, **options: object) -> object:
        runs.append(1)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pickle_memory, "run_pickle", run)
    return runs


def test_archives_with_one_pickle_and_other_bytes_share_the_program_and_keep_their_own_places(count: list[int]) -> None:
    memory = PickleMemory()
    sources = [archive("rank_0", b"a" * 12), archive("a_much_longer_root_for_rank_1" * 3, b"b" * 12)]
    archives = [open_torch(source, memory=memory) for source in sources]
    assert len(count) == 1
    assert archives[0].main is archives[1].main
    for source, opened, letter in zip(sources, archives, b"ab", strict=True):
        found = dict(opened.tensors())["w"]
        assert found.file_offset is not None
        assert source.read_at(found.file_offset, 12) == bytes([letter]) * 12
        assert opened.faults == open_torch(source).faults


def test_other_pickles_and_other_limits_have_programs_of_their_own(count: list[int]) -> None:
    memory = PickleMemory()
    first = open_torch(archive("a", bytes(12)), memory=memory)
    second = open_torch(archive("a", bytes(12), name="v"), memory=memory)
    third = open_torch(archive("a", bytes(12)), PickleLimits(opcodes=5), memory)
    assert len(count) == 3
    assert [path for path, _ in first.tensors()] == ["w", "b"]
    assert [path for path, _ in second.tensors()] == ["v", "b"]
    assert third.main is not first.main


def test_only_the_last_programs_are_kept(count: list[int]) -> None:
    memory = PickleMemory()
    for name in ("a", "b", "c", "c", "b", "a"):
        memory.run(BytesSource(b"\x80\x02X\x01\x00\x00\x00" + name.encode() + b"."), DEFAULT)
    assert len(count) == 4
