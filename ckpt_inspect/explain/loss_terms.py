"""The terms in which a reported `train_loss` is explained: what is known, the verdicts, the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ckpt_inspect.explain.loss_arithmetic import LossPoint, LossWindow

Verdict = Literal[
    "average_of_all_steps",
    "average_with_unlogged_tail",
    "resumed_sum_over_all_steps",
    "average_since_resume",
    "no_step_trained",
    "not_reproduced",
    "not_logged",
]
Divisor = Literal["global_step", "steps_of_session"]


@dataclass(frozen=True, slots=True)
class LossFacts:
    """What the reconciliation stands on.

    Attributes:
        points: logged training losses in increasing step order.
        reported: `train_loss`.
        global_step: the step the call ended at; None when not known.
        divisors: the divisors the transformers version allows.
        rounded: whether logged losses were rounded to 4 decimals.
        starts: steps at which a resume is likely (evidence in the directory), best first.
        checkpoints: steps of the checkpoints, and other steps a call may have begun at (multiples of save_steps).
        forced_start: the step of an earlier summary in the same history: the call began there.
        executed: steps the call ran according to its own speeds, with their uncertainty; from 5.19.
        excerpt: entries may be missing within the log, so a long gap is no long window.
    """

    points: Sequence[LossPoint]
    reported: float
    global_step: int | None
    divisors: tuple[Divisor, ...] = ("global_step", "steps_of_session")
    rounded: bool = True
    starts: tuple[int, ...] = ()
    checkpoints: tuple[int, ...] = ()
    forced_start: int | None = None
    executed: tuple[float, float] | None = None
    excerpt: bool = False


@dataclass(frozen=True, slots=True)
class Tail:
    """Steps that no log entry covers: how many, the mean loss they must have had, and what is possible.

    `inner` of them lie before the last entry, where entries are missing from the log.
    """

    steps: int
    mean: float
    low: float
    high: float
    inner: int = 0


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """How the reported value comes about.

    Attributes:
        verdict: see DESIGN: which rule fits.
        recomputed: the value the rule gives; with a tail, the tail at the value that fits it, kept within its bounds.
        relative_error: |recomputed - reported| / |reported|.
        start: the step the train() call began at; None when unknown.
        divisor: what the sum was divided by.
        windows: the windows of the session.
        tail: the unlogged steps, None without.
        session_mean: the mean over the steps the call trained: the number people expect `train_loss` to be.
        others: further starts that would fit as well.
        reason: for not_reproduced and not_logged: why, in words.
    """

    verdict: Verdict
    recomputed: float | None
    relative_error: float | None
    start: int | None
    divisor: int | None
    windows: tuple[LossWindow, ...]
    tail: Tail | None
    session_mean: float | None
    others: tuple[int, ...] = ()
    reason: str = ""
