"""Logged rates against the plan: agreement, and the causes of every way to depart from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.explain.schedule_fit import Fit, RatePoint, ScheduleFacts, fit, solve_total
from ckpt_inspect.explain.schedule_formulas import Schedule
from ckpt_inspect.explain.schedule_infer import infer_schedule

KINDS = ("linear", "cosine", "constant_with_warmup", "polynomial", "inverse_sqrt")


def logged(schedule: Schedule, steps: range, *, offset: int = 1, lag: int = 0) -> list[RatePoint]:
    return [RatePoint(step, schedule.rate(max(0, step - offset - lag))) for step in steps]


def fitted(points: list[RatePoint], schedule: Schedule, **more: object) -> Fit:
    found = fit(ScheduleFacts(tuple(points), schedule, **more))  # type: ignore[arg-type]
    assert found is not None
    return found


@given(st.sampled_from(KINDS), st.integers(2, 300), st.integers(0, 50), st.integers(1, 20), st.sampled_from([0, 1]))
def test_a_log_of_the_plan_matches(kind: str, total: int, warmup: int, every: int, offset: int) -> None:
    schedule = Schedule(kind, 2e-4, min(warmup, total - 1), total)
    found = (
        fitted(logged(schedule, range(every, total + 1, every), offset=offset), schedule, offsets=(offset,))
        if (every <= total)
        else None
    )
    assert found is None or (found.matches and found.error == 0.0 and found.first_departure is None)


@pytest.mark.parametrize("offset", [0, 1])
def test_the_log_convention_is_found_where_the_release_is_unknown(offset: int) -> None:
    schedule = Schedule("cosine", 1e-3, 5, 100)
    found = fitted(logged(schedule, range(1, 101), offset=offset), schedule, offsets=(1, 0))
    assert (found.matches, found.offset) == (True, offset)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_resume_with_another_horizon_is_named_with_the_old_horizon(kind: str) -> None:
    old, new = Schedule(kind, 1e-3, 5, 50), Schedule(kind, 1e-3, 5, 100)
    points = [*logged(old, range(2, 41, 2)), *logged(new, range(42, 101, 2))]
    found = fitted(points, new, offsets=(1,))
    assert [segment.cause for segment in found.segments] == ["horizon", "planned"]
    assert found.segments[0].schedule.total == 50
    assert (found.segments[0].first, found.segments[0].last, found.first_departure) == (2, 40, 8)


def test_a_horizon_the_directory_speaks_of_is_tried_first() -> None:
    old, new = Schedule("cosine", 1e-3, 2, 10), Schedule("cosine", 1e-3, 2, 20)
    points = [*logged(old, range(3, 10, 3)), *logged(new, range(12, 19, 3))]
    found = fitted(points, new, offsets=(1,), totals=(10,))
    assert [segment.cause for segment in found.segments] == ["horizon", "planned"]


def test_a_scheduler_that_was_not_restored_starts_anew_at_the_checkpoint() -> None:
    schedule = Schedule("linear", 1e-3, 5, 100)
    again = [RatePoint(step, schedule.rate(step - 1 - 40)) for step in range(42, 101, 2)]
    found = fitted([*logged(schedule, range(2, 41, 2)), *again], schedule, offsets=(1,), starts=(20, 40))
    assert [segment.cause for segment in found.segments] == ["planned", "restart"]
    assert (found.segments[1].shift, found.first_departure) == (40, 42)


def test_a_restart_is_found_without_its_checkpoint() -> None:
    schedule = Schedule("linear", 1e-3, 5, 100)
    again = [RatePoint(step, schedule.rate(step - 1 - 37)) for step in range(38, 101)]
    found = fitted([*logged(schedule, range(1, 38)), *again], schedule, offsets=(1,))
    assert [(segment.cause, segment.shift) for segment in found.segments] == [("planned", 0), ("restart", 37)]


def test_another_base_rate_is_named() -> None:
    plan, real = Schedule("cosine", 1e-3, 5, 100), Schedule("cosine", 2e-5, 5, 100)
    found = fitted(logged(real, range(2, 101, 2)), plan, offsets=(1,))
    assert [segment.cause for segment in found.segments] == ["base"]
    assert found.segments[0].schedule.base == pytest.approx(2e-5)


def test_skipped_updates_show_as_a_lag_that_grows() -> None:
    schedule = Schedule("linear", 1e-3, 0, 1000)
    points = [*logged(schedule, range(10, 200, 10), lag=2), *logged(schedule, range(200, 500, 10), lag=5)]
    found = fitted(points, schedule, offsets=(0, 1), may_skip=True)
    assert (found.segments[0].cause, found.skipped) == ("skipped", 5)


def test_a_lag_is_not_called_skipping_in_full_precision() -> None:
    schedule = Schedule("linear", 1e-3, 0, 1000)
    found = fitted(logged(schedule, range(10, 500, 10), lag=3), schedule, offsets=(1,))
    assert found.segments[0].cause != "skipped"


def test_rates_of_no_schedule_stay_unexplained() -> None:
    points = [RatePoint(step, 1e-3 / (1 + step % 7)) for step in range(1, 60)]
    found = fitted(points, Schedule("linear", 1e-3, 0, 60), offsets=(1,))
    assert not found.matches
    assert any(segment.cause == "unexplained" for segment in found.segments)
    assert sum(segment.entries for segment in found.segments) == len(points)


def test_a_schedule_without_rates_has_no_fit() -> None:
    assert fit(ScheduleFacts((RatePoint(1, 1.0),), Schedule("greedy", 1.0))) is None


@given(st.sampled_from(["linear", "cosine"]), st.integers(10, 5000), st.integers(1, 9))
def test_the_horizon_is_solved_for(kind: str, total: int, count: int) -> None:
    schedule = Schedule(kind, 1e-3, 0, total)
    assert solve_total(schedule.with_total(77), count, schedule.rate(count)) == total


# ------------------------------------------------------------------------------------------------- inference


@pytest.mark.parametrize("warmup", [0, 2, 30])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("offset", [0, 1])
def test_a_schedule_is_read_off_its_log(kind: str, warmup: int, offset: int) -> None:
    schedule = Schedule(kind, 2e-4, warmup, 300)
    found = infer_schedule(logged(schedule, range(10, 301, 10), offset=offset), 300, (offset,), None)
    assert found is not None
    assert (found[0].kind, found[0].warmup, found[1]) == (kind, warmup, offset)
    assert found[0].base == pytest.approx(2e-4)


def test_a_log_that_ends_within_the_warmup_says_nothing_of_what_follows() -> None:
    points = logged(Schedule("linear", 2e-4, 100, 1000), range(10, 91, 10))
    assert infer_schedule(points, 1000, (1,), None) is None


def test_constant_rates_are_constant() -> None:
    found = infer_schedule([RatePoint(step, 1e-5) for step in range(1, 9)], 100, (1, 0), None)
    assert found is not None
    assert found[0].kind == "constant"
