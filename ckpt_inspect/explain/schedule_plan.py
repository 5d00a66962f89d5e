"""The schedule that the arguments of a run describe, and who steps it: transformers or DeepSpeed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ckpt_inspect.explain.answer import Evidence
from ckpt_inspect.explain.numbers import is_number, plainly, whole
from ckpt_inspect.explain.schedule_fit import StateRate
from ckpt_inspect.explain.schedule_formulas import Schedule, ScheduleError, warmup_steps
from ckpt_inspect.explain.version import VersionEvidence
from ckpt_inspect.knowledge import load
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.training_args import TrainingArgs


@dataclass(frozen=True, slots=True)
class Plan:
    """The planned schedule; `schedule` is None where it cannot be computed, and `reason` says why.

    `owner` is who steps it. `warmup_rule` tells how the warm-up length follows from the arguments.
    """

    kind: str | None
    schedule: Schedule | None
    warmup: int | None
    owner: Literal["transformers", "deepspeed"] | None
    reason: str = ""
    warmup_rule: str = ""
    evidence: tuple[Evidence, ...] = ()


def plan_of(
    arguments: TrainingArgs | None, total: int | None, states: Sequence[StateRate], version: VersionEvidence
) -> Plan:
    """The plan.

    Args:
        arguments: the training arguments.
        total: the planned number of steps, of trainer_state.json.
        states: what scheduler.pt files hold; unused where the arguments tell.
        version: the transformers release, for the older forms of some schedules.
    """
    del states
    if arguments is None or not arguments.arguments:
        return Plan(
            None, None, None, None, "Without a readable training_args.bin there is no schedule to compare the log with."
        )
    deepspeed = _deepspeed_scheduler(arguments)
    if deepspeed is not None:
        return deepspeed
    kind = arguments.text("lr_scheduler_type")
    if "lr_scheduler_type" not in arguments.arguments and "warmup_steps" in arguments.arguments:
        kind = "linear"  # the argument came with 4.0; before, get_linear_schedule_with_warmup was the only schedule
    base = arguments.number("learning_rate")
    owner = _owner(arguments)
    if kind is None or base is None:
        return Plan(kind, None, None, owner, "The arguments name no scheduler type and learning rate.")
    planned = arguments.number("max_steps")
    horizon = total if total is not None else whole(planned)
    if horizon is None:
        return Plan(kind, None, None, owner, "The number of steps the schedule was planned for is not recorded.")
    warmup = warmup_steps(arguments.arguments, horizon)
    options, left_out = _options(kind, arguments, version)
    if options is None:
        return Plan(kind, None, warmup, owner, left_out)
    schedule = Schedule(
        kind,
        float(base),
        warmup or 0,
        horizon,
        options,
        "wsd-4.41" if kind == "warmup_stable_decay" and version.has("wsd_from_min_lr") is False else "",
    )
    evidence = tuple(
        Evidence("training_args.bin", name, arguments.arguments.get(name))
        for name in ("lr_scheduler_type", "learning_rate", "warmup_steps", "warmup_ratio", "lr_scheduler_kwargs")
        if arguments.arguments.get(name) is not None
    )
    reason = _why_not(schedule)
    if reason:
        known = printable(kind, 60)
        return Plan(known, None, None if reason == UNKNOWN_KIND else warmup, owner, reason, evidence=evidence)
    used = 0 if schedule.row["warmup"] == "none" else schedule.warmup
    return Plan(kind, schedule, used, owner, left_out, _warmup_rule(arguments, horizon, used), evidence)


def _options(kind: str, arguments: TrainingArgs, version: VersionEvidence) -> tuple[Mapping[str, Any] | None, str]:
    """lr_scheduler_kwargs as far as the release passes them on, None where that is open, and a sentence about it."""
    given = arguments.arguments.get("lr_scheduler_kwargs")
    options = given if isinstance(given, Mapping) else {}
    since = load("schedulers").get(kind, {}).get("options_since")
    passed = version.has(since) if since is not None else True
    if not options or passed:
        return options, ""
    rule = f"Releases before {load('transformers_eras')['behaviour'][since]['since']} pass it no lr_scheduler_kwargs"
    if passed is None:
        return None, f"{rule}, and which release trained is not known, so the rates cannot be recomputed."
    return {}, f"{rule}, so {printable(dict(options), 80)} had no effect."


UNSEEN = 2_000  # past DeepSpeed's default warm-up of 1000, so that every branch of a formula is tried once
UNKNOWN_KIND = "Its scheduler type is of no known transformers release, so the rates cannot be recomputed."


def _why_not(schedule: Schedule) -> str:
    """Why a schedule has no rates; '' when it has."""
    try:
        row = schedule.row
    except ScheduleError:
        return UNKNOWN_KIND
    if not row["closed"]:
        return (
            f"{schedule.kind} follows a metric, not the step, so the rates cannot be recomputed from the arguments "
            f"({row['formula']})."
        )
    needed = row.get("one_of", ())
    if needed and not any(is_number(schedule.option(name)) for name in needed):
        return f"The rates cannot be recomputed: the arguments give no {' or '.join(needed)}."
    try:
        for count in (
            0,
            1,
            schedule.warmup,
            schedule.warmup + 1,
            UNSEEN,
            max(0, schedule.total - 1),
            schedule.total + 1,
        ):
            if not math.isfinite(schedule.rate(count)):
                return "The rates cannot be recomputed: the arguments give none that is finite."
    except ScheduleError as error:
        return f"The rates cannot be recomputed: {printable(error, 200)}."
    return ""


def _warmup_rule(arguments: TrainingArgs, total: int, steps: int) -> str:
    given, ratio = arguments.number("warmup_steps"), arguments.number("warmup_ratio")
    if steps == 0:
        return ""
    share = given if given is not None and 0 < given < 1 else ratio if not given else None
    if share:
        return f"warm-up: ceil({total} x {plainly(share)}) = {steps} steps"
    return f"warm-up: {steps} steps as given"


def _owner(arguments: TrainingArgs) -> Literal["transformers", "deepspeed"]:
    """Who steps the scheduler: DeepSpeed's engine where its configuration brings the optimizer."""
    config = arguments.deepspeed_config
    return "deepspeed" if config is not None and isinstance(config.get("optimizer"), Mapping) else "transformers"


