"""What an evaluation metric is, by its name and by who computed it (``knowledge/metrics.toml``)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from ckpt_inspect.knowledge import load

MetricKind = Literal["loss", "accuracy", "similarity", "preference", "other"]
EvaluationKind = Literal["loss", "accuracy", "similarity", "preference", "other", "none"]

_BOOKKEEPING = re.compile(
    r"(^|_)(runtime|samples_per_second|steps_per_second|tokens_per_second|samples|model_preparation_time|jit_compilation_time"
    r"|mem_.*_delta|num_tokens)$|^(epoch|step|total_flos|num_input_tokens_seen|init_mem.*|before_init_mem.*)$"
)
_SPLITS = ("eval_", "predict_", "test_")
_STRONGEST: tuple[MetricKind, ...] = ("similarity", "preference", "accuracy", "other", "loss")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its value as written, and what it is. `better` is "lower", "higher" or "" for neither."""

    name: str
    value: float
    kind: MetricKind
    better: str
    scale: str | None
    generated: bool | None
    meaning: str
    source: str


@dataclass(frozen=True, slots=True)
class Context:
    """Who evaluated what: decides between metrics of one name.

    `producer` is "llamafactory", "trl" or ""; `stage` LLaMA-Factory's stage where it matters ("rm"); `task` "lm",
    "preference" or "" when unknown; `datasets` names of evaluated data sets, which stand between split and metric.
    """

    producer: str = ""
    stage: str = ""
    task: str = ""
    datasets: tuple[str, ...] = ()


def is_metric(name: str) -> bool:
    """Whether a key of an evaluation is a measurement, not its own bookkeeping (speeds, memory, epoch)."""
    return _BOOKKEEPING.search(name) is None and name.startswith((*_SPLITS, "perplexity"))


def describe(name: str, value: float, context: Context) -> Metric:
    """The metric `name` (as written, with its split: "eval_rouge-1")."""
    bare = bare_name(name, context.datasets)
    for row, pattern in _rows():
        fits = all(
            row.get(key, getattr(context, key)) == getattr(context, key) for key in ("producer", "stage", "task")
        )
        if fits and pattern.fullmatch(bare):
            scale, generated = _scale(row, value), row.get("generated")
            return Metric(name, value, row["kind"], row["better"], scale, generated, row["meaning"], row["source"])
    return Metric(name, value, "other", "", None, None, "a number of the script's own compute_metrics", "")


def better_of(name: str, context: Context) -> str:
    """ "lower", "higher" or "" for a metric name."""
    return describe(name, 0.0, context).better


def bare_name(name: str, datasets: Iterable[str] = ()) -> str:
    """The metric without its split and data set, in lower case: "eval_wiki_loss" of data set "wiki" is "loss"."""
    for split in _SPLITS:
        if name.startswith(split):
            name = name[len(split) :]
            break
    for dataset in datasets:
        if name.startswith(f"{dataset}_"):
            name = name[len(dataset) + 1 :]
            break
    return name.lower()


@cache
def _rows() -> tuple[tuple[Mapping[str, Any], re.Pattern[str]], ...]:
    return tuple((row, re.compile(row["pattern"])) for row in load("metrics")["metric"])


def _scale(row: Mapping[str, Any], value: float) -> str | None:
    if "scale" in row:
        return str(row["scale"])
    if row["kind"] in ("accuracy", "similarity") and row["better"] == "higher" and math.isfinite(value):
        return "0 to 100" if value > 1 else None  # a value up to 1 may be on either scale
    return None


def kind_of(metrics: Iterable[Metric]) -> EvaluationKind:
    """The kind of a whole evaluation: the most telling metric in it; a counter or entropy beside a loss is not."""
    found = {metric.kind for metric in metrics if metric.kind != "other" or metric.better}
    every = {metric.kind for metric in metrics}
    for kind in _STRONGEST:
        if kind in found:
            return kind
    return "other" if every else "none"
