"""Collects from a run what the batches answer stands on: sizes, processes, epochs, speeds, tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ckpt_inspect.explain.batches_world import WorldEvidence, world_evidence
from ckpt_inspect.explain.histories import foreign_since
from ckpt_inspect.explain.loss import explain_loss
from ckpt_inspect.explain.numbers import is_number, is_step, whole
from ckpt_inspect.explain.version import VersionEvidence, newest_training_args, run_version

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.trainer_state import TrainerState
    from ckpt_inspect.artifacts.training_args import TrainingArgs
    from ckpt_inspect.run import Run

_PARALLEL = (
    "tp_size",
    "cp_size",
    "sp_size",
)  # processes that share the rows of one replica (5.x get_total_train_batch_size)
_PER_BATCH = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "dataloader_drop_last",
    "accelerator_config",
)  # arguments that change how many batches an epoch has
_MANY = 1_000_000  # num_train_epochs of a data set without length is sys.maxsize


class BatchRecords:
    """What the directory says about batches, steps and epochs."""

    def __init__(self, run: Run) -> None:
        self.run = run
        newest = run.newest_trainer_state
        self.state: TrainerState | None = newest[0] if newest is not None else None
        self.state_path = newest[1] if newest is not None else ""

    @cached_property
    def arguments(self) -> TrainingArgs | None:
        """The training arguments of the last session."""
        return newest_training_args(self.run)

    @property
    def version(self) -> VersionEvidence:
        """The transformers release."""
        return run_version(self.run)

    def argument(self, name: str) -> float | None:
        """A numeric training argument."""
        return self.arguments.number(name) if self.arguments is not None else None

    @property
    def per_device_asked(self) -> int | None:
        """per_device_train_batch_size as given; releases before 4.0 called it per_gpu_train_batch_size."""
        older = self.argument("per_gpu_train_batch_size")
        value = older if older else self.argument("per_device_train_batch_size")
        return whole(value)

    @property
    def gpus(self) -> int:
        """GPUs of one process (DataParallel); 1 where there are none."""
        count = self.arguments.n_gpu if self.arguments is not None else None
        return whole(count) or 1

    @property
    def keeps_first_batch_size(self) -> bool:
        """Whether train_batch_size of trainer_state.json is what the first session used, whatever later ones did."""
        searched = self.arguments.flag("auto_find_batch_size") if self.arguments is not None else None
        return searched is False and self.version.has("batch_size_of_arguments") is True

    @cached_property
    def per_device(self) -> int | None:
        """Rows per device as really used: trainer_state.json's, which auto_find_batch_size may have lowered.

        The newest releases keep the number of the first session in trainer_state.json and use that of the arguments.
        """
        if self.per_device_asked is not None and self.keeps_first_batch_size:
            return self.per_device_asked
        size = whole(self.state.train_batch_size) if self.state is not None else None
        if size is not None and size % self.gpus == 0:
            return size // self.gpus
        return self.per_device_asked

    @cached_property
    def accumulation(self) -> int | None:
        """gradient_accumulation_steps."""
        return whole(self.argument("gradient_accumulation_steps"))

    @cached_property
    def world(self) -> tuple[WorldEvidence, ...]:
        """What tells the number of processes."""
        return world_evidence(self.run, self.arguments)

    @cached_property
    def replicas(self) -> int | None:
        """Processes that see different rows: all of them without tensor, context and sequence parallelism."""
        if not self.world:
            return None
        config = self.arguments.arguments.get("parallelism_config") if self.arguments is not None else None
        shared = 1
        for name in _PARALLEL:
            size = config.get(name) if isinstance(config, Mapping) else None
            shared *= whole(size) or 1
        processes = self.world[0].processes
        return processes // shared if processes % shared == 0 else processes

    @property
    def split_batches(self) -> bool:
        """Whether the batch size is that of all processes together (accelerate split_batches)."""
        config = self.arguments.arguments.get("accelerator_config") if self.arguments is not None else None
        return isinstance(config, Mapping) and config.get("split_batches") is True

    @property
    def drop_last(self) -> bool:
        """dataloader_drop_last."""
        return self.arguments is not None and self.arguments.flag("dataloader_drop_last") is True

    @property
    def epochs_asked(self) -> float | None:
        """num_train_epochs, where the run was planned in epochs and not in max_steps."""
        planned, epochs = self.argument("max_steps"), self.argument("num_train_epochs")
        if (planned is not None and planned > 0) or not _is_epoch(epochs):
            return None
        return epochs

    @property
    def has_no_length(self) -> bool:
        """Whether the data set had no length, so that epochs mean nothing."""
        return self.state is not None and (self.state.num_train_epochs or 0) > _MANY

    def epochs(self, *, rounded: bool) -> Iterator[tuple[int, float]]:
        """(step, epoch) pairs: the state's own epoch has all digits in every release, log entries from 4.40 on."""
        state = self.state
        if state is None:
            return
        entries_rounded = self.version.has("epoch_unrounded") is not True
        first, last = self.counted_alike
        if not rounded and is_step(state.global_step) and _is_epoch(state.epoch) and state.global_step <= last:
            yield state.global_step, float(state.epoch or 0)
            for checkpoint in self.run.checkpoints[-8:]:
                older = checkpoint.trainer_state
                if foreign_since(self.run, checkpoint) is not None:
                    continue
                if older is None or not is_step(older.global_step) or not first < older.global_step <= last:
                    continue
                if _is_epoch(older.epoch):
                    yield older.global_step, float(older.epoch or 0)
        if rounded is entries_rounded:
            for entry in state.log_history:
                if (
                    is_step(entry.step)
                    and first < entry.step <= last
                    and _is_epoch(entry.epoch)
                    and entry.kind == "train"
                ):
                    yield entry.step, float(entry.epoch or 0)

    @cached_property
    def counted_alike(self) -> tuple[int, float]:
        """(after, up to): the steps whose epochs count the batches of the arguments from the first step on.

        Sessions that took other batches count other epochs for the same step; with ignore_data_skip a resumed call counts
        its epochs from 0.
        """
        end = math.inf
        if self.arguments is not None and self.arguments.flag("ignore_data_skip") is True and self.state is not None:
            known = [entry for entry in self.state.log_history if is_step(entry.step) and _is_epoch(entry.epoch)]
            for before, after in itertools.pairwise(known):
                if (after.epoch or 0) < (before.epoch or 0):
                    end = min(end, before.step or 0)
        return max((step for step in self._other_batches() if step < end), default=0), end

    def _other_batches(self) -> Iterator[int]:
        """Steps up to which a session with other batches trained."""
        ours = self.arguments
        for checkpoint in self.run.checkpoints:
            theirs = checkpoint.training_args
            if ours is None or theirs is None or theirs is ours or checkpoint.step is None:
                continue
            names = [name for name in _PER_BATCH if name in ours.arguments and name in theirs.arguments]
            if theirs.world_size != ours.world_size or any(theirs.arguments[n] != ours.arguments[n] for n in names):
                yield checkpoint.step
        used, before = self.per_device, self.state.train_batch_size if self.state is not None else None
        if self.keeps_first_batch_size and used is not None and before and before != used * self.gpus:
            answer = explain_loss(self.run)
            if answer is not None and answer.average is not None and answer.average.resumed_at:
                yield answer.average.resumed_at

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """The numbers train() closed with, from trainer_state.json or a results file."""
        if self.state is not None and self.state.summary is not None:
            return self.state.summary.values
        for split in ("train", "all"):
            results = self.run.results.get(split)
            if results is not None and "train_runtime" in results.values:
                return results.values
        return {}

    def of_summary(self, key: str) -> float | None:
        """A number of the summary."""
        value = self.summary.get(key)
        return float(value) if is_number(value) else None

    @property
    def repeats_prompts(self) -> bool:
        """Whether rows of a batch are generations of the same prompt (GRPO, RLOO), so that rows are not data rows."""
        return self.argument("num_generations") is not None

    @property
    def packed(self) -> bool:
        """Whether rows are packed sequences."""
        return self.arguments is not None and any(
            self.arguments.flag(name) is True for name in ("packing", "neat_packing", "group_texts")
        )


def _is_epoch(value: object) -> bool:
    """An epoch a run can have reached."""
    return isinstance(value, int | float) and 1e-9 < value < _MANY
