"""Distortions from pure facts: each is named when release and numbers agree, and only then."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ckpt_inspect.explain.loss_arithmetic import LossPoint, windows
from ckpt_inspect.explain.loss_distortions import DistortionFacts, find_distortions
from ckpt_inspect.explain.version import NEWEST, UNKNOWN, VersionEvidence, exact_version, parse_release
from ckpt_inspect.knowledge import load


def facts(*losses: float, release: tuple[int, int, int] = (4, 47, 0), **more: object) -> DistortionFacts:
    points = [LossPoint(10 * (index + 1), value) for index, value in enumerate(losses)]
    return DistortionFacts(windows(points, 0), version=exact_version(release, "config.json"), **more)  # type: ignore[arg-type]


def names(found: DistortionFacts) -> list[str]:
    return [item.name for item in find_distortions(found)]


TIMES_FOUR = facts(16.6, 16.0, 15.2, accumulation=4, vocabulary=64)


def test_a_first_loss_far_above_guessing_shows_the_accumulation_steps() -> None:
    found = find_distortions(TIMES_FOUR)
    assert [(item.name, item.factor) for item in found] == [("accumulation_not_divided", 4.0)]
    assert "uniform guessing over 64 tokens costs 4.159" in found[0].statement


@pytest.mark.parametrize(
    "change",
    [
        {"accumulation": 1},
        {"accumulation": None},
        {"vocabulary": None},
        {"version": exact_version((4, 45, 2), "config.json")},
        {"version": exact_version((4, 53, 0), "config.json")},
        {"version": UNKNOWN},
        {"version": VersionEvidence((4, 41, 0), NEWEST, None, "fields")},
        {"evals": ((10, 16.4), (20, 15.9))},  # the evaluation loss is as high
    ],
)
def test_without_one_of_its_signs_nothing_is_claimed(change: dict[str, object]) -> None:
    assert names(replace(TIMES_FOUR, **change)) == []  # type: ignore[arg-type]


def test_the_world_size_shows_where_tokens_were_averaged_without_a_count() -> None:
    found = facts(
        8.2, 8.0, release=(4, 47, 0), world_size=2, averages_tokens=True, accumulation=1, evals=((10, 4.1), (20, 4.0))
    )
    assert [(item.name, item.factor) for item in find_distortions(found)] == [("average_tokens_without_count", 2.0)]
    assert names(replace(found, averages_tokens=False)) == []
    assert names(replace(found, version=exact_version((4, 49, 0), "config.json"))) == []


def test_short_rows_make_the_first_position_matter() -> None:
    found = facts(2.0, 1.9, release=(5, 6, 0), tokens_per_row=16.0)
    (one,) = find_distortions(found)
    assert (one.name, one.factor) == ("first_position_counted", pytest.approx(15 / 16))
    assert "If the prompt is not masked" in one.statement
    assert names(replace(found, tokens_per_row=500.0)) == []
    assert names(replace(found, version=exact_version((5, 11, 0), "config.json"))) == []


def test_nan_is_known_by_its_gradient_norm() -> None:
    entries = [{"step": step, "grad_norm": 1.0 if step < 20 else math.nan} for step in (10, 20, 30)]
    assert names(facts(2.0, 0.0, 0.0, entries=tuple(entries))) == ["masked_nan"]
    fine = [{"step": step, "grad_norm": 1.0} for step in (10, 20, 30)]
    assert names(facts(2.0, 0.0, 0.0, entries=tuple(fine))) == []


def test_before_gradient_norms_were_logged_a_run_of_zeros_at_the_end_is_enough() -> None:
    entries = tuple({"step": step} for step in (10, 20, 30))
    assert names(facts(2.0, 0.0, 0.0, entries=entries)) == ["masked_nan"]
    assert names(facts(2.0, 0.0, 1.0, entries=entries)) == []
    assert names(facts(0.0, 0.0, 0.0, entries=entries)) == []
    assert names(facts(2.0, 0.0, 0.0, entries=entries, nan_filter=False)) == []


def test_every_row_names_releases_in_order_and_its_source() -> None:
    for row in load("transformers_eras")["distortion"]:
        first, last = parse_release(row["first"]), parse_release(row["last"])
        assert first is not None
        assert last is not None
        assert first <= last
        assert row["factor"] in ("G", "W", "boundary", "position")
        assert row["models"] in ("loss_kwargs", "plain", "any")
        assert row["source"].startswith("transformers ")
