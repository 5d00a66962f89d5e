"""The numbers of a training curve: what was logged, at which step, epoch, token count and time, resumes merged.

Sources: `log_history` of ``trainer_state.json`` (transformers), else ``trainer_log.jsonl`` (LLaMA-Factory's LogCallback).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ckpt_inspect.errors import UsageError
from ckpt_inspect.explain.divergence import masked_steps
from ckpt_inspect.explain.loss import explain_loss
from ckpt_inspect.explain.numbers import is_number
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from ckpt_inspect.run import Run

AXES = ("step", "epoch", "tokens", "time")
DEFAULT_METRICS = ("loss", "eval_loss")
SCHEDULES = frozenset({"learning_rate"})
_NOT_METRICS = frozenset({"step", "epoch", "current_steps", "total_steps", "percentage"})
_TOKEN_KEYS = ("num_input_tokens_seen", "num_tokens", "total_tokens")
_NUMBERS = (float, int)  # and no bool; a log may have a million values
_LOG_NAMES = {"lr": "learning_rate"}


@dataclass(frozen=True, slots=True)
class Logged:
    """One log line: its step and, where recorded, epoch, tokens seen and seconds since the start."""

    step: int
    epoch: float | None
    tokens: float | None
    seconds: float | None
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: a value per position on the x axis, NaN where NaN was logged. Equal lengths, in order."""

    metric: str
    steps: tuple[int, ...]
    x: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def is_evaluation(self) -> bool:
        """Whether it was measured now and then rather than logged all along."""
        return self.metric.startswith(("eval_", "test_", "predict_"))

    @property
    def is_schedule(self) -> bool:
        """Whether it is a setting, exact at every point, rather than a measurement."""
        return self.metric in SCHEDULES

    @property
    def finite(self) -> tuple[tuple[float, float], ...]:
        """The points that can be drawn."""
        return tuple((x, value) for x, value in zip(self.x, self.values, strict=True) if math.isfinite(value))

    @property
    def final(self) -> tuple[int, float] | None:
        """The last point, NaN or not."""
        return (self.steps[-1], self.values[-1]) if self.steps else None


@dataclass(frozen=True, slots=True)
class Curve:
    """The curves of one run.

    `joins` are the steps a session went on from, `replayed` how many log lines a later session overwrote, `checkpoints`
    the steps saved, `best` the step of the best checkpoint, `average` the `train_loss` of the summary and `average_of`
    what it is the average of where that is not the whole run; `notes` say in words what a reader of the picture should know.
    """

    name: str
    path: str
    source: str
    axis: str
    series: tuple[Series, ...]
    joins: tuple[int, ...]
    replayed: int
    checkpoints: tuple[int, ...]
    best: int | None
    average: float | None
    average_of: str
    notes: tuple[str, ...]

    def get(self, metric: str) -> Series | None:
        """The series of a metric."""
        return next((series for series in self.series if series.metric == metric), None)


def series(path: str | os.PathLike[str], *, metrics: Sequence[str] = (), x: str = "step") -> Curve:
    """The numbers of the run at `path`.

    Args:
        path: a run or checkpoint, or the log itself.
        metrics: names as logged, wildcards allowed; by default the loss and the evaluation loss.
        x: "step", "epoch", "tokens" or "time" (seconds).

    Raises:
        UsageError: no such metric or axis; the message names what there is.
        UnreadableError: the path cannot be read.
    """
    from ckpt_inspect.run import open_run

    return curve_of(open_run(path), metrics=metrics, x=x)


