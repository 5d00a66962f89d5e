"""``generated_predictions.jsonl`` (or ``.txt``) in numbers, and what is wrong with them at a glance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ckpt_inspect.explain.numbers import counted, listed, percent
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.predictions import Predictions
    from ckpt_inspect.run import Run

MANY = 0.05  # share of lines from which a flaw is a pattern rather than an accident


@dataclass(frozen=True, slots=True)
class PredictionNumbers:
    """Counts over the lines of `file`.

    `exact`, of the `labels` lines that have a label, equal it; `template_leftovers` hold control tokens of a chat template or
    begin with a role's name; `echoes` begin with their own prompt; `repeated` equal the line before; `preferred` are the
    pairs of a reward model whose chosen answer scores higher. `mean_characters` is the mean length of an answer.
    """

    file: str
    kind: Literal["generated", "scores", "other"]
    lines: int
    labels: int
    empty: int
    exact: int
    template_leftovers: int
    echoes: int
    repeated: int
    preferred: int
    mean_characters: float | None
    complete: bool


def prediction_numbers(run: Run) -> PredictionNumbers | None:
    """The numbers; None without the file."""
    artifact = run.find("generated_predictions")
    facts = run.predictions if artifact is not None else None
    return _numbers(artifact.path, facts) if artifact is not None and facts is not None else None


def _numbers(file: str, facts: Predictions) -> PredictionNumbers:
    generated = facts.kind == "generated"
    return PredictionNumbers(
        file,
        facts.kind,
        facts.lines,
        facts.labels,
        facts.empty,
        facts.exact,
        facts.template_leftovers,
        facts.echoes,
        facts.repeated,
        facts.preferred,
        facts.characters / facts.lines if generated and facts.lines else None,
        facts.complete,
    )


def prediction_sentence(found: PredictionNumbers | None) -> str:
    """What they say."""
    if found is None or not found.lines:
        return "" if found is None else f"{printable(found.file, 80)} holds no line."
    if found.kind == "scores":
        share = percent(found.preferred / found.lines)
        return f"{printable(found.file, 80)} holds {counted(found.lines, 'pair')}; the chosen answer scores higher in {share}."
    if found.kind == "other":
        return f"{printable(found.file, 80)} holds {counted(found.lines, 'line')} without predictions."
    parts = [
        *([f"{found.exact} equal to their label"] if found.labels else []),
        f"{found.empty} empty",
        f"{found.template_leftovers} with leftovers of the chat template",
    ]
    if found.echoes:
        parts.append(f"{found.echoes} that repeat their prompt")
    if found.repeated:
        parts.append(f"{found.repeated} equal to the line before")
    cut = "" if found.complete else " (the file was not read to its end)"
    text = f"{printable(found.file, 80)} holds {counted(found.lines, 'prediction')}{cut}: {listed(parts)}."
    if found.template_leftovers > MANY * found.lines:
        text += " So many leftovers mean that another chat template was used than in training, or that no stop token was learnt."
    return text
