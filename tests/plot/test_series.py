"""The numbers of a curve: which, in which order, with resumes merged and NaN kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.errors import UsageError
from ckpt_inspect.plot.series import Logged, merge, seconds_of, series
from ckpt_inspect.plot.smoothing import default_window, ema, parse_smoothing, thinned
from plot.curves import make_run


def logged(*steps: int) -> list[Logged]:
    return [Logged(step, None, None, None, {"loss": float(index)}) for index, step in enumerate(steps)]


def test_replayed_steps_are_shown_once_with_the_later_value() -> None:
    lines, joins, replayed = merge(logged(10, 20, 30, 20, 30, 40))
    assert [(line.step, line.values["loss"]) for line in lines] == [(10, 0.0), (20, 3.0), (30, 4.0), (40, 5.0)]
    assert (joins, replayed) == ((10,), 2)


@given(st.lists(st.integers(0, 50), max_size=60))
def test_merged_steps_never_go_back_and_end_with_the_last_line(steps: list[int]) -> None:
    lines, _, replayed = merge(logged(*steps))
    merged = [line.step for line in lines]
    assert merged == sorted(merged)
    assert len(merged) + replayed == len(steps)
    if steps:
        assert lines[-1].values["loss"] == len(steps) - 1


def test_the_default_is_the_loss_and_the_evaluation_loss(tmp_path: Path) -> None:
    run = make_run(tmp_path / "out", [{"step": 1, "loss": 2.0, "grad_norm": 1.0}, {"step": 1, "eval_loss": 2.5}])
    assert [item.metric for item in series(run).series] == ["loss", "eval_loss"]


def test_wildcards_choose_metrics(tmp_path: Path) -> None:
    run = make_run(tmp_path / "out", [{"step": 1, "loss": 2.0, "rewards/margins": 0.1, "rewards/chosen": 0.2}])
    assert [item.metric for item in series(run, metrics=["rewards/*"]).series] == ["rewards/chosen", "rewards/margins"]


@pytest.mark.parametrize(
    ("metrics", "x", "words"), [(["los"], "step", "loss"), ([], "tokens", "did not record"), ([], "km", "axis")]
)
def test_what_was_not_logged_is_a_usage_error(tmp_path: Path, metrics: list[str], x: str, words: str) -> None:
    run = make_run(tmp_path / "out", [{"step": 1, "loss": 2.0}])
    with pytest.raises(UsageError) as caught:
        series(run, metrics=metrics, x=x)
    assert words in str(caught.value)


def test_a_progress_log_is_enough(tmp_path: Path) -> None:
    rows = [
        {
            "current_steps": step,
            "total_steps": 30,
            "loss": 3.0 - step / 30,
            "lr": 1e-3,
            "elapsed_time": f"0:00:{step:02}",
        }
        for step in (10, 20, 30)
    ]
    (tmp_path / "trainer_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curve = series(tmp_path, metrics=["loss", "learning_rate"], x="time")
    assert curve.source == "trainer_log.jsonl"
    assert curve.series[0].x == (10.0, 20.0, 30.0)


def test_nan_behind_zeros_is_a_gap(tmp_path: Path) -> None:
    entries = [{"step": step, "loss": 2.0, "grad_norm": 1.0} for step in (1, 2, 3)]
    entries += [{"step": step, "loss": 0.0, "grad_norm": math.nan} for step in (4, 5)]
    curve = series(make_run(tmp_path / "out", entries))
    assert [math.isnan(value) for value in curve.series[0].values] == [False, False, False, True, True]
    assert any("were NaN" in note for note in curve.notes)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "nothing was logged"),
        ([{"step": 1, "loss": 2.0}], "one point only"),
        ([{"step": 1, "eval_loss": 2.0}, {"step": 2, "eval_loss": 1.0}], "no training loss was logged"),
        ([{"step": step, "loss": 2.0} for step in range(1, 9)], "constant at 2"),
        ([{"step": step, "loss": math.nan} for step in range(1, 9)], "all 8 values are NaN"),
    ],
)
def test_odd_logs_are_said_in_words(tmp_path: Path, entries: list[dict[str, object]], words: str) -> None:
    curve = series(make_run(tmp_path / "out", entries))
    assert any(words in note for note in curve.notes)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:00:07", 7),
        ("1:02:03", 3723),
        ("1 day, 2:03:04", 93784),
        ("2 days, 0:00:01.5", 172801.5),
        ("x", None),
        (3, None),
    ],
)
def test_elapsed_time(text: object, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


def test_the_average_of_a_constant_is_the_constant_from_its_first_point_on() -> None:
    assert ema((2.0,) * 5, 4) == pytest.approx((2.0,) * 5)


def test_a_gap_stays_a_gap_and_does_not_disturb_what_follows() -> None:
    with_gap = ema((1.0, math.nan, 3.0), 3)
    assert math.isnan(with_gap[1])
    assert with_gap[2] == pytest.approx(ema((1.0, 3.0), 3)[1])


def test_few_points_are_not_smoothed() -> None:
    assert default_window(20) == 1
    assert parse_smoothing("ema").apply((1.0, 2.0)) == ((1.0, 2.0), "")


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "much"])
def test_a_window_is_a_number_of_points(text: str) -> None:
    with pytest.raises(UsageError):
        parse_smoothing(text)


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=400), st.integers(6, 60))
def test_thinning_keeps_order_ends_and_extremes(values: list[float], most: int) -> None:
    x, y = thinned(range(len(values)), values, most)
    assert list(x) == sorted(x)
    assert (x[0], x[-1]) == (0, len(values) - 1)
    finite = [value for value in values if math.isfinite(value)]
    kept = [value for value in y if math.isfinite(value)]
    if finite:
        assert (min(kept), max(kept)) == (min(finite), max(finite))
    if len(values) > most:
        assert len(x) <= most + 2


def test_llamafactory_smoothing_is_its_own_formula() -> None:
    """LLaMA-Factory v0.9.5 extras/ploting.py `smooth`, written out for three points."""
    weight = 1.8 * (1 / (1 + math.exp(-0.05 * 3)) - 0.5)
    expected = [3.0]
    for value in (2.0, 1.0):
        expected.append(expected[-1] * weight + (1 - weight) * value)
    smoothed, _ = parse_smoothing("llamafactory").apply((3.0, 2.0, 1.0))
    assert smoothed == pytest.approx(expected)


def test_the_bundled_llamafactory_run_is_reproduced(fixtures: Path) -> None:
    """The very points of its training_loss.png: trainer_state.json's losses and their smoothed values."""
    state = json.loads((fixtures / "llamafactory" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    drawn = series(fixtures / "llamafactory").series[0]
    assert list(drawn.values) == losses
    last = losses[0]
    weight = 1.8 * (1 / (1 + math.exp(-0.05 * len(losses))) - 0.5)
    for value in losses[1:]:
        last = last * weight + (1 - weight) * value
    assert parse_smoothing("llamafactory").apply(drawn.values)[0][-1] == pytest.approx(last)


def test_the_average_of_a_resumed_run_says_since_when(tmp_path: Path) -> None:
    entries: list[dict[str, object]] = [{"step": step, "loss": 6 - 0.1 * step} for step in range(1, 21)]
    mean = sum(6 - 0.1 * step for step in range(11, 21)) / 10
    make_run(tmp_path, [*entries, {"step": 20, "train_loss": mean / 2, "train_runtime": 1.0}], max_steps=20)
    make_run(tmp_path / "checkpoint-10", entries[:10], max_steps=10)
    assert series(tmp_path).average_of == "sum since step 10 over all steps"