def curve_of(run: Run, *, metrics: Sequence[str] = (), x: str = "step") -> Curve:
    """The numbers of an opened run; see :func:`series`."""
    if x not in AXES:
        raise UsageError(f"{printable(x)!r} is not an axis", remedy=f"one of {', '.join(AXES)}")
    lines, source = _lines(run)
    merged, joins, replayed = merge(lines)
    resumed, average_of, wrong_average = _resumed(run)
    joins = tuple(sorted({*joins, *resumed}))
    available = available_metrics(merged)
    chosen = choose(metrics, available)
    notes = _notes(run, merged, source, joins, replayed)
    if merged and x != "step" and all(_position(line, x) is None for line in merged):
        raise UsageError(f"this run did not record {x}", where=str(run.tree.root), remedy="use --x step")
    best, average = _best_and_average(run)
    drawn = tuple(built for metric in chosen if (built := _series(merged, metric, x)).steps)
    return Curve(
        name=run.tree.root.resolve().name,
        path=str(run.tree.root),
        source=source,
        axis=x,
        series=drawn,
        joins=joins,
        replayed=replayed,
        checkpoints=tuple(sorted({item.step for item in run.checkpoints if item.step is not None})),
        best=best,
        average=average,
        average_of=average_of,
        notes=(*notes, *wrong_average, *_series_notes(drawn, metrics)),
    )


def merge(lines: Iterable[Logged]) -> tuple[tuple[Logged, ...], tuple[int, ...], int]:
    """Order log lines by step; where a later session replays steps, its values replace the earlier ones.

    Returns:
        The lines, the steps at which a session began again, and how many lines were replaced.
    """
    kept: list[Logged] = []
    joins: list[int] = []
    replayed = 0
    highest = -1
    for line in lines:
        if line.step < highest:
            before = len(kept)
            while kept and kept[-1].step >= line.step:
                kept.pop()
            replayed += before - len(kept)
            joins.append(kept[-1].step if kept else 0)
        kept.append(line)
        highest = line.step
    return tuple(kept), tuple(joins), replayed


def available_metrics(lines: Iterable[Logged]) -> tuple[str, ...]:
    """Every numeric key, losses first."""
    found: dict[str, None] = {}
    for line in lines:
        found.update(dict.fromkeys(line.values))
    names = [name for name in found if name not in _NOT_METRICS]
    return tuple(sorted(names, key=lambda name: (DEFAULT_METRICS.index(name) if name in DEFAULT_METRICS else 9, name)))


