"""The topic `evaluation`: what was measured and how, what was best and what was kept, what carries loss.

Metrics by name: ``evaluation_metrics``; best checkpoint and overfitting: ``evaluation_best``; labels:
``evaluation_labels``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckpt_inspect.explain.answer import Evidence
from ckpt_inspect.explain.evaluation_best import (
    BestAnswer,
    RootWeights,
    Turn,
    best_of,
    best_sentences,
    root_weights,
    series,
    turn_of,
    turn_sentence,
)
from ckpt_inspect.explain.evaluation_labels import (
    difference_sentence,
    label_sentence,
    producer_of,
    stage_of,
    task_of,
)
from ckpt_inspect.explain.evaluation_metrics import Context, EvaluationKind, Metric, describe, is_metric, kind_of
from ckpt_inspect.explain.evaluation_predictions import PredictionNumbers, prediction_numbers, prediction_sentence
from ckpt_inspect.explain.numbers import counted, is_number, listed, short
from ckpt_inspect.explain.version import newest_training_args, run_version
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.training_args import TrainingArgs
    from ckpt_inspect.run import Run

MOST_TOLD = 4
SAMPLED = (
    "LLaMA-Factory samples the answers by default (temperature 0.95, top_p 0.7), so the scores change from run to run."
)


@dataclass(frozen=True, slots=True)
class EvaluationAnswer:
    """The answer (keys: see the JSON contract).

    `metrics` holds the last value of every metric; `described` what each is; `generated` whether text was generated for
    them (None: unknown, or nothing was evaluated). `evaluations` counts those during training.
    """

    kind: EvaluationKind
    generated: bool | None
    metrics: Mapping[str, float]
    explanation: str
    described: tuple[Metric, ...]
    best: BestAnswer | None
    root_weights: RootWeights | None
    turn: Turn | None
    labels: str
    evaluations: int
    predictions: PredictionNumbers | None
    paragraph: str
    arithmetic: tuple[str, ...]
    evidence: tuple[Evidence, ...]


def explain_evaluation(run: Run) -> EvaluationAnswer | None:
    """Explain what was evaluated; None where nothing in the directory speaks of training or evaluation."""
    newest = run.newest_trainer_state
    state = newest[0] if newest is not None else None
    arguments = newest_training_args(run)
    if state is None and arguments is None and not run.results and not run.has("generated_predictions"):
        return None
    found = _metrics(run)
    stage = stage_of(run)
    context = _context(run, arguments, stage)
    described = tuple(describe(name, value, context) for name, value in found.items())
    kind = kind_of(described)
    predictions = prediction_numbers(run)
    generated = _generated(arguments, described, predictions)
    best, weights, turn = best_of(run), root_weights(run), turn_of(state)
    labels = label_sentence(arguments, _page(run), stage) if arguments is not None or _page(run) is not None else ""
    count = len(state.evals) if state is not None else 0
    sentences = [
        *_metric_sentences(described, count),
        _generation_sentence(generated, described, context.task),
        NOT_GENERATED if _asked_in_vain(arguments, described) else "",
        *_perplexity(found),
        SAMPLED if context.producer == "llamafactory" and kind == "similarity" else "",
    ]
    explanation = " ".join(sentence for sentence in sentences if sentence)
    steps = [item.step for item in run.checkpoints if item.step is not None]
    both = "eval_loss" in found and state is not None and bool(state.train) and context.task != "preference"
    rest = [
        *best_sentences(run, best, weights),
        turn_sentence(turn, steps),
        prediction_sentence(predictions),
        labels,
        difference_sentence(arguments, run_version(run), task=context.task) if both else "",
    ]
    return EvaluationAnswer(
        kind=kind,
        generated=generated,
        metrics=found,
        explanation=explanation,
        described=described,
        best=best,
        root_weights=weights,
        turn=turn,
        labels=labels,
        evaluations=count,
        predictions=predictions,
        paragraph=" ".join(part for part in (explanation, *rest) if part),
        arithmetic=_arithmetic(run, described),
        evidence=_evidence(run, arguments, found),
    )


def _metrics(run: Run) -> dict[str, float]:
    """The last value of every metric: results files, which are written after training, before log entries."""
    found: dict[str, float] = {}
    newest = run.newest_trainer_state
    for entry in newest[0].evals if newest is not None else ():
        _take(found, entry.values)
    for split in ("all", "eval", "predict", "test"):
        if split in run.results:
            _take(found, run.results[split].values)
    log = run.trainer_log
    if not found and log is not None:
        for row in log.rows:
            _take(found, row.values)
    return found


def _take(found: dict[str, float], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if is_number(value) and is_metric(name):
            found[name] = float(value)


def _context(run: Run, arguments: TrainingArgs | None, stage: str) -> Context:
    newest = run.newest_trainer_state
    datasets = {entry.dataset for entry in newest[0].evals if entry.dataset} if newest is not None else set()
    producer = _producer(run, arguments)
    return Context(producer, stage, task_of(run, producer, stage), tuple(sorted(datasets)))


def _producer(run: Run, arguments: TrainingArgs | None) -> str:
    by_arguments = producer_of(arguments)
    if by_arguments:
        return by_arguments
    return "llamafactory" if run.trainer_log is not None or _page(run) is not None else ""


def _page(run: Run) -> Mapping[str, Any] | None:
    """The arguments LLaMA-Factory's web page started the run with."""
    key = "llamafactory page"
    if key not in run.memo:
        run.memo[key] = _read_page(run)
    page: Mapping[str, Any] | None = run.memo[key]
    return page


