"""CKP20x: what trainer_state.json says of itself, of its checkpoints and of the other files of the run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from ckpt_inspect.explain.numbers import counted, short
from ckpt_inspect.printable import printable
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject


@rule("CKP201", "best-checkpoint-gone", "warning", scope="run")
def best_checkpoint_gone(subject: Subject) -> Iterator[Hit]:
    """The best checkpoint the state names is not in this run.

    Why it matters: it was deleted, or only part of the run was copied; the best weights are then nowhere unless
    load_best_model_at_end put them into the root. Older transformers fail on a resume with "Could not locate the best model".

    How to fix: restore the directory, or use the weights in the root if load_best_model_at_end was on.

    Example: best_model_checkpoint `out/checkpoint-400`, and only 600 and 800 are here.

    Source: transformers 5.23.0 trainer.py Trainer._load_best_model.
    """
    found = subject.run.newest_trainer_state
    if found is None or not found[0].best_model_checkpoint:
        return
    state, path = found
    name = str(state.best_model_checkpoint).replace("\\", "/").rstrip("/").rpartition("/")[2]
    if any(checkpoint.name == name for checkpoint in subject.run.checkpoints) or not subject.run.checkpoints:
        return
    args = subject.run.training_args
    loaded = args is not None and args.arguments.get("load_best_model_at_end") is True
    kept = (
        " The root's weights are a copy of it (load_best_model_at_end)." if loaded and subject.run.kind == "run" else ""
    )
    yield Hit(
        path,
        f"The best checkpoint was {printable(name, 60)}; it is not here.{kept}",
        severity="note" if kept else None,
        evidence={"best_model_checkpoint": printable(state.best_model_checkpoint, 200)},
    )


@rule("CKP202", "best-metric-differs", "warning", scope="run")
def best_metric_differs(subject: Subject) -> Iterator[Hit]:
    """best_metric is not the value the log shows at the best step.

    Why it matters: the state was edited, or up to transformers 4.46 a better evaluation between two saves was never recorded:
    the best checkpoint is then not the best one seen.

    How to fix: look up the evaluations in log_history; save as often as you evaluate.

    Example: best_metric 1.31, eval_loss at best_global_step 1.42.

    Source: transformers 4.47.0 trainer.py Trainer._determine_best_metric; up to 4.46.3 the value was kept in
    _save_checkpoint only.
    """
    found = subject.run.newest_trainer_state
    if found is None:
        return
    state, path = found
    step = state.best_global_step
    if state.best_metric is None or step is None or not math.isfinite(state.best_metric):
        return
    values = [
        float(value)
        for entry in state.evals
        if entry.step == step
        for value in entry.values.values()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if values and not any(math.isclose(value, state.best_metric, rel_tol=1e-6, abs_tol=1e-9) for value in values):
        yield Hit(
            path,
            f"best_metric is {short(state.best_metric, 6)}, and no evaluation at step {step} has that value.",
            evidence={"best_metric": state.best_metric, "best_global_step": step},
        )


@rule("CKP203", "unknown-state-key", "note")
def unknown_state_key(subject: Subject) -> Iterator[Hit]:
    """trainer_state.json has a key this version of the format does not know.

    Why it matters: transformers loads the file with `TrainerState(**json)`, so a release without that field stops with a
    TypeError. A newer release or another trainer wrote it.

    How to fix: resume with the release that wrote it, or remove the key.

    Example: a state of transformers 5.x opened with 4.30.

    Source: transformers 5.23.0 trainer_callback.py TrainerState.load_from_json: cls(**json).
    """
    state = subject.place.trainer_state
    artifact = subject.place.find("trainer_state")
    if state is not None and artifact is not None and state.unknown_keys:
        names = ", ".join(printable(key, 40) for key in state.unknown_keys[:5])
        yield Hit(
            artifact.path, f"Unknown keys: {names}.", evidence={"keys": [printable(k) for k in state.unknown_keys]}
        )


@rule("CKP204", "steps-go-back", "warning", scope="run")
def steps_go_back(subject: Subject) -> Iterator[Hit]:
    """The steps of the training log do not increase.

    Why it matters: a session was resumed from an earlier step and the log holds the replayed steps twice, or two logs were
    put together. Averages over it count steps twice.

    How to fix: keep the last value of each step, as `plot-loss` does.

    Example: entries at steps 10, 20, 30, 20, 30, 40.

    Source: transformers 5.23.0 trainer.py: a resume appends to log_history of the checkpoint it starts from.
    """
    found = subject.run.newest_trainer_state
    if found is None:
        return
    state, path = found
    steps = [entry.step for entry in state.train if entry.step is not None]
    back = [(before, after) for before, after in pairwise(steps) if after <= before]
    if back:
        before, after = back[0]
        yield Hit(path, f"After step {before} the log goes on at step {after}.", evidence={"times": len(back)})


@rule("CKP205", "no-training-loss", "note", scope="run")
def no_training_loss(subject: Subject) -> Iterator[Hit]:
    """No training loss was logged.

    Why it matters: there is no curve; `train_loss` is the only trace of how training went.

    How to fix: set logging_steps below max_steps (the default is 500).

    Example: 200 steps with the default logging_steps.

    Source: transformers 5.23 DefaultFlowCallback; LLaMA-Factory issues 7486, 6303.
    """
    found = subject.run.newest_trainer_state
    if found is None:
        return
    state, path = found
    if not state.train and (state.global_step or 0) > 0 and state.complete:
        every = f" logging_steps is {state.logging_steps:g}." if state.logging_steps else ""
        yield Hit(path, f"No training loss in {counted(state.global_step or 0, 'step')}.{every}")


@rule("CKP206", "ended-early", "warning", scope="run")
def ended_early(subject: Subject) -> Iterator[Hit]:
    """The run ended before its last planned step.

    Why it matters: it was stopped by hand, by a crash, or by early stopping; its schedule never reached its end.

    How to fix: resume it if that was not meant; `explain resume` says from where.

    Example: global_step 640 of max_steps 1000.

    Source: transformers 5.23.0 trainer.py Trainer.train ends at max_steps unless a callback sets
    should_training_stop.
    """
    answer = subject.answers.batches
    ended = answer.ended if answer is not None else None
    if ended is None or ended.planned is None or ended.step >= ended.planned or subject.run.kind != "run":
        return
    found = subject.run.newest_trainer_state
    path = found[1] if found is not None else ""
    how = {
        "cut_off": "nothing records an end: it was stopped from outside, or is still running",
        "early_stop": "train() ended by itself: early stopping, or a callback of the script",
    }.get(str(ended.by), "")
    if ended.early_stopping or not how:
        return
    yield Hit(
        path,
        f"The run ended at step {ended.step} of {ended.planned}; {how}.",
        evidence={"step": ended.step, "max_steps": ended.planned, "by": str(ended.by)},
    )


@rule("CKP207", "records-decrease", "warning", scope="run")
def records_decrease(subject: Subject) -> Iterator[Hit]:
    """total_flos or the tokens seen are lower in a later checkpoint than in an earlier one.

    Why it matters: the checkpoints come from different runs in one directory.

    How to fix: separate the runs into directories of their own.

    Example: checkpoint-500 of yesterday beside checkpoint-600 of a run started anew.

    Source: transformers 5.23.0 trainer_callback.py TrainerState.total_flos, num_input_tokens_seen: sums that only
    grow.
    """
    last: dict[str, tuple[float, str]] = {}
    for checkpoint in subject.run.checkpoints:
        state = checkpoint.trainer_state
        if state is None:
            continue
        for key, value in (("total_flos", state.total_flos), ("num_input_tokens_seen", state.num_input_tokens_seen)):
            if value is None or not value:
                continue
            before = last.get(key)
            if before is not None and value < before[0]:
                yield Hit(
                    checkpoint.path,
                    f"{key} is {value:g} here and {before[0]:g} in the earlier {printable(before[1], 60)}.",
                    evidence={key: value, "before": before[0]},
                )
            last[key] = (value, checkpoint.path)


@rule("CKP208", "arguments-changed", "note", scope="run")
def arguments_changed(subject: Subject) -> Iterator[Hit]:
    """Checkpoints of one run were written with different training arguments.

    Why it matters: the run was resumed with changed settings. learning_rate is ignored on a resume, max_steps moves the
    schedule, the batch size moves the data.

    How to fix: nothing if it was meant; `args CHECKPOINT --diff CHECKPOINT` shows every difference.

    Example: max_steps 1000 until checkpoint-1000, 2000 from checkpoint-1500 on.

    Source: transformers 5.23.0 trainer_utils.py compare_trainer_and_checkpoint_args warns about steps and batch
    size only.
    """
    keys = (
        "learning_rate",
        "lr_scheduler_type",
        "max_steps",
        "num_train_epochs",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
    )
    before = None
    for checkpoint in subject.run.checkpoints:
        args = checkpoint.training_args
        if args is None:
            continue
        now = {key: args.arguments.get(key) for key in keys}
        now["world_size"] = args.world_size
        if before is not None:
            changed = [key for key in now if now[key] != before[key]]
            if changed:
                told = ", ".join(f"{key} {printable(before[key], 30)} -> {printable(now[key], 30)}" for key in changed)
                yield Hit(
                    checkpoint.path, f"Changed since the checkpoint before: {told}.", evidence={"changed": changed}
                )
        before = now


@rule("CKP209", "versions-mixed", "note", scope="run")
def versions_mixed(subject: Subject) -> Iterator[Hit]:
    """The root and a checkpoint were written by different transformers releases.

    Why it matters: transformers was upgraded midway; the rules for losses, logs and learning rates may differ between the
    two halves.

    How to fix: keep both versions in mind when comparing numbers.

    Example: config.json 4.51.3 in checkpoint-500, 4.52.4 in the root.

    Source: transformers 5.23.0 configuration_utils.py: config.json holds the release that saved it.
    """
    root = subject.run.model_config
    for checkpoint in subject.run.checkpoints:
        config = checkpoint.model_config
        if not checkpoint.path or root is None or config is None:
            continue
        first, second = config.transformers_version, root.transformers_version
        if first and second and first != second:
            yield Hit(
                checkpoint.path,
                f"Written by transformers {printable(first, 30)}, the root by {printable(second, 30)}.",
                evidence={"checkpoint": first, "root": second},
            )


@rule("CKP210", "root-is-best", "note", scope="run")
def root_is_best(subject: Subject) -> Iterator[Hit]:
    """The weights in the root are the best checkpoint's, not the last ones.

    Why it matters: load_best_model_at_end loaded them back before they were saved; the last loss of the log is not theirs.

    How to fix: nothing; the last weights are in the highest checkpoint, if it was kept.

    Example: best at step 400 of 1000: the root holds step 400.

    Source: transformers 5.23.0 trainer.py Trainer._load_best_model.
    """
    found = subject.run.newest_trainer_state
    args = subject.run.training_args
    if found is None or args is None or args.arguments.get("load_best_model_at_end") is not True:
        return
    state, path = found
    step = state.best_global_step
    if step is not None and state.global_step is not None and step < state.global_step and subject.run.kind == "run":
        yield Hit(
            path,
            f"The root's weights are those of step {step} (best), not of step {state.global_step} (last).",
            evidence={"best_global_step": step, "global_step": state.global_step},
        )
