"""The inverse problems of batches and epochs, against the way accelerate and the Trainer count forwards."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ckpt_inspect.explain import batches_steps as steps
from ckpt_inspect.explain.batches_steps import Interval


def batches_of(rows: int, per_batch: int, world: int, *, drop_last: bool) -> int:
    """Batches per process: accelerate data_loader.py:BatchSamplerShard over torch's BatchSampler, even_batches."""
    batches = rows // per_batch if drop_last else math.ceil(rows / per_batch)
    if batches % world == 0:
        return batches // world
    return batches // world + (0 if drop_last else 1)


def epochs_of(batches: int, accumulation: int, count: int) -> list[tuple[int, float]]:
    """(step, epoch) after every update, as transformers from 4.52 counts them."""
    found = []
    per_epoch = math.ceil(batches / accumulation)
    for step in range(1, count + 1):
        epoch, inside = divmod(step - 1, per_epoch)
        found.append((step, epoch + min((inside + 1) * accumulation, batches) / batches))
    return found


sizes = st.tuples(st.integers(1, 3000), st.integers(1, 16), st.integers(1, 8))


@given(sizes, st.integers(1, 9), st.integers(1, 30))
def test_batches_per_epoch_come_back_exactly(size: tuple[int, int, int], accumulation: int, every: int) -> None:
    rows, per_batch, world = size
    batches = batches_of(rows, per_batch, world, drop_last=False)
    assume(accumulation < batches)
    pairs = epochs_of(batches, accumulation, 3 * math.ceil(batches / accumulation))[::every]
    found = steps.batches_per_epoch(pairs, (), accumulation)
    assert found is None or found == Interval(batches, batches)


@given(sizes, st.integers(1, 5))
def test_rounded_epochs_give_an_interval_that_holds_the_truth(size: tuple[int, int, int], accumulation: int) -> None:
    rows, per_batch, world = size
    batches = batches_of(rows, per_batch, world, drop_last=False)
    assume(accumulation < batches)
    pairs = [
        (step, round(epoch, 2)) for step, epoch in epochs_of(batches, accumulation, math.ceil(batches / accumulation))
    ]
    found = steps.batches_per_epoch((), pairs, accumulation)
    assert found is None or found.low <= batches <= found.high


@given(sizes, st.booleans())
def test_the_interval_of_rows_holds_the_truth(size: tuple[int, int, int], drop_last: bool) -> None:
    rows, per_batch, world = size
    batches = batches_of(rows, per_batch, world, drop_last=drop_last)
    assume(batches >= 1)
    found = steps.rows_from_batches(Interval(batches, batches), per_batch, world, drop_last=drop_last)
    assert found.low <= rows <= found.high
    assert batches_of(found.low, per_batch, world, drop_last=drop_last) == batches
    assert batches_of(found.high, per_batch, world, drop_last=drop_last) == batches


@given(sizes, st.booleans())
def test_rows_give_their_batches(size: tuple[int, int, int], drop_last: bool) -> None:
    rows, per_batch, world = size
    expected = max(1, batches_of(rows, per_batch, world, drop_last=drop_last))
    found = steps.batches_from_rows(Interval(rows, rows), per_batch, world, drop_last=drop_last)
    assert found == Interval(expected, expected)


@given(st.integers(1, 2_000_000), st.floats(0.5, 20), st.floats(1, 90_000))
def test_the_speeds_hold_the_rows(rows: int, epochs: float, runtime: float) -> None:
    speed = round(rows * epochs / runtime, 3)
    assume(speed > 0)
    found = steps.rows_from_speed(speed, round(runtime, 4), epochs)
    assert found is None or found.low <= rows <= found.high


@given(st.integers(1, 4096), st.floats(0.5, 500))
def test_the_speeds_hold_the_rows_of_an_update(batch: int, updates_per_second: float) -> None:
    found = steps.batch_from_speeds(round(batch * updates_per_second, 3), round(updates_per_second, 3))
    assert found is not None
    assert abs(found[0] - batch) <= found[1] * 1.01 + 1e-9


@given(st.integers(1, 500), st.integers(1, 16), st.booleans())
def test_updates_give_the_batches_they_may_come_from(batches: int, accumulation: int, rounded_up: bool) -> None:
    updates = steps.updates_per_epoch(batches, accumulation, rounded_up=rounded_up)
    for known in (rounded_up, None):
        found = steps.batches_from_updates(Interval(updates, updates), accumulation, rounded_up=known)
        assert found.low <= batches <= found.high


@given(st.integers(1, 3000), st.floats(0.1, 30))
def test_a_plan_in_epochs_gives_its_updates(updates: int, epochs: float) -> None:
    found = steps.updates_from_plan(steps.planned_steps(epochs, updates), epochs)
    assert found is not None
    assert found.low <= updates <= found.high


@pytest.mark.parametrize(
    ("batches", "accumulation", "up", "down"), [(25, 4, 7, 6), (900, 8, 113, 112), (3, 4, 1, 1), (8, 4, 2, 2)]
)
def test_updates_are_rounded_as_the_release_does(batches: int, accumulation: int, up: int, down: int) -> None:
    assert steps.updates_per_epoch(batches, accumulation, rounded_up=True) == up
    assert steps.updates_per_epoch(batches, accumulation, rounded_up=False) == down


def test_epoch_ends_alone_tell_the_updates() -> None:
    assert steps.updates_at_epoch_ends([(7, 1.0), (14, 2.0), (21, 3.0)]) == 7
    assert steps.updates_at_epoch_ends([(7, 1.0), (15, 2.0)]) is None
    assert steps.updates_at_epoch_ends([(7, 0.5)]) is None


def test_intervals_meet_or_exclude_one_another() -> None:
    assert Interval(1, 5).meet(Interval(4, 9)) == Interval(4, 5)
    assert Interval(1, 3).meet(Interval(4, 9)) is None
    assert Interval(1, 3).meet(None) == Interval(1, 3)


@pytest.mark.parametrize("pairs", [[(5, math.nan)], [(0, 0.0)], [(5, -1.0)], [(5, 1e-300)], [(10**18, 0.5)]])
def test_senseless_epochs_tell_nothing_or_something_finite(pairs: list[tuple[int, float]]) -> None:
    found = steps.batches_per_epoch(pairs, pairs, 1)
    assert found is None or found.low >= 1
