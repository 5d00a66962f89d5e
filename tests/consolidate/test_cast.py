"""Casts are those of c10 on every bit pattern that matters, in chunks that cannot be seen."""

from __future__ import annotations

import struct
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.consolidate.cast import Cast, castable, component_size, swap_in_place, target_dtype

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}


def cast(data: bytes, source: str, target: str) -> tuple[bytes, int]:
    count = len(data) // SIZES[source]
    out = bytearray(count * SIZES[target])
    overflowed = Cast(source, target).convert(memoryview(data), memoryview(out))
    return bytes(out), overflowed


def bits(data: bytes, width: int) -> list[int]:
    return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]


def as_float(pattern: int) -> float:
    return struct.unpack("<f", struct.pack("<I", pattern))[0]


def bfloat16_of(pattern: int) -> int:
    """c10/util/BFloat16.h round_to_nearest_even."""
    if (pattern & 0x7FFFFFFF) > 0x7F800000:
        return 0x7FC0
    return ((pattern + 0x7FFF + ((pattern >> 16) & 1)) >> 16) & 0xFFFF


def half_of(pattern: int) -> int:
    """c10/util/Half.h fp16_ieee_from_fp32_value, by Python's own exact rounding."""
    sign = (pattern >> 16) & 0x8000
    if (pattern & 0x7FFFFFFF) > 0x7F800000:
        return sign | 0x7E00
    try:
        return struct.unpack("<H", struct.pack("<e", as_float(pattern)))[0]
    except OverflowError:
        return sign | 0x7C00


EDGES = [
    0, 0x80000000, 1, 0x00800000, 0x007FFFFF, 0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7FFFFF,
    0xFF7FFFFF, 0x7F7F7FFF, 0x7F7F8000, 0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00000, 0xFFC00001, 0x7FFFFFFF,
    0xFFFFFFFF, 0x477FE000, 0x477FEFFF, 0x477FF000, 0xC77FF000, 0x33000000, 0x33000001, 0x33800000, 0x387FC000,
    0x38800000, 0x387FE000,
]  # fmt: skip
PATTERNS = st.lists(st.one_of(st.sampled_from(EDGES), st.integers(0, 2**32 - 1)), min_size=1, max_size=64)


@given(PATTERNS)
def test_float32_to_bfloat16_rounds_to_nearest_even_and_keeps_nan(patterns):
    data = struct.pack(f"<{len(patterns)}I", *patterns)
    out, overflowed = cast(data, "F32", "BF16")
    assert bits(out, 2) == [bfloat16_of(pattern) for pattern in patterns]
    finite = [pattern for pattern in patterns if pattern & 0x7FFFFFFF < 0x7F800000]
    assert overflowed == sum(bfloat16_of(pattern) & 0x7FFF == 0x7F80 for pattern in finite)


@given(PATTERNS)
def test_float32_to_float16_rounds_to_nearest_even_and_counts_what_becomes_infinite(patterns):
    data = struct.pack(f"<{len(patterns)}I", *patterns)
    out, overflowed = cast(data, "F32", "F16")
    assert bits(out, 2) == [half_of(pattern) for pattern in patterns]
    finite = [pattern for pattern in patterns if pattern & 0x7FFFFFFF < 0x7F800000]
    assert overflowed == sum(half_of(pattern) & 0x7FFF == 0x7C00 for pattern in finite)


@pytest.mark.parametrize("source", ["BF16", "F16"])
def test_every_sixteen_bit_value_widens_exactly(source):
    every = np.arange(65536, dtype="<u2")
    out, overflowed = cast(every.tobytes(), source, "F32")
    if source == "BF16":
        expected = (every.astype("<u4") << 16).tobytes()
    else:
        with np.errstate(invalid="ignore"):
            expected = every.view("<f2").astype("<f4").tobytes()
    nan = np.isnan(np.frombuffer(expected, "<f4"))
    found = np.frombuffer(out, "<f4")
    assert np.array_equal(np.isnan(found), nan)
    assert found[~nan].tobytes() == np.frombuffer(expected, "<f4")[~nan].tobytes()
    assert overflowed == 0


@given(st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_float64_goes_through_float32_as_torch_does(values):
    data = np.asarray(values, "<f8").tobytes()
    with np.errstate(over="ignore"):
        single = np.asarray(values, "<f8").astype("<f4")
    assert cast(data, "F64", "F32")[0] == single.tobytes()
    assert bits(cast(data, "F64", "BF16")[0], 2) == [bfloat16_of(p) for p in single.view("<u4").tolist()]


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_widens(name):
    kind = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}[name]
    every = np.arange(256, dtype="u1")
    out = bytearray(1024)
    Cast(kind, "F32").convert(memoryview(every.tobytes()), memoryview(out))
    expected = every.view(getattr(ml_dtypes, name)).astype("<f4")
    np.testing.assert_array_equal(np.frombuffer(bytes(out), "<f4"), expected)


def test_chunks_cannot_be_seen(monkeypatch):
    data = np.random.default_rng(0).standard_normal(1000).astype("<f4").tobytes()
    whole = cast(data, "F32", "BF16")
    monkeypatch.setattr(Cast, "chunk", 7)
    assert cast(data, "F32", "BF16") == whole


def test_only_real_floating_types_are_cast():
    assert [target_dtype(kind, "BF16") for kind in ("F32", "F64", "F16", "BF16", "I64", "BOOL", "C64", "QINT8")] == [
        "BF16", "BF16", "BF16", "BF16", "I64", "BOOL", "C64", "QINT8",
    ]  # fmt: skip
    assert not castable("I64", "F32")


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_swapping_twice_changes_nothing_and_once_reverses_each_element(size):
    data = bytearray(range(64))
    swap_in_place(memoryview(data), size)
    assert bytes(data) == b"".join(bytes(range(at, at + size))[::-1] for at in range(0, 64, size))
    swap_in_place(memoryview(data), size)
    assert bytes(data) == bytes(range(64))


def test_complex_numbers_are_swapped_by_component():
    assert (component_size("C64"), component_size("C128"), component_size("BOOL"), component_size("BF16")) == (
        4, 8, 1, 2,
    )  # fmt: skip


def test_a_copy_without_a_cast_needs_no_numpy(tmp_path):
    from consolidate.making import CONFIG, make_checkpoint, parameter
    from builders.deepspeed import Model  # isort: skip

    # no frozen parameter: those are kept in bfloat16 and would have to be widened
    model = Model([parameter("a.weight", 9, 4), parameter("b.weight", 7)])
    checkpoint = make_checkpoint(tmp_path, model=model, config=CONFIG)
    code = (
        "import sys\n"
        "from ckpt_inspect.consolidate.api import consolidate, verify_consolidation\n"
        f"consolidate({str(checkpoint)!r}, {str(tmp_path / 'out')!r})\n"
        f"assert verify_consolidation({str(tmp_path / 'out')!r}).shards == 'equal'\n"
        "assert 'numpy' not in sys.modules and 'ml_dtypes' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
