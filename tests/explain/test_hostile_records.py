"""Whatever stands in the records, every topic answers or has nothing to say; nothing escapes into a terminal."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from builders.pickles import Called, Name
from builders.run_directories import fields_of, summary, write_arguments, write_log, write_scheduler, write_state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckpt_inspect.explain.answer import plain
from ckpt_inspect.explain.batches import explain_batches
from ckpt_inspect.explain.evaluation import explain_evaluation
from ckpt_inspect.explain.loss import explain_loss
from ckpt_inspect.explain.schedule import explain_schedule
from ckpt_inspect.knowledge import load
from ckpt_inspect.run import open_run

TOPICS = (explain_loss, explain_schedule, explain_batches, explain_evaluation)
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 10**30, -(10**30), 2**63, 1e308, -1e308, 1e-320, 0.5),
    *(float("nan"), float("inf"), float("-inf")),
    *("", "x", "auto", "10", "NaN", "\x1b[31m\u202e", "checkpoint-99999999999999999999"),
    *([], {}, [1], {"a": 1}, [[]], {"class": {"class": {}}}),
]
PICKLED = [*ODD, Name("os", "system"), Called(Name("os", "system"), ("true",)), b"abc", (1, 2)]
ARGUMENTS = (
    *("lr_scheduler_type", "learning_rate", "warmup_steps", "warmup_ratio", "lr_scheduler_kwargs", "max_steps"),
    *("num_train_epochs", "per_device_train_batch_size", "per_gpu_train_batch_size", "gradient_accumulation_steps"),
    *("fp16", "_n_gpu", "parallelism_config", "accelerator_config", "dataloader_drop_last", "deepspeed", "local_rank"),
    *("hf_deepspeed_config", "metric_for_best_model", "greater_is_better", "load_best_model_at_end", "num_generations"),
    *("predict_with_generate", "resume_from_checkpoint", "logging_nan_inf_filter", "average_tokens_across_devices"),
)
STATE = (
    *(
        "global_step",
        "max_steps",
        "epoch",
        "num_train_epochs",
        "train_batch_size",
        "num_input_tokens_seen",
        "save_steps",
    ),
    *("best_metric", "best_model_checkpoint", "best_global_step", "stateful_callbacks"),
)
ENTRY = (
    "step",
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "eval_loss",
    "train_loss",
    "train_runtime",
    "train_steps_per_second",
)
ROW = ("current_steps", "total_steps", "loss", "lr", "epoch", "elapsed_time", "throughput")
SCHEDULERS = sorted(load("schedulers"))
DEEPSPEED = {name for row in load("schedulers").values() if row["family"] == "deepspeed" for name in row["options"]}


def changed(values: dict[str, Any], names: tuple[str, ...], odd: list[Any], draw: st.DrawFn) -> dict[str, Any]:
    return {**values, **draw(st.dictionaries(st.sampled_from(names), st.sampled_from(odd), max_size=3))}


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    state, arguments = fields_of(draw(st.sampled_from([(4, 36, 0), (4, 46, 0), (5, 4, 0), (5, 23, 0)])))
    arguments |= {
        "lr_scheduler_type": draw(st.sampled_from(SCHEDULERS)),
        "lr_scheduler_kwargs": draw(st.sampled_from([None, {"min_lr": 1e-5}, {"num_decay_steps": 3}, {"power": 2.5}])),
        "warmup_steps": 3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2.0,
        "max_steps": -1,
    }
    if draw(st.booleans()):
        params = draw(st.dictionaries(st.sampled_from(sorted(DEEPSPEED)), st.sampled_from(ODD), max_size=5))
        arguments["deepspeed"] = {"scheduler": {"type": draw(st.sampled_from(SCHEDULERS)), "params": params}}
    history = [
        changed(
            {"step": step, "loss": 2.0 + step / 100, "learning_rate": 1e-4 * step, "epoch": step / 10}, ENTRY, ODD, draw
        )
        for step in range(1, 9)
    ]
    history += [{"step": 4, "eval_loss": 2.0, "eval_runtime": 1.0}, changed(summary(8, 2.1), ENTRY, ODD, draw)]
    rows = [
        changed({"current_steps": step, "total_steps": 8, "loss": 1.0, "lr": 0.1}, ROW, ODD, draw) for step in (4, 8)
    ]
    return {
        "state": changed({**state, "max_steps": 8, "train_batch_size": 2}, STATE, ODD, draw),
        "history": draw(st.permutations(history)) if draw(st.booleans()) else history,
        "arguments": changed(arguments, ARGUMENTS, PICKLED, draw),
        "rows": rows if draw(st.booleans()) else [],
        "checkpoint": draw(st.booleans()),
    }


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])
@given(records())
def test_every_topic_survives_odd_records(values: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place)
        write_state(path, values["history"], **values["state"])
        write_arguments(path, world=2, **values["arguments"])
        if values["rows"]:
            write_log(path, values["rows"])
        if values["checkpoint"]:
            write_state(path / "checkpoint-4", values["history"][:4], **{**values["state"], "global_step": 4})
            write_scheduler(path / "checkpoint-4", 4, 1e-4)
        run = open_run(path)
        for explain in TOPICS:
            answer: Any = explain(run)
            if answer is not None:
                json.dumps(plain(answer), allow_nan=False)
                shown = "".join((answer.paragraph, *answer.arithmetic))
                assert not {"\x1b", "\u202e"} & set(shown)
        assert not [fault for _, fault in run.read_faults if fault.kind == "reader-failed"]
