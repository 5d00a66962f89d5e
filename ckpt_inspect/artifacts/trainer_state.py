"""``trainer_state.json``: what the Hugging Face Trainer wrote down of a run.

Format: transformers ``trainer_callback.py:TrainerState`` (``json.dumps`` with NaN and Infinity tokens), entries as
``Trainer.log`` makes them. Which key came with which release: ``knowledge/trainer_state_eras.toml``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ckpt_inspect.artifacts.fields import WRONG_TYPE, Fields, json_kind, read_object
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.knowledge import load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

EntryKind = Literal["train", "eval", "summary", "other"]
_T = TypeVar("_T")

_SPEED_SUFFIX = "_samples_per_second"
ITERABLE_DATASET_EPOCHS = sys.maxsize


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of `log_history`; `values` is the whole entry as written, `step` and `epoch` included.

    kind: "train" has `loss`; "summary" is what `train()` logs at its end (`train_loss`); "eval" is what `evaluate()`
    logs, under any prefix; "other" is anything else (a custom trainer's own numbers).
    """

    kind: EntryKind
    step: int | None
    epoch: float | None
    values: dict[str, Any]

    def number(self, key: str) -> float | None:
        """The number at `key` (NaN and infinities included); None when absent or not a number."""
        value = self.values.get(key)
        return value if type(value) in (float, int) else None

    @property
    def prefix(self) -> str | None:
        """What the keys of an evaluation begin with: "eval", "eval_<dataset>", "test", ...; None without speeds."""
        for key in self.values:
            if key.endswith(_SPEED_SUFFIX):
                return key[: -len(_SPEED_SUFFIX)]
        return None

    @property
    def dataset(self) -> str | None:
        """The name of the evaluated dataset where several are (``eval_<name>_loss``), else None."""
        prefix = self.prefix
        return prefix[len("eval_") :] if prefix and prefix.startswith("eval_") else None

    @property
    def masked(self) -> bool:
        """Whether its loss is what `logging_nan_inf_filter` makes of a window that was NaN throughout: exactly 0.0.

        (transformers trainer.py: a NaN or infinite micro-batch loss is replaced by the running mean, 0 at first.)
        """
        return self.kind == "train" and self.number("loss") == 0.0


@dataclass(frozen=True, slots=True)
class LossPoint:
    """A logged loss and the step it was logged at (None when the entry has no step)."""

    step: int | None
    value: float


@dataclass(frozen=True, slots=True)
class TrainerState:
    """The state; a field is None when the file lacks it, has null, or has a value of the wrong type (then a fault).

    Attributes:
        num_train_epochs: rounded up; `ITERABLE_DATASET_EPOCHS` where the dataset had no length.
        train_batch_size: rows per process and forward pass, times the GPUs of one process (not the world size).
        logging_steps, eval_steps, save_steps: resolved step counts; ignored by the "epoch" strategies.
        num_input_tokens_seen: tokens; the sum where the file holds a list.
        missing_keys: keys the newest known release writes and this file lacks.
        complete: False when the file is cut; everything before the cut is there.
    """

    global_step: int | None
    max_steps: int | None
    epoch: float | None
    num_train_epochs: int | None
    best_metric: float | None
    best_model_checkpoint: str | None
    best_global_step: int | None
    train_batch_size: int | None
    logging_steps: float | None
    eval_steps: float | None
    save_steps: float | None
    num_input_tokens_seen: int | None
    total_flos: float | None
    stateful_callbacks: dict[str, Any]
    log_history: tuple[LogEntry, ...]
    unknown_keys: tuple[str, ...]
    missing_keys: tuple[str, ...]
    complete: bool
    faults: tuple[Fault, ...]
    values: dict[str, Any] = field(repr=False, default_factory=dict)

    @property
    def train(self) -> tuple[LogEntry, ...]:
        """Entries with a training loss, in file order."""
        return tuple(entry for entry in self.log_history if entry.kind == "train")

    @property
    def evals(self) -> tuple[LogEntry, ...]:
        """Entries of evaluations, in file order."""
        return tuple(entry for entry in self.log_history if entry.kind == "eval")

    @property
    def summaries(self) -> tuple[LogEntry, ...]:
        """What each completed `train()` of this history logged at its end."""
        return tuple(entry for entry in self.log_history if entry.kind == "summary")

    @property
    def summary(self) -> LogEntry | None:
        """The last summary."""
        return next((entry for entry in reversed(self.log_history) if entry.kind == "summary"), None)

    @property
    def losses(self) -> tuple[LossPoint, ...]:
        """Every logged training loss in file order, NaN and masked ones included."""
        return tuple(_points(self.log_history))

    @property
    def first_loss(self) -> LossPoint | None:
        """The first logged training loss (may be NaN)."""
        return next(iter(_points(self.log_history)), None)

    @property
    def final_loss(self) -> LossPoint | None:
        """The last logged training loss (may be NaN)."""
        return next(iter(_points(reversed(self.log_history))), None)

    @property
    def minimum_loss(self) -> LossPoint | None:
        """The smallest finite training loss as logged, the first of equals."""
        finite = (point for point in _points(self.log_history) if math.isfinite(point.value))
        return min(finite, key=lambda point: point.value, default=None)

    @property
    def masked_losses(self) -> tuple[LogEntry, ...]:
        """Train entries whose loss is exactly 0.0: NaN hidden by `logging_nan_inf_filter`, or every label masked."""
        return tuple(entry for entry in self.log_history if entry.masked)

    @property
    def iterable_dataset(self) -> bool:
        """Whether the training dataset had no length, so that epochs mean nothing."""
        return self.num_train_epochs == ITERABLE_DATASET_EPOCHS

    @property
    def should_stop(self) -> bool | None:
        """`TrainerControl.should_training_stop` when the state was written: the last or an early-stopped checkpoint."""
        control = self.stateful_callbacks.get("TrainerControl")
        arguments = control.get("args") if isinstance(control, dict) else None
        value = arguments.get("should_training_stop") if isinstance(arguments, dict) else None
        return value if isinstance(value, bool) else None


