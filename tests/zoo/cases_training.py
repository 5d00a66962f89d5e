"""CKP2xx, 6xx, 7xx and 9xx: trainer states, losses, schedules, resuming, rotation, logs."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from pathlib import Path
from typing import Any

from builders.run_directories import summary, train_entries, write_arguments, write_log, write_scheduler, write_state
from builders.torch_files import save_zip, tensor

from zoo.edits import change_pickle
from zoo.frame import FIXTURES, case, edit_json, set_json

LOSSES = [(step, 3.0 - step / 20) for step in range(1, 9)]
MEAN = sum(value for _, value in LOSSES) / 8


def logged(run: Path, losses: list[tuple[int, float]] = LOSSES, mean: float | None = None, **fields: Any) -> None:
    """A run that is its trainer_state.json: every step logged, and their mean as `train_loss`."""
    average = sum(value for _, value in losses) / len(losses) if mean is None else mean
    write_state(run, [*train_entries(losses), summary(losses[-1][0], average)], **fields)


def state(run: Path, change: Any) -> None:
    edit_json(run / "trainer_state.json", change)


@case("CKP201", base="resumed")
def the_best_checkpoint_was_deleted(run: Path) -> None:
    set_json(run / "trainer_state.json", best_model_checkpoint="scratch/resumed/checkpoint-4", best_metric=5.1)


@case("CKP202", base="lora-resized")
def the_best_metric_was_edited(run: Path) -> None:
    set_json(run / "trainer_state.json", best_metric=9.9)


@case("CKP203", base="resumed")
def the_state_is_of_a_newer_release(run: Path) -> None:
    set_json(run / "checkpoint-16" / "trainer_state.json", field_of_tomorrow=1)


@case("CKP204", base=None)
def two_logs_were_put_together(run: Path) -> None:
    logged(run, [*LOSSES[:6], *LOSSES[2:]], mean=MEAN)


@case("CKP205", base=None)
def logging_steps_exceeded_the_run(run: Path) -> None:
    write_state(run, [summary(8, 2.5)], logging_steps=500)


def checkpoint(run: Path, step: int, **fields: Any) -> None:
    """A whole checkpoint of a run that logs every step."""
    place = run / f"checkpoint-{step}"
    known = {"train_batch_size": 2, "stateful_callbacks": {}, "num_input_tokens_seen": 0, "best_global_step": None}
    write_state(place, train_entries(LOSSES[:step]), **{**known, **fields})
    save_zip(place / "pytorch_model.bin", {"w": tensor("F32", (2, 2))})
    save_zip(place / "optimizer.pt", {"state": {}, "param_groups": []})
    write_scheduler(place, step, 1e-3)


@case("CKP206", base=None)
def the_job_was_killed_half_way(run: Path) -> None:
    checkpoint(run, 8, max_steps=30)
    write_arguments(run, max_steps=30)


@case("CKP207", base="resumed")
def checkpoints_of_two_runs_lie_together(run: Path) -> None:
    set_json(run / "checkpoint-16" / "trainer_state.json", total_flos=1.0)


@case("CKP208", base="resumed")
def the_learning_rate_was_changed_on_the_way(run: Path) -> None:
    change_pickle(run / "checkpoint-12" / "training_args.bin", struct.pack(">d", 1e-3), struct.pack(">d", 2e-3))


@case("CKP209", base="resumed")
def transformers_was_upgraded_on_the_way(run: Path) -> None:
    set_json(run / "checkpoint-12" / "config.json", transformers_version="5.22.2")


@case("CKP210", base="lora-resized")
def the_best_step_was_not_the_last(run: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        metric = next(
            entry["eval_loss"] for entry in value["log_history"] if entry["step"] == 6 and "eval_loss" in entry
        )
        value.update(best_global_step=6, best_metric=metric, best_model_checkpoint="scratch/lora-resized/checkpoint-6")

    state(run, change)


@case("CKP220", base=None)
def the_average_is_of_another_run(run: Path) -> None:
    logged(run, mean=9.0)


@case("CKP221", base=None)
def the_average_of_a_resumed_run_is_over_all_steps(run: Path) -> None:
    rest = sum(value for step, value in LOSSES if step > 4)
    logged(run, mean=rest / 8)
    for step in (4, 8):
        checkpoint(run, step, max_steps=8)
    (run / "config.json").write_text(json.dumps({"model_type": "llama", "transformers_version": "4.57.3"}))


@case("CKP222", base=None)
def a_finished_run_was_resumed(run: Path) -> None:
    logged(run, mean=0.0)


@case("CKP223", base=None, also=("CKP043",))
def the_loss_became_nan_behind_zeros(run: Path) -> None:
    entries = train_entries(LOSSES[:4], grad_norm=1.0) + train_entries(
        [(s, 0.0) for s in range(5, 9)], grad_norm=math.nan
    )
    write_state(run, [*entries, summary(8, sum(value for _, value in LOSSES[:4]) / 8)])


@case("CKP223", base=None, also=("CKP043",))
def the_loss_became_nan_openly(run: Path) -> None:
    write_state(run, train_entries([*LOSSES[:4], (5, math.nan), (6, math.nan)]))


@case("CKP224", base=None, also=("CKP043",))
def one_gradient_was_nan(run: Path) -> None:
    entries = train_entries(LOSSES, grad_norm=lambda step: math.nan if step == 5 else 1.0)
    write_state(run, [*entries, summary(8, MEAN)])


@case("CKP225", base=None)
def the_loss_was_logged_times_four(run: Path) -> None:
    entries = train_entries([(step, 16.6 - step / 50) for step in range(1, 9)])
    evals = [{"step": 4, "eval_loss": 4.14}, {"step": 8, "eval_loss": 4.12}]
    mean = sum(entry["loss"] for entry in entries) / 8
    ordered = sorted([*entries, *evals], key=lambda entry: entry["step"])
    write_state(run, [*ordered, summary(8, mean)])
    write_arguments(run, gradient_accumulation_steps=4, per_device_train_batch_size=2, max_steps=8)
    (run / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "vocab_size": 64, "transformers_version": "4.46.0"})
    )


@case("CKP226", base=None)
def epochs_end_with_a_spike(run: Path) -> None:
    losses = [(step, 4.0 * (1.6 if step % 5 == 0 else 1.0) - step / 200) for step in range(1, 21)]
    entries = train_entries(losses, epoch=lambda step: step / 5)
    mean = sum(value for _, value in losses) / 20
    write_state(run, [*entries, summary(20, mean, epoch=4.0)], epoch=4.0, num_train_epochs=4)
    write_arguments(
        run, gradient_accumulation_steps=4, per_device_train_batch_size=2, num_train_epochs=4.0, max_steps=-1
    )
    (run / "config.json").write_text(
        json.dumps({"model_type": "llama", "vocab_size": 32000, "transformers_version": "4.47.1"})
    )


@case("CKP227", base=None)
def the_evaluation_loss_turned(run: Path) -> None:
    evals = [{"step": step, "eval_loss": loss} for step, loss in ((2, 2.8), (4, 2.5), (8, 3.4))]
    entries = sorted([*train_entries(LOSSES), *evals], key=lambda entry: entry["step"])
    write_state(run, [*entries, summary(8, MEAN)])


@case("CKP228", base=None)
def nothing_was_trainable(run: Path) -> None:
    logged(run, [(step, 4.1589) for step in range(1, 9)])


@case("CKP229", base="resumed")
def all_results_is_of_an_older_run(run: Path) -> None:
    set_json(run / "all_results.json", train_loss=2.41)


@case("CKP240", base="resumed")
def a_rate_was_not_the_schedules(run: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["log_history"][-2]["learning_rate"] = 9e-4

    state(run, change)


@case("CKP241", base="resumed", also=("CKP603",))
def the_scheduler_is_of_an_earlier_step(run: Path) -> None:
    shutil.copy(run / "checkpoint-12" / "scheduler.pt", run / "checkpoint-16" / "scheduler.pt")
    shutil.copy(run / "checkpoint-12" / "optimizer.pt", run / "checkpoint-16" / "optimizer.pt")
    (run / "checkpoint-12" / "optimizer.pt").unlink()
    (run / "checkpoint-12" / "scheduler.pt").unlink()


@case("CKP242", base="resumed", also=("CKP243",))
def the_optimizer_is_of_an_earlier_step(run: Path) -> None:
    shutil.copy(run / "checkpoint-12" / "optimizer.pt", run / "checkpoint-16" / "optimizer.pt")


@case("CKP243", base="resumed", also=("CKP242",))
def the_optimizer_made_fewer_updates(run: Path) -> None:
    shutil.copy(run / "checkpoint-12" / "optimizer.pt", run / "checkpoint-16" / "optimizer.pt")


@case("CKP244", base=None)
def the_warmup_is_longer_than_the_run(run: Path) -> None:
    entries = train_entries(LOSSES, learning_rate=lambda step: 1e-3 * step / 20)  # an entry shows the next rate
    write_state(run, [*entries, summary(8, MEAN)])
    write_arguments(run, max_steps=8, warmup_steps=20, learning_rate=1e-3, lr_scheduler_type="linear")


@case("CKP245", base=None)
def both_warmups_are_set(run: Path) -> None:
    logged(run)
    write_arguments(run, max_steps=8, warmup_steps=2, warmup_ratio=0.1, learning_rate=1e-3)


@case("CKP260", base=None)
def the_batch_size_was_halved(run: Path) -> None:
    logged(run, train_batch_size=4)
    write_arguments(run, max_steps=8, per_device_train_batch_size=8, auto_find_batch_size=True)


@case("CKP261", base="zero2")
def the_random_state_of_a_rank_is_missing(run: Path) -> None:
    (run / "checkpoint-4" / "rng_state_1.pth").unlink()


@case("CKP262", base="llamafactory", also=("CKP243",))
def the_optimizer_is_of_another_adapter(run: Path) -> None:
    shutil.copy(FIXTURES / "lora-indices" / "checkpoint-12" / "optimizer.pt", run / "checkpoint-16" / "optimizer.pt")


@case("CKP601", base="resumed", also=("CKP014",))
def the_newest_optimizer_is_cut_off(run: Path) -> None:
    path = run / "checkpoint-16" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:40_000])


@case("CKP602", base="resumed")
def only_the_scheduler_was_kept(run: Path) -> None:
    (run / "checkpoint-12" / "optimizer.pt").unlink()


@case("CKP603", base="resumed")
def optimizer_and_scheduler_were_deleted(run: Path) -> None:
    for name in ("optimizer.pt", "scheduler.pt"):
        (run / "checkpoint-12" / name).unlink()


@case("CKP604", base="zero3")
def the_weights_were_not_gathered(run: Path) -> None:
    (run / "checkpoint-4" / "model.safetensors").unlink()


@case("CKP605", base="resumed")
def the_state_is_of_an_old_release(run: Path) -> None:
    edit_json(run / "checkpoint-16" / "trainer_state.json", lambda value: value.pop("stateful_callbacks") and None)


@case("CKP701", base="resumed")
def a_copy_was_kept_under_a_name_that_rotation_counts(run: Path) -> None:
    shutil.copytree(run / "checkpoint-12", run / "checkpoint-12-merged")


@case("CKP702", base="resumed")
def a_copy_changed_the_order_of_times(run: Path) -> None:
    os.utime(run / "checkpoint-12", (1_500_000_100, 1_500_000_100))
    os.utime(run / "checkpoint-16", (1_500_000_000, 1_500_000_000))


@case("CKP703", base="resumed")
def the_last_step_was_not_saved(run: Path) -> None:
    shutil.rmtree(run / "checkpoint-16")


@case("CKP704", base="resumed")
def a_download_was_interrupted(run: Path) -> None:
    (run / "model.safetensors.incomplete").write_bytes(b"x" * 100)


@case("CKP901", base="resumed")
def the_log_holds_an_entry_without_a_step(run: Path) -> None:
    state(run, lambda value: value["log_history"].insert(1, "a note"))


@case("CKP902", base="resumed")
def a_results_text_holds_a_stray_line(run: Path) -> None:
    (run / "train_results.txt").write_text("epoch = 1.0\nsomething else\n")


@case("CKP903", base="llamafactory")
def the_progress_log_goes_back(run: Path) -> None:
    path = run / "trainer_log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:4], *lines]))


@case("CKP904", base="llamafactory")
def the_progress_log_is_of_another_run(run: Path) -> None:
    path = run / "trainer_log.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if "loss" in row:
            row["loss"] += 1.0
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@case("CKP905", base="llamafactory")
def every_similarity_is_zero(run: Path) -> None:
    values = {"predict_bleu-4": 0.0, "predict_rouge-1": 0.0, "predict_rouge-l": 0.0, "predict_runtime": 1.0}
    (run / "predict_results.json").write_text(json.dumps(values))


@case("CKP906", base="llamafactory")
def predictions_are_empty(run: Path) -> None:
    rows = [{"prompt": "q", "predict": "" if index % 2 else "an answer", "label": "another"} for index in range(20)]
    (run / "generated_predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@case("CKP907", base="llamafactory")
def a_reward_model_lost_its_head(run: Path) -> None:
    write_arguments(run, cls="llamafactory.hparams.training_args.TrainingArguments", stage="rm", max_steps=16)


@case("CKP908", base="llamafactory")
def the_pissa_run_did_not_finish(run: Path) -> None:
    shutil.copytree(run / "checkpoint-8", run / "pissa_init")
    for path in (run / "pissa_init").iterdir():
        if not path.name.startswith("adapter"):
            path.unlink()


@case("CKP909", base="resumed")
def a_key_is_left_of_an_earlier_prediction(run: Path) -> None:
    set_json(run / "all_results.json", predict_loss=1.0)


@case("CKP946", base="llamafactory")
def the_plot_is_cut_off(run: Path) -> None:
    path = run / "training_loss.png"
    path.write_bytes(path.read_bytes()[:2000])


def progress_rows(steps: range) -> list[dict[str, Any]]:
    return [{"current_steps": step, "total_steps": 8, "loss": 3.0 - step / 20} for step in steps]


@case("CKP903", base=None)
def a_progress_log_alone_was_appended_to(run: Path) -> None:
    write_log(run, [*progress_rows(range(1, 6)), *progress_rows(range(4, 9))])
