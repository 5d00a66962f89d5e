"""What may be said of the end of a curve: only what its scatter leaves certain."""

from __future__ import annotations

import random

import pytest

from ckpt_inspect.explain.loss_arithmetic import LossPoint, windows
from ckpt_inspect.explain.loss_trend import Movement, scatter, trend_of


def trend(losses: list[float], every: int = 1) -> Movement | None:
    found = trend_of(windows([LossPoint(every * (index + 1), loss) for index, loss in enumerate(losses)], 0))
    return found.movement if found is not None else None


@pytest.mark.parametrize(
    ("losses", "movement"),
    [
        ([6 - 0.1 * step for step in range(30)], "falling"),
        ([2 + 0.1 * step for step in range(30)], "rising"),
        ([2 + 4 * 0.7**step for step in range(40)], "flattened"),
        ([2.0] * 20, "unmoved"),
        ([3.0, 2.0, 1.0], None),
    ],
)
def test_smooth_curves(losses: list[float], movement: Movement | None) -> None:
    assert trend(losses) == movement


def test_pure_scatter_is_rarely_taken_for_a_movement() -> None:
    wrong = 0
    for seed in range(200):
        draw = random.Random(seed)
        wrong += trend([draw.uniform(0, 2) for _ in range(40)]) != "unclear"
    assert wrong <= 20


def test_the_scatter_of_one_step_is_found_whatever_the_windows_average() -> None:
    draw = random.Random(0)
    steps = [draw.gauss(2, 0.5) for _ in range(6000)]
    for every in (1, 5, 20):
        points = [LossPoint(end, sum(steps[end - every : end]) / every) for end in range(every, 6001, every)]
        assert scatter(windows(points, 0)) == pytest.approx(0.5, rel=0.1)
