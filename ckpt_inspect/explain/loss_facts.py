"""Collects from a run what the loss answer stands on: logged losses, reported averages, signs of a resume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ckpt_inspect.explain.answer import Evidence
from ckpt_inspect.explain.histories import foreign_since
from ckpt_inspect.explain.loss_arithmetic import Course, LossWindow, course, windows
from ckpt_inspect.explain.loss_terms import Divisor, LossFacts
from ckpt_inspect.explain.numbers import MOST_STEPS, is_number, is_step, whole
from ckpt_inspect.explain.version import VersionEvidence, newest_training_args, run_version

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.trainer_state import LogEntry, TrainerState
    from ckpt_inspect.artifacts.training_args import TrainingArgs
    from ckpt_inspect.run import Checkpoint, Run

MOST_CHECKPOINTS = 64  # whose records are compared for signs of a resume, the newest first
SESSION_ARGUMENTS = (
    "logging_dir",  # holds the time the process started, up to 5.14
    "max_steps",
    "num_train_epochs",
    "learning_rate",
    "lr_scheduler_type",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "resume_from_checkpoint",
)


@dataclass(frozen=True, slots=True)
class Reported:
    """A `train_loss` as one file has it."""

    file: str
    value: float
    values: Mapping[str, Any]


class LossRecords:
    """Everything a run's directory says about its training loss."""

    def __init__(self, run: Run) -> None:
        self.run = run
        newest = run.newest_trainer_state
        self.state: TrainerState | None = newest[0] if newest is not None else None
        self.state_path = newest[1] if newest is not None else ""

    @property
    def version(self) -> VersionEvidence:
        """The transformers release."""
        return run_version(self.run)

    @cached_property
    def arguments(self) -> TrainingArgs | None:
        """The training arguments of the last session."""
        return newest_training_args(self.run)

    @cached_property
    def session_entries(self) -> tuple[LogEntry, ...]:
        """The log entries of the last train() call that is in the history, and what was carried into it.

        A second train() call that starts again at the beginning makes the steps before the last summary another run.
        """
        if self.state is None:
            return ()
        history = self.state.log_history
        marks = [index for index, entry in enumerate(history) if entry.kind == "summary"]
        if len(marks) < 2:
            return history
        cut = marks[-2] + 1
        before, after = history[cut - 1].step, [entry for entry in history[cut:] if entry.kind == "train"]
        if before is not None and after and after[0].step is not None and after[0].step <= before:
            return history[cut:]
        return history

    @cached_property
    def course(self) -> Course:
        """The logged losses in step order, from trainer_state.json, or trainer_log.jsonl where it tells more."""
        return self._log_course if self._log_tells_more else self._state_course

    @cached_property
    def windows(self) -> tuple[LossWindow, ...]:
        """The windows of the logged losses, as of one session from the first step on."""
        return windows(self.course.points, 0)

    @cached_property
    def _state_course(self) -> Course:
        return course(_state_points(self.session_entries))

    @cached_property
    def _log_course(self) -> Course:
        return course(_log_points(self.run))

    @cached_property
    def source(self) -> str:
        """The file `course` comes from."""
        return self.log_path if self._log_tells_more else self.state_path

    @property
    def log_path(self) -> str:
        """Where the progress log lies."""
        artifact = self.run.find("trainer_log")
        return artifact.path if artifact is not None else "trainer_log.jsonl"

    @cached_property
    def _log_tells_more(self) -> bool:
        if not self._log_course.points:
            return False
        if not self._state_course.points:
            return True
        is_root = self.state_path == "trainer_state.json"
        return not is_root and self._log_course.points[-1].step > self._state_course.points[-1].step

    @cached_property
    def reports(self) -> tuple[Reported, ...]:
        """Every `train_loss` found, the trainer's own summary first."""
        found: list[Reported] = []
        if self.state is not None and self.state.summary is not None:
            value = self.state.summary.number("train_loss")
            if value is not None:
                found.append(Reported(self.state_path, float(value), self.state.summary.values))
        for split in ("all", "train"):
            results = self.run.results.get(split)
            value = results.number("train_loss") if results is not None else None
            if results is not None and value is not None:
                found.append(Reported(f"{split}_results.json", float(value), results.values))
        return tuple(found)

    @cached_property
    def global_step(self) -> int | None:
        """The step training ended at."""
        if self.state is not None:
            if self.state.summary is not None and is_step(self.state.summary.step):
                return self.state.summary.step
            root = self.state_path == "trainer_state.json"
            if (root or self._checkpoint_is_last) and is_step(self.state.global_step):
                return self.state.global_step
        by_epoch = self._step_by_epoch()
        if by_epoch is not None:
            return by_epoch
        log = self.run.trainer_log
        closing = [row.current_steps for row in log.rows if row.current_steps] if log is not None else []
        return max(closing, default=None)

    def _step_by_epoch(self) -> int | None:
        """The last step from the epoch that the results file has, where only part of the log is there."""
        epoch = next((report.values.get("epoch") for report in self.reports), None)
        if not is_number(epoch) or not epoch or not 0 < epoch < 1e6:
            return None
        pairs = [(entry.step, entry.epoch) for entry in self.session_entries]
        log = self.run.trainer_log
        pairs += [(row.current_steps, row.number("epoch")) for row in log.rows] if log is not None else []
        known = [(step, part) for step, part in pairs if step and part and part > 0]
        if not known:
            return None
        step, part = max(known, key=lambda item: item[0])
        estimate = epoch * step / part
        planned = [row.total_steps for row in log.rows if row.total_steps] if log is not None else []
        planned += [self.state.max_steps] if self.state is not None and self.state.max_steps else []
        nearest = min(planned, key=lambda steps: abs(steps - estimate), default=None)
        if nearest is not None and abs(nearest - estimate) <= max(1.0, 0.005 * nearest):
            return nearest
        return round(estimate) if 0 < estimate <= MOST_STEPS else None

    @property
    def _checkpoint_is_last(self) -> bool:
        state = self.state
        return state is not None and (state.should_stop is True or state.global_step == state.max_steps)

    @cached_property
    def masks_policy_loss(self) -> bool:
        """Whether the run is policy training, where a loss of exactly 0 is ordinary."""
        state = self.state
        return state is not None and any("reward" in entry.values or "kl" in entry.values for entry in state.train)

    def facts(self, reported: Reported, *, thorough: bool) -> LossFacts:
        """What `reconcile` needs; `thorough` also compares the records of the checkpoints for signs of a resume."""
        since = self.version.has("average_over_steps_of_this_call")
        divisors: tuple[Divisor, ...] = ("steps_of_session",) if since else ("global_step",)
        if since is None:
            divisors = ("global_step", "steps_of_session")
        starts = tuple(step for step, _ in self.resume_signs) if thorough else ()
        return LossFacts(
            points=self.course.points,
            reported=reported.value,
            global_step=self.global_step,
            divisors=divisors,
            rounded=self.version.has("loss_unrounded") is not True,
            starts=starts,
            checkpoints=tuple(sorted(set(self._possible_starts()))),
            forced_start=self._forced_start,
            excerpt=self.source == self.log_path,
            executed=_executed(reported.values, self.state.max_steps if self.state is not None else None),
        )

    @property
    def _forced_start(self) -> int | None:
        summaries = [entry for entry in self.session_entries if entry.kind == "summary"]
        start = summaries[-2].step if len(summaries) >= 2 else None
        return start if is_step(start) else None

    def _possible_starts(self) -> Iterator[int]:
        """Steps at which a checkpoint was, or may have been, written."""
        end = self.global_step or 0
        for checkpoint in self.run.checkpoints:
            if is_step(checkpoint.step) and checkpoint.step < end:
                yield checkpoint.step
        state = self.state
        if state is None:
            return
        every = whole(state.save_steps)
        if every is not None and end / every <= 2_000:
            yield from range(every, end, every)
        yield from (entry.step for entry in state.evals if is_step(entry.step) and 0 < entry.step < end)

    @cached_property
    def resume_signs(self) -> tuple[tuple[int, str], ...]:
        """Checkpoints that an earlier session wrote: (step, why), the latest of them first."""
        end = self.global_step
        if end is None:
            return ()
        found: dict[int, str] = {}
        named = self._named_in_arguments()
        if named is not None and 0 < named < end:
            found[named] = f"resume_from_checkpoint names step {named}"
        for checkpoint in [item for item in self.run.checkpoints if item.step is not None][-MOST_CHECKPOINTS:][::-1]:
            step = checkpoint.step
            if step is None or step >= end:
                continue
            why = self._written_by_another_session(checkpoint)
            if why:
                found.setdefault(step, why)
                break  # the sessions before are of no matter: the divisor only knows the last start
        for step, why in self._log_restarts():
            found.setdefault(step, why)
        return tuple(sorted(found.items(), reverse=True))

    def _named_in_arguments(self) -> int | None:
        value = self.arguments.text("resume_from_checkpoint") if self.arguments is not None else None
        tail = value.rstrip("/").rpartition("checkpoint-")[2] if value else ""
        return int(tail) if tail.isdigit() and len(tail) < 12 else None

    def _written_by_another_session(self, checkpoint: Checkpoint) -> str:
        state, mine = checkpoint.trainer_state, self.state
        if foreign_since(self.run, checkpoint) is not None:
            return ""
        if state is not None and mine is not None:
            if state.should_stop is True:
                return f"checkpoint-{checkpoint.step} was the last of its session (should_training_stop)"
            if state.max_steps and mine.max_steps and state.max_steps != mine.max_steps:
                return (
                    f"checkpoint-{checkpoint.step} was written with max_steps {state.max_steps}, not {mine.max_steps}"
                )
        theirs, ours = checkpoint.training_args, self.arguments
        if theirs is None or ours is None:
            return ""
        for name in SESSION_ARGUMENTS:
            if name in theirs.arguments and name in ours.arguments and theirs.arguments[name] != ours.arguments[name]:
                return f"checkpoint-{checkpoint.step} was written with another {name}"
        if theirs.world_size and ours.world_size and theirs.world_size != ours.world_size:
            return f"checkpoint-{checkpoint.step} was written by {theirs.world_size} processes, not {ours.world_size}"
        return ""

    def _log_restarts(self) -> Iterator[tuple[int, str]]:
        """Checkpoints from which trainer_log.jsonl shows a restart: the clock or the step goes back."""
        log = self.run.trainer_log
        if log is None:
            return
        steps = sorted(checkpoint.step for checkpoint in self.run.checkpoints if checkpoint.step is not None)
        previous: tuple[int, int] | None = None
        for row in log.rows:
            seconds = row.elapsed_seconds
            if row.current_steps is None or seconds is None or row.kind != "train":
                continue
            if previous is not None and (row.current_steps <= previous[0] or seconds < previous[1]):
                before = [step for step in steps if step < row.current_steps]
                if before:
                    yield before[-1], f"{self.log_path} line {row.line} starts a new session"
            previous = (row.current_steps, seconds)

    def evidence(self) -> tuple[Evidence, ...]:
        """The facts by file."""
        found = [Evidence(report.file, "train_loss", report.value) for report in self.reports]
        if self.state is not None:
            found.append(Evidence(self.state_path, "global_step", self.state.global_step))
            found.append(Evidence(self.state_path, "max_steps", self.state.max_steps))
        found.append(Evidence(self.version.source, "transformers version", self.version.text))
        found += [Evidence(f"checkpoint-{step}", "resume", why) for step, why in self.resume_signs[:1]]
        return tuple(found)


