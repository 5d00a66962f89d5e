"""Which rule gives the reported average: the Trainer's bookkeeping simulated, then recognised from its traces alone."""

from __future__ import annotations

import math

import pytest
from builders.trainer_runs import history, train_call
from hypothesis import assume, given
from hypothesis import strategies as st

from ckpt_inspect.explain.loss_arithmetic import course
from ckpt_inspect.explain.loss_reconcile import reconcile
from ckpt_inspect.explain.loss_terms import LossFacts, Reconciliation

ERAS = [("global_step", True), ("steps_of_session", False)]  # divisor, and whether that era rounds its entries


def falling(count: int, high: float = 6.0, low: float = 2.0) -> list[float]:
    """A smooth curve with a little noise, different at every step."""
    return [low + (high - low) * math.exp(-3 * i / count) + 0.05 * math.sin(7.3 * i) for i in range(count)]


def facts(entries: object, reported: float, end: int, **more: object) -> LossFacts:
    points = course(entries).points  # type: ignore[arg-type]
    return LossFacts(points, reported, end, **more)  # type: ignore[arg-type]


def resumed(start: int, end: int, every: int, era: tuple[str, bool], **more: object) -> tuple[Reconciliation, float]:
    """The verdict on a run of `end` steps resumed at `start`, and the true mean of the second call."""
    divisor, rounded = era
    losses = falling(end)
    before = history(losses, start, every=every, rounded=rounded)
    call = train_call(losses, start=start, every=every, session_divisor=divisor != "global_step", rounded=rounded)
    found = reconcile(
        facts([*before, *call.entries], call.train_loss, end, divisors=(divisor,), rounded=rounded, **more)
    )
    return found, sum(losses[start:end]) / (end - start)


# ------------------------------------------------------------------------------------------------- whole runs


@given(
    st.integers(1, 300),
    st.integers(1, 60),
    st.booleans(),
    st.booleans(),
    st.lists(st.floats(0.01, 12), min_size=300, max_size=300),
)
def test_a_run_logged_to_its_end_is_its_average(
    end: int, every: int, first: bool, rounded: bool, losses: list[float]
) -> None:
    call = train_call(losses, end=end, every=every, first_step=first, rounded=rounded)
    assume(call.entries and call.entries[-1][0] == end)
    found = reconcile(facts(call.entries, call.train_loss, end, rounded=rounded))
    assert found.verdict == "average_of_all_steps"
    assert found.recomputed == pytest.approx(call.train_loss, abs=5e-5 if rounded else 1e-9)


def test_a_plain_mean_of_entries_would_be_wrong_with_a_first_step_entry() -> None:
    call = train_call(falling(20), every=5, first_step=True)
    plain = sum(value for _, value in call.entries) / len(call.entries)
    found = reconcile(facts(call.entries, call.train_loss, 20, rounded=False))
    assert found.recomputed == pytest.approx(call.train_loss)
    assert abs(plain - call.train_loss) > 0.1


@pytest.mark.parametrize(("end", "every"), [(20, 3), (21, 10), (336, 10), (1003, 500)])
def test_an_unlogged_tail_is_bounded(end: int, every: int) -> None:
    losses = falling(end)
    call = train_call(losses, every=every)
    found = reconcile(facts(call.entries, call.train_loss, end, rounded=False))
    last = call.entries[-1][0]
    assert found.verdict == "average_with_unlogged_tail"
    assert found.tail is not None
    assert (found.tail.steps, found.tail.mean) == (end - last, pytest.approx(sum(losses[last:]) / (end - last)))
    assert found.tail.low <= found.tail.mean <= found.tail.high
    assert found.recomputed == pytest.approx(call.train_loss)


def test_the_numbers_of_a_real_run_of_5_23_come_out() -> None:
    found = reconcile(facts([(1, 4.15095), (4, 4.15696), (8, 4.13420)], 4.142527, 9, rounded=False))
    assert found.verdict == "average_with_unlogged_tail"
    assert found.tail is not None
    assert found.tail.mean == pytest.approx(4.12409, abs=5e-5)


# ------------------------------------------------------------------------------------------------- resumed runs


