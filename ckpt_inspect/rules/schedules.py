"""CKP24x and 26x: the learning rate and the arithmetic of steps, batches and optimizers."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ckpt_inspect.explain.numbers import short
from ckpt_inspect.printable import printable
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject


@rule("CKP240", "learning-rate-differs", "warning", scope="run")
def learning_rate_differs(subject: Subject) -> Iterator[Hit]:
    """The logged learning rate departs from the schedule the arguments describe.

    Why it matters: the run was resumed with another horizon, the optimizer was not restored, steps were skipped, or another
    scheduler was at work: the training was not the one that was configured.

    How to fix: see the cause named; restore optimizer.pt and scheduler.pt together, and keep max_steps on a resume.

    Example: linear to step 1000, then a jump to six tenths of the peak after a resume with max_steps 2000.

    Source: transformers 4.30 to 5.23 optimization.py get_scheduler; the formulas of each type.
    """
    answer = subject.answers.schedule
    found = subject.run.newest_trainer_state
    if answer is None or answer.verdict != "differs" or found is None:
        return
    yield Hit(
        found[1],
        answer.explanation,
        evidence={"first_departure": answer.first_departure, "max_relative_error": answer.max_relative_error},
    )


@rule("CKP241", "scheduler-behind", "note", scope="checkpoint")
def scheduler_behind(subject: Subject) -> Iterator[Hit]:
    """The scheduler made fewer steps than the trainer.

    Why it matters: under fp16 steps with an overflow do not advance it, which is normal. Otherwise scheduler.pt belongs to
    another checkpoint.

    How to fix: nothing under fp16; otherwise take scheduler.pt and optimizer.pt from the same checkpoint.

    Example: last_epoch 495 at global_step 500: five steps were skipped.

    Source: transformers 5.23.0 trainer.py: the scheduler does not step when the optimizer step was skipped (fp16
    overflow).
    """
    place = subject.checkpoint
    scheduler, state = place.scheduler, place.trainer_state
    artifact = place.find("scheduler", "scheduler_bin")
    if scheduler is None or state is None or artifact is None or scheduler.kind_hint not in ("lambda", "LambdaLR"):
        return
    if scheduler.last_epoch is None or state.global_step is None or scheduler.last_epoch == state.global_step:
        return
    args = place.training_args or subject.run.training_args
    fp16 = args is not None and args.arguments.get("fp16") is True
    skipped = state.global_step - scheduler.last_epoch
    severity = None if (fp16 and skipped > 0) or place.tags else "warning"
    yield Hit(
        artifact.path,
        f"The scheduler is at step {scheduler.last_epoch}, the trainer at {state.global_step}.",
        severity=severity,  # type: ignore[arg-type]  # one of the three levels
        evidence={"last_epoch": scheduler.last_epoch, "global_step": state.global_step},
    )


@rule("CKP242", "optimizer-rate-differs", "warning", scope="checkpoint")
def optimizer_rate_differs(subject: Subject) -> Iterator[Hit]:
    """The learning rate in the optimizer state is not the scheduler's.

    Why it matters: the two files come from different checkpoints; a resume would go on with one of the two rates.

    How to fix: take optimizer.pt and scheduler.pt from the same checkpoint.

    Example: 2e-5 in optimizer.pt, 1.4e-5 in scheduler.pt.

    Source: torch 2.13 optim/lr_scheduler.py LambdaLR writes its rate into the optimizer's groups.
    """
    place = subject.checkpoint
    optimizer, scheduler = place.optimizer, place.scheduler
    artifact = place.find("optimizer", "optimizer_bin")
    if (
        optimizer is None
        or scheduler is None
        or artifact is None
        or not optimizer.param_groups
        or not scheduler.last_lr
    ):
        return
    rate, wanted = optimizer.param_groups[0].lr, scheduler.last_lr[0]
    if rate is not None and not math.isclose(rate, wanted, rel_tol=1e-6, abs_tol=1e-15):
        yield Hit(
            artifact.path,
            f"The optimizer's learning rate is {short(rate, 6)}, the scheduler's {short(wanted, 6)}.",
            evidence={"optimizer": rate, "scheduler": wanted},
        )


@rule("CKP243", "optimizer-step-differs", "warning", scope="checkpoint")
def optimizer_step_differs(subject: Subject) -> Iterator[Hit]:
    """The optimizer counted another number of updates than the scheduler.

    Why it matters: optimizer.pt belongs to another checkpoint, or the optimizer was started anew on a resume.

    How to fix: take optimizer.pt and scheduler.pt from the same checkpoint.

    Example: Adam step 200 beside last_epoch 500.

    Source: torch 2.13 optim/adam.py: state "step" counts the optimizer's updates.
    """
    place = subject.checkpoint
    optimizer, scheduler = place.optimizer, place.scheduler
    artifact = place.find("optimizer", "optimizer_bin")
    if (
        optimizer is None
        or scheduler is None
        or artifact is None
        or not optimizer.steps
        or scheduler.last_epoch is None
    ):
        return
    if scheduler.kind_hint in ("lambda", "LambdaLR") and max(optimizer.steps) != scheduler.last_epoch:
        yield Hit(
            artifact.path,
            f"The optimizer made {max(optimizer.steps):g} updates, the scheduler {scheduler.last_epoch}.",
            evidence={"optimizer_steps": max(optimizer.steps), "last_epoch": scheduler.last_epoch},
        )


@rule("CKP244", "warmup-too-long", "error", scope="run")
def warmup_too_long(subject: Subject) -> Iterator[Hit]:
    """The warmup is as long as the run or longer.

    Why it matters: the learning rate never reaches its configured value, and never decays.

    How to fix: lower warmup_steps or warmup_ratio, or train longer.

    Example: warmup_steps 500 in a run of 300 steps.

    Source: transformers 5.23.0 optimization.py get_linear_schedule_with_warmup and its siblings.
    """
    answer = subject.answers.schedule
    if answer is None or answer.warmup_steps is None or answer.total_steps is None or answer.owner == "deepspeed":
        return
    if answer.warmup_steps >= answer.total_steps > 0 and answer.scheduler not in ("constant", "constant_with_warmup"):
        yield Hit(
            "training_args.bin" if subject.run.has("training_args") else subject.run.path,
            f"The warmup takes {answer.warmup_steps} steps, the whole run has {answer.total_steps}.",
            evidence={"warmup_steps": answer.warmup_steps, "max_steps": answer.total_steps},
        )


@rule("CKP245", "two-warmups", "note", scope="run")
def two_warmups(subject: Subject) -> Iterator[Hit]:
    """warmup_steps and warmup_ratio are both set.

    Why it matters: up to transformers 4.x the steps win and the ratio is ignored.

    How to fix: set one of them.

    Example: warmup_steps 10, warmup_ratio 0.1.

    Source: transformers 4.57 training_args.py TrainingArguments.get_warmup_steps: warmup_steps wins.
    """
    args = subject.run.training_args
    artifact = subject.run.find("training_args")
    if args is None or artifact is None:
        return
    steps, ratio = args.arguments.get("warmup_steps"), args.arguments.get("warmup_ratio")
    if isinstance(steps, int | float) and isinstance(ratio, int | float) and steps and ratio and steps != ratio:
        yield Hit(artifact.path, f"warmup_steps {steps:g} wins over warmup_ratio {ratio:g}.")


@rule("CKP260", "batch-size-lowered", "note", scope="run")
def batch_size_lowered(subject: Subject) -> Iterator[Hit]:
    """The batch size used is not the one asked for.

    Why it matters: auto_find_batch_size halves it after running out of memory; the global batch and the number of steps are
    then others than planned.

    How to fix: set the size that was found, and scale the learning rate if you tuned it for the larger batch.

    Example: per_device_train_batch_size 16, train_batch_size 8.

    Source: transformers 5.23.0 trainer.py auto_find_batch_size; trainer_callback.py TrainerState.train_batch_size.
    """
    found = subject.run.newest_trainer_state
    args = subject.run.training_args
    if found is None or args is None:
        return
    state, path = found
    asked = args.arguments.get("per_device_train_batch_size")
    if not isinstance(asked, int) or state.train_batch_size is None:
        return
    used = state.train_batch_size / max(args.n_gpu or 1, 1)
    if used < asked:
        yield Hit(
            path,
            f"{used:g} rows per device were used, {asked} were asked for.",
            evidence={"used": used, "asked": asked},
        )


@rule("CKP261", "rng-ranks", "warning", scope="checkpoint")
def rng_ranks(subject: Subject) -> Iterator[Hit]:
    """The rng_state files do not match the number of processes.

    Why it matters: files of some ranks are missing (node-local disks, a partial copy), or two runs of different size wrote
    into the same directory.

    How to fix: copy the files of all nodes; delete those of the older run.

    Example: rng_state_0.pth and rng_state_1.pth of a run on 4 processes, or rng_state.pth beside rng_state_0.pth.

    Source: transformers 5.23.0 trainer.py Trainer._save_rng_state: rng_state_RANK.pth, or rng_state.pth for one
    process.
    """
    place = subject.checkpoint
    ranks = [rank for rank, _ in place.rng_states]
    if not ranks:
        return
    numbered = sorted(rank for rank in ranks if rank is not None)
    if None in ranks and numbered:
        yield Hit(
            place.path, "rng_state.pth and numbered rng_state files are both here: runs of different size were mixed."
        )
        return
    args = place.training_args or subject.run.training_args
    zero = place.zero
    world = zero.world_size if zero is not None else args.world_size if args is not None else None
    expected = set(range(world if world is not None else (numbered[-1] + 1 if numbered else 1)))
    missing = sorted(expected - set(numbered)) if numbered else []
    extra = sorted(set(numbered) - expected)
    if missing:
        yield Hit(
            place.path,
            f"rng_state of rank {', '.join(map(str, missing[:8]))} is missing ({len(numbered)} of {len(expected)} are here).",
            evidence={"missing": missing, "world_size": world},
        )
    elif extra:
        yield Hit(
            place.path,
            f"rng_state of rank {', '.join(map(str, extra[:8]))} is more than the {world} processes of the run.",
            evidence={"extra": extra, "world_size": world},
        )


@rule("CKP262", "optimizer-size-differs", "warning", scope="checkpoint")
def optimizer_size_differs(subject: Subject) -> Iterator[Hit]:
    """The optimizer state covers more weights than the adapter beside it has trained ones.

    Why it matters: optimizer.pt belongs to another run, or other modules were trained than were saved. A resume stops with
    "loaded state dict contains a parameter group that doesn't match the size".

    How to fix: take optimizer.pt and the adapter from the same checkpoint.

    Example: moments of 8.4 M weights beside an adapter of 4.2 M.

    Source: torch 2.13 optim/optimizer.py Optimizer.load_state_dict: parameters are matched by position.
    """
    place = subject.checkpoint
    optimizer, adapter = place.optimizer, place.adapter_weights
    artifact = place.find("optimizer", "optimizer_bin")
    if optimizer is None or adapter is None or artifact is None or optimizer.state_numel is None:
        return
    if not optimizer.parameters or not optimizer.state_numel:  # empty or broken, which other rules say
        return
    if place.has("value_head"):  # trained with the adapter, saved apart from it
        return
    config = place.adapter_config
    if config is None or config.prompt or (config.peft_type or "").upper() not in ("LORA", "ADALORA", "IA3"):
        return
    trained = adapter.trainable_parameters
    if optimizer.with_state == optimizer.parameters and optimizer.state_numel != trained:
        yield Hit(
            artifact.path,
            f"The optimizer holds state for {optimizer.state_numel:,} weights, the adapter has {trained:,} trained ones.",
            evidence={"optimizer": optimizer.state_numel, "adapter": trained, "kind": printable(optimizer.kind)},
        )
