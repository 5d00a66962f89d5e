"""``trainer_log.jsonl``, LLaMA-Factory's progress log, and ``logging.jsonl``, that of ms-swift.

Format: LLaMA-Factory ``train/callbacks.py:LogCallback`` (v0.7.1 .. v0.9.5: `learning_rate` until it became `lr`); ms-swift
``swift/trainers/callback.py:ProgressCallbackNew`` (`"global_step/max_steps": "10/93"`). Both append when a run resumes,
and with several processes on one disk every process may append its own line for a step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ckpt_inspect.artifacts.fields import WRONG_TYPE, json_kind
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.json_document import read_json_lines

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

RowKind = Literal["train", "eval", "predict", "summary", "progress"]

_DURATION = re.compile(r"(?:(-?\d+) days?, )?(\d+):(\d\d):(\d\d)(?:\.\d+)?")
_SWIFT_DURATION = re.compile(r"(?:(\d+)d )?(?:(\d+)h )?(?:(\d+)m )?(\d+)s")
_SWIFT_STEP = "global_step/max_steps"
_SWIFT_STEP_VALUE = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class LogRow:
    """One line; `line` counts from 1, `values` is the whole object as written."""

    line: int
    current_steps: int | None
    total_steps: int | None
    values: dict[str, Any]

    def number(self, key: str) -> float | None:
        """The number at `key`; None when absent or not a number."""
        value = self.values.get(key)
        return value if type(value) in (float, int) else None

    @property
    def learning_rate(self) -> float | None:
        """`lr`, or `learning_rate` as older releases and ms-swift call it."""
        rate = self.number("lr")
        return rate if rate is not None else self.number("learning_rate")

    @property
    def elapsed_seconds(self) -> int | None:
        """`elapsed_time` in seconds, counted from the start of the process that wrote the line."""
        return seconds(self.values.get("elapsed_time"))

    @property
    def kind(self) -> RowKind:
        """By its metrics; "progress" has none (steps of a prediction, and the line that closes a training)."""
        values = self.values
        if "loss" in values:
            return "train"
        if any(key.startswith("eval_") for key in values):
            return "eval"
        if any(key.startswith("predict_") for key in values):
            return "predict"
        return "summary" if "train_loss" in values or "train_runtime" in values else "progress"


@dataclass(frozen=True, slots=True)
class TrainerLog:
    """All rows in file order; `sessions` are index ranges into `rows`, one per process start (a resume goes back)."""

    rows: tuple[LogRow, ...]
    sessions: tuple[range, ...]
    complete: bool
    faults: tuple[Fault, ...]

    @property
    def train(self) -> tuple[LogRow, ...]:
        """Rows with a training loss."""
        return tuple(row for row in self.rows if row.kind == "train")

    @property
    def latest(self) -> tuple[LogRow, ...]:
        """Rows with a training loss, the last written for each step, by step: the log without what resuming redid."""
        by_step = {row.current_steps: row for row in self.rows if row.kind == "train"}
        return tuple(sorted(by_step.values(), key=lambda row: (row.current_steps is None, row.current_steps or 0)))


def read_trainer_log(source: ByteSource) -> TrainerLog:
    """Read a progress log of either format. Never raises for content; a broken line is a fault and no row."""
    lines = read_json_lines(source)
    faults = FaultLog()
    faults.extend(lines.faults)
    rows: list[LogRow] = []
    for number, value in lines.rows:
        if isinstance(value, dict):
            rows.append(_row(number, value, faults))
        else:
            faults.add("log-entry-not-object", f"is {json_kind(value)}", place=f"line {number}")
    return TrainerLog(tuple(rows), _sessions(rows), lines.complete, faults.sealed())


def seconds(text: object) -> int | None:
    """A duration as ``str(timedelta)`` writes it ("1 day, 2:03:04") or as ms-swift does ("1h 2m 3s"), in seconds."""
    if not isinstance(text, str):
        return None
    for pattern, scale in ((_DURATION, (86400, 3600, 60, 1)), (_SWIFT_DURATION, (86400, 3600, 60, 1))):
        match = pattern.fullmatch(text)
        if match:
            return sum(int(part or 0) * unit for part, unit in zip(match.groups(), scale, strict=True))
    return None


def _row(number: int, values: dict[str, Any], faults: FaultLog) -> LogRow:
    current, total = values.get("current_steps"), values.get("total_steps")
    swift = values.get(_SWIFT_STEP)
    if isinstance(swift, str) and (match := _SWIFT_STEP_VALUE.fullmatch(swift)):
        current, total = int(match[1]), int(match[2])
    elif current is None:
        current = values.get("global_step")  # older ms-swift, and its closing lines
    checked: list[int | None] = []
    for key, value in (("current_steps", current), ("total_steps", total)):
        if value is not None and type(value) is not int:
            faults.add(WRONG_TYPE, f"is {json_kind(value)}, not a whole number", place=f"line {number}: {key}")
        checked.append(value if type(value) is int else None)
    return LogRow(number, checked[0], checked[1], values)


def _sessions(rows: list[LogRow]) -> tuple[range, ...]:
    """Split where the step goes back. Step 0 with evaluation numbers closes an evaluation and starts nothing."""
    sessions: list[range] = []
    start, highest = 0, -1
    for index, row in enumerate(rows):
        step = row.current_steps
        if step is None or (step == 0 and row.kind != "train"):
            continue
        if step < highest:
            sessions.append(range(start, index))
            start = index
        highest = step
    if rows:
        sessions.append(range(start, len(rows)))
    return tuple(sessions)
