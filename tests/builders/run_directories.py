"""Small output directories as trainers leave them: trainer_state.json, results, arguments, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from builders.pickles import Called, Instance, Name
from builders.torch_files import save_zip
from ckpt_inspect.explain.version import NEWEST, OLDEST, parse_release, state_fields
from ckpt_inspect.knowledge import load


def train_entries(points: Iterable[tuple[int, float]], **more: Any) -> list[dict[str, Any]]:
    """Log entries with a loss; values of `more` that are callables are called with the step."""
    return [
        {"step": step, "loss": loss, **{key: value(step) if callable(value) else value for key, value in more.items()}}
        for step, loss in points
    ]


def summary(step: int, train_loss: float, **more: Any) -> dict[str, Any]:
    """What train() logs at its end."""
    return {"step": step, "train_loss": train_loss, "train_runtime": 100.0, **more}


def write_state(directory: Path, history: list[dict[str, Any]], **fields: Any) -> None:
    """trainer_state.json; `global_step` is the last step of the history unless given."""
    directory.mkdir(parents=True, exist_ok=True)
    last = max((entry["step"] for entry in history if type(entry.get("step")) is int), default=0)
    state = {
        "global_step": last,
        "max_steps": last,
        "epoch": 1.0,
        "num_train_epochs": 1,
        "log_history": history,
        **fields,
    }
    (directory / "trainer_state.json").write_text(json.dumps(state))


def write_results(directory: Path, split: str, **values: Any) -> None:
    """{split}_results.json."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{split}_results.json").write_text(json.dumps(values))


def write_arguments(directory: Path, *, world: int | None = 1, cls: str = "", **values: Any) -> None:
    """training_args.bin with `values`; enums may be given as strings."""
    directory.mkdir(parents=True, exist_ok=True)
    module, _, name = (cls or "transformers.training_args.TrainingArguments").rpartition(".")
    state: dict[str, Any] = dict(values)
    if world is not None:
        kind = Called(Name("accelerate.utils.dataclasses", "DistributedType"), ("NO" if world == 1 else "MULTI_GPU",))
        process = {"num_processes": world, "process_index": 0, "distributed_type": kind}
        state["distributed_state"] = Instance(Name("accelerate.state", "PartialState"), process)
    save_zip(directory / "training_args.bin", Instance(Name(module, name), state))


def write_log(directory: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """trainer_log.jsonl."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "trainer_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_scheduler(directory: Path, count: int, rate: float, base: float = 1e-3) -> None:
    """scheduler.pt of a LambdaLR."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {"base_lrs": [base], "last_epoch": count, "_step_count": count + 1, "_last_lr": [rate], "lr_lambdas": [{}]}
    save_zip(directory / "scheduler.pt", values)


def fields_of(release: tuple[int, int, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of trainer_state.json and training_args.bin, all empty, as that transformers release would have them."""
    table = load("transformers_eras")

    def chosen(rows: list[dict[str, str]]) -> dict[str, Any]:
        return {
            row["name"]: None
            for row in rows
            if (parse_release(row.get("since")) or OLDEST) <= release < (parse_release(row.get("gone")) or NEWEST)
        }

    always = {"output_dir": "out", "save_steps": 500, "max_grad_norm": 1.0, "learning_rate": 5e-5}
    return {**chosen(state_fields()), "stateful_callbacks": {}}, {**always, **chosen(table["argument_field"])}
