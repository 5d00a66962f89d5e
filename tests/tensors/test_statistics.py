"""Statistics of tensors against numpy's over the whole array at once, for every element type."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy
import pytest
from builders.safetensors_files import model_bytes
from builders.torch_files import save_zip, tensor, view
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.tensors import list_tensors
from ckpt_inspect.tensors.elements import elements_of
from ckpt_inspect.tensors.statistics import Accumulator, Statistics
from ckpt_inspect.tensors.values import statistics_of

SMALL_FLOATS = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F4": ml_dtypes.float4_e2m1fn,
    "F6_E2M3": ml_dtypes.float6_e2m3fn,
    "F6_E3M2": ml_dtypes.float6_e3m2fn,
    "BF16": ml_dtypes.bfloat16,
    "F16": numpy.float16,
}
NUMPY = {
    **SMALL_FLOATS,
    "F32": numpy.float32,
    "F64": numpy.float64,
    "I8": numpy.int8,
    "U8": numpy.uint8,
    "I16": numpy.int16,
    "U16": numpy.uint16,
    "I32": numpy.int32,
    "U32": numpy.uint32,
    "I64": numpy.int64,
    "U64": numpy.uint64,
    "BOOL": numpy.bool_,
}
COMPLEX = {"C64": "F32", "C32": "F16", "C128": "F64"}


def expected(values: Any) -> Statistics:
    """numpy's answer over float64 (exact integers for the extremes)."""
    with numpy.errstate(invalid="ignore"):  # signalling NaNs
        wide = values.astype("f8").reshape(-1)
    finite = wide[numpy.isfinite(wide)]
    some = len(finite) > 0
    extremes = values.reshape(-1) if values.dtype.kind in "iu" else finite
    return Statistics(
        len(wide),
        float(finite.mean()) if some else None,
        float(finite.std()) if some else None,
        extremes.min().item() if some else None,
        extremes.max().item() if some else None,
        int(numpy.isnan(wide).sum()),
        int(numpy.isinf(wide).sum()),
        int((wide == 0).sum()),
    )


def same(found: Statistics, wanted: Statistics) -> bool:
    def close(one: Any, other: Any, scale: float) -> bool:
        if one is None or other is None:
            return one is other
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12 * scale)

    scale = max(abs(wanted.minimum or 0), abs(wanted.maximum or 0), 1e-300)
    return (
        close(found.mean, wanted.mean, scale)
        and close(found.std, wanted.std, scale)
        and (found.minimum, found.maximum) == (wanted.minimum, wanted.maximum)
        and (found.elements, found.nan, found.infinite, found.zeros)
        == (wanted.elements, wanted.nan, wanted.infinite, wanted.zeros)
    )


def measure(
    dtype: str, data: bytes, *, pieces: int = 1, big_endian: bool = False, expected_count: int = 1
) -> Statistics:
    elements = elements_of(dtype)
    assert elements is not None
    accumulator = Accumulator(elements, expected_count, big_endian=big_endian)
    step = len(data) // pieces // 24 * 24 or len(data)
    for start in range(0, len(data), step or 1):
        accumulator.add(data[start : start + step])
    return accumulator.result()


@pytest.mark.parametrize("dtype", SMALL_FLOATS)
def test_every_bit_pattern_of_a_small_float_has_the_value_ml_dtypes_gives_it(dtype: str) -> None:
    elements = elements_of(dtype)
    assert elements is not None
    patterns = numpy.arange(len(elements.table), dtype="u1" if len(elements.table) <= 256 else "u2")
    with numpy.errstate(invalid="ignore"):
        wanted = patterns.view(SMALL_FLOATS[dtype]).astype("f8")
    numpy.testing.assert_array_equal(elements.table, wanted)


