"""``generated_predictions.jsonl`` in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckpt_inspect.run import Run


@dataclass(frozen=True, slots=True)
class PredictionNumbers:
    """Counts over the lines of the file; `with_template` are predictions that hold markers of a chat template."""

    lines: int
    empty: int
    exact: int
    with_template: int


def prediction_numbers(run: Run) -> PredictionNumbers | None:
    """The numbers; None without the file."""
    return None


def prediction_sentence(found: PredictionNumbers | None) -> str:
    """What they say."""
    return ""
