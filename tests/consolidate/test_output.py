"""Shard names and headers are those of huggingface_hub and safetensors, byte for byte."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from ckpt_inspect.consolidate.output import build_header, lay_out, parse_size, split
from ckpt_inspect.consolidate.plan import PlannedTensor, Range
from ckpt_inspect.errors import OutputError, UsageError
from ckpt_inspect.formats.dtypes import BY_NAME

NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16",
    "I32": "int32", "U32": "uint32", "F32": "float32", "F64": "float64", "I64": "int64", "U64": "uint64",
    "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
}  # fmt: skip


def tensor(name: str, dtype: str, shape: tuple[int, ...]) -> PlannedTensor:
    size = BY_NAME[dtype].nbytes(int(np.prod(shape, dtype=int)))
    return PlannedTensor(name, shape, dtype, dtype, (Range(0, 0, size),), "master")


TENSORS = st.lists(
    st.tuples(
        st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
            lambda n: n != "__metadata__"
        ),
        st.sampled_from(sorted(NAMES)),
        st.lists(st.integers(0, 5), max_size=3).map(tuple),
    ),
    max_size=12,
    unique_by=lambda row: row[0],
)


@given(TENSORS)
def test_a_file_is_the_one_safetensors_would_write(rows):
    tensors = [tensor(*row) for row in rows]
    header, placed = build_header(tensors, {"format": "pt"})
    data = b"".join(bytes(item.tensor.nbytes) for item in placed)
    arrays = {t.name: np.zeros(t.shape, getattr(ml_dtypes, NAMES[t.dtype], NAMES[t.dtype])) for t in tensors}
    assert header + data == save(arrays, {"format": "pt"})


@given(st.lists(st.integers(0, 300), max_size=30), st.integers(1, 400))
def test_no_shard_is_larger_than_allowed_unless_one_tensor_is(sizes, limit):
    tensors = [tensor(f"t{index}", "U8", (size,)) for index, size in enumerate(sizes)]
    shards = split(tensors, limit)
    kept_in_order = [t for shard in shards for t in shard if 0 < t.nbytes <= limit]
    assert kept_in_order == [t for t in tensors if 0 < t.nbytes <= limit]
    assert sorted(t.name for shard in shards for t in shard) == sorted(t.name for t in tensors)
    for shard in shards:
        assert len(shard) == 1 or sum(t.nbytes for t in shard) <= limit


def test_empty_tensors_stand_together_as_those_of_one_storage_do():
    sizes = [0, 1, 1, 0, 1, 0]
    shards = split([tensor(f"t{index}", "U8", (size,)) for index, size in enumerate(sizes)], 1)
    assert [[t.name for t in shard] for shard in shards] == [["t0", "t1", "t3", "t5"], ["t2"], ["t4"]]


@pytest.mark.judge
@settings(max_examples=300, deadline=None)
@example([0, 1, 1, 0], 1)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=30), st.integers(1, 400))
def test_shards_are_those_of_huggingface_hub(sizes, limit):
    torch = pytest.importorskip("torch")
    hub = pytest.importorskip("huggingface_hub")
    names = [f"layer.{index}.weight" for index in range(len(sizes))]
    state = {name: torch.zeros(size, dtype=torch.uint8) for name, size in zip(names, sizes, strict=True)}
    reference = hub.split_torch_state_dict_into_shards(
        state, max_shard_size=limit, filename_pattern="model{suffix}.safetensors"
    )
    layout = lay_out(
        [tensor(name, "U8", (size,)) for name, size in zip(names, sizes, strict=True)],
        stem="model",
        max_shard_size=limit,
    )
    ours = {file.name: {placed.tensor.name for placed in file.tensors} for file in layout.files}
    assert ours == {name: set(held) for name, held in reference.filename_to_tensors.items()}
    if reference.is_sharded:
        index = json.loads(layout.index or b"")
        assert index == {"metadata": reference.metadata, "weight_map": reference.tensor_to_filename}
    else:
        assert layout.index is None


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), ("300", 300), ("2KiB", 2048), ("1TB", 10**12), (" 7 B ", 7)],
)
def test_sizes_are_read_in_decimal_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-5GB", "5XB", "0", "1e9", "5 G B", "nan"])
def test_what_is_no_size_is_wrong_usage(text):
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize("dtype", ["C128", "QINT8", "C32"])
def test_what_safetensors_cannot_store_is_refused_by_name(dtype):
    with pytest.raises(OutputError, match=r"odd.* is .*which safetensors cannot store"):
        lay_out([tensor("odd", dtype, (2,))], stem="model", max_shard_size=None)


def test_a_name_no_file_can_hold_is_refused():
    with pytest.raises(OutputError, match="surrogate"):
        lay_out([tensor("a\ud800", "F32", (2,))], stem="model", max_shard_size=None)
    with pytest.raises(OutputError, match="two tensors"):
        build_header([tensor("a", "F32", (2,)), tensor("a", "F32", (2,))], {})


def test_ties_are_recorded_where_plain_torch_looks_for_them():
    layout = lay_out(
        [tensor("a", "F32", (2,))], stem="model", max_shard_size=None, aliases={"b": "a", "c": "elsewhere"}
    )
    header = json.loads(layout.files[0].header[8:])
    assert header["__metadata__"] == {"format": "pt", "b": "a"}
