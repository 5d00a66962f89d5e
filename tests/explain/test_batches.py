"""Batches, processes and endings of whole directories."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.run_directories import (
    fields_of,
    summary,
    train_entries,
    write_arguments,
    write_log,
    write_results,
    write_state,
)

from ckpt_inspect.explain.batches import BatchesAnswer, explain_batches
from ckpt_inspect.report.show_facts import training_progress
from ckpt_inspect.run import open_run


def explained(path: Path) -> BatchesAnswer:
    found = explain_batches(open_run(path))
    assert found is not None
    return found


def write_run(path: Path, *, release: tuple[int, int, int] = (5, 4, 0), world: int | None = 1, **more: object) -> None:
    """25 micro-batches of 2 rows per epoch, 4 to an update: 7 updates per epoch from 4.52 on, 6 before."""
    state, fields = fields_of(release)
    entries = [
        {"step": step, "loss": 1.234567 if release >= (5, 0, 0) else 1.25 + step / 100, "epoch": epoch}
        for step, epoch in ((1, 4 / 25), (2, 8 / 25), (3, 12 / 25), (5, 20 / 25))
    ]
    write_state(path, entries, **{**state, "global_step": 5, "max_steps": 21, "epoch": 20 / 25, "train_batch_size": 2})
    values = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": 3.0,
        "max_steps": -1,
    }
    write_arguments(path, world=world, **{**fields, **values, **more})


def test_the_last_update_of_an_epoch_may_be_short(tmp_path: Path) -> None:
    write_run(tmp_path)
    found = explained(tmp_path)
    assert (found.global_batch, found.steps_per_epoch, found.batches_per_epoch, found.last_accumulation) == (
        8,
        7,
        (25, 25),
        1,
    )
    assert found.dataset_rows == (49, 50)
    assert "the last update with 1 instead of 4" in found.paragraph
    assert "ceil(3 epochs x 7) = 21; trainer_state.json has 21" in " ".join(found.arithmetic)


def test_before_4_52_the_rest_made_no_update(tmp_path: Path) -> None:
    write_run(tmp_path, release=(4, 50, 0))
    found = explained(tmp_path)
    assert found.steps_per_epoch == 6
    assert "the last one makes no full update of its own" in found.paragraph
    assert "3 epochs of 6 updates would be 18 steps, but max_steps is 21" in found.paragraph


@pytest.mark.parametrize("world", [2, 3, 8])
def test_processes_multiply_rows(tmp_path: Path, world: int) -> None:
    write_run(tmp_path, world=world)
    found = explained(tmp_path)
    assert (found.world_size, found.global_batch) == (world, 8 * world)
    assert found.dataset_rows == (24 * world * 2 + 1, 25 * world * 2)
    assert f"x {world} processes (processes by distributed_state.num_processes in training_args.bin)" in found.paragraph


def test_tensor_parallel_processes_share_their_rows(tmp_path: Path) -> None:
    write_run(tmp_path, world=8, parallelism_config={"tp_size": 4, "cp_size": 1})
    found = explained(tmp_path)
    assert (found.world_size, found.data_parallel, found.global_batch) == (8, 2, 16)


def test_split_batches_divide_the_batch_among_the_processes(tmp_path: Path) -> None:
    write_run(tmp_path, world=2, accelerator_config={"split_batches": True})
    found = explained(tmp_path)
    assert (found.global_batch, found.dataset_rows) == (8, (49, 50))


def test_dataparallel_multiplies_rows_within_a_process(tmp_path: Path) -> None:
    write_run(tmp_path, _n_gpu=2, per_device_train_batch_size=1)
    found = explained(tmp_path)
    assert (found.per_device, found.devices_per_process, found.global_batch) == (1, 2, 8)
    assert "2 GPUs per process" in found.paragraph


def test_a_batch_size_that_was_lowered_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, per_device_train_batch_size=16)
    found = explained(tmp_path)
    assert found.per_device == 2
    assert "ask for 16 rows per device" in found.paragraph


def test_a_resume_with_another_batch_size_uses_that_of_its_arguments(tmp_path: Path) -> None:
    write_run(tmp_path, release=(5, 23, 0), per_device_train_batch_size=4, auto_find_batch_size=False)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2", "transformers_version": "5.23.0"}')
    found = explained(tmp_path)
    assert (found.per_device, found.global_batch) == (4, 16)
    assert "trainer_state.json still says 2 rows per process" in found.paragraph


def test_a_release_that_restored_the_batch_size_is_believed_in_its_state(tmp_path: Path) -> None:
    write_run(tmp_path, release=(4, 57, 0), per_device_train_batch_size=4, auto_find_batch_size=False)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2", "transformers_version": "4.57.0"}')
    assert explained(tmp_path).per_device == 2


def test_generator_files_tell_the_processes_where_the_arguments_do_not(tmp_path: Path) -> None:
    write_run(tmp_path, world=None)
    for rank in range(4):
        (tmp_path / f"rng_state_{rank}.pth").write_bytes(b"")
    found = explained(tmp_path)
    assert found.world_size == 4
    assert "rng_state files" in found.paragraph


def test_generator_files_that_disagree_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, world=4)
    (tmp_path / "rng_state_0.pth").write_bytes(b"")
    (tmp_path / "rng_state_1.pth").write_bytes(b"")
    found = explained(tmp_path)
    assert found.world_size == 4
    assert "but there are 2 rng_state files" in found.paragraph


def test_old_arguments_tell_a_single_process(tmp_path: Path) -> None:
    write_run(tmp_path, world=None, local_rank=-1)
    assert explained(tmp_path).world_size == 1


def test_what_is_not_recorded_is_said_to_be_missing(tmp_path: Path) -> None:
    write_state(tmp_path, train_entries([(2, 1.0)], epoch=0.5), train_batch_size=2)
    found = explained(tmp_path)
    assert found.global_batch is None
    assert "does not tell the accumulation steps and the number of processes" in found.paragraph


def test_the_speeds_narrow_the_rows(tmp_path: Path) -> None:
    state, fields = fields_of((4, 56, 0))
    history = [{"step": 7, "loss": 1.25, "epoch": 1.0}, {"step": 21, "loss": 1.0, "epoch": 3.0}]
    speeds = {"train_runtime": 4.1187, "train_samples_per_second": 36.42, "train_steps_per_second": 5.099}
    history.append({**summary(21, 1.1), **speeds})
    write_state(tmp_path, history, **{**state, "max_steps": 21, "epoch": 3.0, "train_batch_size": 2})
    values = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": 3.0,
        "max_steps": -1,
    }
    write_arguments(tmp_path, **{**fields, **values})
    found = explained(tmp_path)
    assert (found.dataset_rows, found.batches_per_epoch) == ((50, 50), (25, 25))


def test_speeds_that_imply_another_batch_are_named(tmp_path: Path) -> None:
    state, fields = fields_of((5, 4, 0))
    speeds = {"train_runtime": 10.0, "train_samples_per_second": 64.0, "train_steps_per_second": 2.0}
    write_state(
        tmp_path,
        [{"step": 20, "loss": 1.2, "epoch": 0.5}, {**summary(20, 1.2), **speeds}],
        **{**state, "train_batch_size": 2, "max_steps": 20},
    )
    write_arguments(
        tmp_path, **{**fields, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 20}
    )
    found = explained(tmp_path)
    assert found.implied_global_batch == pytest.approx(32.0)
    assert "imply 32 rows per update, not 8" in found.paragraph


def test_generations_of_a_prompt_are_no_rows(tmp_path: Path) -> None:
    write_run(tmp_path, num_generations=4)
    found = explained(tmp_path)
    assert found.dataset_rows is None
    assert "several generations of one prompt" in found.paragraph


def test_a_data_set_without_length_has_no_epochs(tmp_path: Path) -> None:
    state, fields = fields_of((5, 4, 0))
    write_state(
        tmp_path, [{"step": 5, "loss": 1.0, "epoch": 0.1}], **{**state, "num_train_epochs": 2**63 - 1, "max_steps": 50}
    )
    write_arguments(
        tmp_path, **{**fields, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "max_steps": 50}
    )
    found = explained(tmp_path)
    assert (found.steps_per_epoch, found.dataset_rows) == (None, None)
    assert "had no length" in found.paragraph


# ------------------------------------------------------------------------------------------------- endings


@pytest.mark.parametrize(
    ("step", "more", "by"),
    [
        (21, {}, "last_step"),
        (22, {}, "past_the_end"),
        (9, {}, "cut_off"),
        (9, {"stateful_callbacks": {"TrainerControl": {"args": {"should_training_stop": True}}}}, "early_stop"),
    ],
)
def test_how_a_run_ended(tmp_path: Path, step: int, more: dict[str, object], by: str) -> None:
    write_state(tmp_path, train_entries([(2, 1.0)]), **{"global_step": step, "max_steps": 21, **more})
    ended = explained(tmp_path).ended
    assert ended is not None
    assert (ended.by, ended.step, ended.planned) == (by, step, 21)


def test_a_summary_before_the_last_step_is_an_early_stop(tmp_path: Path) -> None:
    write_state(
        tmp_path,
        [*train_entries([(8, 1.0)]), summary(8, 1.0)],
        max_steps=21,
        stateful_callbacks={"EarlyStoppingCallback": {"args": {}, "attributes": {}}},
    )
    found = explained(tmp_path)
    assert found.ended is not None
    assert (found.ended.by, found.ended.early_stopping) == ("early_stop", True)
    assert "early stopping ended it" in found.paragraph


def test_tokens_are_counted_per_update(tmp_path: Path) -> None:
    write_state(tmp_path, train_entries([(10, 1.0)]), num_input_tokens_seen=5000)
    tokens = explained(tmp_path).tokens
    assert tokens is not None
    assert (tokens.seen, tokens.per_update) == (5000, 500)


def test_speeds_of_a_resumed_run_of_an_old_release_are_too_high(tmp_path: Path) -> None:
    state, fields = fields_of((4, 56, 0))
    entries = train_entries([(step, 2.0) for step in range(1, 21)])
    speeds = {"train_runtime": 10.0, "train_steps_per_second": 2.0, "train_samples_per_second": 16.0}
    write_state(tmp_path, [*entries, {**summary(20, 2.0 * 5 / 20), **speeds}], **{**state, "max_steps": 20})
    write_arguments(tmp_path, **fields)
    tokens = explained(tmp_path).tokens
    assert tokens is not None
    assert tokens.steps_per_second_true == pytest.approx(0.5)
    assert "train_steps_per_second" in tokens.inflated


def test_the_throughput_of_a_resumed_log_is_too_high(tmp_path: Path) -> None:
    state, fields = fields_of((4, 56, 0))
    write_state(
        tmp_path, [*train_entries([(s, 2.0) for s in range(1, 21)]), summary(20, 0.5)], **{**state, "max_steps": 20}
    )
    write_arguments(tmp_path, **fields)
    write_log(tmp_path, [{"current_steps": 20, "total_steps": 20, "loss": 2.0, "throughput": 1234.5}])
    tokens = explained(tmp_path).tokens
    assert tokens is not None
    assert (tokens.per_second, "throughput" in tokens.inflated) == (1234.5, True)


def test_results_alone_are_no_batches(tmp_path: Path) -> None:
    write_results(tmp_path, "eval", eval_loss=1.0)
    assert explain_batches(open_run(tmp_path)) is None


def test_a_resume_with_another_batch_size_does_not_count_rows_by_the_epochs_before_it(tmp_path: Path) -> None:
    state, fields = fields_of((5, 23, 0))
    early = [{"step": step, "loss": 1.234567, "epoch": step / 23} for step in range(4, 28, 4)]
    late = [{"step": step, "loss": 1.234567, "epoch": step / 12} for step in range(32, 73, 4)]
    values = {"gradient_accumulation_steps": 1, "num_train_epochs": 6.0, "max_steps": -1, "auto_find_batch_size": False}
    common = {**state, "max_steps": 72, "train_batch_size": 2}
    write_state(tmp_path, [*early, *late], **{**common, "global_step": 72, "epoch": 6.0})
    write_arguments(tmp_path, **{**fields, **values, "per_device_train_batch_size": 4})
    write_state(tmp_path / "checkpoint-28", early, **{**common, "global_step": 28, "epoch": 28 / 23})
    write_arguments(tmp_path / "checkpoint-28", **{**fields, **values, "per_device_train_batch_size": 2})
    found = explained(tmp_path)
    assert (found.steps_per_epoch, found.batches_per_epoch) == (12, (12, 12))
    assert found.dataset_rows == (45, 48)


def test_epochs_that_ignore_data_skip_counts_from_0_again_do_not_lengthen_the_epoch(tmp_path: Path) -> None:
    state, fields = fields_of((5, 23, 0))
    entries = [
        {"step": step, "loss": 1.234567, "epoch": (step if step <= 20 else step - 20) / 23} for step in range(5, 41, 5)
    ]
    write_state(
        tmp_path, entries, **{**state, "global_step": 40, "max_steps": 40, "epoch": 20 / 23, "train_batch_size": 2}
    )
    values = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "max_steps": 40}
    write_arguments(tmp_path, **{**fields, **values, "ignore_data_skip": True})
    found = explained(tmp_path)
    assert (found.steps_per_epoch, found.dataset_rows) == (23, (45, 46))


def test_a_checkpoint_of_another_training_in_the_directory_tells_nothing_of_this_ones_epochs(tmp_path: Path) -> None:
    write_run(tmp_path)
    other = train_entries([(1, 9.25), (2, 9.5)], epoch=lambda step: step * 4 / 40)
    write_state(tmp_path / "checkpoint-2", other, global_step=2, max_steps=30, epoch=8 / 40)
    assert explained(tmp_path).batches_per_epoch == (25, 25)


def test_a_finished_run_that_was_resumed_and_did_not_end_is_not_called_finished(tmp_path: Path) -> None:
    entries = train_entries([(step, 3 - step / 100) for step in range(5, 51, 5)])
    write_state(tmp_path, [*entries[:4], summary(20, 2.9)], max_steps=20)
    write_state(tmp_path / "checkpoint-50", entries, max_steps=60)
    found = explained(tmp_path)
    assert found.ended is not None
    assert (found.ended.by, found.ended.step, found.ended.planned) == ("resumed", 50, 60)
    assert "it was resumed, and checkpoint-50 goes on to step 50 of 60" in found.paragraph
    progress = training_progress(open_run(tmp_path))
    assert progress is not None
    assert progress["finished"] is False