def _deepspeed_scheduler(arguments: TrainingArgs) -> Plan | None:
    """The scheduler of the DeepSpeed configuration, which then counts instead of `lr_scheduler_type`."""
    config = arguments.deepspeed_config
    section = config.get("scheduler") if config is not None else None
    if not isinstance(section, Mapping):
        return None
    kind, params = section.get("type"), section.get("params")
    options: Mapping[str, Any] = params if isinstance(params, Mapping) else {}
    evidence = (Evidence("training_args.bin", "deepspeed.scheduler", dict(section)),)
    if not isinstance(kind, str):
        return Plan(None, None, None, "deepspeed", "The DeepSpeed configuration names no scheduler type.", "", evidence)
    total, warmup = options.get("total_num_steps"), options.get("warmup_num_steps")
    schedule = Schedule(
        kind,
        _deepspeed_base(arguments, options),
        whole(warmup) or 0,
        whole(total) or 0,
        options,
    )
    reason = _why_not(schedule)
    steps = schedule.warmup if is_number(warmup) else None
    note = "" if reason else "DeepSpeed owns the scheduler; lr_scheduler_type has no effect."
    return Plan(printable(kind, 60), None if reason else schedule, steps, "deepspeed", reason or note, "", evidence)


def _deepspeed_base(arguments: TrainingArgs, options: Mapping[str, Any]) -> float:
    """The rate that errors are measured against, and that WarmupCosineLR multiplies: the optimizer's."""
    config = arguments.deepspeed_config or {}
    optimizer = config.get("optimizer")
    params = optimizer.get("params") if isinstance(optimizer, Mapping) else None
    rate = params.get("lr") if isinstance(params, Mapping) else None
    for value in (rate, arguments.number("learning_rate"), options.get("warmup_max_lr")):
        if is_number(value):
            return float(value)
    return 1.0
