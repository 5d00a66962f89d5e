"""CKP6xx: what a resume would stumble over or silently lose."""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_inspect.printable import printable
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject


@rule("CKP601", "newest-not-resumable", "error", scope="run")
def newest_not_resumable(subject: Subject) -> Iterator[Hit]:
    """The newest checkpoint cannot be resumed from, and resume_from_checkpoint=True would take it.

    Why it matters: the Trainer picks the highest number without looking into the directory.

    How to fix: delete or rename it, or pass the path of the last whole one; `explain resume` names it.

    Example: checkpoint-6 cut off by a full disk, checkpoint-3 whole.

    Source: transformers issue 35782; trainer_utils.get_last_checkpoint.
    """
    found = [item for item in subject.run.checkpoints if item.form == "checkpoint" and item.path]
    if not found or not any(place.has("trainer_state") for place in subject.run.states):
        return
    newest = found[-1]
    answer = subject.answers.resume(newest)
    if answer.verdict == "will_not":
        yield Hit(
            newest.path, f"It cannot be resumed from: {answer.reasons[0]}.", evidence={"reasons": list(answer.reasons)}
        )


@rule("CKP602", "half-a-state", "error", scope="checkpoint")
def half_a_state(subject: Subject) -> Iterator[Hit]:
    """Only one of optimizer and scheduler state is in the checkpoint.

    Why it matters: the Trainer loads neither then, and says nothing: moments are zeroed and the learning rate starts over
    with its warmup.

    How to fix: restore the other file from the same save; otherwise expect a fresh start.

    Example: optimizer.pt deleted to save space, scheduler.pt kept.

    Source: transformers 5.23.0 trainer.py Trainer._load_optimizer_and_scheduler loads both files or, silently,
    neither (tried).
    """
    place = subject.checkpoint
    if place.tags or place.has("latest", "zero_to_fp32_script"):  # DeepSpeed keeps the optimizer in its shards
        return
    if place.fsdp is not None or place.form != "checkpoint" or not place.has("trainer_state"):
        return
    optimizer, scheduler = place.has("optimizer", "optimizer_bin"), place.has("scheduler", "scheduler_bin")
    if optimizer != scheduler:
        missing, kept = ("optimizer.pt", "scheduler.pt") if scheduler else ("scheduler.pt", "optimizer.pt")
        yield Hit(place.path, f"{missing} is missing, so the Trainer would silently ignore {kept} too.")


@rule("CKP603", "weights-only-checkpoint", "note", scope="checkpoint")
def weights_only_checkpoint(subject: Subject) -> Iterator[Hit]:
    """A checkpoint holds weights and no optimizer or scheduler state.

    Why it matters: it can be used, and a resume from it starts the optimizer and the learning rate anew.

    How to fix: nothing if save_only_model was meant.

    Example: save_only_model=True.

    Source: transformers 5.23.0 training_args.py TrainingArguments.save_only_model.
    """
    place = subject.checkpoint
    if place.tags or place.fsdp is not None or place.form != "checkpoint" or not place.has("trainer_state"):
        return
    if place.has("optimizer", "optimizer_bin", "scheduler", "scheduler_bin"):
        return
    if place.has("model_weights", "pytorch_weights", "adapter_weights", "model_weights_index", "pytorch_weights_index"):
        args = place.training_args or subject.run.training_args
        meant = args is not None and args.arguments.get("save_only_model") is True
        why = "save_only_model was on" if meant else "they were deleted or never written"
        yield Hit(place.path, f"No optimizer and no scheduler state: {why}.", evidence={"save_only_model": meant})


@rule("CKP604", "zero3-weights-elsewhere", "note", scope="checkpoint")
def zero3_weights_elsewhere(subject: Subject) -> Iterator[Hit]:
    """A ZeRO-3 checkpoint has no weights outside its shards.

    Why it matters: stage3_gather_16bit_weights_on_model_save was off; from_pretrained finds nothing to load.

    How to fix: `ckpt-inspect consolidate` makes usable weights out of the shards.

    Example: checkpoint-8 with global_step8 and no model.safetensors.

    Source: deepspeed 0.19.8 stage3_gather_16bit_weights_on_model_save; transformers 5.23.0 trainer.py
    Trainer.save_model.
    """
    place = subject.checkpoint
    zero = place.zero if place.form == "checkpoint" else None
    if zero is None or zero.stage != 3 or not place.path:
        return
    if not place.has(
        "model_weights", "pytorch_weights", "adapter_weights", "model_weights_index", "pytorch_weights_index"
    ):
        yield Hit(place.path, "The weights are in the ZeRO-3 shards only.", evidence={"tag": printable(zero.tag, 60)})


@rule("CKP605", "state-too-old", "note", scope="checkpoint")
def state_too_old(subject: Subject) -> Iterator[Hit]:
    """trainer_state.json lacks fields that newer releases need on a resume.

    Why it matters: a state from before 4.36 stops a newer Trainer with TypeError, one from before 4.41 with KeyError at its
    first save.

    How to fix: resume with the release that wrote it, or add the fields named.

    Example: a checkpoint of transformers 4.30 resumed with 5.x.

    Source: transformers 5.23.0 trainer_utils.py compare_trainer_and_checkpoint_args (TypeError), trainer_callback.py
    stateful_callbacks (KeyError); tried.
    """
    place = subject.checkpoint
    state = place.trainer_state
    artifact = place.find("trainer_state")
    if state is None or artifact is None or not state.complete:
        return
    lacking = [key for key in ("train_batch_size", "stateful_callbacks") if key in state.missing_keys]
    if lacking:
        yield Hit(
            artifact.path,
            f"It has no {' and no '.join(lacking)}: a newer Trainer fails on it.",
            evidence={"missing": lacking},
        )
