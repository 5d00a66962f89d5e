"""Windows, sums and bounds of logged losses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.explain.loss_arithmetic import (
    LossPoint,
    Sums,
    course,
    rounding_error,
    smoothed,
    smoothing_weight,
    tail_bounds,
    total,
    windows,
)

steps = st.lists(st.integers(1, 1000), min_size=1, max_size=40, unique=True).map(sorted)


def points(*pairs: tuple[int, float]) -> tuple[LossPoint, ...]:
    return tuple(LossPoint(step, value) for step, value in pairs)


def test_a_log_entry_stands_for_the_steps_since_the_one_before() -> None:
    found = windows(points((1, 4.0), (4, 3.0), (8, 2.0)), 0)
    assert [(part.start, part.end, part.steps) for part in found] == [(0, 1, 1), (1, 4, 3), (4, 8, 4)]
    assert total(found) == 4.0 + 9.0 + 8.0


def test_entries_up_to_the_start_belong_to_the_session_before() -> None:
    found = windows(points((3, 9.0), (6, 9.0), (9, 1.0)), 7)
    assert [(part.start, part.end, part.loss) for part in found] == [(7, 9, 1.0)]


@given(steps, st.integers(0, 1000))
def test_windows_cover_every_step_once(ends: list[int], start: int) -> None:
    found = windows(points(*((end, 1.0) for end in ends)), start)
    assert sum(part.steps for part in found) == max(0, ends[-1] - start)


def test_a_rewound_log_keeps_the_second_time() -> None:
    found = course([(10, 5.0), (20, 4.0), (30, 3.0), (20, 4.5), (30, 3.5)])
    assert [(point.step, point.value) for point in found.points] == [(10, 5.0), (20, 4.5), (30, 3.5)]
    assert found.rewinds == ((30, 20),)


def test_a_repeated_step_is_no_rewind() -> None:
    found = course([(10, 5.0), (10, 4.0)])
    assert ([point.value for point in found.points], found.rewinds) == ([4.0], ())


def test_rounding_matters_only_where_entries_are_rounded() -> None:
    parts = windows(points((10, 1.0), (20, 1.0)), 0)
    assert rounding_error(parts, rounded=False) == 0.0
    assert 0 < rounding_error(parts, rounded=True) <= 20 * 5e-5


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=60), st.integers(1, 50))
def test_rounding_stays_within_its_bound(values: list[float], every: int) -> None:
    exact = windows(points(*((every * (i + 1), value) for i, value in enumerate(values))), 0)
    logged = windows(points(*((every * (i + 1), round(value, 4)) for i, value in enumerate(values))), 0)
    worst = sum(part.steps for part in exact) * 5e-5
    assert abs(total(exact) - total(logged)) <= worst + 1e-9
    assert rounding_error(logged, rounded=True) <= worst


def test_the_near_range_of_a_tail_is_about_the_last_entries() -> None:
    bounds = tail_bounds(points((1, 9.0), (2, 2.0), (3, 2.1), (4, 2.2), (5, 2.1), (6, 2.0)))
    assert bounds is not None
    assert bounds.is_near(2.1)
    assert not bounds.is_near(3.0)
    assert bounds.allows(3.0)
    assert not bounds.allows(-0.1)
    assert not bounds.allows(math.nan)


def test_losses_of_both_signs_have_bounds_on_both_sides() -> None:
    bounds = tail_bounds(points((1, 0.1), (2, -0.2), (3, 0.05)))
    assert bounds is not None
    assert bounds.allows(-0.5)


def test_nothing_logged_bounds_nothing() -> None:
    assert tail_bounds(()) is None


@pytest.mark.parametrize(("count", "weight"), [(10, 0.22), (20, 0.416), (50, 0.764), (100, 0.888)])
def test_the_plot_is_smoothed_as_llama_factory_does(count: int, weight: float) -> None:
    assert smoothing_weight(count) == pytest.approx(weight, abs=1e-3)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_smoothing_starts_at_the_first_value_and_stays_within_the_range(values: list[float]) -> None:
    found = smoothed(values)
    assert found[0] == values[0]
    assert len(found) == len(values)
    assert min(values) - 1e-9 <= min(found) <= max(found) <= max(values) + 1e-9


@given(steps, st.integers(0, 1000), st.booleans())
def test_sums_after_any_start_are_those_of_its_windows(ends: list[int], start: int, rounded: bool) -> None:
    logged = points(*((end, math.cos(end)) for end in ends))
    parts = windows(logged, start)
    found = Sums(logged, rounded=rounded).after(start)
    assert found.logged == pytest.approx(total(parts), abs=1e-9)
    assert found.error == pytest.approx(rounding_error(parts, rounded=rounded))
    assert found.last == (parts[-1].end if parts else start)
