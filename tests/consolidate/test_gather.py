"""Ranges of any shape, order and byte order become the same file by every way of writing."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckpt_inspect.consolidate import filling, gather, kernel_copy, positional
from ckpt_inspect.consolidate.filling import Filler, runs, window
from ckpt_inspect.consolidate.output import OutputFile, lay_out
from ckpt_inspect.consolidate.plan import PlannedTensor, Range, SourceFile
from ckpt_inspect.consolidate.sources import SourceFiles
from ckpt_inspect.errors import UnreadableError
from ckpt_inspect.formats.dtypes import BY_NAME

WAYS = ["direct", "kernel", "buffered"]
SOURCE_BYTES = 40_000


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> tuple[Path, tuple[SourceFile, ...], list[bytes]]:
    root = tmp_path_factory.mktemp("gather")
    random = np.random.default_rng(5)
    contents, files = [], []
    for index in range(3):
        # float32 values of moderate size, so that a cast of any of them is finite in every type
        data = (random.standard_normal(SOURCE_BYTES // 4) * 10).astype("<f4").tobytes()
        (root / f"shard{index}").write_bytes(data)
        status = (root / f"shard{index}").stat()
        contents.append(data)
        files.append(SourceFile(f"shard{index}", status.st_size, status.st_mtime_ns, index))
    return root, tuple(files), contents


@st.composite
def tensors(draw):
    out = []
    for number in range(draw(st.integers(1, 6))):
        source = draw(st.sampled_from(["F32", "BF16", "F16", "I64", "U8", "C64"]))
        size = BY_NAME[source].bits // 8
        parts, elements = [], 0
        for _ in range(draw(st.integers(0, 4))):
            count = draw(st.integers(0, 1500))
            offset = draw(st.integers(0, SOURCE_BYTES - count * size))
            swap = draw(st.booleans())
            parts.append(Range(draw(st.integers(0, 2)), offset, count * size, swap))
            elements += count
        target = draw(st.sampled_from([source, "F32", "BF16", "F16"])) if source in ("F32", "BF16", "F16") else source
        out.append(PlannedTensor(f"t{number}", (elements,), source, target, tuple(parts), "master"))
    return out


def plain(tensor: PlannedTensor, contents: list[bytes]) -> bytes:
    """What the tensor's bytes are, computed whole with numpy."""
    data = b""
    step = {"C64": 4}.get(tensor.source_dtype, BY_NAME[tensor.source_dtype].bits // 8)
    for part in tensor.ranges:
        piece = contents[part.source][part.offset : part.offset + part.length]
        if part.swap:
            piece = b"".join(piece[at : at + step][::-1] for at in range(0, len(piece), step))
        data += piece
    if tensor.dtype == tensor.source_dtype:
        return data
    return b"".join(bytes(block) for block in _cast(tensor, data))


def _cast(tensor: PlannedTensor, data: bytes):
    from ckpt_inspect.consolidate.cast import Cast

    out = bytearray(tensor.nbytes)
    Cast(tensor.source_dtype, tensor.dtype).convert(memoryview(data), memoryview(out))
    yield out


def written(path: Path, file: OutputFile, sources: SourceFiles, way: str, **options):
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | (os.O_DIRECT if way == "direct" else 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError:
        pytest.skip("this file system has no direct writes")
    try:
        return gather.gather(file, sources, descriptor, way=way, **options)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=tensors())
def test_every_way_writes_the_same_bytes_and_their_checksum(way, made, shards, tmp_path):
    if way == "direct" and not hasattr(os, "O_DIRECT"):
        pytest.skip("no O_DIRECT")
    root, files, contents = shards
    (file,) = lay_out(made, stem="model", max_shard_size=None).files
    expected = file.header + b"".join(plain(placed.tensor, contents) for placed in file.tensors)
    with closing(SourceFiles(root, files)) as sources:
        done = written(tmp_path / "out", file, sources, way)
    assert (tmp_path / "out").read_bytes() == expected
    assert done.sha256 == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("extra", [0, 1, 511, 512, 4095, 4096, 4097])
def test_files_of_many_blocks_end_where_they_should(way, extra, tmp_path):
    data = np.random.default_rng(extra).bytes(3 * gather.BLOCK + extra)
    (tmp_path / "shard").write_bytes(data)
    status = (tmp_path / "shard").stat()
    size = len(data)
    tensor = PlannedTensor("t", (size,), "U8", "U8", (Range(0, 0, size),), "master")
    (file,) = lay_out([tensor], stem="model", max_shard_size=None).files
    with closing(SourceFiles(tmp_path, [SourceFile("shard", size, status.st_mtime_ns)])) as sources:
        done = written(tmp_path / "out", file, sources, way)
        assert done.sha256 == hashlib.sha256(file.header + data).hexdigest()
        assert written(tmp_path / "out2", file, sources, way, checksum=False).sha256 is None
    assert (tmp_path / "out").read_bytes() == file.header + data == (tmp_path / "out2").read_bytes()


@given(made=tensors())
def test_touching_ranges_are_merged_and_nothing_else(made):
    merged = list(runs(made))
    assert sum(run.length for run in merged) == sum(part.length for t in made for part in t.ranges)
    for first, second in itertools.pairwise(merged):
        touching = first.source == second.source and first.offset + first.length == second.offset
        assert not (touching and first.tensor is second.tensor is None)
    together = [
        PlannedTensor(f"t{n}", (4,), "U8", "U8", (Range(0, 4 * n, 2), Range(0, 4 * n + 2, 2)), "master")
        for n in range(5)
    ]
    assert [(run.offset, run.length) for run in runs(together)] == [(0, 20)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=tensors(), data=st.data())
def test_a_window_is_that_part_of_the_tensor(made, data, shards):
    root, files, contents = shards
    tensor = data.draw(st.sampled_from(made))
    start = data.draw(st.integers(0, tensor.elements))
    count = data.draw(st.integers(0, tensor.elements - start))
    size = BY_NAME[tensor.dtype].bits // 8
    out = bytearray(count * size)
    with closing(SourceFiles(root, files)) as sources:
        Filler(b"", (window(tensor, start, count),), sources).fill(memoryview(out))
    assert bytes(out) == plain(tensor, contents)[start * size : (start + count) * size]


@pytest.mark.parametrize("number", sorted(kernel_copy._UNSUPPORTED))
def test_where_the_kernel_does_not_copy_positions_are_read_and_written(number, shards, tmp_path, monkeypatch):
    root, files, contents = shards

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    _copied(root, files, contents, tmp_path)


@pytest.mark.parametrize("behaviour", ["absent", "nothing", "short"])
def test_a_kernel_that_copies_nothing_or_little_is_no_problem(behaviour, shards, tmp_path, monkeypatch):
    root, files, contents = shards
    if behaviour == "absent":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    elif behaviour == "nothing":
        monkeypatch.setattr(os, "copy_file_range", lambda *arguments: 0, raising=False)
    else:
        real = os.copy_file_range

        def short(source, target, count, source_offset, target_offset):
            return real(source, target, min(count, 777), source_offset, target_offset)

        monkeypatch.setattr(os, "copy_file_range", short)
    _copied(root, files, contents, tmp_path)


def _copied(root, files, contents, tmp_path):
    tensor = PlannedTensor("t", (9000,), "U8", "U8", (Range(0, 100, 5000), Range(1, 7, 4000)), "master")
    (file,) = lay_out([tensor], stem="model", max_shard_size=None).files
    with closing(SourceFiles(root, files)) as sources:
        done = written(tmp_path / "out", file, sources, "kernel")
    expected = file.header + contents[0][100:5100] + contents[1][7:4007]
    assert (tmp_path / "out").read_bytes() == expected
    assert done.sha256 == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize("way", WAYS)
def test_a_source_that_ends_early_is_named(way, shards, tmp_path):
    root, files, _ = shards
    tensor = PlannedTensor("t", (100,), "U8", "U8", (Range(1, SOURCE_BYTES - 50, 100),), "master")
    (file,) = lay_out([tensor], stem="model", max_shard_size=None).files
    with closing(SourceFiles(root, files)) as sources, pytest.raises(UnreadableError, match=r"shard1.* ends at byte"):
        written(tmp_path / "out", file, sources, way)


@pytest.mark.parametrize("way", WAYS)
def test_another_workers_failure_stops_this_one(way, shards, tmp_path):
    import threading

    root, files, _ = shards
    tensor = PlannedTensor("t", (100,), "U8", "U8", (Range(1, 0, 100),), "master")
    (file,) = lay_out([tensor], stem="model", max_shard_size=None).files
    stop = threading.Event()
    stop.set()
    with closing(SourceFiles(root, files)) as sources, pytest.raises(gather.Cancelled):
        written(tmp_path / "out", file, sources, way, stop=stop)


def test_a_device_with_another_alignment_is_written_through_the_cache(shards, tmp_path, monkeypatch):
    if not hasattr(os, "O_DIRECT"):
        pytest.skip("no O_DIRECT")
    root, files, contents = shards
    real = os.pwrite
    refused = []

    def picky(descriptor, data, offset):
        import fcntl

        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(offset)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", picky)
    tensor = PlannedTensor("t", (5000,), "U8", "U8", (Range(0, 0, 5000),), "master")
    (file,) = lay_out([tensor], stem="model", max_shard_size=None).files
    with closing(SourceFiles(root, files)) as sources:
        written(tmp_path / "out", file, sources, "direct")
    assert refused
    assert (tmp_path / "out").read_bytes() == file.header + contents[0][:5000]


def test_systems_without_positional_calls_read_and_write_the_same(shards, tmp_path, monkeypatch):
    root, files, contents = shards
    for name in ("preadv", "pread", "pwrite", "copy_file_range"):
        monkeypatch.delattr(os, name, raising=False)
    assert not hasattr(positional.os, "pread")
    tensor = PlannedTensor("t", (9000,), "U8", "U8", (Range(0, 100, 5000), Range(1, 7, 4000)), "master")
    (file,) = lay_out([tensor], stem="model", max_shard_size=None).files
    with closing(SourceFiles(root, files)) as sources:
        written(tmp_path / "out", file, sources, "buffered")
    assert (tmp_path / "out").read_bytes() == file.header + contents[0][100:5100] + contents[1][7:4007]


def test_progress_counts_every_byte_once(shards, tmp_path):
    root, files, _ = shards

    class Counting:
        total = 0

        def start(self, total, unit, label): ...

        def advance(self, amount):
            self.total += amount

        def finish(self): ...

    tensor = PlannedTensor("t", (5000,), "F32", "BF16", (Range(0, 0, 20000),), "master")
    (file,) = lay_out([tensor], stem="model", max_shard_size=None).files
    for way in WAYS:
        progress = Counting()
        with closing(SourceFiles(root, files)) as sources:
            written(tmp_path / "out", file, sources, way, progress=progress)
        assert progress.total == file.size
    assert filling._SCRATCH >= 8


def test_a_range_that_ends_inside_an_element_is_an_error(shards):
    root, files, _ = shards
    tensor = PlannedTensor("t", (2,), "F32", "BF16", (Range(0, 0, 6),), "master")
    with closing(SourceFiles(root, files)) as sources, pytest.raises(UnreadableError, match="inside an element"):
        Filler(b"", (tensor,), sources).fill(memoryview(bytearray(100)))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=tensors(), step=st.sampled_from([1, 100, 5000]), checksum=st.booleans())
