"""Reads from a checkpoint what :mod:`ckpt_inspect.explain.resume` judges: which states are there, and whether they are whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ckpt_inspect import knowledge
from ckpt_inspect.explain.divergence import diverged_at
from ckpt_inspect.explain.histories import foreign_since
from ckpt_inspect.explain.resume import Backend, CheckpointParts
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from ckpt_inspect.run import Checkpoint, Run, StateDirectory

_WEIGHT_KINDS = (
    "model_weights",
    "model_weights_index",
    "pytorch_weights",
    "pytorch_weights_index",
    "fsdp_full_weights",
)
_TRAINER_KINDS = ("trainer_state", "training_args")


def parts_of(run: Run, checkpoint: Checkpoint) -> CheckpointParts:
    """What a resume from `checkpoint` would find."""
    state = checkpoint.trainer_state
    args = checkpoint.training_args or run.training_args
    arguments: dict[str, Any] = dict(args.arguments) if args is not None else {}
    backend = _backend(checkpoint)
    trainer = any(place.has(*_TRAINER_KINDS) for place in run.states)
    zero = checkpoint.zero if backend == "deepspeed" else None
    ranks = zero.world_size if zero is not None else args.world_size if args is not None else None
    if ranks is None and checkpoint.rng_states:
        ranks = max((rank for rank, _ in checkpoint.rng_states if rank is not None), default=0) + 1
    return CheckpointParts(
        name=checkpoint.name,
        step=checkpoint.step,
        backend=backend,
        trainer=trainer,
        trainer_state=_trainer_state(checkpoint),
        weights=_weights(checkpoint, backend),
        optimizer=_optimizer(checkpoint, backend),
        scheduler=_state(checkpoint, checkpoint.scheduler, "scheduler", "scheduler_bin"),
        scaler=_state(checkpoint, checkpoint.scaler, "scaler"),
        fp16=arguments.get("fp16") is True and backend == "trainer",
        rng_ranks=tuple(rank if rank is not None else 0 for rank, _ in checkpoint.rng_states),
        ranks=ranks,
        zero_stage=zero.stage if zero is not None else None,
        missing_zero_ranks=zero.missing_ranks if zero is not None else (),
        zero_problem=_zero_problem(checkpoint) if backend == "deepspeed" else None,
        state_step=state.global_step if state is not None else None,
        epoch=state.epoch if state is not None else None,
        num_train_epochs=state.num_train_epochs if state is not None else None,
        max_steps=state.max_steps if state is not None else None,
        lacks_fields=_lacks(checkpoint),
        save_only_model=arguments.get("save_only_model") is True,
        interrupted=_interrupted(checkpoint, trainer=trainer),
        diverged_at=diverged_at(run, checkpoint.step),
        foreign_since=foreign_since(run, checkpoint),
        universal=checkpoint.universal is not None,
    )


def _backend(checkpoint: StateDirectory) -> Backend:
    if checkpoint.tags or checkpoint.has("latest"):
        return "deepspeed"
    return "fsdp" if checkpoint.fsdp is not None else "trainer"


def _trainer_state(checkpoint: StateDirectory) -> str:
    if not checkpoint.has("trainer_state"):
        return "absent"
    state = checkpoint.trainer_state
    if state is None:
        return _read_fault(checkpoint, "trainer_state")
    if not state.complete:
        return _worst(state.faults) or "it ends in the middle"
    return "present"


def _lacks(checkpoint: StateDirectory) -> tuple[str, ...]:
    state = checkpoint.trainer_state
    if state is None:
        return ()
    lacking = [key for key in ("stateful_callbacks",) if key in state.missing_keys]
    if state.train_batch_size is None:
        lacking.append("train_batch_size")
    return tuple(lacking)


def _weights(checkpoint: StateDirectory, backend: Backend) -> str:
    found = [facts for facts in (checkpoint.weights, checkpoint.adapter_weights) if facts is not None]
    if found:
        return next((worst for facts in found if (worst := _worst(facts.faults))), "present")
    if backend == "fsdp":
        state = checkpoint.fsdp
        return (_worst(state.faults) or "present") if state is not None else "absent"
    return "absent" if not checkpoint.has(*_WEIGHT_KINDS, "adapter_weights") else "the file cannot be read"


def _optimizer(checkpoint: StateDirectory, backend: Backend) -> str:
    if backend == "fsdp" and any(name.rpartition("/")[2].startswith("optimizer_") for name in checkpoint.directories):
        return "present"
    return _state(checkpoint, checkpoint.optimizer, "optimizer", "optimizer_bin")


def _state(checkpoint: StateDirectory, facts: Any, *kinds: str) -> str:
    if facts is not None:
        return _worst(facts.faults) or "present"
    return _read_fault(checkpoint, *kinds) if checkpoint.has(*kinds) else "absent"


def _zero_problem(checkpoint: Checkpoint) -> str | None:
    if checkpoint.form == "tag":  # loaded by its tag; `latest` may rightly name another one, or lie outside the path
        return _worst(checkpoint.zero.faults) if checkpoint.zero is not None else "the shards cannot be read"
    latest = checkpoint.latest
    if not checkpoint.tags:
        return "no DeepSpeed tag directory (global_stepN) is there"
    if latest is None:
        return "`latest` is missing: DeepSpeed does not know which tag to load"
    if latest.tag is None:
        return f"`latest` {_worst(latest.faults) or 'names no tag'}"
    if f"{checkpoint.path}/{latest.tag}".lstrip("/") not in checkpoint.tags:
        return f"`latest` names {printable(latest.tag, 60)}, which is not there"
    zero = checkpoint.zero
    return _worst(zero.faults) if zero is not None else "the shards cannot be read"


def _interrupted(checkpoint: Checkpoint, *, trainer: bool) -> str | None:
    if checkpoint.form == "tmp_checkpoint":
        return "the save was cut off (the directory is still called tmp-checkpoint)"
    if checkpoint.has("incomplete_marker"):
        return "checkpoint-is-incomplete.txt is there: the save was cut off"
    if checkpoint.form == "tag" and trainer:
        return "it is a DeepSpeed tag that save_model left in the run's directory, not a checkpoint of the Trainer"
    return None


def _worst(faults: Iterable[Fault]) -> str | None:
    """The message of the first fault of severity error, which a loader would stumble over."""
    for fault in faults:
        if knowledge.faults().get(fault.kind, {}).get("severity", "error") == "error":
            place = f" ({printable(fault.place, 60)})" if fault.place else ""
            return f"{fault.message}{place}"
    return None


def _read_fault(checkpoint: StateDirectory, *kinds: str) -> str:
    artifact = checkpoint.find(*kinds)
    for path, fault in checkpoint.read_faults:
        if artifact is not None and path == artifact.path:
            return fault.message
    return "the file cannot be read"
