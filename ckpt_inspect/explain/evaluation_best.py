"""The best checkpoint against what was kept: which one the trainer called best, which weights lie in the root, and where
the evaluation turned for the worse.

(transformers trainer.py:_determine_best_metric; with `load_best_model_at_end` train() loads the best checkpoint before it
returns, so a model saved afterwards is the best one, not the last.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ckpt_inspect.explain.evaluation_metrics import Context, better_of
from ckpt_inspect.explain.numbers import apart, percent, short
from ckpt_inspect.explain.version import newest_training_args, run_version
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.trainer_state import TrainerState
    from ckpt_inspect.run import Run

TURN = 0.01  # the loss has to rise by this share above its lowest value to count as a turn
SAME = 1e-12
_WEIGHTS = ("model_weights", "model_weights_index", "pytorch_weights", "pytorch_weights_index", "adapter_weights")


@dataclass(frozen=True, slots=True)
class BestAnswer:
    """The best checkpoint (keys: see the JSON contract); `agrees` is False where the log holds a better value."""

    metric: str | None
    value: float
    step: int | None
    checkpoint: str | None
    exists: bool
    agrees: bool | None


@dataclass(frozen=True, slots=True)
class RootWeights:
    """Which step the weights in the root are of: "best" or "last" checkpoint, "unknown" without arguments."""

    of: Literal["best", "last", "unknown"]
    step: int | None


@dataclass(frozen=True, slots=True)
class Turn:
    """Where eval_loss was lowest before it rose for good, while the training loss went on falling."""

    step: int
    lowest: float
    last: float


def best_of(run: Run) -> BestAnswer | None:
    """The best checkpoint by the trainer's record; None where it kept none."""
    newest = run.newest_trainer_state
    if newest is None or newest[0].best_metric is None:
        return None
    state, value = newest[0], newest[0].best_metric
    name = metric_name(run)
    recorded = (state.best_model_checkpoint or "").replace("\\", "/").rstrip("/").rpartition("/")[2] or None
    kept = next((item for item in run.checkpoints if recorded and item.name == recorded), None)
    step = state.best_global_step
    if step is None and recorded is not None:
        step = _step_in(recorded)
    agrees = None
    if name is not None:
        values = [value for _, value in series(state, name)]
        greater = greater_is_better(run, name)
        if values and greater is not None:
            top = max(values) if greater else min(values)
            agrees = not (top > value + SAME if greater else top < value - SAME)
    return BestAnswer(name, value, step, recorded, kept is not None, agrees)


def _step_in(name: str) -> int | None:
    """N of `checkpoint-N`."""
    digits = name.removeprefix("checkpoint-")
    return int(digits) if digits.isdigit() and len(digits) < 19 else None


def metric_name(run: Run) -> str | None:
    """The metric of metric_for_best_model with its prefix, else the logged metric that has the best value."""
    arguments = newest_training_args(run)
    name = arguments.text("metric_for_best_model") if arguments is not None else None
    if name:
        return name if name.startswith("eval_") else f"eval_{name}"
    newest = run.newest_trainer_state
    if newest is None or newest[0].best_metric is None:
        return None
    best = newest[0].best_metric
    for entry in newest[0].evals:
        for key, value in entry.values.items():
            if key.startswith("eval_") and isinstance(value, float) and value == best:
                return key
    return None


def greater_is_better(run: Run, name: str) -> bool | None:
    """Which way is better: by the arguments, without them by what the metric is; None for an unknown one.

    Unset, transformers takes False for names that end in "loss" and True otherwise (training_args.py:__post_init__).
    """
    arguments = newest_training_args(run)
    if arguments is not None and arguments.arguments:
        given = arguments.flag("greater_is_better")
        return given if given is not None else not name.endswith("loss")
    better = better_of(name, Context())
    return None if not better else better == "higher"


