"""The topic `loss`: which loss is which, and how the reported average comes about.

Machinery: ``loss_arithmetic`` (windows and sums), ``loss_reconcile`` (which rule gives the reported value),
``loss_distortions`` (why losses may mislead), ``loss_words`` (sentences), ``loss_facts`` (what the directory says).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckpt_inspect.explain import loss_words as words
from ckpt_inspect.explain.answer import Evidence
from ckpt_inspect.explain.loss_arithmetic import Course, smoothed, smoothing_weight, total
from ckpt_inspect.explain.loss_distortions import (
    Distortion,
    DistortionFacts,
    find_distortions,
    masked_windows,
    without_masked,
)
from ckpt_inspect.explain.loss_facts import LossRecords, Reported
from ckpt_inspect.explain.loss_reconcile import reconcile
from ckpt_inspect.explain.loss_terms import LossFacts, Reconciliation, Verdict
from ckpt_inspect.explain.numbers import counted, is_step, listed, short, whole
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from ckpt_inspect.run import Run

SAME = 1e-9  # two files of one run hold the same number, digit for digit
LOG_SAME = 1e-6
SHOWN_WINDOWS = 12
WHOLE = 0.9  # share of the steps the log has to reach before its end speaks for the end of the run


@dataclass(frozen=True, slots=True)
class Point:
    """A loss and the step it was logged at."""

    step: int
    value: float


@dataclass(frozen=True, slots=True)
class TailAnswer:
    """Unlogged steps at the end: how many, their implied mean, and the range the log before allows."""

    steps: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class AverageAnswer:
    """The reported average and how it comes about (keys: see the JSON contract).

    `session_mean` is the mean over the steps the call trained (the corrected value of a resumed run); `resumed_at` the
    step it began at; `sources` every file that holds a `train_loss`.
    """

    reported: float
    source: str
    recomputed: float | None
    relative_error: float | None
    verdict: Verdict
    explanation: str
    session_mean: float | None
    resumed_at: int | None
    divisor: int | None
    tail: TailAnswer | None
    sources: dict[str, float]


@dataclass(frozen=True, slots=True)
class SmoothedAnswer:
    """The last value of the exponentially smoothed curve and the weight used (LLaMA-Factory's rule)."""

    final: float
    weight: float


@dataclass(frozen=True, slots=True)
class LossAnswer:
    """The answer; losses and steps as logged, a later entry for a step replacing an earlier one.

    `mean_of_logged` is the step-weighted mean of what was logged, whatever was reported.
    """

    first: Point | None
    final: Point | None
    minimum: Point | None
    average: AverageAnswer | None
    smoothed: SmoothedAnswer | None
    mean_of_logged: float | None
    distortions: tuple[Distortion, ...]
    paragraph: str
    arithmetic: tuple[str, ...]
    evidence: tuple[Evidence, ...]


def explain_loss(run: Run) -> LossAnswer | None:
    """Explain the training loss of a run; None where nothing in it speaks of one."""
    if _MEMO not in run.memo:
        run.memo[_MEMO] = _work_out(run)
    answer: LossAnswer | None = run.memo[_MEMO]
    return answer


_MEMO = "loss answer"


def _work_out(run: Run) -> LossAnswer | None:
    records = LossRecords(run)
    if not records.course.points and not records.reports:
        return None
    points = records.course.points
    parts = records.windows
    found: Reconciliation | None = None
    facts: LossFacts | None = None
    reported = records.reports[0] if records.reports else None
    if reported is not None:
        facts, found = _reconciled(records, reported)
    distortion_facts = _distortion_facts(records)
    distortions = find_distortions(distortion_facts)
    masked = masked_windows(distortion_facts)
    finite = [point for point in points if math.isfinite(point.value)]
    lowest = min((point for point in finite if point.value != 0 or not masked), key=lambda p: p.value, default=None)
    average = None
    if reported is not None and found is not None:
        average = _average(records, reported, found, masked=bool(masked))
    steps = sum(part.steps for part in parts)
    values = [point.value for point in finite]
    sentences = [words.course_sentence(points, [part.end for part in masked])]
    if average is not None:
        sentences.append(average.explanation)
    else:
        sentences.append(_no_average(records))
    end = records.global_step
    if not masked and points and (end is None or points[-1].step >= WHOLE * end):
        sentences.append(words.trend_sentence(parts))
    sentences += [item.statement for item in distortions]
    sentences += _cross_checks(records)
    return LossAnswer(
        first=Point(points[0].step, points[0].value) if points else None,
        final=Point(points[-1].step, points[-1].value) if points else None,
        minimum=Point(lowest.step, lowest.value) if lowest else None,
        average=average,
        smoothed=SmoothedAnswer(smoothed(values)[-1], smoothing_weight(len(values))) if values else None,
        mean_of_logged=total(parts) / steps if steps else None,
        distortions=distortions,
        paragraph=" ".join(sentence for sentence in sentences if sentence),
        arithmetic=_arithmetic(records, facts, found, without_masked(distortion_facts.windows, masked)),
        evidence=records.evidence(),
    )


def _reconciled(records: LossRecords, reported: Reported) -> tuple[LossFacts, Reconciliation]:
    """First without, then with the records of all checkpoints: most runs need no more than the log."""
    facts = records.facts(reported, thorough=False)
    found = reconcile(facts)
    if found.verdict == "average_of_all_steps" or found.verdict == "no_step_trained" or not facts.points:
        return facts, found
    facts = records.facts(reported, thorough=True)
    return facts, reconcile(facts)


def _average(records: LossRecords, reported: Reported, found: Reconciliation, *, masked: bool) -> AverageAnswer:
    sentences = words.average_sentences(found, reported.value, records.global_step)
    sentences.append(words.difference_sentence(found, reported.value, masked=masked))
    sentences.append(_rank_sentence(records, found))
    sentences.append(_disagreement(records))
    tail = found.tail
    return AverageAnswer(
        reported=reported.value,
        source=reported.file,
        recomputed=found.recomputed,
        relative_error=found.relative_error,
        verdict=found.verdict,
        explanation=" ".join(sentence for sentence in sentences if sentence),
        session_mean=found.session_mean,
        resumed_at=found.start if found.start else None,
        divisor=found.divisor,
        tail=TailAnswer(tail.steps, tail.mean, tail.low, tail.high) if tail is not None else None,
        sources={report.file: report.value for report in records.reports},
    )


def _rank_sentence(records: LossRecords, found: Reconciliation) -> str:
    world = records.arguments.world_size if records.arguments is not None else None
    if found.tail is None or world is None or world < 2:
        return ""
    return f"Those unlogged steps count with the loss of process 0 alone, not with the mean of all {world}."


def _disagreement(records: LossRecords) -> str:
    """What differs between the files that hold a `train_loss`."""
    first = records.reports[0]
    others = [
        report
        for report in records.reports[1:]
        if math.isfinite(report.value) and abs(report.value - first.value) > SAME * max(abs(first.value), 1e-12)
    ]
    if not others:
        return ""
    named = listed([f"{printable(report.file)} has {short(report.value, 6)}" for report in others])
    return (
        f"{named}, {printable(first.file)} has {short(first.value, 6)}: they are of different runs "
        "(all_results.json keeps keys of earlier runs in the same directory)."
    )


def _no_average(records: LossRecords) -> str:
    if records.state is None or records.reports:
        return ""
    if records.run.kind == "checkpoint":
        return "A checkpoint holds no train_loss: it is written before train() ends and logs its summary."
    step = records.global_step or records.state.global_step
    return f"No train_loss was reported: the record ends at step {step}, before train() ended and logged its summary."


def _cross_checks(records: LossRecords) -> list[str]:
    sentences: list[str] = []
    if records.course.rewinds:
        reached, back = records.course.rewinds[-1]
        sentences.append(
            f"The log goes back from step {reached} to step {back}: the run was resumed from an earlier checkpoint, and "
            "the entries of the second time count."
        )
    log = records.run.trainer_log
    state = records.state
    if log is None or state is None or records.source == records.log_path:
        return sentences
    logged = {row.current_steps: row.number("loss") for row in log.latest}
    compared = [(point, logged[point.step]) for point in records.course.points if logged.get(point.step) is not None]
    differing = [
        (point.step, point.value, other)
        for point, other in compared
        if other is not None and not _same(point.value, other)
    ]
    if differing:
        step, value, other = differing[0]
        sentences.append(
            f"trainer_log.jsonl disagrees with trainer_state.json at {len(differing)} of {len(compared)} steps "
            f"(step {step}: {short(other, 6)} against {short(value, 6)})."
        )
    return sentences


def _same(one: float, two: float) -> bool:
    if math.isnan(one) or math.isnan(two):
        return math.isnan(one) and math.isnan(two)
    return one == two or abs(one - two) <= LOG_SAME * max(abs(one), abs(two)) + 5e-5


def _distortion_facts(records: LossRecords) -> DistortionFacts:
    state, arguments = records.state, records.arguments
    config = records.run.model_config
    accumulation = whole(arguments.number("gradient_accumulation_steps")) if arguments is not None else None
    evals: tuple[tuple[int, float], ...] = ()
    entries: tuple[dict[str, Any], ...] = ()
    tokens_per_row = None
    if state is not None:
        entries = tuple(entry.values for entry in state.train if is_step(entry.values.get("step")))
        evals = tuple(
            (entry.step, float(value))
            for entry in state.evals
            if entry.step is not None and (value := entry.number("eval_loss")) is not None and math.isfinite(value)
        )
        tokens_per_row = _tokens_per_row(records)
    return DistortionFacts(
        windows=records.windows,
        entries=entries,
        evals=evals,
        version=records.version,
        accumulation=accumulation,
        world_size=arguments.world_size if arguments is not None else None,
        averages_tokens=arguments.flag("average_tokens_across_devices") if arguments is not None else None,
        nan_filter=arguments.flag("logging_nan_inf_filter") if arguments is not None else None,
        vocabulary=config.vocab_size if config is not None else None,
        tokens_per_row=tokens_per_row,
        policy_training=records.masks_policy_loss,
    )


def _tokens_per_row(records: LossRecords) -> float | None:
    state, arguments = records.state, records.arguments
    if state is None or arguments is None or not state.num_input_tokens_seen or not state.global_step:
        return None
    accumulation = whole(arguments.number("gradient_accumulation_steps")) or 1
    rows = (state.train_batch_size or 0) * (arguments.world_size or 1) * accumulation * state.global_step
    return state.num_input_tokens_seen / rows if rows else None


def _arithmetic(
    records: LossRecords, facts: LossFacts | None, found: Reconciliation | None, clean: float | None
) -> tuple[str, ...]:
    lines: list[str] = []
    parts = found.windows if found is not None and found.windows else records.windows
    course: Course = records.course
    if course.points:
        count = counted(len(course.points), "logged loss", "logged losses")
        lines.append(f"{count} in {printable(records.source)}, each the mean of its steps:")
        shown = parts if len(parts) <= SHOWN_WINDOWS else (*parts[: SHOWN_WINDOWS // 2], *parts[-SHOWN_WINDOWS // 2 :])
        for index, part in enumerate(shown):
            if len(parts) > SHOWN_WINDOWS and index == SHOWN_WINDOWS // 2:
                lines.append(f"  ... {len(parts) - SHOWN_WINDOWS} more ...")
            lines.append(
                f"  step {part.end}: {short(part.loss, 7)}"
                if part.steps == 1
                else f"  steps {part.start + 1}-{part.end}: {short(part.loss, 7)} x {part.steps} = {short(part.sum, 7)}"
            )
        steps = sum(part.steps for part in parts)
        lines.append(f"sum over {steps} logged steps = {short(total(parts), 9)}")
    if found is not None and facts is not None:
        lines += _reported_lines(facts, found)
    if clean is not None:
        lines.append(f"mean over the steps that were not masked = {short(clean, 7)}")
    if facts is not None:
        rules: dict[tuple[str, ...], str] = {
            ("global_step",): "divides by global_step, also after a resume",
            ("steps_of_session",): "divides by the steps since the call began",
        }
        both = "divides by global_step (before 5.19) or by the steps since the call began (from 5.19)"
        lines.append(f"transformers, version {records.version.text}: {rules.get(facts.divisors, both)}")
    return tuple(lines)


def _reported_lines(facts: LossFacts, found: Reconciliation) -> list[str]:
    lines: list[str] = []
    logged = total(found.windows)
    tail = found.tail
    if tail is not None and found.divisor is not None:
        lines.append(
            f"train_loss x {found.divisor} = {short(facts.reported * found.divisor, 9)}, so {tail.steps} unlogged steps hold "
            f"{short(facts.reported * found.divisor - logged, 7)}: {short(tail.mean, 7)} each"
        )
    elif found.recomputed is not None and found.divisor is not None:
        lines.append(
            f"{short(logged, 9)} / {found.divisor} = {short(found.recomputed, 9)}; reported {short(facts.reported, 9)}"
        )
    if found.start and found.session_mean is not None and facts.global_step is not None:
        lines.append(
            f"resumed at {found.start}: mean over {facts.global_step - found.start} steps = {short(found.session_mean, 7)}"
        )
    return lines
