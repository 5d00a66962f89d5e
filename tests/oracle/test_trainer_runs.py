"""Runs of the real Trainer, explained: what is said of each has to be what was done."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ckpt_inspect.explain.batches import explain_batches
from ckpt_inspect.explain.evaluation import explain_evaluation
from ckpt_inspect.explain.loss import explain_loss
from ckpt_inspect.explain.schedule import explain_schedule
from ckpt_inspect.run import Run, open_run

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.judge, pytest.mark.slow]


class Tiny(torch.nn.Module):
    """A linear regression: a Trainer run of it takes a fraction of a second."""

    def __init__(self, nan_from: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 1)
        self.calls, self.nan_from = 0, nan_from

    def forward(self, x: Any, labels: Any) -> dict[str, Any]:
        loss = ((self.linear(x).squeeze(-1) - labels) ** 2).mean()
        if self.training:
            self.calls += 1
            if self.nan_from is not None and self.calls >= self.nan_from:
                loss = loss * float("nan")
        return {"loss": loss, "logits": labels}


def rows(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"x": torch.randn(4, generator=generator), "labels": torch.randn((), generator=generator)} for _ in range(count)
    ]


def train(
    directory: Path,
    *,
    count: int = 22,
    callbacks: Any = (),
    resume: bool = False,
    nan_from: int | None = None,
    **options: Any,
) -> list[float]:
    """Train; the true loss of every step, as the model saw it."""
    options = {"per_device_train_batch_size": 2, "report_to": [], "use_cpu": True, "learning_rate": 1e-2, **options}
    arguments = transformers.TrainingArguments(output_dir=str(directory), logging_nan_inf_filter=True, **options)
    data = rows(count)
    trainer = transformers.Trainer(
        model=Tiny(nan_from), args=arguments, train_dataset=data, eval_dataset=data[:6], callbacks=list(callbacks)
    )
    losses: list[float] = []
    step = trainer.training_step

    def recorded(*args: Any, **kwargs: Any) -> Any:
        value = step(*args, **kwargs)
        losses.append(float(value))
        return value

    trainer.training_step = recorded
    result = trainer.train(resume_from_checkpoint=resume or None)
    trainer.save_model()
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    return losses


def opened(directory: Path) -> Run:
    return open_run(directory)


def loss_of(directory: Path) -> Any:
    found = explain_loss(opened(directory))
    assert found is not None
    assert found.average is not None
    return found


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"max_steps": 12, "logging_steps": 1}, "average_of_all_steps"),
        ({"max_steps": 12, "logging_steps": 4, "logging_first_step": True}, "average_of_all_steps"),
        ({"max_steps": 11, "logging_steps": 4}, "average_with_unlogged_tail"),
        ({"num_train_epochs": 3, "logging_strategy": "epoch"}, "average_of_all_steps"),
        ({"num_train_epochs": 2, "logging_steps": 0.25, "gradient_accumulation_steps": 4}, "average_of_all_steps"),
        ({"max_steps": 5, "logging_steps": 100}, "not_logged"),
        ({"max_steps": 5, "logging_strategy": "no"}, "not_logged"),
    ],
)
def test_the_average_of_a_whole_run(tmp_path: Path, options: dict[str, Any], verdict: str) -> None:
    losses = train(tmp_path, save_strategy="no", **options)
    found = loss_of(tmp_path)
    assert found.average.verdict == verdict
    if verdict != "not_logged":
        updates = (opened(tmp_path).trainer_state or pytest.fail("no state")).global_step
        assert found.average.recomputed == pytest.approx(sum(losses) / updates, rel=1e-5)
        assert found.average.resumed_at is None


@pytest.mark.parametrize(("logging_steps", "stop", "end"), [(1, 4, 8), (3, 10, 20), (5, 6, 12), (4, 8, 13)])
def test_the_average_of_a_resumed_run(tmp_path: Path, logging_steps: int, stop: int, end: int) -> None:
    options = {"logging_steps": logging_steps, "save_steps": 2}
    train(tmp_path, max_steps=stop, **options)
    losses = train(tmp_path, max_steps=end, resume=True, **options)
    assert len(losses) == end - stop
    found = loss_of(tmp_path)
    assert found.average.resumed_at == stop
    assert found.average.session_mean == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    rate = explain_schedule(opened(tmp_path))
    assert rate is not None
    if rate.verdict == "differs":
        assert f"horizon of {stop} steps instead of {end}" in rate.explanation


def test_a_resume_that_has_nothing_left_to_do(tmp_path: Path) -> None:
    train(tmp_path, num_train_epochs=2, logging_steps=2, save_steps=11)
    assert train(tmp_path, num_train_epochs=1, logging_steps=2, save_steps=11, resume=True) == []
    assert loss_of(tmp_path).average.verdict == "no_step_trained"


def test_a_resume_past_the_end_within_an_epoch_trains_one_step(tmp_path: Path) -> None:
    train(tmp_path, max_steps=6, logging_steps=2, save_steps=3)
    losses = train(tmp_path, max_steps=4, logging_steps=2, save_steps=3, resume=True)
    assert len(losses) == 1
    run, found = opened(tmp_path), loss_of(tmp_path)
    assert (found.average.resumed_at, found.average.session_mean) == (6, pytest.approx(losses[0], rel=1e-5))
    batches = explain_batches(run)
    assert batches is not None
    assert batches.ended is not None
    assert batches.ended.by == "past_the_end"


def test_masked_nan_is_named(tmp_path: Path) -> None:
    train(tmp_path, max_steps=12, logging_steps=2, nan_from=7, save_strategy="no")
    found = loss_of(tmp_path)
    assert [item.name for item in found.distortions] == ["masked_nan"]
    assert found.distortions[0].steps == (8, 10, 12)
    assert found.average.verdict == "average_of_all_steps"


SCHEDULES = [
    {"lr_scheduler_type": "linear"},
    {"lr_scheduler_type": "linear", "warmup_steps": 3},
    {"lr_scheduler_type": "cosine", "warmup_steps": 0.2},
    {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 1.5}},
    {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 3}},
    {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0}},
    {"lr_scheduler_type": "constant"},
    {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 4},
    {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 2},
    {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-3}},
    {"lr_scheduler_type": "cosine_warmup_with_min_lr", "warmup_steps": 3, "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
    {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 2, "lr_scheduler_kwargs": {"num_decay_steps": 4}},
]


@pytest.mark.parametrize("options", SCHEDULES, ids=lambda options: "-".join(map(str, options.values())))
def test_the_learning_rate_of_every_schedule(tmp_path: Path, options: dict[str, Any]) -> None:
    train(tmp_path, num_train_epochs=2, logging_steps=1, save_steps=5, **options)
    found = explain_schedule(opened(tmp_path))
    assert found is not None
    assert (found.verdict, found.scheduler) == ("matches", options["lr_scheduler_type"])
    assert found.max_relative_error is not None
    assert found.max_relative_error <= 1e-9


@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_follows_a_metric_is_not_judged(tmp_path: Path, kind: str) -> None:
    train(
        tmp_path, max_steps=6, logging_steps=1, lr_scheduler_type=kind, eval_strategy="steps", eval_steps=2, save_strategy="no",
        metric_for_best_model="eval_loss",
    )  # fmt: skip
    found = explain_schedule(opened(tmp_path))
    assert found is not None
    assert (found.verdict, found.scheduler) == ("unknown", kind)
    assert "follows a metric" in found.explanation


def test_an_optimizer_that_was_not_restored_shows_in_the_learning_rate(tmp_path: Path) -> None:
    options = {"logging_steps": 1, "save_steps": 5, "lr_scheduler_type": "linear", "warmup_steps": 2}

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_training_stop = state.global_step >= 10
            return control

    train(tmp_path, max_steps=20, callbacks=[Stop()], **options)
    (tmp_path / "checkpoint-10" / "optimizer.pt").unlink()
    train(tmp_path, max_steps=20, resume=True, **options)
    found = explain_schedule(opened(tmp_path))
    assert found is not None
    assert (found.verdict, found.first_departure) == ("differs", 11)
    assert "started anew at step 10" in found.explanation


@pytest.mark.parametrize("count", [21, 22, 23, 40])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_and_rows(tmp_path: Path, count: int, accumulation: int, drop_last: bool) -> None:
    train(
        tmp_path, count=count, num_train_epochs=2, gradient_accumulation_steps=accumulation, logging_steps=1,
        dataloader_drop_last=drop_last, save_strategy="no",
    )  # fmt: skip
    found = explain_batches(opened(tmp_path))
    assert found is not None
    batches = count // 2 if drop_last else math.ceil(count / 2)
    assert found.batches_per_epoch == (batches, batches)
    assert found.steps_per_epoch == math.ceil(batches / accumulation)
    assert found.last_accumulation == batches % accumulation
    assert found.dataset_rows is not None
    assert found.dataset_rows[0] <= count <= found.dataset_rows[1]
    assert (found.global_batch, found.world_size) == (2 * accumulation, 1)
    assert found.ended is not None
    assert found.ended.by == "last_step"


def test_an_early_stop_is_no_accident(tmp_path: Path) -> None:
    stop = transformers.EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=1e9)
    train(
        tmp_path, max_steps=40, logging_steps=1, eval_strategy="steps", eval_steps=2, save_steps=2, callbacks=[stop],
        load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=False,
    )  # fmt: skip
    run = opened(tmp_path)
    batches, evaluation = explain_batches(run), explain_evaluation(run)
    assert batches is not None
    assert batches.ended is not None
    assert (batches.ended.by, batches.ended.early_stopping) == ("early_stop", True)
    assert evaluation is not None
    assert evaluation.root_weights is not None
    assert evaluation.root_weights.of == "best"
    assert evaluation.best is not None
    assert (evaluation.best.exists, evaluation.best.agrees) == (True, True)
    assert loss_of(tmp_path).average.verdict == "average_of_all_steps"
