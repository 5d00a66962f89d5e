"""Known reasons why logged losses are not what they seem, named only when the release and the numbers agree.

Release ranges and sources: ``knowledge/transformers_eras.toml``, table `distortion`. The NaN filter is independent of
the release (``logging_nan_inf_filter``, on by default since 4.20).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckpt_inspect.explain.loss_arithmetic import LossWindow
from ckpt_inspect.explain.numbers import counted, median, short
from ckpt_inspect.explain.version import NEWEST, OLDEST, VersionEvidence, parse_release
from ckpt_inspect.knowledge import load

NEAR = 0.15  # how far a ratio may be from the accumulation steps or the world size
NOTICEABLE = 0.01  # smallest effect of the miscounted first position worth a sentence


@dataclass(frozen=True, slots=True)
class Distortion:
    """One effect.

    Attributes:
        name: "masked_nan", "accumulation_not_divided", "epoch_boundary", "average_tokens_without_count",
            "first_position_counted".
        steps: the log entries it shows in; empty for all of them.
        factor: what the logged loss is multiplied with, where that is one number.
        statement: the sentence.
        source: where the fact comes from.
    """

    name: str
    steps: tuple[int, ...]
    factor: float | None
    statement: str
    source: str


@dataclass(frozen=True, slots=True)
class DistortionFacts:
    """What the tests need; None or empty where the directory does not say."""

    windows: tuple[LossWindow, ...]
    entries: tuple[Mapping[str, Any], ...] = ()
    evals: tuple[tuple[int, float], ...] = ()
    version: VersionEvidence | None = None
    accumulation: int | None = None
    world_size: int | None = None
    averages_tokens: bool | None = None
    nan_filter: bool | None = None
    vocabulary: int | None = None
    tokens_per_row: float | None = None
    policy_training: bool = False


def find_distortions(facts: DistortionFacts) -> tuple[Distortion, ...]:
    """Every distortion that release and numbers agree on."""
    return tuple(
        found for found in (_masked_nan(facts), _scaled(facts), _boundary(facts), _first_position(facts)) if found
    )


def masked_windows(facts: DistortionFacts) -> tuple[LossWindow, ...]:
    """Windows whose loss is exactly 0.0 because every micro-batch was NaN and the filter replaced it."""
    if facts.nan_filter is False:
        return ()
    zero = [part for part in facts.windows if part.loss == 0.0]
    if not zero:
        return ()
    norms = {entry.get("step"): entry.get("grad_norm") for entry in facts.entries}
    certain = tuple(part for part in zero if _broken(norms.get(part.end)))
    if certain:
        first = certain[0].end
        return tuple(part for part in zero if part.end >= first)
    unknown = all(norms.get(part.end) is None for part in zero)
    at_end = tuple(zero) == facts.windows[-len(zero) :]
    if unknown and at_end and len(zero) >= 2 and len(zero) < len(facts.windows) and not facts.policy_training:
        return tuple(zero)  # releases before 4.38 log no gradient norm
    return ()


def _broken(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _masked_nan(facts: DistortionFacts) -> Distortion | None:
    masked = masked_windows(facts)
    if not masked:
        return None
    left = [part for part in facts.windows if part not in masked]
    source = "transformers trainer.py:_inner_training_loop, logging_nan_inf_filter (PR 13619)"
    if left:
        statement = (
            f"The loss is NaN from about step {masked[0].start + 1} on: {_FILTER}, so "
            f"{counted(len(masked), 'log entry', 'log entries')} pull the average down. Over the "
            f"{counted(sum(part.steps for part in left), 'step')} without it the loss averaged "
            f"{short(without_masked(facts.windows, masked))}. The weights took the NaN gradients; use a checkpoint from "
            "before."
        )
    else:
        statement = f"The loss is NaN from the first step on: {_FILTER}. The weights took the NaN gradients."
    return Distortion("masked_nan", tuple(part.end for part in masked), 0.0, statement, source)


_FILTER = "logging_nan_inf_filter (on by default) writes such windows as 0.0"


def _rows(name: str, version: VersionEvidence | None) -> Iterator[Mapping[str, Any]]:
    """Rows of the table that the release falls into, or may fall into where it is known from both sides."""
    if version is None or version.low == OLDEST or version.high == NEWEST:
        return
    for row in load("transformers_eras")["distortion"]:
        first, last = parse_release(row["first"]), parse_release(row["last"])
        if row["name"] == name and first and last and version.overlaps(first, last):
            yield row


def _scaled(facts: DistortionFacts) -> Distortion | None:
    """Losses multiplied by the accumulation steps or by the world size."""
    for name, factor in (
        ("accumulation_not_divided", facts.accumulation),
        ("average_tokens_without_count", facts.world_size if facts.averages_tokens else None),
    ):
        if factor is None or factor < 2:
            continue
        row = next(_rows(name, facts.version), None)
        proof = _shows_factor(facts, factor) if row is not None else None
        if row is not None and proof is not None:
            what = "gradient_accumulation_steps" if row["factor"] == "G" else "the number of processes"
            return Distortion(
                name,
                (),
                float(factor),
                f"The logged losses are {factor} times too large ({what} = {factor}; {proof}): in transformers "
                f"{row['first']} to {row['last']} {row['meaning']}. Divide them by {factor}.",
                row["source"],
            )
    return None


def _shows_factor(facts: DistortionFacts, factor: int) -> str | None:
    """Why the numbers look multiplied by `factor`, or None."""
    ratios = [
        part.loss / value
        for step, value in facts.evals
        for part in facts.windows
        if part.start < step <= part.end and value > 0 and part.loss > 0
    ]
    if ratios and abs(median(ratios) / factor - 1) <= NEAR:
        return f"training loss / eval_loss is {short(median(ratios), 3)}"
    if not ratios and facts.vocabulary and facts.windows:
        guess = math.log(facts.vocabulary)
        first = facts.windows[0].loss
        if first > 1.5 * guess and 0.2 * guess <= first / factor <= 1.2 * guess:
            return f"the first loss is {short(first)}, uniform guessing over {facts.vocabulary} tokens costs {short(guess)}"
    return None


def _boundary(facts: DistortionFacts) -> Distortion | None:
    """Spikes in the windows that contain the end of an epoch."""
    row = next(_rows("epoch_boundary", facts.version), None)
    if row is None or facts.accumulation is None or facts.accumulation < 2:
        return None
    ends = _epoch_end_windows(facts)
    spikes = []
    for index in ends:
        around = [
            facts.windows[i].loss
            for i in (index - 2, index - 1, index + 1, index + 2)
            if 0 <= i < len(facts.windows) and i not in ends
        ]
        if around and median(around) > 0 and 1.15 <= facts.windows[index].loss / median(around) <= 2.6:
            spikes.append((facts.windows[index].end, facts.windows[index].loss / median(around)))
    if len(ends) < 2 or len(spikes) < 0.6 * len(ends):
        return None
    steps = tuple(step for step, _ in spikes)
    return Distortion(
        "epoch_boundary",
        steps,
        None,
        f"{counted(len(spikes), 'entry', 'entries')} at the end of an epoch (step {', '.join(map(str, steps[:4]))}"
        f"{', ...' if len(steps) > 4 else ''}) stand {short(median(ratio for _, ratio in spikes), 2)} times above their "
        f"neighbours: in transformers {row['first']} to {row['last']} {row['meaning']}. The data is not to blame.",
        row["source"],
    )


def _epoch_end_windows(facts: DistortionFacts) -> list[int]:
    epochs = {entry.get("step"): entry.get("epoch") for entry in facts.entries}
    found: list[int] = []
    previous = 0.0
    for index, part in enumerate(facts.windows):
        epoch = epochs.get(part.end)
        if not isinstance(epoch, int | float) or not math.isfinite(epoch):
            return []
        if math.floor(epoch + 1e-9) > math.floor(previous + 1e-9):
            found.append(index)
        previous = float(epoch)
    return found


def _first_position(facts: DistortionFacts) -> Distortion | None:
    row = next(_rows("first_position_counted", facts.version), None)
    if row is None or facts.version is None or facts.tokens_per_row is None or facts.tokens_per_row <= 1:
        return None
    first, last = parse_release(row["first"]), parse_release(row["last"])
    if (
        first is None
        or last is None
        or not (first <= facts.version.low and facts.version.high <= (*last[:2], last[2] + 1))
    ):
        return None  # an interval that reaches beyond the affected releases proves nothing
    share = 1 / facts.tokens_per_row
    if share < NOTICEABLE:
        return None
    return Distortion(
        "first_position_counted",
        (),
        1 - share,
        f"If the prompt is not masked, the logged losses are about {short(100 * share, 2)} % too low: with "
        f"{short(facts.tokens_per_row, 3)} tokens per row the uncounted first position matters, and in transformers "
        f"{row['first']} to {row['last']} {row['meaning']}.",
        row["source"],
    )


def without_masked(windows: Sequence[LossWindow], masked: Sequence[LossWindow]) -> float | None:
    """The mean loss over the steps that were not masked; None when nothing is left or nothing was masked."""
    if not masked:
        return None
    left = [part for part in windows if part not in masked]
    steps = sum(part.steps for part in left)
    return sum(part.sum for part in left) / steps if steps else None
