"""``{all,train,eval,predict,test}_results.json``: the metrics a training script saved at its end.

Format: transformers ``trainer_pt_utils.py:save_metrics`` (a flat JSON object, keys prefixed by the split;
``all_results.json`` merges every call, so keys of earlier runs in the directory survive). The example scripts of
transformers 2 and 3 wrote the same as ``*_results*.txt`` with lines ``key = value``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ckpt_inspect.artifacts.fields import json_kind, read_object
from ckpt_inspect.formats.fault_log import FaultLog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

Split = Literal["all", "train", "eval", "predict", "test", "other"]
Scalar = float | int | str | None

_NAME = re.compile(r"(?:.*_)?(all|train|eval|predict|test)_results\b")
_MAX_TEXT = 1 << 20


@dataclass(frozen=True, slots=True)
class Results:
    """Metrics by name as saved; `nested` holds the values that are lists or objects (a custom script's)."""

    split: Split
    values: dict[str, Scalar]
    nested: dict[str, Any]
    complete: bool
    faults: tuple[Fault, ...]

    def number(self, key: str) -> float | None:
        """The number at `key`; None when absent or not a number."""
        value = self.values.get(key)
        return value if type(value) in (float, int) else None  # type: ignore[return-value]

    def of_split(self, split: str) -> dict[str, Scalar]:
        """The metrics of one split, in ``all_results.json`` too: those whose keys begin with ``<split>_``."""
        return {key: value for key, value in self.values.items() if key.startswith(f"{split}_")}


def split_of(name: str) -> Split:
    """The split a file name says; "other" for a name that says none."""
    match = _NAME.match(name.rpartition("/")[2].replace("_results_", "_results "))
    return match[1] if match else "other"  # type: ignore[return-value]


def read_results(source: ByteSource, split: Split | None = None) -> Results:
    """Read one results file, JSON or, by its name, text. Never raises for content.

    Args:
        split: what the file name says, where `source.name` is not that name.
    """
    split = split or split_of(source.name)
    faults = FaultLog()
    if source.name.endswith(".txt"):
        return Results(split, _text_values(source, faults), {}, True, faults.sealed())
    values, complete = read_object(source, faults)
    nested = {key: value for key, value in values.items() if isinstance(value, list | dict)}
    scalars: dict[str, Scalar] = {key: value for key, value in values.items() if key not in nested}
    _check_speeds(scalars, faults)
    return Results(split, scalars, nested, complete, faults.sealed())


def _text_values(source: ByteSource, faults: FaultLog) -> dict[str, Scalar]:
    values: dict[str, Scalar] = {}
    text = source.read_at(0, min(source.size, _MAX_TEXT)).decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), 1):
        key, equals, value = line.partition(" = ")
        if equals:
            values[key.strip()] = _scalar(value.strip())
        elif line.strip():
            faults.add("results-line", "is not `key = value`", place=f"line {number}")
    return values


def _scalar(text: str) -> Scalar:
    if text == "None":
        return None
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _check_speeds(values: Mapping[str, Scalar], faults: FaultLog) -> None:
    """The keys every split has are numbers; metrics of users may be anything."""
    for key, value in values.items():
        known = key in ("epoch", "train_loss", "eval_loss", "total_flos") or key.endswith(
            ("_runtime", "_per_second", "_samples")
        )
        if known and value is not None and (isinstance(value, str | bool)):
            faults.add("field-type", f"is {json_kind(value)}, not a number", place=key)
