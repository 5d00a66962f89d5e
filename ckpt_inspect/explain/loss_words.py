"""The loss told in sentences: every one with its numbers, none that the numbers do not bear."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckpt_inspect.explain.loss_arithmetic import LossPoint, LossWindow
from ckpt_inspect.explain.loss_trend import FLAT, Ends, ends_of, trend_of
from ckpt_inspect.explain.numbers import apart, counted, listed, percent, short

if TYPE_CHECKING:
    from ckpt_inspect.explain.loss_terms import Reconciliation

ALIKE = 0.002  # average and final loss closer than this share are told as equal


def course_sentence(points: Sequence[LossPoint], masked: Sequence[int] = ()) -> str:
    """How the loss went, from its first to its last log entry; `masked` are steps whose 0.0 hides a NaN."""
    if not points:
        return "No training loss was logged."
    points = [point for point in points if point.step not in masked]
    if not points:
        return "Every training loss was NaN and is logged as 0.0."
    finite = [point for point in points if math.isfinite(point.value)]
    if not finite:
        return "Every logged training loss is NaN or infinite."
    first, last = points[0], points[-1]
    lowest = min(finite, key=lambda point: point.value)
    if len(points) == 1:
        return f"One training loss was logged: {short(first.value)} at step {first.step}."
    one, two = apart(first.value, last.value, 4)
    verb = "fell" if last.value < first.value else "rose" if last.value > first.value else "went"
    text = f"The training loss {verb} from {one} (step {first.step}) to {two} (step {last.step})"
    broken = next((point for point in points if not math.isfinite(point.value)), None)
    if broken is not None:
        return f"{text}; it is {short(broken.value)} from step {broken.step} on."
    if lowest.step not in (first.step, last.step):
        text += f", with its lowest log entry, {apart(lowest.value, last.value, 4)[0]}, at step {lowest.step}"
    return f"{text}."


def trend_sentence(windows: Sequence[LossWindow]) -> str:
    """Whether the run had flattened at its end: its last quarter against the quarter before."""
    trend = trend_of(windows)
    if trend is None:
        return ""
    last, before = apart(trend.last, trend.before, 4)
    quarters = f"its last quarter averaged {last}, the quarter before {before}"
    if trend.movement == "flattened":
        return f"The run had flattened: {quarters}, the first one {short(trend.first)}."
    if trend.movement == "unmoved":
        return f"The loss hardly moved: {quarters}, the first one {short(trend.first)}."
    if trend.movement == "unclear" and trend.last == trend.before:
        return ""
    if trend.movement == "unclear":
        return f"How the loss moved at the end is lost in the scatter of the log: {quarters}."
    word = "still falling" if trend.movement == "falling" else "rising"
    return f"The run had not flattened but was {word}: {quarters}."


def average_sentences(found: Reconciliation, reported: float, end: int | None) -> list[str]:
    """What the reported average is."""
    value = short(reported)
    steps = f"{end} steps" if end is not None else "steps"
    if found.verdict == "average_of_all_steps":
        if not math.isfinite(reported):
            return [f"train_loss is {value} because logged losses are: one such value spoils the whole sum."]
        if end == 1:
            return [f"train_loss {value} is the loss of its only step."]
        return [f"train_loss {value} is the mean over all {steps}{_last_words(found)}."]
    if found.verdict == "average_with_unlogged_tail" and found.tail is not None:
        return [
            f"train_loss {value} is the mean over all {steps}{_last_words(found)}.",
            _tail_sentence(found),
            *_others(found),
        ]
    if found.verdict == "resumed_sum_over_all_steps" and found.start is not None and end is not None:
        run = end - found.start
        return [
            f"train_loss {value} is too small: the run was resumed at step {found.start}, and this release divides the "
            f"summed loss of the {counted(run, 'step')} it then trained by all {end} steps.",
            f"The mean over {'that step' if run == 1 else f'those {run} steps'} is {short(found.session_mean)} "
            f"({value} x {end} / {run}).",
            *([_tail_sentence(found)] if found.tail else []),
            *_others(found),
        ]
    if found.verdict == "average_since_resume" and found.start is not None and end is not None:
        run = end - found.start
        return [
            f"train_loss {value} is the mean over the {counted(run, 'step')} since the run was resumed at step "
            f"{found.start}; the {counted(found.start, 'step')} before do not count.",
            *([_tail_sentence(found)] if found.tail else []),
            *_others(found),
        ]
    if found.verdict == "no_step_trained":
        return ["train_loss is 0.0 because train() ran no step: it was resumed at or after its last step."]
    if found.verdict == "not_logged":
        return [f"train_loss {value} cannot be recomputed: {found.reason}."]
    return [f"train_loss {value} is not reproduced by the logged losses: {found.reason}."]


def _last_words(found: Reconciliation) -> str:
    """ ", the last 2 of which logged 5.935"."""
    if not found.windows:
        return ""
    last = found.windows[-1]
    if last.steps == 1:
        return f"; the last logged step had {short(last.loss)}"
    return f"; the last {last.steps} logged ones averaged {short(last.loss)}"


def _tail_sentence(found: Reconciliation) -> str:
    tail = found.tail
    if tail is None:
        return ""
    if tail.inner:
        return (
            f"{tail.steps} of those steps are missing from the log and must have averaged {short(tail.mean)}, within the "
            f"{short(tail.low)} to {short(tail.high)} that the rest allows."
        )
    which = "The last step was" if tail.steps == 1 else f"The last {tail.steps} steps were"
    return (
        f"{which} not logged and must have averaged {short(tail.mean)}, within the {short(tail.low)} to "
        f"{short(tail.high)} that the entries before allow."
    )


def _others(found: Reconciliation) -> list[str]:
    if not found.others:
        return []
    return [f"A resume at step {listed([str(step) for step in found.others], 'or')} would fit the numbers as well."]


def difference_sentence(found: Reconciliation, reported: float, *, masked: bool) -> str:
    """Why the average and the last logged loss differ."""
    if not found.windows or not math.isfinite(reported):
        return ""
    last = found.windows[-1]
    if (
        not math.isfinite(last.loss)
        or last.loss == 0
        or found.verdict
        not in (
            "average_of_all_steps",
            "average_with_unlogged_tail",
            "average_since_resume",
        )
    ):
        return ""
    gap = (reported - last.loss) / abs(last.loss)
    if len(found.windows) == 1 and abs(gap) < ALIKE:
        return ""
    if abs(gap) < ALIKE:
        flat = all(abs(part.loss - reported) < FLAT * abs(reported) for part in found.windows)
        return f"Average and final loss agree{' because the curve is flat' if flat else ''}."
    ends = ends_of(found.windows)
    if gap > 0:
        high = max(found.windows, key=lambda part: part.loss)
        return f"The average {_above(gap)} the final loss{_why_above(ends, reported, found.windows, high)}."
    if masked:
        return ""
    text = f"The average is {percent(-gap)} LOWER than the final loss"
    if last.loss - ends.last > (last.loss - reported) / 2:
        return f"{text}{_scattered(ends)}."
    lowest = min(found.windows, key=lambda part: part.loss)
    if lowest is last or lowest.loss >= last.loss or ends.last - reported <= ends.doubt or _sinks(found, reported):
        return f"{text}."
    return (
        f"{text}: the loss rose after its lowest entry ({short(lowest.loss)} at step {lowest.end}), so the end of the run is "
        "worse than its average."
    )


def _sinks(found: Reconciliation, reported: float) -> bool:
    """Whether the unlogged steps at the end lie below the average."""
    return found.tail is not None and found.tail.inner == 0 and found.tail.mean < reported


def _above(gap: float) -> str:
    return f"lies {percent(gap)} above" if gap < 1 else f"is {short(1 + gap, 2)} times"


def _why_above(ends: Ends, reported: float, windows: Sequence[LossWindow], high: LossWindow) -> str:
    first, last = windows[0], windows[-1]
    if ends.last - last.loss > (reported - last.loss) / 2:
        return _scattered(ends)
    if ends.first <= reported:
        return f" because it counts the higher losses before (up to {short(high.loss)} at step {high.end})"
    start = f"from {short(first.loss)}" if first.loss > reported else f"its first quarter averaged {short(ends.first)}"
    return f" because it counts the higher losses of the beginning ({start})"


def _scattered(ends: Ends) -> str:
    return f", a single entry of a log that scatters: the last quarter averaged {short(ends.last)}"
