"""Which rule of transformers turns the logged losses into the reported `train_loss`.

The reported value is (sum of all step losses since the train() call began + an unlogged tail) / D, where D is the global
step up to 5.18, and the steps of this call from 5.19 (``knowledge/transformers_eras.toml``). What a directory does not
say is the step a resumed call began at, and the tail. Every hypothesis is a start and a divisor; one is accepted only when
the numbers leave no other reading that fits as well.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ckpt_inspect.explain.loss_arithmetic import (
    LossWindow,
    Sums,
    TailBounds,
    rounding_error,
    tail_bounds,
    total,
    windows,
)
from ckpt_inspect.explain.loss_terms import LossFacts, Reconciliation, Tail, Verdict

RELATIVE = 1e-5  # float32 accumulation of micro-batch losses
EXACT = 1e-9  # what entries that were not rounded leave of doubt: entry and total come from the same number
MOST_CANDIDATES = 20_000
SHARP = 0.1  # rounding may leave less than a tenth of a step of doubt, or a whole number of steps means nothing


@dataclass(frozen=True, slots=True)
class _Fit:
    """One hypothesis that the numbers allow. `distance`: how far the tail lies from where it is likely, 0 = within."""

    start: int
    divisor: int
    logged: float
    tail: Tail | None
    near: bool
    distance: float
    kept: tuple[LossWindow, ...] | None = None


class _Log:
    """The logged losses with what every hypothesis needs of them, worked out once."""

    def __init__(self, facts: LossFacts) -> None:
        self.facts = facts
        self.end = facts.global_step or 0
        self.sums = Sums(facts.points, rounded=facts.rounded)
        self.bounds = tail_bounds(facts.points)


def reconcile(facts: LossFacts) -> Reconciliation:
    """Decide which rule gives the reported value."""
    if not math.isfinite(facts.reported):
        return _not_finite(facts)
    if not facts.points:
        return _nothing_logged(facts)
    if facts.global_step is None:
        return _unexplained(facts, "the step at which training ended is not recorded")
    last = facts.points[-1].step
    if last > facts.global_step:
        return _unexplained(
            facts, f"the log goes on to step {last}, beyond step {facts.global_step}: the files are of different runs"
        )
    if not all(math.isfinite(point.value) for point in facts.points):
        return _unexplained(facts, "logged losses are NaN or infinite, but the reported average is finite")
    if facts.forced_start is not None:
        return _forced(facts)
    if facts.reported == 0.0 and total(windows(facts.points, 0)) != 0.0:
        return Reconciliation("no_step_trained", 0.0, 0.0, facts.global_step, None, (), None, None)
    if facts.excerpt and (partial := _with_holes(facts)) is not None:
        return _accepted(facts, partial, ())
    log = _Log(facts)
    whole = _fit(log, 0, log.end)
    if whole is not None and whole.tail is None and not _by_speed(facts):
        return _accepted(facts, whole, ())  # an exact sum over many entries does not happen by chance
    resumed = _resumed(log)
    if whole is not None and _prefers_whole(facts, whole, resumed):
        return _accepted(facts, whole, resumed)
    if resumed:
        return _accepted(facts, resumed[0], resumed[1:])
    if (partial := _with_holes(facts)) is not None:
        return _accepted(facts, partial, ())
    return _unexplained(facts, _why_not(facts))


def _prefers_whole(facts: LossFacts, whole: _Fit, resumed: Sequence[_Fit]) -> bool:
    """Whether "one session from step 0" is to be believed, given that it fits and the resumes that fit as well."""
    speed = _by_speed(facts)
    if any(fit.start in speed for fit in resumed):
        return False  # the call itself counted fewer steps than the run has
    if whole.tail is None:
        return True
    # The directory itself may say that the run was resumed there; that a checkpoint lies at a step says nothing.
    return not any(fit.near and fit.start in facts.starts for fit in resumed)


def _fit(log: _Log, start: int, divisor: int) -> _Fit | None:
    """The hypothesis "began at `start`, divided by `divisor`", if the numbers allow it."""
    if divisor <= 0 or start >= log.end:
        return None
    session, reported = log.sums.after(start), log.facts.reported
    missing, unlogged = reported * divisor - session.logged, log.end - session.last
    if unlogged == 0:
        allowed = session.error + RELATIVE * max(abs(session.logged), abs(reported * divisor)) + 1e-12
        return _Fit(start, divisor, session.logged, None, True, 0.0) if abs(missing) <= allowed else None
    if log.bounds is None:
        return None
    bounds = log.bounds.widened((session.error + RELATIVE * abs(session.logged)) / unlogged)
    mean = missing / unlogged
    if not bounds.allows(mean):
        return None
    tail = _tail(bounds, mean, unlogged)
    return _Fit(start, divisor, session.logged, tail, bounds.is_near(mean), _distance(bounds, mean))


def _with_holes(facts: LossFacts) -> _Fit | None:
    """The whole run, when entries are missing within the log: an entry then stands for its own interval only."""
    parts = windows(facts.points, 0)
    if not parts:
        return None
    interval = Counter(part.steps for part in parts).most_common(1)[0][0]
    kept = tuple(
        LossWindow(part.end - interval, part.end, part.loss) if part.steps >= 2 * interval else part for part in parts
    )
    end = facts.global_step or 0
    inner = sum(part.steps for part in parts) - sum(part.steps for part in kept)
    unlogged = end - parts[-1].end + inner
    if inner == 0 or unlogged <= 0:
        return None
    logged, plain = total(kept), tail_bounds(facts.points)
    mean = (facts.reported * end - logged) / unlogged
    if plain is None:
        return None
    bounds = plain.widened(rounding_error(kept, rounded=facts.rounded) / unlogged)
    if not bounds.allows(mean):
        return None
    tail = _tail(bounds, mean, unlogged, inner)
    return _Fit(0, end, logged, tail, bounds.is_near(mean), _distance(bounds, mean), kept)


def _tail(bounds: TailBounds, mean: float, steps: int, inner: int = 0) -> Tail:
    """The narrower bounds where the mean lies within them."""
    if bounds.is_near(mean):
        return Tail(steps, mean, bounds.near_low, bounds.near_high, inner)
    return Tail(steps, mean, bounds.low, bounds.high, inner)


def _distance(bounds: TailBounds, mean: float) -> float:
    return abs(mean - (bounds.near_low + bounds.near_high) / 2)


def _resumed(log: _Log) -> list[_Fit]:
    """Every resume the numbers allow, the most credible first."""
    facts, end = log.facts, log.end
    starts = dict.fromkeys(
        start for start in (*_by_speed(facts), *facts.starts, *_grid(facts), *_solved(facts)) if 0 < start < end
    )
    found: list[_Fit] = []
    for start in starts:
        for divisor in facts.divisors:
            fit = _fit(log, start, end if divisor == "global_step" else end - start)
            if fit is not None:
                found.append(fit)
    speed = _by_speed(facts)
    found = [fit for fit in found if fit.tail is None or fit.near or fit.start in facts.starts or fit.start in speed]
    found.sort(key=lambda fit: _credibility(facts, fit, speed))
    return found


def _credibility(facts: LossFacts, fit: _Fit, speed: Sequence[int]) -> tuple[bool, bool, bool, bool, float]:
    return (
        fit.start not in speed,
        fit.start not in facts.starts,
        fit.start not in facts.checkpoints,
        fit.tail is not None,
        fit.distance,
    )


def _by_speed(facts: LossFacts) -> tuple[int, ...]:
    """The start that the speeds of the summary imply, where they name one whole number of steps."""
    if facts.executed is None or facts.global_step is None or "steps_of_session" not in facts.divisors:
        return ()
    steps, uncertainty = facts.executed
    nearest = round(steps)
    if uncertainty >= 0.5 or abs(steps - nearest) > max(uncertainty, 0.01) or nearest >= facts.global_step:
        return ()
    return (facts.global_step - nearest,)


def _grid(facts: LossFacts) -> Iterable[int]:
    return facts.checkpoints[-MOST_CANDIDATES:]


def _solved(facts: LossFacts) -> Iterable[int]:
    """Starts that make the sum exact where every step is logged: the one unknown, solved for, window by window."""
    end = facts.global_step
    if end is None or facts.points[-1].step != end:
        return
    parts = windows(facts.points, 0)
    doubt = rounding_error(parts, rounded=facts.rounded)
    after = 0.0
    for part in reversed(parts):
        for divisor in facts.divisors:
            if divisor == "global_step":  # part.loss (part.end - s) + after = reported end
                share = (facts.reported * end - after) / part.loss if part.loss else math.inf
            else:  # part.loss (part.end - s) + after = reported (end - s)
                slope = part.loss - facts.reported
                share = (facts.reported * (end - part.end) - after) / slope if slope else math.inf
            if math.isfinite(share) and 0 < share <= part.steps + 1:
                start = part.end - share
                off = abs(start - round(start)) * abs(part.loss)
                if doubt < SHARP * abs(part.loss) and off <= doubt + EXACT * abs(facts.reported * end):
                    yield round(start)
        after += part.sum


def _accepted(facts: LossFacts, fit: _Fit, others: Sequence[_Fit]) -> Reconciliation:
    end = facts.global_step or 0
    parts = windows(facts.points, fit.start) if fit.kept is None else fit.kept
    logged = total(parts)
    tail_sum = 0.0 if fit.tail is None else min(max(fit.tail.mean, fit.tail.low), fit.tail.high) * fit.tail.steps
    recomputed = (logged + tail_sum) / fit.divisor
    backed = fit.start in (*facts.starts, *_by_speed(facts)) or (fit.start == 0 and fit.near)
    mean = (logged + tail_sum) / (end - fit.start)
    if fit.start == 0:
        verdict: Verdict = "average_of_all_steps" if fit.tail is None else "average_with_unlogged_tail"
    elif fit.divisor == end:
        verdict = "resumed_sum_over_all_steps"
    else:
        verdict = "average_since_resume"
    return Reconciliation(
        verdict,
        recomputed,
        _relative(recomputed, facts.reported),
        fit.start,
        fit.divisor,
        parts,
        fit.tail,
        mean,
        () if backed else tuple(dict.fromkeys(item.start for item in others if item.start not in (0, fit.start)))[:5],
    )


def _forced(facts: LossFacts) -> Reconciliation:
    """A history that holds an earlier summary: this call began where that one ended."""
    start, end = facts.forced_start or 0, facts.global_step or 0
    if facts.reported == 0.0 and start >= end:
        return Reconciliation("no_step_trained", 0.0, 0.0, start, None, (), None, None)
    log = _Log(facts)
    for divisor in facts.divisors:
        fit = _fit(log, start, end if divisor == "global_step" else end - start)
        if fit is not None:
            return _accepted(facts, fit, ())
    whole = _fit(log, 0, end)
    if whole is not None and whole.tail is None:
        return _accepted(facts, whole, ())
    return _unexplained(facts, f"an earlier train() call ended at step {start}, and no rule gives the value from there")


def _nothing_logged(facts: LossFacts) -> Reconciliation:
    if facts.reported == 0.0:
        return Reconciliation("no_step_trained", 0.0, 0.0, facts.global_step, None, (), None, None)
    return Reconciliation(
        "not_logged", None, None, None, None, (), None, None, reason="no training loss was logged to recompute it from"
    )


def _not_finite(facts: LossFacts) -> Reconciliation:
    parts = windows(facts.points, facts.forced_start or 0)
    if any(not math.isfinite(part.loss) for part in parts):
        return Reconciliation(
            "average_of_all_steps", facts.reported, 0.0, facts.forced_start or 0, facts.global_step, parts, None, None
        )
    if not parts:
        return _nothing_logged(facts)
    return _unexplained(facts, "the reported average is not a finite number, but every logged loss is")


def _why_not(facts: LossFacts) -> str:
    end = facts.global_step or 0
    parts = windows(facts.points, 0)
    logged = total(parts)
    gap = end - parts[-1].end if parts else end
    if gap:
        mean = (facts.reported * end - logged) / gap
        return (
            f"the {gap} steps after the last log entry would need a mean loss of {mean:.4g}, and no resume explains it: "
            "the log was edited, or the files are of different runs"
        )
    ratio = facts.reported * end / logged if logged else math.inf
    return (
        f"the reported value is {ratio:.4g} times the average of the logged losses, and no resume explains it: "
        "a custom trainer, an edited log, or files of different runs"
    )


def _unexplained(facts: LossFacts, reason: str) -> Reconciliation:
    parts = windows(facts.points, 0)
    steps = sum(part.steps for part in parts)
    mean = total(parts) / steps if steps else None
    return Reconciliation(
        "not_reproduced", mean, _relative(mean, facts.reported), None, None, parts, None, mean, reason=reason
    )


def _relative(value: float | None, reported: float) -> float | None:
    if value is None or not math.isfinite(value) or not math.isfinite(reported):
        return None
    if reported == 0.0:
        return 0.0 if value == 0.0 else None
    return abs(value - reported) / abs(reported)
