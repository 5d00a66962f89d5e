"""From which step on the training loss was NaN, openly or hidden behind the zeros of logging_nan_inf_filter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ckpt_inspect.explain.loss import explain_loss

if TYPE_CHECKING:
    from ckpt_inspect.run import Run

_KEY = "masked_steps"


def masked_steps(run: Run) -> frozenset[int]:
    """The logged steps whose 0.0 stands for NaN. A loss may be 0.0 for good reasons (GRPO), so this asks the explanation."""
    found_state = run.newest_trainer_state
    if found_state is not None and not found_state[0].masked_losses:
        return frozenset()
    if _KEY not in run.memo:
        answer = explain_loss(run)
        found = answer.distortions if answer is not None else ()
        run.memo[_KEY] = frozenset(step for item in found if item.name == "masked_nan" for step in item.steps)
    steps: frozenset[int] = run.memo[_KEY]
    return steps


def diverged_at(run: Run, until: int | None = None) -> int | None:
    """The first step of the unbroken stretch of NaN losses that lasts to the end of the log, or to step `until`."""
    found = run.newest_trainer_state
    if found is None:
        return None
    masked = masked_steps(run)
    since: int | None = None
    for entry in found[0].train:
        loss = entry.number("loss")
        if entry.step is None or loss is None or (until is not None and entry.step > until):
            continue
        bad = entry.step in masked or not math.isfinite(loss)
        since = (since if since is not None else entry.step) if bad else None
    return since
