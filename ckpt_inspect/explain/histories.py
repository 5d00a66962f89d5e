"""Whether two records of one directory tell of the same run: a log that was carried on holds what was logged before.

A checkpoint's trainer_state.json holds the whole log so far, and a resume carries it on unchanged, so two records of one
run agree wherever both have an entry. A directory that was trained in twice, or retrained from an older checkpoint, holds
records that do not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ckpt_inspect.explain.numbers import is_step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckpt_inspect.artifacts.trainer_state import TrainerState
    from ckpt_inspect.run import Checkpoint, Run


def foreign_since(run: Run, checkpoint: Checkpoint) -> int | None:
    """The step from which a checkpoint's log is not that of the run's record; None where it is, or cannot be compared."""
    newest, state = run.newest_trainer_state, checkpoint.trainer_state
    if newest is None or state is None or state is newest[0]:
        return None
    memo: dict[str, int | None] = run.memo.setdefault(_MEMO, {})
    if checkpoint.path not in memo:
        ours, theirs = _of_the_run(run), _losses(state)
        differing = (step for step, loss in theirs.items() if step in ours and not _same(ours[step], loss))
        memo[checkpoint.path] = min(differing, default=None)
    return memo[checkpoint.path]


def goes_on(run: Run) -> Checkpoint | None:
    """The highest checkpoint whose record carries on beyond the run's own: it was resumed and did not end."""
    newest = run.newest_trainer_state
    if newest is None or newest[0].global_step is None:
        return None
    for checkpoint in reversed(run.checkpoints):
        if checkpoint.named_step is not None and checkpoint.named_step <= newest[0].global_step:
            continue
        state = checkpoint.trainer_state
        if state is None or state.global_step is None or state.global_step <= newest[0].global_step:
            continue
        if _of_the_run(run).keys() & _losses(state).keys() and foreign_since(run, checkpoint) is None:
            return checkpoint
    return None


_MEMO = "first steps at which the logs of checkpoints part from the run's"
_OURS = "logged losses by step"


def _of_the_run(run: Run) -> Mapping[int, float]:
    if _OURS not in run.memo:
        newest = run.newest_trainer_state
        run.memo[_OURS] = _losses(newest[0]) if newest is not None else {}
    found: Mapping[int, float] = run.memo[_OURS]
    return found


def _losses(state: TrainerState) -> Mapping[int, float]:
    return {point.step: float(point.value) for point in state.losses if is_step(point.step)}


def _same(one: float, two: float) -> bool:
    return one == two or (math.isnan(one) and math.isnan(two))