def _read_page(run: Run) -> Mapping[str, Any] | None:
    artifact = run.find("training_args_yaml")
    if artifact is None:
        return None
    from ckpt_inspect.artifacts.yaml_mapping import read_yaml_mapping
    from ckpt_inspect.errors import CkptInspectError

    try:
        with run.tree.open(artifact.path) as source:
            return read_yaml_mapping(source)[0]
    except CkptInspectError:
        return None


def _generated(
    arguments: TrainingArgs | None, described: tuple[Metric, ...], predictions: PredictionNumbers | None
) -> bool | None:
    """Whether text was generated for the metrics: by the argument, else by what cannot be measured without."""
    if not described and predictions is None:
        return None
    written = predictions is not None and predictions.kind == "generated"
    if written or any(metric.kind == "similarity" for metric in described):
        return True
    if _asked_in_vain(arguments, described):
        return False
    asked = arguments.flag("predict_with_generate") if arguments is not None else None
    if asked is not None:
        return asked
    known = [metric.generated for metric in described if metric.generated is not None]
    if known and all(value is False for value in known):
        return False
    return True if any(known) else None


NOT_GENERATED = (
    "predict_with_generate is on, but the loss is the only metric: without compute_metrics the trainer computes nothing "
    "else."
)


def _asked_in_vain(arguments: TrainingArgs | None, described: tuple[Metric, ...]) -> bool:
    """Whether predict_with_generate had no effect: without compute_metrics `evaluate` asks for the loss alone, and then no
    text is generated (transformers trainer.py:evaluate, trainer_seq2seq.py:prediction_step)."""
    if arguments is None or arguments.flag("predict_with_generate") is not True:
        return False
    return bool(described) and all(item.kind == "loss" and item.name.startswith("eval_") for item in described)


def _metric_sentences(described: tuple[Metric, ...], evaluations: int) -> list[str]:
    if not described:
        return ["Nothing was evaluated."] if not evaluations else []
    told: list[str] = []
    for metric in _most_telling(described):
        scale = f", on a scale of {metric.scale}" if metric.scale else ""
        told.append(f"{printable(metric.name, 80)} {short(metric.value)}{scale}: {metric.meaning}.")
    left = len(described) - len(told)
    if left > 0:
        told.append(f"{counted(left, 'further metric')} {'is' if left == 1 else 'are'} listed below.")
    if evaluations:
        told.append(f"{counted(evaluations, 'evaluation')} during training.")
    return told


def _most_telling(described: tuple[Metric, ...]) -> list[Metric]:
    """One of each meaning, the kind of the whole evaluation first; counters and statistics last."""
    order = {"similarity": 0, "preference": 1, "accuracy": 2, "loss": 3, "other": 4}
    chosen: dict[str, Metric] = {}
    for metric in sorted(described, key=lambda item: (not item.better, order[item.kind])):
        chosen.setdefault(metric.meaning, metric)
    return list(chosen.values())[:MOST_TOLD]


def _generation_sentence(generated: bool | None, described: tuple[Metric, ...], task: str) -> str:
    if generated is True:
        text = "Text was generated for the evaluation (predict_with_generate or the like)"
        if not any(metric.name.endswith("_loss") for metric in described):
            return f"{text}; then there is no evaluation loss."
        return f"{text}."
    if generated is False and task == "lm" and any(metric.kind in ("accuracy", "loss") for metric in described):
        return "No text was generated: the model saw the correct answer up to each position."
    return ""


def _perplexity(found: Mapping[str, float]) -> list[str]:
    value, loss = found.get("perplexity", found.get("eval_perplexity")), found.get("eval_loss")
    if value is None or loss is None or not math.isfinite(loss) or loss > 700:
        return []
    expected = math.exp(loss)
    if math.isclose(value, expected, rel_tol=1e-3):
        return [f"perplexity {short(value)} is exp(eval_loss) and says nothing more."]
    return [
        f"perplexity {short(value)} is not exp(eval_loss) = {short(expected)}: the two are of different evaluations."
    ]


def _arithmetic(run: Run, described: tuple[Metric, ...]) -> tuple[str, ...]:
    lines = [
        f"{printable(metric.name, 80)} = {short(metric.value, 6)}"
        + (f" ({metric.kind}, {metric.better} is better)" if metric.better else f" ({metric.kind})")
        for metric in described
    ]
    newest = run.newest_trainer_state
    points = series(newest[0], "eval_loss") if newest is not None else []
    if points:
        shown = points if len(points) <= 12 else [*points[:6], *points[-6:]]
        lines.append("eval_loss by step: " + listed([f"{step}: {short(value)}" for step, value in shown], "and"))
    return tuple(lines)


def _evidence(run: Run, arguments: TrainingArgs | None, found: Mapping[str, float]) -> tuple[Evidence, ...]:
    evidence = [
        Evidence(f"{split}_results.json", "keys", sorted(results.values)) for split, results in run.results.items()
    ]
    if arguments is not None:
        for name in (
            "predict_with_generate",
            "load_best_model_at_end",
            "metric_for_best_model",
            "greater_is_better",
            "eval_strategy",
            "evaluation_strategy",
        ):
            if name in arguments.arguments:
                evidence.append(Evidence("training_args.bin", name, arguments.arguments[name]))
    newest = run.newest_trainer_state
    if newest is not None and newest[0].best_metric is not None:
        evidence.append(Evidence(newest[1], "best_metric", newest[0].best_metric))
        evidence.append(Evidence(newest[1], "best_model_checkpoint", newest[0].best_model_checkpoint))
    del found
    return tuple(evidence)