def read_trainer_state(source: ByteSource) -> TrainerState:
    """Read a state. Never raises for content."""
    faults = FaultLog()
    values, complete = read_object(source, faults)
    fields = Fields(values, faults)
    known = load("trainer_state_eras")
    tokens = values.get("num_input_tokens_seen")
    return TrainerState(
        global_step=fields.integer("global_step"),
        max_steps=fields.integer("max_steps"),
        epoch=fields.number("epoch"),
        num_train_epochs=fields.integer("num_train_epochs"),
        best_metric=fields.number("best_metric"),
        best_model_checkpoint=fields.text("best_model_checkpoint"),
        best_global_step=fields.integer("best_global_step"),
        train_batch_size=fields.integer("train_batch_size"),
        logging_steps=fields.number("logging_steps"),
        eval_steps=fields.number("eval_steps"),
        save_steps=fields.number("save_steps"),
        num_input_tokens_seen=(
            sum(fields.integers("num_input_tokens_seen") or ())
            if isinstance(tokens, list)
            else fields.integer("num_input_tokens_seen")
        ),
        total_flos=fields.number("total_flos"),
        stateful_callbacks=fields.mapping("stateful_callbacks") or {},
        log_history=_entries(fields, faults),
        unknown_keys=tuple(key for key in values if key not in known),
        missing_keys=tuple(key for key in known if key not in values) if values else (),
        complete=complete,
        faults=faults.sealed(),
        values=values,
    )


def classify(entry: dict[str, Any]) -> EntryKind:
    """The kind of a log entry, by its keys (`train_runtime` alone also stands on train entries: 4.47 and later)."""
    if "loss" in entry:
        return "train"
    if "train_loss" in entry or "train_runtime" in entry:
        return "summary"
    if any(key.startswith("eval_") or key.endswith(_SPEED_SUFFIX) for key in entry):
        return "eval"
    return "other"


def _entries(fields: Fields, faults: FaultLog) -> tuple[LogEntry, ...]:
    raw = fields.sequence("log_history") or []
    entries: list[LogEntry] = []
    for index, item in enumerate(raw):
        if not isinstance(item, dict):
            faults.add("log-entry-not-object", f"is {json_kind(item)}", place=f"log_history[{index}]")
            continue
        step, epoch = item.get("step"), item.get("epoch")
        if type(step) is not int:
            step = _checked(step, index, "step", faults, _whole)
            if "step" not in item:
                faults.add("log-entry-without-step", "names no step", place=f"log_history[{index}]")
        if type(epoch) is not float:
            epoch = _checked(epoch, index, "epoch", faults, _number)
        entries.append(LogEntry(classify(item), step, epoch, item))
    return tuple(entries)


def _checked(
    value: object, index: int, key: str, faults: FaultLog, convert: Callable[[object], _T | None]
) -> _T | None:
    converted = convert(value)
    if converted is None and value is not None:
        faults.add(WRONG_TYPE, f"is {json_kind(value)}, not a number", place=f"log_history[{index}].{key}")
    return converted


def _whole(value: object) -> int | None:
    if type(value) is int:
        return value
    if type(value) is float and math.isfinite(value) and value.is_integer():
        return int(value)
    return None


def _number(value: object) -> float | None:
    return value if type(value) in (float, int) else None  # type: ignore[return-value]


def _points(entries: Iterable[LogEntry]) -> Iterable[LossPoint]:
    for entry in entries:
        if entry.kind == "train":
            value = entry.number("loss")
            if value is not None:
                yield LossPoint(entry.step, value)
