"""The proof refuses plans that write an element twice, never or from nowhere; rounding is that of the real kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.consolidate.plan import Plan, PlannedTensor, Range, SourceFile
from ckpt_inspect.consolidate.planning import plan_consolidation
from ckpt_inspect.consolidate.proof import Span, prove
from ckpt_inspect.consolidate.rounding import (
    comparable,
    count_differences,
    count_differences_fast,
    half_bits,
)
from ckpt_inspect.formats.torch_archive import open_torch
from ckpt_inspect.storage import LocalFile
from consolidate.conftest import Written

Draft: TypeAlias = tuple[Plan, list[Span]]
FILE = SourceFile("shard.pt", 4000, 0, rank=1)


def planned(*ranges: Range, shape: tuple[int, ...] = (10,), name: str = "w") -> PlannedTensor:
    return PlannedTensor(name, shape, "F32", "F32", ranges, "master")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([planned(Range(0, 0, 36))], "needs 40 bytes, its ranges hold 36"),
        ([planned(Range(0, 0, 44))], "needs 40 bytes, its ranges hold 44"),
        ([planned(Range(0, 3980, 40))], "not whole elements inside a file"),
        ([planned(Range(0, 0, 38), Range(0, 38, 2))], "not whole elements"),
        ([planned(Range(0, -4, 40))], "not whole elements"),
        ([planned(Range(0, 0, 40), Range(0, 40, 0))], "not whole elements"),
        ([planned(Range(0, 0, 40)), planned(Range(0, 36, 40), name="v")], "would both be made of byte 36"),
        ([planned(Range(0, 0, 20), Range(0, 0, 20))], "would both be made of byte 0"),
        ([planned(Range(0, 0, 40)), planned(Range(0, 40, 40))], "planned twice"),
    ],
)
def test_a_wrong_plan_is_refused(tensors: list[PlannedTensor], words: str) -> None:
    problems = prove(tensors, [FILE])
    assert any(words in problem.message and not problem.forceable for problem in problems)


def test_a_right_plan_is_proved() -> None:
    tensors = [
        planned(Range(0, 0, 20), Range(0, 400, 20)),
        planned(Range(0, 20, 40), name="v"),
        planned(name="e", shape=(0,)),
    ]
    assert prove(tensors, [FILE]) == []


@given(seed=st.integers(0, 10**6), data=st.data())
def test_any_shift_of_any_range_of_a_real_plan_is_noticed(draft: Draft, seed: int, data: st.DataObject) -> None:
    """The checkpoint has no padding, so every element has its one place."""
    plan, spans = draft
    index = data.draw(st.sampled_from([i for i, t in enumerate(plan.tensors) if t.ranges and t.origin == "master"]))
    tensor = plan.tensors[index]
    which = seed % len(tensor.ranges)
    part = tensor.ranges[which]
    shift = data.draw(st.sampled_from([-part.length, part.length, -4, 4, 4000, -4000]))
    ranges = (*tensor.ranges[:which], replace(part, offset=part.offset + shift), *tensor.ranges[which + 1 :])
    broken = (*plan.tensors[:index], replace(tensor, ranges=ranges), *plan.tensors[index + 1 :])
    assert prove(plan.tensors, plan.sources, spans) == []
    assert prove(broken, plan.sources, spans)


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Draft:
    """A plan of three ranks and where the flat vectors lie, found again without the planner."""
    from builders.deepspeed import Job, save_zero12

    from consolidate.conftest import small_model

    directory = tmp_path_factory.mktemp("plan")
    save_zero12(directory / "t", small_model(), Job(world=3))
    plan = plan_consolidation(directory)
    spans = []
    for number, source in enumerate(plan.sources):
        with LocalFile(directory / source.path) as file:
            for name, tensor in open_torch(file).tensors():
                if "single_partition_of_fp32_groups" in name:
                    spans.append(Span(number, tensor.file_offset or 0, (tensor.file_offset or 0) + tensor.nbytes))
    assert sum(span.end - span.start for span in spans) == 6 * 91 * 4
    return plan, spans


def bits(*values: int) -> bytes:
    return np.array(values, dtype="<u4").tobytes()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=64))
def test_rounding_is_that_of_ml_dtypes_and_numpy(words: list[int]) -> None:
    values = np.array(words, dtype="<u4").view("<f4")
    finite = values[~np.isnan(values)]
    with np.errstate(over="ignore"):
        for kind, narrow in (("BF16", finite.astype(ml_dtypes.bfloat16)), ("F16", finite.astype("<f2"))):
            for counter in (count_differences, count_differences_fast):
                assert counter(finite.tobytes(), narrow.tobytes(), ("F32", kind), (False, False)) == 0
                swapped = narrow.view("<u2").byteswap().tobytes()
                assert counter(finite.tobytes(), swapped, ("F32", kind), (False, True)) == 0


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1))
def test_both_counters_agree_on_any_pair_of_values(word: int, narrow: int) -> None:
    data = narrow.to_bytes(2, "little")
    for kind in ("BF16", "F16"):
        for mode in ("nearest", "truncate"):
            slow = count_differences(bits(word), data, ("F32", kind), (False, False), mode)  # type: ignore[arg-type]
            fast = count_differences_fast(bits(word), data, ("F32", kind), (False, False), mode)  # type: ignore[arg-type]
            assert slow == fast


@pytest.mark.parametrize("word", [0x7F800001, 0x7FC00000, 0xFFFFFFFF, 0xFF800001])
@pytest.mark.parametrize("narrow", [0x7FC0, 0xFFFF, 0x7F81])
def test_any_nan_equals_any_nan(word: int, narrow: int) -> None:
    for counter in (count_differences, count_differences_fast):
        assert counter(bits(word), narrow.to_bytes(2, "little"), ("F32", "BF16"), (False, False)) == 0
        assert counter(bits(word), b"\0\0", ("F32", "BF16"), (False, False)) == 1
        assert counter(bits(word), bits(0x7FC01234), ("F32", "F32"), (False, False)) == 0


@pytest.mark.parametrize(
    ("word", "half"),
    [
        (0x00000000, 0x0000), (0x80000000, 0x8000), (0x3F800000, 0x3C00), (0x477FE000, 0x7BFF), (0x477FEFFF, 0x7BFF),
        (0x477FF000, 0x7C00), (0x7F800000, 0x7C00), (0x33000000, 0x0000), (0x33000001, 0x0001), (0x33800000, 0x0001),
        (0x387FC000, 0x03FF), (0x387FE000, 0x0400), (0x38800000, 0x0400), (0x3F801000, 0x3C00), (0x3F803000, 0x3C02),
    ],
)  # fmt: skip
def test_half_precision_at_its_edges(word: int, half: int) -> None:
    assert half_bits(word) == half


def test_modules_that_were_truncated_are_recognised(write: Callable[..., Written]) -> None:
    """Some CPU optimizers cut instead of rounding: agreement with every value cut is agreement."""
    made = write(world=2)
    data = bytearray(made.model_file().read_bytes())
    with LocalFile(made.model_file()) as file:
        places = {name: t for name, t in open_torch(file).tensors() if name.startswith("module.layers")}
    for parameter in made.model.parameters[:6]:
        tensor = places[f"module.{parameter.name}"]
        cut = (parameter.values.reshape(-1).view("<u4") >> 16).astype("<u2").tobytes()
        start = tensor.file_offset or 0
        data[start : start + tensor.nbytes] = cut
    made.model_file().write_bytes(data)
    for depth in ("sample", "complete"):
        plan = plan_consolidation(made.directory, depth=depth)  # type: ignore[arg-type]
        assert any("truncated" in text for text in plan.facts["notes"])


def test_types_that_cannot_be_compared_are_not(write: Callable[..., Written]) -> None:
    assert comparable("F32", "BF16")
    assert comparable("BF16", "BF16")
    assert not comparable("BF16", "F16")
    plan = plan_consolidation(write(world=2, dtype="F16", master="BF16").directory)
    assert any("no 16-bit copy" in text for text in plan.facts["notes"])
