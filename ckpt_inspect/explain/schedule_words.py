"""The learning-rate schedule told in sentences, and the causes of a departure from it."""

from __future__ import annotations

from ckpt_inspect.explain.numbers import counted, plainly
from ckpt_inspect.explain.schedule_fit import Fit, Segment
from ckpt_inspect.explain.schedule_formulas import Schedule, ScheduleError
from ckpt_inspect.printable import printable


def describe(schedule: Schedule) -> str:
    """What is planned, in words; the name alone where the formula has no value at one of its turning points."""
    try:
        return _described(schedule)
    except ScheduleError:
        return printable(schedule.kind, 60)


def _described(schedule: Schedule) -> str:
    """cosine: 30 warm-up steps to 0.005, then to 0 at step 300."""
    name = printable(schedule.kind, 60)
    row = schedule.row
    if row["family"] == "deepspeed":
        return _deepspeed(schedule, name)
    if schedule.kind in ("constant",):
        return f"{name}: {plainly(schedule.base)} throughout, without warm-up"
    warm = (
        f"{counted(schedule.warmup, 'warm-up step')} to {plainly(schedule.base)}"
        if schedule.warmup
        else (f"no warm-up, from {plainly(schedule.base)}")
    )
    if schedule.kind == "constant_with_warmup":
        return f"{name}: {warm}, then constant"
    if schedule.kind == "inverse_sqrt":
        return f"{name}: {warm}, then falling with the square root of the step"
    end = schedule.rate(schedule.total)
    if 0 < schedule.total <= schedule.warmup:
        return f"{name}: {warm}, of which the run's {counted(schedule.total, 'step')} only get to {plainly(end)}"
    if schedule.kind == "warmup_stable_decay":
        return f"{name}: {warm}, constant to step {plainly(schedule.stable_until)}, then to {plainly(end)} at step {schedule.total}"
    return f"{name}: {warm}, then to {plainly(end)} at step {schedule.total}"


def _deepspeed(schedule: Schedule, name: str) -> str:
    if not name.startswith("Warmup"):
        return f"DeepSpeed's {name}"
    warmup = max(2, schedule.steps("warmup_num_steps"))
    shape = "linear" if schedule.option("warmup_type") == "linear" else "logarithmic"
    text = f"DeepSpeed's {name}: {warmup} {shape} warm-up steps to {plainly(schedule.rate(warmup + 1))}"
    if name == "WarmupLR":
        return f"{text}, then constant"
    total = schedule.steps("total_num_steps")
    return f"{text}, then to {plainly(schedule.rate(total + 1))} at step {total}"


def convention(offset: int, *, deepspeed: bool) -> str:
    """Which rate a log entry shows."""
    if offset == 1:
        return "An entry shows the rate its update used (scheduler count step - 1), as releases from 4.51 log it."
    if deepspeed:
        return "An entry shows the rate of the next update: DeepSpeed steps the scheduler before the Trainer logs."
    return "An entry shows the rate of the NEXT update (scheduler count = step), as releases up to 4.50 log it."


def departure(found: Fit, entries: int, planned: Schedule) -> str:
    """Where the rates leave the plan and the likely cause."""
    step = found.first_departure
    text = f"The logged rates depart from it at step {step}"
    causes = [segment for segment in found.segments if segment.cause != "planned"]
    if len(causes) == 1 and causes[0].cause == "skipped":
        return (
            f"{text}: they lag behind by up to {counted(found.skipped, 'update')} that fp16 overflow skipped (the "
            "global step counts them, the scheduler does not)."
        )
    told = [_cause(segment, found.offset, planned) for segment in found.segments if segment.cause != "planned"]
    followed = sum(segment.entries for segment in found.segments if segment.cause == "planned")
    return f"{text} ({followed} of {entries} entries follow it): {'; '.join(told)}."


def _cause(segment: Segment, offset: int, planned: Schedule) -> str:
    span = f"steps {segment.first} to {segment.last}" if segment.first != segment.last else f"step {segment.first}"
    if segment.cause == "horizon":
        return (
            f"{span} follow a horizon of {segment.schedule.total} steps instead of {planned.total}, so the run was resumed "
            "with another max_steps, number of epochs or batch size"
        )
    if segment.cause == "arguments":
        return (
            f"{span} follow what the arguments of an earlier session planned ({describe(segment.schedule)}), so the run "
            "was resumed with other arguments"
        )
    if segment.cause == "restart":
        return (
            f"{span} follow the schedule started anew at step {segment.shift}, so scheduler.pt and optimizer.pt were not "
            "restored when the run was resumed there (both files are needed, a missing one is passed over silently)"
        )
    if segment.cause == "base":
        return (
            f"{span} follow the same schedule from {plainly(segment.schedule.base)} instead of {plainly(planned.base)}: base "
            "rates come from the checkpoint's files on resume, or the first parameter group has its own rate"
        )
    del offset
    return f"{span} follow no schedule that the arguments, another horizon, a restart or another base rate explain"
