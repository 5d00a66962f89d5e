"""The learning rate of whole directories: what is planned, who steps it, what departs."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.run_directories import fields_of, train_entries, write_arguments, write_log, write_scheduler, write_state
from builders.torch_files import save_zip

from ckpt_inspect.explain.schedule import LearningRateAnswer, explain_schedule
from ckpt_inspect.explain.schedule_formulas import Schedule
from ckpt_inspect.run import open_run


def explained(path: Path) -> LearningRateAnswer:
    found = explain_schedule(open_run(path))
    assert found is not None
    return found


def write_run(
    path: Path, schedule: Schedule, *, offset: int = 1, release: tuple[int, int, int] = (5, 4, 0), **arguments: object
) -> None:
    """A run whose log follows `schedule`, logged as `release` does it."""
    entries = train_entries(
        [
            (step, 1.234567 if release >= (5, 0, 0) else round(1.25 + step / 100, 2))
            for step in range(1, schedule.total + 1)
        ],
        learning_rate=lambda step: schedule.rate(step - offset),
    )
    state, fields = fields_of(release)
    write_state(path, entries, **{**state, "max_steps": schedule.total})
    values = {"lr_scheduler_type": schedule.kind, "learning_rate": schedule.base, "warmup_steps": schedule.warmup}
    write_arguments(path, **{**fields, **values, **arguments})


def test_a_healthy_run_matches_with_its_numbers(tmp_path: Path) -> None:
    write_run(tmp_path, Schedule("cosine", 2e-4, 5, 50))
    found = explained(tmp_path)
    assert (found.verdict, found.scheduler, found.warmup_steps, found.total_steps) == ("matches", "cosine", 5, 50)
    assert (found.peak, found.max_relative_error, found.logged_offset) == (2e-4, 0.0, 1)
    assert found.final == Schedule("cosine", 2e-4, 5, 50).rate(49)
    assert "5 warm-up steps to 0.0002" in found.paragraph


def test_older_releases_log_the_rate_of_the_next_update(tmp_path: Path) -> None:
    write_run(tmp_path, Schedule("linear", 2e-4, 5, 50), offset=0, release=(4, 45, 0))
    found = explained(tmp_path)
    assert (found.verdict, found.logged_offset, found.final) == ("matches", 0, 0.0)
    assert "NEXT update" in found.paragraph


def test_a_warmup_that_was_not_kept_departs(tmp_path: Path) -> None:
    write_run(tmp_path, Schedule("linear", 2e-4, 5, 50), warmup_steps=20)
    found = explained(tmp_path)
    assert (found.verdict, found.first_departure) == ("differs", 2)
    assert found.max_relative_error is not None
    assert found.max_relative_error > 0.1


def test_a_ratio_is_a_warmup_too(tmp_path: Path) -> None:
    write_run(tmp_path, Schedule("linear", 2e-4, 3, 50), release=(4, 56, 0), warmup_steps=0, warmup_ratio=0.05)
    found = explained(tmp_path)
    assert (found.verdict, found.warmup_steps) == ("matches", 3)
    assert "ceil(50 x 0.05) = 3" in " ".join(found.arithmetic)


@pytest.mark.parametrize("kind", ["constant", "constant_with_warmup"])
def test_constant_schedules(tmp_path: Path, kind: str) -> None:
    write_run(tmp_path, Schedule(kind, 2e-4, 5, 50))
    found = explained(tmp_path)
    assert found.verdict == "matches"
    assert found.warmup_steps == (0 if kind == "constant" else 5)


@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy", "invented_by_someone"])
def test_what_cannot_be_recomputed_is_unknown_and_says_why(tmp_path: Path, kind: str) -> None:
    write_run(tmp_path, Schedule("linear", 2e-4, 0, 20), lr_scheduler_type=kind)
    found = explained(tmp_path)
    assert (found.verdict, found.scheduler, found.max_relative_error) == ("unknown", kind, None)
    assert "cannot be recomputed" in found.explanation


def test_releases_before_4_had_only_the_linear_schedule(tmp_path: Path) -> None:
    schedule = Schedule("linear", 5e-5, 0, 30)
    entries = train_entries([(step, 1.5) for step in range(5, 31, 5)], learning_rate=schedule.rate)
    write_state(tmp_path, entries)
    write_arguments(tmp_path, world=None, learning_rate=5e-5, warmup_steps=0, local_rank=-1)
    found = explained(tmp_path)
    assert (found.verdict, found.scheduler, found.logged_offset) == ("matches", "linear", 0)


@pytest.mark.parametrize("kind", ["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"])
def test_deepspeeds_own_scheduler_counts_instead_of_the_argument(tmp_path: Path, kind: str) -> None:
    params = {"warmup_num_steps": 5, "total_num_steps": 40, "warmup_max_lr": 1e-3, "warmup_min_lr": 0}
    if kind == "WarmupLR":
        del params["total_num_steps"]
    if kind == "WarmupCosineLR":
        params = {"warmup_num_steps": 5, "total_num_steps": 40}
    schedule = Schedule(kind, 1e-3, options=params)
    entries = train_entries([(step, 1.5) for step in range(1, 41)], learning_rate=schedule.rate)
    write_state(tmp_path, entries)
    config = {"scheduler": {"type": kind, "params": params}, "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}
    write_arguments(tmp_path, lr_scheduler_type="cosine", learning_rate=1e-3, warmup_steps=0, deepspeed=config)
    found = explained(tmp_path)
    assert (found.verdict, found.scheduler, found.owner) == ("matches", kind, "deepspeed")
    assert "lr_scheduler_type has no effect" in found.explanation


def test_deepspeeds_optimizer_steps_the_schedule_before_the_log(tmp_path: Path) -> None:
    config = {"optimizer": {"type": "AdamW", "params": {"lr": 2e-4}}}
    write_run(tmp_path, Schedule("cosine", 2e-4, 5, 50), offset=0, deepspeed=config)
    found = explained(tmp_path)
    assert (found.verdict, found.logged_offset, found.owner) == ("matches", 0, "deepspeed")


def test_skipped_updates_are_counted(tmp_path: Path) -> None:
    schedule = Schedule("linear", 2e-4, 0, 100)
    entries = train_entries(
        [(step, 1.234567) for step in range(10, 101, 10)], learning_rate=lambda step: schedule.rate(step - 1 - 3)
    )
    state, fields = fields_of((5, 4, 0))
    write_state(tmp_path, entries, **state)
    write_arguments(
        tmp_path, **{**fields, "lr_scheduler_type": "linear", "learning_rate": 2e-4, "warmup_steps": 0, "fp16": True}
    )
    write_state(tmp_path / "checkpoint-100", entries, **state)
    write_scheduler(tmp_path / "checkpoint-100", 97, schedule.rate(97), 2e-4)
    found = explained(tmp_path)
    assert (found.verdict, found.skipped) == ("differs", 3)
    assert "3 updates that fp16 overflow skipped" in found.explanation
    assert "stepped 97 times: 3 updates skipped" in found.explanation


def test_a_scheduler_file_alone_can_be_checked(tmp_path: Path) -> None:
    schedule = Schedule("linear", 2e-4, 0, 100)
    for step, factor in ((50, 1.0), (100, 1.0)):
        path = tmp_path / f"checkpoint-{step}"
        write_state(path, [], global_step=step, max_steps=100)
        write_scheduler(path, step, factor * schedule.rate(step), 2e-4)
    write_arguments(tmp_path / "checkpoint-100", lr_scheduler_type="linear", learning_rate=2e-4, warmup_steps=0)
    assert explained(tmp_path).verdict == "matches"
    write_scheduler(tmp_path / "checkpoint-100", 100, 1e-4, 2e-4)
    found = explained(tmp_path)
    assert found.verdict == "differs"
    assert "holds the rate 0.0001" in found.explanation


def test_without_arguments_the_log_is_described_and_not_judged(tmp_path: Path) -> None:
    schedule = Schedule("linear", 2e-4, 5, 50)
    write_state(tmp_path, train_entries([(step, 1.5) for step in range(1, 51)], learning_rate=schedule.rate))
    found = explained(tmp_path)
    assert (found.verdict, found.inferred, found.scheduler, found.warmup_steps) == ("unknown", True, "linear", 5)
    assert "Read off the log itself" in found.explanation


def test_the_progress_log_holds_rates_too(tmp_path: Path) -> None:
    schedule = Schedule("cosine", 2e-4, 0, 50)
    write_log(
        tmp_path,
        [{"current_steps": s, "total_steps": 50, "loss": 1.0, "lr": schedule.rate(s - 1)} for s in range(1, 51)],
    )
    write_arguments(tmp_path, lr_scheduler_type="cosine", learning_rate=2e-4, warmup_steps=0)
    assert explained(tmp_path).verdict == "matches"


def test_hostile_options_are_shown_as_text(tmp_path: Path) -> None:
    write_run(tmp_path, Schedule("linear", 2e-4, 0, 20), lr_scheduler_kwargs={"\x1b[31m": "\u202eevil"})
    assert not {"\x1b", "\u202e"} & set(" ".join((explained(tmp_path).paragraph, *explained(tmp_path).arithmetic)))


def test_a_directory_without_rates_has_no_answer(tmp_path: Path) -> None:
    write_arguments(tmp_path, learning_rate=1.0)
    assert explain_schedule(open_run(tmp_path)) is None


def test_a_rate_of_zero_agrees_exactly(tmp_path: Path) -> None:
    write_run(tmp_path, Schedule("linear", 0.0, 0, 12))
    found = explained(tmp_path)
    assert (found.verdict, found.max_relative_error) == ("matches", 0.0)


def test_a_plateau_scheduler_is_stepped_by_evaluations_and_has_skipped_no_update(tmp_path: Path) -> None:
    entries = train_entries([(step, 1.5) for step in range(1, 22)], learning_rate=1e-2)
    write_state(tmp_path, entries)
    write_arguments(tmp_path, lr_scheduler_type="reduce_lr_on_plateau", learning_rate=1e-2)
    write_state(tmp_path / "checkpoint-21", entries)
    save_zip(tmp_path / "checkpoint-21" / "scheduler.pt", {"num_bad_epochs": 0, "last_epoch": 5, "_last_lr": [1e-2]})
    found = explained(tmp_path)
    assert (found.verdict, found.skipped) == ("unknown", None)
    assert "stepped 5 times, once per evaluation" in found.explanation
    assert "skipped" not in found.explanation
    assert "was 0.01 throughout" in found.explanation


def test_a_warmup_longer_than_the_run_is_not_told_as_ended(tmp_path: Path) -> None:
    write_run(tmp_path, Schedule("linear", 1e-2, 30, 10))
    assert (
        "30 warm-up steps to 0.01, of which the run's 10 steps only get to 0.00333333" in explained(tmp_path).paragraph
    )


def test_inverse_sqrt_of_releases_before_5_4_ignores_its_timescale(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        Schedule("inverse_sqrt", 1e-2, 5, 20),
        offset=0,
        release=(4, 45, 0),
        lr_scheduler_kwargs={"timescale": 7},
    )
    found = explained(tmp_path)
    assert found.verdict == "matches"
    assert "had no effect" in found.explanation


def test_a_resume_with_another_scheduler_type_is_told_by_the_arguments_of_the_checkpoint(tmp_path: Path) -> None:
    before, after = Schedule("linear", 1e-2, 0, 40), Schedule("cosine", 1e-2, 0, 40)
    rates = [(before if step <= 20 else after).rate(step - 1) for step in range(1, 41)]
    entries = train_entries([(step, 1.234567) for step in range(1, 41)], learning_rate=lambda step: rates[step - 1])
    state, fields = fields_of((5, 4, 0))
    write_state(tmp_path, entries, **{**state, "max_steps": 40})
    write_arguments(tmp_path, **{**fields, "lr_scheduler_type": "cosine", "learning_rate": 1e-2})
    write_state(tmp_path / "checkpoint-20", entries[:20], **{**state, "max_steps": 40})
    write_arguments(tmp_path / "checkpoint-20", **{**fields, "lr_scheduler_type": "linear", "learning_rate": 1e-2})
    found = explained(tmp_path)
    assert found.verdict == "differs"
    assert "follow what the arguments of an earlier session planned (linear" in found.explanation