def series(state: TrainerState, name: str) -> list[tuple[int, float]]:
    """(step, value) of a metric at every evaluation that has it."""
    found: list[tuple[int, float]] = []
    for entry in state.evals:
        value = entry.number(name)
        if entry.step is not None and value is not None and math.isfinite(value):
            found.append((entry.step, float(value)))
    return found


def root_weights(run: Run) -> RootWeights | None:
    """Which weights lie in the root; None where there are none, or the path is a checkpoint itself."""
    newest = run.newest_trainer_state
    if newest is None or run.kind == "checkpoint" or not run.checkpoints or not run.has(*_WEIGHTS):
        return None
    state, arguments = newest[0], newest_training_args(run)
    if arguments is None:
        return RootWeights("unknown", None)
    best = best_of(run)
    if arguments.flag("load_best_model_at_end") is True and best is not None and best.checkpoint is not None:
        return (
            RootWeights("best", _step_in(best.checkpoint))
            if state.summary is not None
            else RootWeights("unknown", None)
        )
    return RootWeights("last", state.global_step)


def turn_of(state: TrainerState | None) -> Turn | None:
    """The point from which the run overfits, where the numbers show one."""
    if state is None:
        return None
    evals = series(state, "eval_loss")
    if len(evals) < 3:
        return None
    step, lowest = min(evals, key=lambda item: item[1])
    last = evals[-1][1]
    after = [value for at, value in evals if at > step]
    if len(after) < 2 or lowest <= 0 or last < lowest * (1 + TURN) or min(after[-2:]) < lowest * (1 + TURN / 2):
        return None
    losses = [(point.step, point.value) for point in state.losses if point.step is not None]
    before = [value for at, value in losses if at <= step]
    later = [value for at, value in losses if at > step]
    if not before or not later or not later[-1] < before[-1]:
        return None
    return Turn(step, lowest, last)


def best_sentences(run: Run, best: BestAnswer | None, weights: RootWeights | None) -> list[str]:
    """What was best, and which weights lie where."""
    found: list[str] = []
    if best is not None:
        where = printable(best.checkpoint, 80) if best.checkpoint else "no checkpoint"
        gone = "" if best.exists or best.checkpoint is None else ", which is not here"
        name = printable(best.metric or "metric_for_best_model", 80)
        kept = _step_in(best.checkpoint) if best.checkpoint is not None else None
        if kept is not None and best.step is not None and kept != best.step:
            found.append(
                f"Best {name}: {short(best.value)} at step {best.step}, of which no checkpoint was saved; the best one saved "
                f"is {where}{gone}."
            )
        else:
            found.append(f"Best {name}: {short(best.value)} ({where}{gone}).")
        if best.agrees is False:
            why = (
                "the log was edited or continued elsewhere"
                if run_version(run).has("best_tracked_at_every_evaluation")
                else "releases before 4.47 record the best value only when they save a checkpoint"
            )
            found.append(f"The log holds a better value than the recorded one: {why}.")
    if weights is not None and weights.of == "best":
        last = run.newest_trainer_state
        final = last[0].global_step if last is not None else None
        same = weights.step == final
        found.append(
            f"load_best_model_at_end is on: the weights in the root are those of step {weights.step}"
            + (", which is also the last." if same else f", the best, not those of the last step {final}.")
        )
    elif weights is not None and weights.of == "last":
        found.append(f"The weights in the root are those of the last step, {weights.step}.")
    return found


def turn_sentence(turn: Turn | None, last_steps: Sequence[int]) -> str:
    """The overfitting turn, and the checkpoint nearest to it."""
    if turn is None:
        return ""
    low, high = apart(turn.lowest, turn.last, 4)
    near = min(last_steps, key=lambda step: abs(step - turn.step), default=None)
    nearest = f" The nearest checkpoint is checkpoint-{near}." if near is not None else ""
    return (
        f"eval_loss was lowest at step {turn.step} ({low}) and rose by {percent(turn.last / turn.lowest - 1)} to {high} while "
        f"the training loss went on falling: the run overfits from there.{nearest}"
    )
