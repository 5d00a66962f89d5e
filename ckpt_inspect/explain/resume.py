"""May training go on from a checkpoint, with how many ranks, and what would differ.

The matrix was measured by running transformers 5.23 on checkpoints with one thing missing or changed, and read in its
source (`Trainer._inner_training_loop`, `_load_optimizer_and_scheduler`, `_load_rng_state`) and in
deepspeed 0.19.8 (`engine._load_checkpoint`, `_load_zero_checkpoint`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ckpt_inspect.explain.answer import Evidence

if TYPE_CHECKING:
    from ckpt_inspect.run import Checkpoint, Run

Verdict = Literal["will", "will_differ", "will_not", "unknown"]
Backend = Literal["trainer", "deepspeed", "fsdp"]
Weight = Literal["blocks", "differs", "note"]


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that bears on resuming: it blocks, makes the run differ, or is worth knowing."""

    weight: Weight
    text: str


@dataclass(frozen=True, slots=True)
class CheckpointParts:
    """What a checkpoint has of the things a resume reads; pure facts, so that every case can be written in a test.

    `weights` and the other states are "present", "absent" or a fault in words. `ranks` is the world size it was
    saved with where that is known; `trainer` says whether the Trainer wrote it (a plain DeepSpeed or accelerate
    state has no trainer_state.json and needs none); `rng_ranks` the ranks whose RNG state is there (an empty tuple is none, a
    single-process state is rank 0); `foreign_since` the step from which its log is that of another training.
    """

    name: str
    step: int | None
    backend: Backend
    trainer_state: str
    weights: str
    optimizer: str
    scheduler: str
    scaler: str = "absent"
    trainer: bool = True
    fp16: bool = False
    rng_ranks: tuple[int, ...] = ()
    ranks: int | None = None
    zero_stage: int | None = None
    missing_zero_ranks: tuple[int, ...] = ()
    zero_problem: str | None = None
    state_step: int | None = None
    epoch: float | None = None
    num_train_epochs: int | None = None
    max_steps: int | None = None
    lacks_fields: tuple[str, ...] = ()
    save_only_model: bool = False
    interrupted: str | None = None
    diverged_at: int | None = None
    foreign_since: int | None = None
    universal: bool = False


@dataclass(frozen=True, slots=True)
class CheckpointResume:
    """The answer for one checkpoint. `complete` is about files, `verdict` about what the Trainer would do."""

    step: int | None
    path: str
    verdict: Verdict
    complete: bool
    reasons: tuple[str, ...]
    ranks: str


@dataclass(frozen=True, slots=True)
class ResumeAnswer:
    """Every checkpoint, newest first, and the one to resume from."""

    checkpoints: tuple[CheckpointResume, ...]
    recommended: str | None
    explanation: str
    arithmetic: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    @property
    def paragraph(self) -> str:
        """The answer in words."""
        return self.explanation


def judge(parts: CheckpointParts) -> tuple[Verdict, tuple[Reason, ...]]:
    """What transformers (with DeepSpeed or FSDP where the checkpoint is theirs) would do with `parts`."""
    reasons = [*_interruption(parts), *_state(parts), *_weights(parts)]
    reasons += _zero(parts) if parts.backend == "deepspeed" else _optimizer_and_scheduler(parts)
    reasons += [*_rng(parts), *_scaler(parts), *_divergence(parts), *_foreign(parts), *_end(parts)]
    if any(reason.weight == "blocks" for reason in reasons):
        return "will_not", tuple(reasons)
    if any(reason.weight == "differs" for reason in reasons):
        return "will_differ", tuple(reasons)
    return "will", tuple(reasons)


def complete(parts: CheckpointParts) -> bool:
    """Whether everything the run meant to save is there and readable."""
    if parts.interrupted or (parts.trainer and parts.trainer_state != "present"):
        return False
    if parts.backend == "deepspeed":
        whole = not parts.missing_zero_ranks and parts.zero_problem is None and parts.weights in ("present", "absent")
        return whole and (_rng_complete(parts) or not parts.trainer)
    if parts.weights != "present":
        return False
    if parts.save_only_model:
        return True
    if not parts.trainer:
        return parts.optimizer == "present"
    return parts.optimizer == "present" and parts.scheduler == "present" and _rng_complete(parts)


