"""Z39: every rank saved its optimizer at the same step. The counters are 0-dim tensors of a few bytes each.

DeepSpeed publishes `latest` without waiting for the other ranks' files (``runtime/engine.py`` `save_checkpoint`), so
files of two steps can lie under one tag. Nothing else in them says so.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from ckpt_inspect.artifacts.zero_states import ModelState, OptimizerState, Step
from ckpt_inspect.consolidate.problems import Problem, note, refuse, warn
from ckpt_inspect.consolidate.reading import OpenFiles
from ckpt_inspect.printable import printable

_REMEDY = "use a checkpoint whose ranks agree, or --force to write what is there"
_FORMATS = {"F32": "f", "F64": "d", "I64": "q", "I32": "i", "F16": "e", "U8": "B", "I16": "h"}


def read_step(step: Step, source: int, files: OpenFiles, *, big_endian: bool) -> float | None:
    """The value of a step counter, None when its bytes cannot be read."""
    if step.tensor is None:
        return step.value
    tensor = step.tensor
    code = _FORMATS.get(tensor.dtype)
    if tensor.file_offset is None or tensor.problem:
        return None
    if tensor.dtype == "BF16":
        data = files.read(source, tensor.file_offset, 2)
        padded = data + b"\0\0" if big_endian else b"\0\0" + data
        return float(struct.unpack(">f" if big_endian else "<f", padded)[0]) if len(data) == 2 else None
    if code is None:
        return None
    layout = (">" if big_endian else "<") + code
    data = files.read(source, tensor.file_offset, struct.calcsize(layout))
    return float(struct.unpack(layout, data)[0]) if len(data) == struct.calcsize(layout) else None


def check_steps(
    model: ModelState, optimizers: Sequence[OptimizerState], indexes: Mapping[str, int], files: OpenFiles
) -> tuple[list[Problem], dict[str, Any]]:
    """Compare the step of each group across ranks, then with the steps the model file counted."""
    by_group: dict[int, dict[float, OptimizerState]] = {}
    for state in optimizers:
        for step in state.steps:
            value = read_step(step, indexes[state.path], files, big_endian=state.big_endian)
            if value is not None and value == value:
                by_group.setdefault(step.group, {}).setdefault(value, state)
    for group, values in sorted(by_group.items()):
        if len(values) > 1:
            (one, first), (other, second) = list(values.items())[:2]
            message = (
                f"rank {second.rank} saved its optimizer at step {other:g}, rank {first.rank} at step {one:g} "
                f"(group {group}): the files are of different saves"
            )
            problem = refuse("Z39", message, file=second.path, rank=second.rank, remedy=_REMEDY, forceable=True)
            return [problem], {"steps": sorted(values)}
    differing = _settings_differ(optimizers)
    if differing is not None:
        return [differing], {"steps": sorted({value for values in by_group.values() for value in values})}
    steps = sorted({value for values in by_group.values() for value in values})
    facts: dict[str, Any] = {"steps": steps}
    if not steps or model.global_steps is None:
        return [], facts
    expected = model.global_steps - (model.skipped_steps or 0)
    if max(steps) not in (expected, model.global_steps):
        message = (
            f"the optimizer counted {max(steps):g} steps, the model file {model.global_steps}"
            + (f" of which {model.skipped_steps} were skipped" if model.skipped_steps else "")
            + ": the optimizer was reset or its files are of another save"
        )
        if max(steps) in (expected + 1, model.global_steps + 1):
            # `initialize_optimizer_states` made the moments by a step with zero gradients (deepspeed 0.12.6
            # runtime/zero/stage_1_and_2.py and stage3.py; 0.16.7 no longer).
            return [note("Z39", "the optimizer counts one step more, as old DeepSpeed made its states by one")], facts
        return [warn("Z39", message, file=model.path)], facts
    return [], facts


def _settings_differ(optimizers: Sequence[OptimizerState]) -> Problem | None:
    """Settings of the optimizer that differ between ranks: of a schedule, they change with every step.

    All that tells two saves apart where the optimizer counts no steps, as SGD does not.
    """
    first = optimizers[0]
    for state in optimizers[1:]:
        for group, (one, other) in enumerate(zip(first.settings, state.settings, strict=False)):
            key = next((key for key in one if key in other and repr(one[key]) != repr(other[key])), None)
            if key is None:
                continue
            message = (
                f"rank {state.rank} saved its optimizer with {printable(key, 40)} {printable(str(other[key]), 40)}, "
                f"rank {first.rank} with {printable(str(one[key]), 40)} (group {group}): the files are of different saves"
            )
            return refuse("Z39", message, file=state.path, rank=state.rank, remedy=_REMEDY, forceable=True)
    return None