@pytest.mark.parametrize("era", ERAS, ids=["before 5.19", "from 5.19"])
@pytest.mark.parametrize(("start", "end", "every"), [(10, 20, 2), (8, 12, 1), (100, 400, 10), (90, 100, 5)])
def test_a_resumed_run_logged_to_its_end_is_recognised_without_any_help(
    start: int, end: int, every: int, era: tuple[str, bool]
) -> None:
    found, mean = resumed(start, end, every, era)
    expected = "resumed_sum_over_all_steps" if era[0] == "global_step" else "average_since_resume"
    assert (found.verdict, found.start) == (expected, start)
    assert found.session_mean == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize("era", ERAS, ids=["before 5.19", "from 5.19"])
def test_a_resume_within_a_window_weighs_its_first_entry_by_what_was_left_of_it(era: tuple[str, bool]) -> None:
    """Resumed at 10 with an entry every 3 steps: the entry at 12 stands for the steps 11 and 12."""
    found, mean = resumed(10, 21, 3, era, checkpoints=(5, 10, 15))
    assert found.start == 10
    assert found.windows[0].steps == 2
    assert found.session_mean == pytest.approx(mean, abs=1e-3)


def test_the_correction_of_an_old_resumed_run_is_told() -> None:
    """transformers 4.57.3: steps 9-12 logged 3.877 each, train_loss 1.2923."""
    entries = [*((step, 3.9) for step in range(1, 9)), *((step, 3.877) for step in range(9, 13))]
    found = reconcile(facts(entries, 3.877 * 4 / 12, 12, divisors=("global_step",)))
    assert found.verdict == "resumed_sum_over_all_steps"
    assert (found.start, found.divisor, found.session_mean) == (8, 12, pytest.approx(3.877))


def test_a_finished_run_that_was_resumed_trained_one_more_step() -> None:
    entries = [(step, 6.0) for step in range(2, 21, 2)]
    found = reconcile(facts(entries, 6.06 / 21, 21, divisors=("global_step",), checkpoints=(5, 10, 15, 20)))
    assert (found.verdict, found.start) == ("resumed_sum_over_all_steps", 20)
    assert found.session_mean == pytest.approx(6.06)


def test_with_a_tail_the_speeds_tell_the_start() -> None:
    losses = falling(20)
    before = history(losses, 10, every=3)
    call = train_call(losses, start=10, every=3)
    plain = facts([*before, *call.entries], call.train_loss, 20, rounded=False, divisors=("steps_of_session",))
    told = facts(
        [*before, *call.entries],
        call.train_loss,
        20,
        rounded=False,
        divisors=("steps_of_session",),
        executed=(10.0004, 0.001),
    )
    del plain
    found = reconcile(told)
    assert (found.verdict, found.start, found.others) == ("average_since_resume", 10, ())


def test_with_a_tail_a_sign_of_a_resume_is_believed_where_the_numbers_agree() -> None:
    losses = falling(20)
    call = train_call(losses, start=10, every=3)
    entries = [*history(losses, 10, every=3), *call.entries]
    found = reconcile(facts(entries, call.train_loss, 20, rounded=False, starts=(10,), divisors=("steps_of_session",)))
    assert found.start == 10


def test_a_sign_of_a_resume_is_not_believed_where_the_numbers_disagree() -> None:
    call = train_call(falling(20), every=2)
    found = reconcile(facts(call.entries, call.train_loss, 20, rounded=False, starts=(10,)))
    assert found.verdict == "average_of_all_steps"


def test_without_a_sign_a_whole_run_with_a_tail_is_not_called_resumed() -> None:
    call = train_call(falling(23), every=5)
    found = reconcile(facts(call.entries, call.train_loss, 23, rounded=False, checkpoints=(5, 10, 15, 20)))
    assert (found.verdict, found.start) == ("average_with_unlogged_tail", 0)


def test_a_whole_run_that_fell_fast_at_its_end_is_not_called_resumed() -> None:
    """One long window, then a tail far below it: a resume early on would fit as well, but nothing speaks for one."""
    losses = [3.0] * 500 + [1.0] * 100
    call = train_call(losses, every=500)
    found = reconcile(facts(call.entries, call.train_loss, 600, rounded=False, checkpoints=tuple(range(20, 600, 20))))
    assert (found.verdict, found.start) == ("average_with_unlogged_tail", 0)