@pytest.mark.parametrize("dtype", [name for name in NUMPY if name not in ("F4", "F6_E2M3", "F6_E3M2")])
@pytest.mark.parametrize("count", [1, 240, 70_000])
def test_statistics_agree_with_numpy_for_every_type(dtype: str, count: int) -> None:
    random = numpy.random.default_rng(count)
    if dtype == "BOOL":
        values = random.random(count) < 0.3
    else:
        raw = random.integers(0, 256, count * BY_NAME[dtype].bits // 8, dtype="u1")
        values = raw.view(NUMPY[dtype])
        if dtype in ("F32", "F64"):  # arbitrary bits square to infinity
            values = (random.normal(3, 2, count) * (random.random(count) < 0.9)).astype(NUMPY[dtype])
            values[:: max(1, count // 7)] = numpy.nan
            values[1 :: max(2, count // 5)] = -numpy.inf
    wanted = expected(values)
    assert same(measure(dtype, values.tobytes(), pieces=3, expected_count=count), wanted)
    swapped = (
        values.astype(values.dtype.newbyteorder(">")) if values.dtype.kind in "fiu" and values.itemsize > 1 else None
    )
    if swapped is not None and values.dtype.isbuiltin == 1:
        assert same(measure(dtype, swapped.tobytes(), big_endian=True, expected_count=count), wanted)


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2"])
def test_packed_elements_are_unpacked_low_bits_first(dtype: str) -> None:
    bits = BY_NAME[dtype].bits
    codes = numpy.random.default_rng(1).integers(0, 1 << bits, 4000)
    stream = 0
    for position, code in enumerate(codes):
        stream |= int(code) << position * bits
    data = stream.to_bytes(len(codes) * bits // 8, "little")
    values = codes.astype("u1").view(NUMPY[dtype]).astype("f8")
    assert same(measure(dtype, data, pieces=4), expected(values))


@pytest.mark.parametrize("dtype", COMPLEX)
def test_the_values_of_complex_numbers_are_their_parts(dtype: str) -> None:
    parts = numpy.random.default_rng(2).normal(size=2000).astype(NUMPY[COMPLEX[dtype]])
    assert same(measure(dtype, parts.tobytes()), expected(parts))


@pytest.mark.parametrize("dtype", sorted(set(BY_NAME) - {"QUINT4X2", "QUINT2X4"}))
def test_every_type_with_numbers_has_statistics(dtype: str) -> None:
    assert (elements_of(dtype) is None) == dtype.startswith("BITS")


@given(st.lists(st.floats(width=32), min_size=1, max_size=200), st.integers(1, 9))
@settings(max_examples=60)
def test_pieces_of_any_size_give_the_same_answer(values: list[float], pieces: int) -> None:
    array = numpy.array(values, "f4")
    assert same(measure("F32", array.tobytes(), pieces=pieces), expected(array))


def test_a_small_spread_around_a_large_mean_is_not_lost() -> None:
    values = 1e8 + numpy.random.default_rng(3).normal(size=400_000)
    found = measure("F64", values.tobytes(), pieces=7)
    assert found.std is not None
    assert math.isclose(found.std, float(values.std()), rel_tol=1e-7)


def test_no_values_have_no_mean() -> None:
    assert measure("F32", b"") == Statistics(0, None, None, None, None, 0, 0, 0)
    assert measure("F32", numpy.array([numpy.nan], "f4").tobytes()) == Statistics(1, None, None, None, None, 1, 0, 0)


# -------------------------------------------------------------------------------- where the values lie


def of(path: Path) -> dict[str, tuple[Statistics | None, str | None]]:
    listing = list_tensors([path])
    return {row.name: (found, reason) for row, found, reason in statistics_of(listing)}


def test_a_tensor_larger_than_a_read_is_read_in_several(tmp_path: Path) -> None:
    values = numpy.random.default_rng(4).normal(size=2_000_003).astype("f4")
    data = model_bytes({"w": ("F32", [len(values)])}, data={"w": values.tobytes()})
    (tmp_path / "model.safetensors").write_bytes(data)
    found, _ = of(tmp_path / "model.safetensors")["w"]
    assert found is not None
    assert same(found, expected(values))


@pytest.mark.parametrize("era", ["2.13", "1.13"])
def test_views_transposed_strided_and_expanded_are_read_as_torch_sees_them(tmp_path: Path, era: str) -> None:
    values = numpy.arange(60, dtype="f4") - 7
    whole = tensor("F32", (60,), values.tobytes())
    views = {
        "tail": (view(whole, (4, 5), offset=40), values[40:].reshape(4, 5)),
        "transposed": (view(whole, (10, 6), stride=(1, 10)), values.reshape(6, 10).T),
        "column": (view(whole, (6, 2), offset=3, stride=(10, 1)), values.reshape(6, 10)[:, 3:5]),
        "every third": (view(whole, (20,), stride=(3,)), values[::3]),
        "expanded": (view(whole, (7, 3), offset=8, stride=(0, 1)), numpy.broadcast_to(values[8:11], (7, 3))),
        "ones": (view(whole, (1, 6, 1), offset=1, stride=(99, 10, 77)), values[1::10].reshape(1, 6, 1)),
    }
    save_zip(tmp_path / "pytorch_model.bin", {name: item for name, (item, _) in views.items()}, era=era)
    found = of(tmp_path / "pytorch_model.bin")
    for name, (_, wanted) in views.items():
        statistics, reason = found[name]
        assert reason is None, name
        assert statistics is not None
        assert same(statistics, expected(wanted)), name


def test_a_file_cut_in_its_data_gives_the_reason_and_the_others_their_statistics(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes({"a": ("F32", [4]), "b": ("F32", [4])})[:-4])
    found = of(path)
    assert found["a"][0] is not None
    assert found["b"][0] is None
    assert "ends" in (found["b"][1] or "")


def test_a_tensor_whose_storage_is_missing_gives_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    save_zip(path, {"a": tensor("F32", (3,)), "b": tensor("F32", (3,))})
    path.write_bytes(path.read_bytes().replace(b"/data/1", b"/data/9"))
    found = of(path)
    assert (found["a"][0] is None, found["b"][0] is None) == (False, True)
    assert found["b"][1]


class Watch:
    """Counts what a progress observer is told."""

    def __init__(self) -> None:
        self.total = self.done = 0
        self.finished = False

    def start(self, total: int, unit: str, label: str) -> None:
        self.total = total

    def advance(self, amount: int) -> None:
        self.done += amount

    def finish(self) -> None:
        self.finished = True


def test_progress_reaches_its_total(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(model_bytes({f"t{number}": ("F16", [number]) for number in range(20)}))
    watch = Watch()
    list(statistics_of(list_tensors([tmp_path / "x.safetensors"]), progress=watch))
    assert (watch.done, watch.finished) == (watch.total, True)
