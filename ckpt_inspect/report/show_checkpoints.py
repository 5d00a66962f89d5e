"""The checkpoints table of the `show` document: one row for each saved state, oldest first."""

from __future__ import annotations

from math import prod
from typing import Any

from ckpt_inspect.artifacts.trainer_state import TrainerState
from ckpt_inspect.errors import UnreadableError, log_failure
from ckpt_inspect.explain.answer import plain
from ckpt_inspect.explain.evaluation_best import metric_name
from ckpt_inspect.explain.resume import CheckpointResume, explain_resume
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.run import Checkpoint, Run

Json = dict[str, Any]


def checkpoint_rows(run: Run) -> list[Json]:
    """Every saved state with its step, size, losses, what is missing and its ZeRO facts."""
    judged = _resume(run)
    metric = _metric(run)
    rows = []
    for checkpoint in run.checkpoints:
        verdict = judged.get(checkpoint.path)
        rows.append(
            {
                "step": checkpoint.step,
                "path": checkpoint.path or ".",
                "bytes": checkpoint.bytes,
                "loss": plain(_loss(run, checkpoint)),
                "eval": plain(_eval(run, checkpoint, metric)),
                "complete": verdict.complete if verdict else False,
                "resume": verdict.verdict if verdict else "unknown",
                "reasons": list(verdict.reasons) if verdict else [],
                "zero": zero_facts(checkpoint),
                "fsdp": fsdp_facts(checkpoint),
                "form": checkpoint.form,
                "ranks": verdict.ranks if verdict else None,
            }
        )
    return rows


def zero_facts(checkpoint: Checkpoint) -> Json | None:
    """The DeepSpeed tag of a checkpoint; None where it has none."""
    tag = checkpoint.tag
    zero = checkpoint.zero if tag is not None else None
    if tag is None or zero is None:
        return None
    name = tag if checkpoint.form == "tag" else tag[len(checkpoint.path) :].lstrip("/")
    return {
        "stage": zero.stage,
        "world_size": zero.world_size,
        "model_parallel": zero.model_parallel,
        "tag": name or checkpoint.tree.root.resolve().name,
        "dtype": zero.dtype,
        "parameters": zero.parameters,
        "deepspeed_version": zero.ds_version,
        "expert_files": len(zero.expert_files),
        "layer_files": len(zero.layer_files),
        "missing_ranks": list(zero.missing_ranks),
    }


def fsdp_facts(checkpoint: Checkpoint) -> Json | None:
    """The FSDP or distributed shards of a checkpoint; None where it has none."""
    state = checkpoint.fsdp
    if state is None:
        return None
    try:
        metadata = state.metadata
    except UnreadableError:
        metadata = None
    tensors = metadata.tensors.values() if metadata is not None else ()
    return {
        "kind": state.kind,
        "world_size": state.world_size,
        "tensors": len(metadata.tensors) if metadata is not None else None,
        "parameters": sum(prod(tensor.shape) for tensor in tensors) if metadata is not None else None,
        "dtypes": sorted({str(tensor.dtype) for tensor in tensors}) if metadata is not None else None,
    }


def _resume(run: Run) -> dict[str, CheckpointResume]:
    try:
        answer = explain_resume(run)
    except Exception as error:  # noqa: BLE001  # a mistake of ours in one topic must not hide the others
        fault = Fault("topic-failed", f"working out the resume failed ({type(error).__name__}); please report it")
        run.read_faults.append(("", fault))
        log_failure(__name__, fault.message)
        return {}
    return {item.path: item for item in answer.checkpoints} if answer is not None else {}


def _logs(run: Run, checkpoint: Checkpoint) -> list[TrainerState]:
    """The logs that may hold the checkpoint's values: its own, then the run's newest (which may go further)."""
    own = checkpoint.trainer_state
    newest = run.newest_trainer_state
    return [state for state in (own, newest[0] if newest else None) if state is not None]


def _loss(run: Run, checkpoint: Checkpoint) -> float | None:
    """The training loss logged at the checkpoint's step, else the last one before it in a log that reaches the step."""
    step = checkpoint.step
    for state in _logs(run, checkpoint):
        if step is not None and state.global_step is not None and state.global_step < step:
            continue
        logged = [entry for entry in state.train if entry.step is not None and (step is None or entry.step <= step)]
        if logged:
            value = logged[-1].values.get("loss")
            return float(value) if isinstance(value, int | float) else None
    return None


def _eval(run: Run, checkpoint: Checkpoint, metric: str) -> float | None:
    """The evaluation made at the checkpoint's step; None where there was none."""
    step = checkpoint.step
    for state in _logs(run, checkpoint):
        for entry in reversed(state.evals):
            if entry.step == step and isinstance(entry.values.get(metric), int | float):
                return float(entry.values[metric])
    return None


def _metric(run: Run) -> str:
    """The metric the run chose its best checkpoint by, else eval_loss."""
    return metric_name(run) or "eval_loss"
