"""Where a run really ended and how fast it was: reached its last step, stopped early, or was cut off; tokens seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ckpt_inspect.explain.histories import goes_on

if TYPE_CHECKING:
    from ckpt_inspect.explain.batches_facts import BatchRecords

EndedBy = Literal["last_step", "early_stop", "cut_off", "past_the_end", "resumed", "unknown"]


@dataclass(frozen=True, slots=True)
class Ending:
    """The last step known, the planned one, the epoch, and how training ended.

    "cut_off": no record of an ending; "early_stop": train() ended by itself before the last step (a callback or the
    script stopped it); "past_the_end": resumed at its end and trained on; "resumed": a checkpoint goes on beyond the end
    that the record tells of.
    """

    step: int
    planned: int | None
    epoch: float | None
    by: EndedBy
    early_stopping: bool


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens and speeds.

    `seen` over all processes since the first step; `per_update` their share; `per_second` as recorded;
    `steps_per_second_reported` and `steps_per_second_true`: the second counts only steps that were executed, known where
    the release reports the planned steps of a resumed or stopped run; `inflated` names speeds that are too high.
    """

    seen: int | None
    per_update: float | None
    per_second: float | None
    steps_per_second_reported: float | None
    steps_per_second_true: float | None
    inflated: tuple[str, ...]


def ending_of(records: BatchRecords) -> Ending | None:
    """How the run ended, as far as its newest state tells."""
    state = records.state
    if state is None or state.global_step is None:
        return None
    step, planned = state.global_step, state.max_steps
    stopped = "EarlyStoppingCallback" in state.stateful_callbacks
    later = goes_on(records.run)
    if later is not None and later.trainer_state is not None and later.trainer_state.global_step is not None:
        newer = later.trainer_state
        return Ending(newer.global_step or step, newer.max_steps, newer.epoch, "resumed", stopped)
    by: EndedBy = "unknown"
    if planned and step > planned:
        by = "past_the_end"
    elif planned and step == planned:
        by = "last_step"
    elif state.summary is not None or state.should_stop is True:
        by = "early_stop"
    elif planned:
        by = "cut_off"
    return Ending(step, planned, state.epoch, by, stopped)


def tokens_of(records: BatchRecords, rows_per_update: int | None) -> Tokens | None:
    """Tokens seen and speeds, with what makes them misleading."""
    del rows_per_update
    state = records.state
    seen = state.num_input_tokens_seen if state is not None and state.num_input_tokens_seen else None
    step = state.global_step if state is not None else None
    inflated: list[str] = []
    reported, true = records.of_summary("train_steps_per_second"), None
    runtime, executed = records.of_summary("train_runtime"), _executed(records)
    if reported is not None and runtime and executed is not None and executed > 0:
        true = executed / runtime
        if reported > 1.02 * true and records.version.has("speeds_of_this_call") is not True:
            inflated += ["train_steps_per_second", "train_samples_per_second"]
    log = records.run.trainer_log
    per_second = records.of_summary("train_tokens_per_second")
    rates = [rate for row in log.rows if (rate := row.number("throughput")) is not None] if log is not None else []
    if rates and per_second is None:
        per_second = rates[-1]
    if rates and _resumed_at(records):
        inflated.append("throughput")
    if seen is None and reported is None and per_second is None:
        return None
    return Tokens(seen, seen / step if seen and step else None, per_second, reported, true, tuple(inflated))


def _executed(records: BatchRecords) -> int | None:
    """Steps of the last train() call."""
    state = records.state
    if state is None or state.summary is None or state.global_step is None:
        return None
    return state.global_step - (_resumed_at(records) or 0)


def _resumed_at(records: BatchRecords) -> int | None:
    """The step the last call began at, where the loss tells."""
    from ckpt_inspect.explain.loss import explain_loss

    answer = explain_loss(records.run)
    return answer.average.resumed_at if answer is not None and answer.average is not None else None
