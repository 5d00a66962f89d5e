"""The topic `schedule`: the learning rate recomputed at every logged step.

Formulas: ``schedule_formulas``, ``schedule_deepspeed``; the fit and the causes of a departure: ``schedule_fit``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ckpt_inspect.explain import schedule_words as words
from ckpt_inspect.explain.answer import Evidence
from ckpt_inspect.explain.numbers import counted, is_step, plainly
from ckpt_inspect.explain.schedule_fit import Fit, RatePoint, ScheduleFacts, StateRate, fit
from ckpt_inspect.explain.schedule_formulas import Schedule, ScheduleError
from ckpt_inspect.explain.schedule_infer import infer_schedule
from ckpt_inspect.explain.schedule_plan import Plan, plan_of
from ckpt_inspect.explain.version import VersionEvidence, newest_training_args, run_version
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.training_args import TrainingArgs
    from ckpt_inspect.run import Run

STATES_READ = 32
SHOWN = 10
STATE_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class LearningRateAnswer:
    """The answer (keys: see the JSON contract).

    `peak` is the highest rate of the schedule up to the last step (the highest logged one where none could be
    recomputed), `final` the last logged rate. `max_relative_error` is relative to the base rate. `logged_offset` is 1
    where an entry shows the rate its update used, 0 where it shows the next one. `skipped` counts updates the
    scheduler was not stepped for. `inferred`: type and warm-up were read off the log itself, for want of arguments.
    """

    scheduler: str | None
    warmup_steps: int | None
    peak: float | None
    final: float | None
    verdict: Literal["matches", "differs", "unknown"]
    max_relative_error: float | None
    explanation: str
    base: float | None
    total_steps: int | None
    logged_offset: int | None
    first_departure: int | None
    skipped: int | None
    owner: Literal["transformers", "deepspeed"] | None
    inferred: bool
    paragraph: str
    arithmetic: tuple[str, ...]
    evidence: tuple[Evidence, ...]


def explain_schedule(run: Run) -> LearningRateAnswer | None:
    """Explain the learning rates of a run; None where the directory records none."""
    records = ScheduleRecords(run)
    if not records.points and not records.states:
        return None
    plan = plan_of(records.arguments, records.total, records.states, records.version)
    found: Fit | None = None
    if plan.schedule is not None:
        facts = ScheduleFacts(
            points=records.points,
            schedule=plan.schedule,
            offsets=_offsets(plan, records.version),
            totals=records.totals,
            starts=records.starts,
            may_skip=records.may_skip,
        )
        found = fit(facts)
        if found is not None and not found.matches and (others := _planned_before(records, plan.schedule)):
            found = fit(replace(facts, others=others))
    return _answer(records, plan, found)


def _planned_before(records: ScheduleRecords, planned: Schedule) -> tuple[Schedule, ...]:
    """What the arguments of the checkpoints describe, where more than the horizon or the base rate is another."""
    found: list[Schedule] = []
    for checkpoint in records.run.checkpoints[-STATES_READ:]:
        state = checkpoint.trainer_state
        total = state.max_steps if state is not None and is_step(state.max_steps) else records.total
        other = plan_of(checkpoint.training_args, total, (), records.version).schedule
        if other is None or replace(other, total=planned.total, base=planned.base) == planned:
            continue
        if other not in found:
            found.append(other)
    return tuple(found)


class ScheduleRecords:
    """Everything a run's directory says about its learning rates."""

    def __init__(self, run: Run) -> None:
        self.run = run
        newest = run.newest_trainer_state
        self.state = newest[0] if newest is not None else None
        self.state_path = newest[1] if newest is not None else "trainer_log.jsonl"

    @cached_property
    def arguments(self) -> TrainingArgs | None:
        """The training arguments of the last session."""
        return newest_training_args(self.run)

    @property
    def version(self) -> VersionEvidence:
        """The transformers release."""
        return run_version(self.run)

    @cached_property
    def points(self) -> tuple[RatePoint, ...]:
        """Logged rates by step; where the log goes back (a resumed run), what it had after that step is dropped."""
        found: list[RatePoint] = []
        for step, rate in self._logged():
            while found and found[-1].step >= step:
                found.pop()
            found.append(RatePoint(step, rate))
        return tuple(found)

    def _logged(self) -> Iterator[tuple[int, float]]:
        if self.state is not None:
            for entry in self.state.train:
                rate = entry.number("learning_rate")
                if is_step(entry.step) and rate is not None and math.isfinite(rate):
                    yield entry.step, float(rate)
            return
        for row in self.run.trainer_log.rows if self.run.trainer_log is not None else ():
            rate = row.learning_rate
            if row.kind == "train" and is_step(row.current_steps) and rate is not None and math.isfinite(rate):
                yield row.current_steps, float(rate)

    @cached_property
    def total(self) -> int | None:
        """The planned number of steps."""
        if self.state is not None and self.state.max_steps and is_step(self.state.max_steps):
            return self.state.max_steps
        log = self.run.trainer_log
        planned = [row.total_steps for row in log.rows if is_step(row.total_steps)] if log is not None else []
        return planned[-1] if planned else None

    @cached_property
    def states(self) -> tuple[StateRate, ...]:
        """What the scheduler.pt of each checkpoint holds, oldest first."""
        found = []
        for checkpoint in self.run.checkpoints[-STATES_READ:]:
            scheduler = checkpoint.scheduler
            if scheduler is not None and is_step(scheduler.last_epoch) and scheduler.last_lr:
                step = checkpoint.step if checkpoint.step is not None else scheduler.last_epoch
                by_metric = scheduler.kind_hint in ("plateau", "greedy")
                found.append(StateRate(step, scheduler.last_epoch, scheduler.last_lr[0], by_metric))
        return tuple(found)

    @cached_property
    def base_rate(self) -> float | None:
        """The base rate that the newest scheduler.pt holds for the first parameter group."""
        for checkpoint in reversed(self.run.checkpoints[-STATES_READ:]):
            scheduler = checkpoint.scheduler
            if scheduler is not None and scheduler.base_lrs:
                return scheduler.base_lrs[0]
        return None

    @cached_property
    def totals(self) -> tuple[int, ...]:
        """max_steps of checkpoints where it is not the final one."""
        found = {
            checkpoint.trainer_state.max_steps
            for checkpoint in self.run.checkpoints[-STATES_READ:]
            if checkpoint.trainer_state is not None and is_step(checkpoint.trainer_state.max_steps)
        }
        return tuple(sorted(found - {self.total}))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Steps of the checkpoints."""
        return tuple(item.step for item in self.run.checkpoints if is_step(item.step))

    @property
    def may_skip(self) -> bool:
        """Whether fp16 loss scaling may have skipped updates."""
        arguments = self.arguments
        if any(state.count < state.step and not state.by_metric for state in self.states):
            return True
        return arguments is not None and (arguments.flag("fp16") is True or arguments.uses_deepspeed)


def _offsets(plan: Plan, version: VersionEvidence) -> tuple[int, ...]:
    """Log offsets to try, the likely one first; where the release is known the other one is left out."""
    if plan.owner == "deepspeed":
        return (0, 1)
    before = version.has("rate_logged_before_step")
    if before is None:
        return (1, 0)
    return (1,) if before else (0,)


def _answer(records: ScheduleRecords, plan: Plan, found: Fit | None) -> LearningRateAnswer:
    schedule, points = plan.schedule, records.points
    inferred: Schedule | None = None
    if plan.kind is None and plan.schedule is None:
        guess = infer_schedule(points, records.total, _offsets(plan, records.version), records.base_rate)
        inferred = guess[0] if guess is not None else None
    state_text, states_agree = _states(records, plan, found)
    verdict: Literal["matches", "differs", "unknown"] = "unknown"
    if found is not None:
        verdict = "matches" if found.matches else "differs"
    elif schedule is not None and not points and states_agree is not None:
        verdict = "matches" if states_agree else "differs"
    sentences = []
    if schedule is not None:
        sentences.append(f"The arguments plan {words.describe(schedule)}.")
    if plan.reason:
        sentences.append(plan.reason)
    if found is not None and schedule is not None:
        if found.matches:
            which = "The logged rate agrees" if len(points) == 1 else f"All {len(points)} logged rates agree"
            how = "exactly" if found.error == 0 else f"(largest difference {plainly(found.error, 2)} of the base rate)"
            sentences.append(f"{which} with it {how}.")
        else:
            sentences.append(words.departure(found, len(points), schedule))
        if schedule.kind != "constant":
            sentences.append(words.convention(found.offset, deepspeed=plan.owner == "deepspeed"))
    elif schedule is not None and verdict == "matches":
        last = records.states[-1]
        sentences.append(f"No rate was logged; scheduler.pt of checkpoint-{last.step} holds the one planned for then.")
    elif points and schedule is None:
        sentences.append(_inferred(inferred) if inferred else _bare(points))
    if verdict != "matches" or records.may_skip:
        sentences.append(state_text)
    explanation = " ".join(sentence for sentence in sentences if sentence)
    return LearningRateAnswer(
        scheduler=plan.kind or (inferred.kind if inferred else None),
        warmup_steps=inferred.warmup if inferred else plan.warmup,
        peak=_peak(records, schedule, found, verdict),
        final=points[-1].rate if points else records.states[-1].rate,
        verdict=verdict,
        max_relative_error=found.error if found is not None else None,
        explanation=explanation,
        base=schedule.base if schedule is not None else inferred.base if inferred else records.base_rate,
        total_steps=records.total,
        logged_offset=found.offset
        if found is not None and schedule is not None and schedule.kind != "constant"
        else None,
        first_departure=found.first_departure if found is not None else None,
        skipped=found.skipped if found is not None and (found.matches or _lagging(found)) else None,
        owner=plan.owner,
        inferred=inferred is not None,
        paragraph=explanation,
        arithmetic=_arithmetic(records, plan, found),
        evidence=_evidence(records, plan),
    )


def _inferred(schedule: Schedule) -> str:
    return f"Read off the log itself, every rate follows {words.describe(schedule)}."


def _bare(points: tuple[RatePoint, ...]) -> str:
    highest = max(points, key=lambda point: point.rate)
    if all(point.rate == highest.rate for point in points):
        return f"The logged rate was {plainly(highest.rate)} throughout."
    return (
        f"The logged rate goes from {plainly(points[0].rate)} at step {points[0].step} to {plainly(points[-1].rate)} at step "
        f"{points[-1].step}, highest {plainly(highest.rate)} at step {highest.step}."
    )


def _lagging(found: Fit | None) -> bool:
    return found is not None and any(segment.cause == "skipped" for segment in found.segments)


def _states(records: ScheduleRecords, plan: Plan, found: Fit | None) -> tuple[str, bool | None]:
    """What scheduler.pt adds: skipped updates, and whether its rate is the planned one."""
    if not records.states:
        return "", None
    sentences: list[str] = []
    last = records.states[-1]
    if last.by_metric:
        times = counted(last.count, "time")
        return f"scheduler.pt of checkpoint-{last.step} was stepped {times}, once per evaluation.", None
    if last.count < last.step:
        missing = counted(last.step - last.count, "update")
        why = "skipped" if _lagging(found) else "skipped, or done before the scheduler began anew"
        sentences.append(f"scheduler.pt of checkpoint-{last.step} was stepped {last.count} times: {missing} {why}.")
    elif last.count > last.step:
        sentences.append(
            f"scheduler.pt of checkpoint-{last.step} was stepped {last.count} times, more often than the run has steps."
        )
    agree: bool | None = None
    if plan.schedule is not None:
        try:
            expected = plan.schedule.rate(last.count)
        except ScheduleError:
            return " ".join(sentences), None
        agree = abs(expected - last.rate) <= STATE_TOLERANCE * max(plan.schedule.base, last.rate)
        if not agree:
            sentences.append(
                f"It holds the rate {plainly(last.rate)}, the schedule has {plainly(expected)} after {last.count} steps."
            )
    return " ".join(sentences), agree


def _peak(records: ScheduleRecords, schedule: Schedule | None, found: Fit | None, verdict: str) -> float | None:
    rates = [point.rate for point in records.points] or [state.rate for state in records.states]
    logged = max(rates, default=None)
    if schedule is None or verdict != "matches":
        return logged
    end = records.points[-1].step if records.points else records.states[-1].step
    offset = found.offset if found is not None else 0
    tried = {0, schedule.warmup, *(point.step - offset for point in records.points)}
    return max(schedule.rate(count) for count in tried if 0 <= count <= max(end, 1))


def _arithmetic(records: ScheduleRecords, plan: Plan, found: Fit | None) -> tuple[str, ...]:
    schedule = plan.schedule
    lines: list[str] = []
    if schedule is None:
        return ()
    lines.append(f"{printable(schedule.kind, 60)}: {schedule.row['formula']}")
    options = ", ".join(f"{printable(name, 40)} = {printable(value, 40)}" for name, value in schedule.options.items())
    lines.append(
        f"base = {plainly(schedule.base, 6)}, w = {schedule.warmup}, T = {schedule.total}"
        + (f", {options}" if options else "")
    )
    if plan.warmup_rule:
        lines.append(plan.warmup_rule)
    if found is None:
        return tuple(lines)
    points = records.points
    shown = points if len(points) <= SHOWN else (*points[: SHOWN // 2], *points[-SHOWN // 2 :])
    for index, point in enumerate(shown):
        if len(points) > SHOWN and index == SHOWN // 2:
            lines.append(f"  ... {len(points) - SHOWN} more ...")
        count = max(0, point.step - found.offset)
        lines.append(
            f"  step {point.step}: t = {count}, rate {plainly(schedule.rate(count), 10)}, logged {plainly(point.rate, 10)}"
        )
    return tuple(lines)


def _evidence(records: ScheduleRecords, plan: Plan) -> tuple[Evidence, ...]:
    found = list(plan.evidence)
    found.append(Evidence(records.state_path, "max_steps", records.total))
    found += [
        Evidence(f"checkpoint-{state.step}/scheduler.pt", "last_epoch", state.count) for state in records.states[-1:]
    ]
    found.append(Evidence(records.version.source, "transformers version", records.version.text))
    return tuple(found)