def ranks_allowed(parts: CheckpointParts) -> str:
    """With how many processes it can go on, in words."""
    if parts.universal:
        return "any number of ranks (a universal checkpoint)"
    if parts.backend == "deepspeed" and parts.zero_stage:
        if parts.ranks is None:
            return "as many ranks as it was saved with"
        return f"exactly {parts.ranks} {'rank' if parts.ranks == 1 else 'ranks'} (another number needs a universal checkpoint)"
    if parts.backend == "fsdp":
        return "any number of ranks (sharded states are resharded)"
    saved = f" (saved with {parts.ranks})" if parts.ranks else ""
    return f"any number of ranks{saved}; another number changes the order of the data and the random states"


def explain_resume(run: Run) -> ResumeAnswer | None:
    """What resuming from each checkpoint would do; None where there is no checkpoint."""
    from ckpt_inspect.explain.resume_parts import parts_of

    if not run.checkpoints:
        return None
    newest_first = list(reversed(run.checkpoints))
    newest_first.sort(key=lambda checkpoint: checkpoint.form == "tag")  # what save_model left beside them comes last
    pairs = [(checkpoint, parts_of(run, checkpoint)) for checkpoint in newest_first]
    return answer([(checkpoint.path, parts) for checkpoint, parts in pairs])


def resume_of(run: Run, checkpoint: Checkpoint) -> CheckpointResume:
    """The answer for one checkpoint of `run`."""
    from ckpt_inspect.explain.resume_parts import parts_of

    return _one(checkpoint.path, parts_of(run, checkpoint))


def answer(pairs: Sequence[tuple[str, CheckpointParts]]) -> ResumeAnswer:
    """Judge every checkpoint (newest first) and name the newest that can be resumed, preferring one that changes nothing."""
    judged = tuple(_one(path, parts) for path, parts in pairs)
    sound = [
        item
        for item, (_, parts) in zip(judged, pairs, strict=True)
        if parts.diverged_at is None and parts.foreign_since is None
    ] or list(judged)
    exact = next((item for item in sound if item.verdict == "will"), None)
    usable = exact or next((item for item in sound if item.verdict == "will_differ"), None)
    newest = judged[0]
    end = next((reason for reason in usable.reasons if " is the last of " in reason), None) if usable else None
    if usable is None:
        explanation = f"No checkpoint here can be resumed from. {newest.path}: {_first(newest)}"
    elif usable is newest:
        how = "exactly where it stopped" if usable.verdict == "will" else f"with a difference: {_first(usable)}"
        explanation = f"Training can go on from {usable.path} {how}, on {usable.ranks}."
        if end is not None:
            explanation += f" But {end}."
    else:
        explanation = (
            f"Resume from {usable.path}, not from the newest: {newest.path} {_status(newest)} ({_first(newest)}). "
            f"resume_from_checkpoint=True takes the highest number without looking; pass the path."
        )
    return ResumeAnswer(judged, usable.path if usable else None, explanation, _table(judged))


def _one(path: str, parts: CheckpointParts) -> CheckpointResume:
    verdict, reasons = judge(parts)
    return CheckpointResume(
        step=parts.step,
        path=path,
        verdict=verdict,
        complete=complete(parts),
        reasons=tuple(reason.text for reason in sorted(reasons, key=lambda reason: _ORDER.index(reason.weight))),
        ranks=ranks_allowed(parts),
    )


_ORDER: tuple[Weight, ...] = ("blocks", "differs", "note")


def _first(item: CheckpointResume) -> str:
    return item.reasons[0] if item.reasons else "everything is there"


def _status(item: CheckpointResume) -> str:
    return {"will": "resumes", "will_differ": "resumes differently", "will_not": "cannot be resumed"}.get(
        item.verdict, "is not decided"
    )


def _table(judged: Sequence[CheckpointResume]) -> tuple[str, ...]:
    return tuple(
        f"{item.path}: {item.verdict.replace('_', ' ')}" + (f" - {'; '.join(item.reasons)}" if item.reasons else "")
        for item in judged
    )


def _interruption(parts: CheckpointParts) -> list[Reason]:
    return [Reason("blocks", parts.interrupted)] if parts.interrupted else []


def _state(parts: CheckpointParts) -> list[Reason]:
    found: list[Reason] = []
    if parts.trainer_state == "absent" and parts.trainer:
        found.append(Reason("blocks", "trainer_state.json is missing: the Trainer stops with FileNotFoundError"))
    elif parts.trainer_state not in ("present", "absent"):
        found.append(Reason("blocks", f"trainer_state.json cannot be read: {parts.trainer_state}"))
    if "train_batch_size" in parts.lacks_fields:
        found.append(
            Reason("blocks", "train_batch_size is null (saved before 4.36): a newer Trainer stops with TypeError")
        )
    if "stateful_callbacks" in parts.lacks_fields:
        found.append(
            Reason("note", "stateful_callbacks is absent (saved before 4.41): a newer Trainer fails at its first save")
        )
    if None not in (parts.step, parts.state_step) and parts.step != parts.state_step:
        found.append(Reason("differs", f"trainer_state.json says step {parts.state_step}: training goes on from there"))
    return found