def _state_points(entries: tuple[LogEntry, ...]) -> Iterator[tuple[int, float]]:
    for entry in entries:
        if entry.kind == "train" and is_step(entry.step):
            value = entry.number("loss")
            if value is not None:
                yield entry.step, float(value)


def _log_points(run: Run) -> Iterator[tuple[int, float]]:
    log = run.trainer_log
    for row in log.rows if log is not None else ():
        value = row.number("loss")
        if is_step(row.current_steps) and value is not None:
            yield row.current_steps, float(value)


def _executed(values: Mapping[str, Any], max_steps: int | None) -> tuple[float, float] | None:
    """(steps, uncertainty) that runtime and steps per second imply; both are rounded when saved.

    (transformers trainer_utils.py:speed_metrics: runtime to 4 decimals, speeds to 3.) The product is of use only where
    it is not the planned number of steps, which releases before 5.19 put there.
    """
    runtime, speed = values.get("train_runtime"), values.get("train_steps_per_second")
    if not (is_number(runtime) and is_number(speed)) or runtime <= 0 or speed <= 0:
        return None
    steps = float(runtime) * float(speed)
    if not steps <= MOST_STEPS or round(steps) == max_steps:
        return None
    return steps, 5e-4 * float(runtime) + 5e-5 * float(speed)
