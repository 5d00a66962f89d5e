"""What a rule may ask: the run, the directory it is called for, and answers that are worked out once and shared."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckpt_inspect.progress import NullProgress, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_inspect.explain.batches import BatchesAnswer
    from ckpt_inspect.explain.evaluation import EvaluationAnswer
    from ckpt_inspect.explain.loss import LossAnswer
    from ckpt_inspect.explain.new_tokens import NewTokensAnswer
    from ckpt_inspect.explain.resume import CheckpointResume
    from ckpt_inspect.explain.schedule import LearningRateAnswer
    from ckpt_inspect.run import Checkpoint, Run, StateDirectory


class Answers:
    """The answers of :mod:`ckpt_inspect.explain` for one run, each computed on first use."""

    def __init__(self, run: Run, base: Path | None = None) -> None:
        self._run = run
        self._base = base
        self._known: dict[tuple[str, str], Any] = {}

    def _once(self, topic: str, path: str, compute: Callable[[], Any]) -> Any:
        key = (topic, path)
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    @property
    def loss(self) -> LossAnswer | None:
        """How the reported average was made."""
        from ckpt_inspect.explain.loss import explain_loss

        found: LossAnswer | None = self._once("loss", "", lambda: explain_loss(self._run))
        return found

    @property
    def schedule(self) -> LearningRateAnswer | None:
        """Whether the learning rate followed its schedule."""
        from ckpt_inspect.explain.schedule import explain_schedule

        found: LearningRateAnswer | None = self._once("schedule", "", lambda: explain_schedule(self._run))
        return found

    @property
    def batches(self) -> BatchesAnswer | None:
        """Steps, epochs and batch arithmetic."""
        from ckpt_inspect.explain.batches import explain_batches

        found: BatchesAnswer | None = self._once("batches", "", lambda: explain_batches(self._run))
        return found

    @property
    def evaluation(self) -> EvaluationAnswer | None:
        """Which metrics are what."""
        from ckpt_inspect.explain.evaluation import explain_evaluation

        found: EvaluationAnswer | None = self._once("evaluation", "", lambda: explain_evaluation(self._run))
        return found

    def tokens(self, place: StateDirectory) -> NewTokensAnswer | None:
        """Where the new tokens of one directory are."""
        from ckpt_inspect.explain.new_tokens import explain_tokens

        found: NewTokensAnswer | None = self._once("tokens", place.path, lambda: explain_tokens(place, base=self._base))
        return found

    def resume(self, checkpoint: Checkpoint) -> CheckpointResume:
        """What resuming from one checkpoint would do."""
        from ckpt_inspect.explain.resume import resume_of

        found: CheckpointResume = self._once("resume", checkpoint.path, lambda: resume_of(self._run, checkpoint))
        return found


@dataclass(frozen=True, slots=True)
class Subject:
    """One call of a rule: `place` is the run itself, or a checkpoint of it; `thorough` allows opening every file."""

    run: Run
    place: StateDirectory
    answers: Answers
    progress: Progress = field(default_factory=NullProgress)
    thorough: bool = True

    @property
    def is_root(self) -> bool:
        """Whether the place is the run's own directory."""
        return self.place is self.run

    @property
    def checkpoint(self) -> Checkpoint:
        """The place as a checkpoint; only for rules of that scope."""
        from ckpt_inspect.run import Checkpoint

        if not isinstance(self.place, Checkpoint):
            raise TypeError("a rule of checkpoint scope was called with another place")
        return self.place