def _weights(parts: CheckpointParts) -> list[Reason]:
    if parts.weights == "present" or (parts.backend == "deepspeed" and parts.weights == "absent"):
        return []
    if parts.weights == "absent":
        return [Reason("blocks", 'no weights: the Trainer stops with "Can\'t find a valid checkpoint"')]
    return [Reason("blocks", f"the weights cannot be read: {parts.weights}")]


def _zero(parts: CheckpointParts) -> list[Reason]:
    if parts.zero_problem:
        return [Reason("blocks", parts.zero_problem)]
    if parts.missing_zero_ranks:
        missing = ", ".join(str(rank) for rank in parts.missing_zero_ranks[:8])
        return [Reason("blocks", f"shards of rank {missing} are missing")]
    return []


def _optimizer_and_scheduler(parts: CheckpointParts) -> list[Reason]:
    found: list[Reason] = []
    broken = False
    for name, state in (("optimizer", parts.optimizer), ("scheduler", parts.scheduler)):
        if state not in ("present", "absent"):
            broken = True
            found.append(Reason("blocks", f"the {name} state cannot be read: {state}"))
    missing = [
        name for name, state in (("optimizer", parts.optimizer), ("scheduler", parts.scheduler)) if state == "absent"
    ]
    if not parts.trainer:
        missing = [name for name in missing if name == "optimizer"]
    if broken or not missing:
        return found
    if parts.backend == "fsdp" and missing == ["scheduler"]:
        return [*found, Reason("differs", "scheduler.pt is missing: the learning rate starts over")]
    why = " (save_only_model was on)" if parts.save_only_model else ""
    if len(missing) == 2:
        text = f"no optimizer and no scheduler state{why}: moments start at zero and the learning rate starts over"
    else:
        other = "scheduler.pt" if missing == ["optimizer"] else "the optimizer state"
        text = (
            f"the {missing[0]} state is missing, so the Trainer silently ignores {other} too: moments start at zero "
            "and the learning rate starts over"
        )
    return [*found, Reason("differs", text)]


def _rng_complete(parts: CheckpointParts) -> bool:
    if not parts.rng_ranks:
        return False
    return set(range(parts.ranks or 1)) <= set(parts.rng_ranks)


def _rng(parts: CheckpointParts) -> list[Reason]:
    if _rng_complete(parts) or not parts.trainer:
        return []
    if not parts.rng_ranks:
        return [Reason("differs", "no rng_state: the order of the data is kept, dropout and other random draws differ")]
    missing = sorted(set(range(parts.ranks or 1)) - set(parts.rng_ranks))
    return [
        Reason("differs", f"rng_state of rank {', '.join(map(str, missing[:8]))} is missing: its random draws differ")
    ]


def _scaler(parts: CheckpointParts) -> list[Reason]:
    if parts.fp16 and parts.scaler == "absent" and parts.backend == "trainer":
        return [Reason("differs", "scaler.pt is missing: fp16 starts over at scale 65536 and skips a few steps")]
    return []


def _divergence(parts: CheckpointParts) -> list[Reason]:
    if parts.diverged_at is None:
        return []
    return [Reason("note", f"the loss was NaN from step {parts.diverged_at} on: go on from a checkpoint before it")]


def _foreign(parts: CheckpointParts) -> list[Reason]:
    if parts.foreign_since is None:
        return []
    return [
        Reason(
            "note",
            f"its log is not the run's from step {parts.foreign_since} on: it is of another training in the same directory",
        )
    ]


def _end(parts: CheckpointParts) -> list[Reason]:
    """At the last step: the Trainer compares with max_steps only after a step, so it trains one more, unless the last
    epoch is over (measured: transformers 4.36 and 5.23)."""
    if not parts.max_steps or parts.state_step is None or parts.state_step < parts.max_steps:
        return []
    over = None
    if parts.epoch is not None and parts.num_train_epochs:
        over = parts.epoch >= parts.num_train_epochs - 1e-6
    what = {
        True: "no step would be trained",
        False: "one step more would be trained",
        None: "at most one step would be trained",
    }[over]
    return [
        Reason(
            "note",
            f"step {parts.state_step} is the last of {parts.max_steps}: {what}; to go on, raise max_steps or "
            "num_train_epochs, which moves the learning rate to its new schedule",
        )
    ]
