"""The sections of the `show` document that are facts as the files state them: progress, best checkpoint, model, adapter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ckpt_inspect.explain.answer import plain
from ckpt_inspect.explain.evaluation_best import best_of
from ckpt_inspect.explain.histories import goes_on
from ckpt_inspect.run import Run, StateDirectory
from ckpt_inspect.run.classify import directory_role, directory_roles

Json = dict[str, Any]

# logged by trl 1.16 grpo_trainer, rloo_trainer, dpo_trainer and reward_trainer
_REWARDS = ("reward", "rewards/accuracies", "rewards/margins")


def training_progress(run: Run) -> Json | None:
    """How far training got. `finished` is None where no file tells how far it was to go."""
    newest = run.newest_trainer_state
    if newest is not None:
        state = newest[0]
        finished: bool | None = None
        if goes_on(run) is not None:
            finished = False
        elif state.summary is not None:
            finished = True
        elif state.global_step is not None and state.max_steps:
            finished = state.global_step >= state.max_steps
        return _progress(state.global_step, state.max_steps, state.epoch, state.num_train_epochs, finished)
    if run.trainer_log is not None and run.trainer_log.rows:
        row = run.trainer_log.rows[-1]
        current, total = row.current_steps, row.total_steps
        done = current >= total if current is not None and total else None
        return _progress(current, total, row.values.get("epoch"), None, done)
    steps = [zero.global_steps for item in run.checkpoints[-1:] if (zero := item.zero) is not None]
    return _progress(steps[0], None, None, None, None) if steps and steps[0] is not None else None


def _progress(step: Any, most: Any, epoch: Any, epochs: Any, finished: bool | None) -> Json:
    return {
        "global_step": step,
        "max_steps": most,
        "epoch": plain(epoch),
        "num_train_epochs": epochs,
        "finished": finished,
    }


def best_facts(run: Run) -> Json | None:
    """The best checkpoint as the trainer recorded it, and whether it is here."""
    best = best_of(run)
    if best is None:
        return None
    return {
        "metric": best.metric,
        "value": plain(best.value),
        "step": best.step,
        "checkpoint": best.checkpoint,
        "exists": best.exists,
        "agrees": best.agrees,
    }


def rewards(run: Run) -> Json:
    """What a preference or reinforcement run is judged by: the first and last logged value of each such metric."""
    newest = run.newest_trainer_state
    found: Json = {}
    for name in _REWARDS:
        points = [
            {"step": entry.step, "value": plain(value)}
            for entry in (newest[0].train if newest is not None else ())
            if isinstance(value := entry.values.get(name), int | float) and not isinstance(value, bool)
        ]
        if points:
            found[name] = {"first": points[0], "final": points[-1]}
    return found


def states_newest_first(run: Run) -> Iterator[StateDirectory]:
    """The root, then the checkpoints from the highest down: where to look for what a run last wrote."""
    yield run
    for checkpoint in reversed(run.checkpoints):
        if checkpoint.path:
            yield checkpoint


def named_adapters(run: Run) -> list[Json]:
    """Adapters in directories of their own, with what such a directory is for where its name tells."""
    purposes = {id_: row["purpose"] for id_, _, row in directory_roles()}
    found = []
    for name, path in run.adapters.items():
        role = directory_role(path.rpartition("/")[2])
        found.append({"name": name, "path": path, "purpose": purposes.get(role) if role else None})
    return found


def model_facts(run: Run) -> Json | None:
    """What the model is, by its config, and what its weight files hold, by their headers."""
    state = next((state for state in states_newest_first(run) if state.has("model_config")), None)
    config = state.model_config if state is not None else None
    holder = next((state for state in states_newest_first(run) if _has_weights(state)), None)
    weights = holder.weights if holder is not None else None
    if config is None and weights is None:
        return None
    return {
        "architectures": list(config.architectures) if config and config.architectures else None,
        "model_type": config.model_type if config else None,
        "vocab_size": config.vocab_size if config else None,
        "dtype": config.dtype if config else None,
        "parameters": weights.parameters if weights else None,
        "dtypes": sorted({tensor.dtype for tensor in weights.tensors}) if weights else None,
        "weights_in": (holder.path or ".") if holder is not None and weights is not None else None,
    }


def _has_weights(state: StateDirectory) -> bool:
    return state.has(
        "model_weights", "model_weights_index", "pytorch_weights", "pytorch_weights_index", "fsdp_full_weights"
    )