def test_several_threads_and_early_writeback_change_nothing(made, step, checksum, shards, tmp_path):
    root, files, contents = shards
    (file,) = lay_out(made, stem="model", max_shard_size=None).files
    expected = file.header + b"".join(plain(placed.tensor, contents) for placed in file.tensors)
    for way in ("kernel", "buffered"):
        with pytest.MonkeyPatch.context() as patch, closing(SourceFiles(root, files)) as sources:
            patch.setattr(gather, "WRITEBACK_STEP", step)
            written(tmp_path / "out", file, sources, way, checksum=checksum)
        assert (tmp_path / "out").read_bytes() == expected


def test_a_failure_in_one_copying_thread_is_the_one_reported(shards, tmp_path, monkeypatch):
    root, files, _ = shards
    monkeypatch.setattr(gather, "WRITEBACK_STEP", 1)
    parts = [Range(0, 10 * n, 7) for n in range(50)] + [Range(1, SOURCE_BYTES - 5, 50)]
    tensor = PlannedTensor("t", (400,), "U8", "U8", tuple(parts), "master")
    (file,) = lay_out([tensor], stem="model", max_shard_size=None).files
    with closing(SourceFiles(root, files)) as sources, pytest.raises(UnreadableError, match="ends at byte"):
        written(tmp_path / "out", file, sources, "kernel", checksum=False)