def test_a_long_log_with_a_wrong_average_is_not_solved_by_chance() -> None:
    losses = falling(30_000)
    call = train_call(losses, every=1, session_divisor=False)
    for wrong in (0.31, 0.57, 0.83):
        found = reconcile(facts(call.entries, call.train_loss * wrong, 30_000, rounded=False))
        assert found.verdict == "not_reproduced"


@given(st.integers(2, 30), st.integers(1, 29), st.sampled_from([1, 2, 3, 5]), st.sampled_from(ERAS))
def test_a_verdict_of_resumed_is_never_wrong(end: int, start: int, every: int, era: tuple[str, bool]) -> None:
    """Whatever is claimed about a resumed run without signs is true, or it is not claimed to be resumed."""
    assume(start < end)
    found, mean = resumed(start, end, every, era)
    if found.verdict in ("resumed_sum_over_all_steps", "average_since_resume") and found.tail is None:
        assert found.session_mean == pytest.approx(mean, rel=2e-2)


def test_an_earlier_summary_says_where_the_call_began() -> None:
    losses = falling(30)
    first = train_call(losses, end=20, every=5)
    second = train_call(losses, start=20, end=30, every=5, session_divisor=False)
    found = reconcile(facts([*first.entries, *second.entries], second.train_loss, 30, rounded=False, forced_start=20))
    assert (found.verdict, found.start) == ("resumed_sum_over_all_steps", 20)


# ------------------------------------------------------------------------------------------------- nothing to average


def test_a_call_that_ran_no_step_reports_zero() -> None:
    found = reconcile(facts([(2, 4.0), (4, 3.0)], 0.0, 4))
    assert (found.verdict, found.recomputed) == ("no_step_trained", 0.0)


def test_losses_of_zero_average_to_zero() -> None:
    found = reconcile(facts([(2, 0.0), (4, 0.0)], 0.0, 4))
    assert found.verdict == "average_of_all_steps"


def test_without_entries_nothing_can_be_recomputed() -> None:
    found = reconcile(facts([], 1.5, 100))
    assert (found.verdict, found.recomputed) == ("not_logged", None)
    assert found.reason


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_nan_spoils_the_average(value: float) -> None:
    found = reconcile(facts([(2, 3.0), (4, value)], value, 4))
    assert found.verdict == "average_of_all_steps"


def test_a_nan_average_of_finite_losses_is_not_explained() -> None:
    assert reconcile(facts([(2, 3.0)], math.nan, 2)).verdict == "not_reproduced"


def test_a_finite_average_of_nan_losses_is_not_explained() -> None:
    assert reconcile(facts([(2, math.nan)], 3.0, 2)).verdict == "not_reproduced"


@pytest.mark.parametrize("factor", [0.5, 1.01, 3.0])
def test_an_edited_value_is_not_explained_away(factor: float) -> None:
    call = train_call(falling(40, 2.0, 1.9), every=2)
    found = reconcile(
        facts(call.entries, call.train_loss * factor + 1e-3, 40, rounded=False, divisors=("global_step",))
    )
    assert found.verdict in ("not_reproduced",)
    assert found.reason


def test_a_log_of_another_run_is_named() -> None:
    found = reconcile(facts([(2, 3.0), (50, 2.0)], 2.5, 40))
    assert found.verdict == "not_reproduced"
    assert "different runs" in found.reason


# ------------------------------------------------------------------------------------------------- excerpts


def test_entries_missing_within_an_excerpt_are_no_long_windows() -> None:
    losses = falling(500)
    call = train_call(losses, every=10)
    kept = [entry for entry in call.entries if entry[0] <= 30 or entry[0] > 480]
    found = reconcile(facts(kept, call.train_loss, 500, rounded=False, excerpt=True))
    assert found.verdict == "average_with_unlogged_tail"
    assert found.tail is not None
    assert (found.tail.steps, found.tail.inner) == (450, 450)
    assert all(part.steps == 10 for part in found.windows)