def choose(wanted: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """The metrics a selection stands for.

    Raises:
        UsageError: one of them matches nothing.
    """
    if not wanted:
        losses = [name for name in available if name in DEFAULT_METRICS]
        if "eval_loss" not in losses:  # a dict of evaluation sets logs eval_<name>_loss
            losses += [name for name in available if name.startswith("eval_") and name.endswith("_loss")]
        return tuple(losses)
    chosen: dict[str, None] = {}
    for pattern in wanted:
        matches = [name for name in available if name == pattern] or [
            name for name in available if fnmatchcase(name, pattern)
        ]
        if not matches:
            near = get_close_matches(pattern, available, 3, 0.4)
            names = ", ".join(printable(name, 40) for name in (near or available[:12]))
            raise UsageError(
                f"nothing called {printable(pattern)!r} was logged", remedy=f"there is {names}" if names else None
            )
        chosen.update(dict.fromkeys(matches))
    return tuple(chosen)


def seconds_of(text: object) -> float | None:
    """Seconds of a ``str(timedelta)`` such as "1:02:03" or "1 day, 2:03:04" (LLaMA-Factory's elapsed_time)."""
    if not isinstance(text, str):
        return None
    days, _, clock = text.rpartition(", ")
    parts = clock.split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
        whole_days = int(days.split()[0]) if days else 0
    except (ValueError, IndexError):
        return None
    return ((whole_days * 24 + hours) * 60 + minutes) * 60 + seconds


def _resumed(run: Run) -> tuple[tuple[int, ...], str, tuple[str, ...]]:
    """The step the last session went on from, what the average is then of, and a note where that made it wrong.

    A run without checkpoints cannot have been resumed, so that a long log alone is not worked through for this.
    """
    answer = explain_loss(run) if run.checkpoints else None
    average = answer.average if answer is not None else None
    if average is None or average.resumed_at is None:
        return (), "average", ()
    if average.verdict != "resumed_sum_over_all_steps" or average.session_mean is None:
        return (average.resumed_at,), f"average since step {average.resumed_at}", ()
    right = f"the mean since the resume is {average.session_mean:.4g}"
    of = f"sum since step {average.resumed_at} over all steps"
    return (average.resumed_at,), of, (f"train_loss {average.reported:.4g} was divided by all steps; {right}",)


def _lines(run: Run) -> tuple[tuple[Logged, ...], str]:
    state, where = run.newest_trainer_state or (None, "")
    masked = masked_steps(run)
    if state is not None and any(entry.kind in ("train", "eval") for entry in state.log_history):
        return tuple(
            line
            for entry in state.log_history
            if entry.kind != "summary"
            and (line := _logged(entry.step, entry.values, masked=entry.kind == "train" and entry.step in masked))
        ), where
    log = run.trainer_log
    if log is not None:
        return tuple(line for row in log.rows if (line := _logged(row.current_steps, row.values))), "trainer_log.jsonl"
    return (), where or "no log"


def _logged(step: int | None, values: Mapping[str, Any], *, masked: bool = False) -> Logged | None:
    if step is None:
        return None
    numbers = {
        _LOG_NAMES.get(key, key): float(value)
        for key, value in values.items()
        if key not in _NOT_METRICS and type(value) in _NUMBERS
    }
    if masked:  # transformers logs 0.0 where every loss was NaN (logging_nan_inf_filter)
        numbers["loss"] = math.nan
    epoch = values.get("epoch")
    tokens = next((values[key] for key in _TOKEN_KEYS if is_number(values.get(key))), None)
    return Logged(
        step=step,
        epoch=float(epoch) if isinstance(epoch, int | float) and not isinstance(epoch, bool) else None,
        tokens=float(tokens) if isinstance(tokens, int | float) else None,
        seconds=seconds_of(values.get("elapsed_time")),
        values=numbers,
    )


def _position(line: Logged, axis: str) -> float | None:
    return {"step": float(line.step), "epoch": line.epoch, "tokens": line.tokens, "time": line.seconds}[axis]


def _series(lines: Sequence[Logged], metric: str, axis: str) -> Series:
    found: dict[int, tuple[float, float]] = {}
    carried: float | None = None
    for line in lines:
        position = _position(line, axis)
        carried = position if position is not None else carried  # evaluation lines carry no token count of their own
        if metric in line.values and carried is not None:
            found[line.step] = (carried, line.values[metric])
    return Series(
        metric,
        tuple(found),
        tuple(position for position, _ in found.values()),
        tuple(value for _, value in found.values()),
    )


def _best_and_average(run: Run) -> tuple[int | None, float | None]:
    state, _ = run.newest_trainer_state or (None, "")
    if state is None:
        return None, None
    best = state.best_global_step
    if best is None and state.best_model_checkpoint:
        digits = state.best_model_checkpoint.rstrip("/\\").rpartition("-")[2]
        best = int(digits) if digits.isdigit() and len(digits) < 19 else None
    summary = state.summary
    return best, summary.number("train_loss") if summary is not None else None


def _notes(run: Run, lines: Sequence[Logged], source: str, joins: Sequence[int], replayed: int) -> tuple[str, ...]:
    notes = [] if lines else [f"nothing was logged ({printable(source)})"]
    if masked := masked_steps(run):
        notes.append(
            f"loss: {len(masked)} values from step {min(masked)} were logged as 0.0 but were NaN; shown as gaps"
        )
    if joins:
        steps = ", ".join(str(step) for step in joins)
        notes.append(
            f"resumed after step {steps}" + (f"; {replayed} replayed log lines shown once" if replayed else "")
        )
    return tuple(notes)


def _series_notes(drawn: Sequence[Series], metrics: Sequence[str]) -> tuple[str, ...]:
    notes: list[str] = []
    for item in drawn:
        name = printable(item.metric, 60)
        finite = [value for _, value in item.finite]
        if not finite:
            notes.append(f"{name}: all {len(item.values)} values are NaN or infinite")
        elif len(finite) < len(item.values):
            notes.append(f"{name}: {len(item.values) - len(finite)} of {len(item.values)} values are NaN or infinite")
        if len(finite) > 1 and min(finite) == max(finite):
            notes.append(f"{name}: constant at {finite[0]:.6g}")
        if len(item.values) == 1:
            notes.append(f"{name}: one point only")
    if drawn and not metrics and all(item.is_evaluation for item in drawn):
        notes.append("no training loss was logged (logging_steps above max_steps?)")
    return tuple(notes)
