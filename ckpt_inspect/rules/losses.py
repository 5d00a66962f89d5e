"""CKP22x: the training loss, the average the Trainer reports, and numbers that hide something."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ckpt_inspect.explain.divergence import masked_steps
from ckpt_inspect.explain.numbers import counted, short
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject

_RISE = 0.2
_LEAST_POINTS = 5


def _log_path(subject: Subject) -> str:
    found = subject.run.newest_trainer_state
    return found[1] if found is not None else "trainer_log.jsonl"


@rule("CKP220", "train-loss-not-reproduced", "warning", scope="run")
def train_loss_not_reproduced(subject: Subject) -> Iterator[Hit]:
    """`train_loss` cannot be made from the logged losses under any rule transformers ever used.

    Why it matters: the results file and the log belong to different runs, or one of them was edited. A comparison of runs by
    `train_loss` would compare something else.

    How to fix: trust the log; write the results again after train(), or run in a directory of its own.

    Example: all_results.json of an earlier run left in an output directory that was used again.

    Source: transformers 4.10 to 5.23 Trainer._inner_training_loop / _finalize_training.
    """
    answer = subject.answers.loss
    if answer is None or answer.average is None or answer.average.verdict != "not_reproduced":
        return
    average = answer.average
    yield Hit(
        average.source,
        f"train_loss {short(average.reported, 6)} does not follow from the logged losses. {average.explanation}",
        evidence={"reported": average.reported, "recomputed": average.recomputed},
    )


@rule("CKP221", "train-loss-over-all-steps", "warning", scope="run")
def train_loss_over_all_steps(subject: Subject) -> Iterator[Hit]:
    """`train_loss` of a resumed run was divided by all steps although it sums only the last session's.

    Why it matters: before transformers 5.19 a resume makes the reported average too small, by the share of steps that were
    trained before. It looks like a much better run.

    How to fix: use the corrected value given here; compare runs by their last losses.

    Example: resumed at step 8 of 12, every loss 3.9, train_loss 1.29.

    Source: transformers issue 15047; divisor global_step until 5.18, steps of the session from 5.19.
    """
    answer = subject.answers.loss
    if answer is None or answer.average is None or answer.average.verdict != "resumed_sum_over_all_steps":
        return
    average = answer.average
    yield Hit(
        average.source,
        average.explanation,
        evidence={"reported": average.reported, "corrected": average.session_mean, "resumed_at": average.resumed_at},
    )


@rule("CKP222", "no-step-trained", "warning", scope="run")
def no_step_trained(subject: Subject) -> Iterator[Hit]:
    """`train_loss` is 0.0 because train() was called and trained no step.

    Why it matters: the results look like a finished, perfect training; they are those of a resume past the end.

    How to fix: raise max_steps or num_train_epochs before resuming a finished run; ignore this train_loss.

    Example: `--resume_from_checkpoint checkpoint-30` with max_steps 30.

    Source: transformers 5.23.0 trainer.py Trainer.train: a checkpoint at or past max_steps trains nothing.
    """
    answer = subject.answers.loss
    if answer is None or answer.average is None or answer.average.verdict != "no_step_trained":
        return
    yield Hit(answer.average.source, answer.average.explanation, evidence={"reported": answer.average.reported})


@rule("CKP223", "nan-loss", "error", scope="run")
def nan_loss(subject: Subject) -> Iterator[Hit]:
    """The loss became NaN or infinite, openly or hidden behind logged zeros.

    Why it matters: with `logging_nan_inf_filter` (the default) transformers logs 0.0 where every loss was NaN, so a diverged
    run shows a curve that falls to zero. The weights from that step on are usually NaN.

    How to fix: go back to a checkpoint from before it; lower the learning rate, use bf16 instead of fp16, and look for rows
    whose labels are all -100.

    Example: loss 0.0 with grad_norm NaN from step 12 on, train_loss half of what it was.

    Source: transformers Trainer `logging_nan_inf_filter` (PR 13619); LLaMA-Factory issue 4850, trl issue 6702.
    """
    found = subject.run.newest_trainer_state
    if found is None:
        return
    state, path = found
    hidden = sorted(masked_steps(subject.run))
    open_nan = [point for point in state.losses if not math.isfinite(point.value)]
    if open_nan:
        first = open_nan[0]
        yield Hit(
            path,
            f"The loss is {first.value} at step {first.step} ({counted(len(open_nan), 'entry', 'entries')}).",
            evidence={"step": first.step, "entries": len(open_nan)},
        )
    elif hidden:
        yield Hit(
            path,
            f"The loss is logged as exactly 0.0 from step {hidden[0]} on ({counted(len(hidden), 'entry', 'entries')}): "
            "it was NaN, and logging_nan_inf_filter hides that.",
            evidence={"step": hidden[0], "entries": len(hidden)},
        )


@rule("CKP224", "nan-gradient", "warning", scope="run")
def nan_gradient(subject: Subject) -> Iterator[Hit]:
    """grad_norm is NaN or infinite while the logged loss is finite.

    Why it matters: under fp16 a few such steps are skipped by the loss scaler and harmless. Otherwise the update was applied
    and the weights may be NaN, although the loss curve looks fine.

    How to fix: with bf16 or fp32, treat the run as diverged from that step; `check --deep` looks at the weights.

    Example: `grad_norm: NaN` at step 400, loss 2.1.

    Source: transformers 5.23 Trainer._get_grad_norm; trl issue 6702.
    """
    found = subject.run.newest_trainer_state
    if found is None:
        return
    state, path = found
    args = subject.run.training_args
    if args is not None and args.arguments.get("fp16") is True:
        return
    masked = masked_steps(subject.run)
    bad = [
        entry
        for entry in state.train
        if (norm := entry.number("grad_norm")) is not None
        and not math.isfinite(norm)
        and (loss := entry.number("loss")) is not None
        and math.isfinite(loss)
        and entry.step not in masked
    ]
    if bad:
        yield Hit(
            path,
            f"grad_norm is not a number at step {bad[0].step} ({counted(len(bad), 'entry', 'entries')}), the loss is finite.",
            evidence={"step": bad[0].step, "entries": len(bad)},
        )


@rule("CKP225", "loss-scaled", "warning", scope="run")
def loss_scaled(subject: Subject) -> Iterator[Hit]:
    """The logged loss is a multiple of the real one, by a known fault of the transformers release that wrote it.

    Why it matters: several releases logged the loss times the gradient accumulation steps or the world size; in most of
    them the gradients were multiplied too, so the learning rate was effectively larger.

    How to fix: divide the loss for comparison, by the factor named; upgrade transformers before training again.

    Example: transformers 4.46.0 with gradient_accumulation_steps 4 logs 16.6 where the loss is 4.16.

    Source: transformers issue 35204, PRs 35207, 35438, 35808; runs of 4.45.2 to 5.23.0, listed in docs/loss.md.
    """
    answer = subject.answers.loss
    for distortion in answer.distortions if answer is not None else ():
        if distortion.factor is not None and distortion.factor > 1 and distortion.name not in _HARMLESS:
            yield Hit(
                _log_path(subject),
                distortion.statement,
                evidence={"kind": distortion.name, "factor": distortion.factor},
            )


_HARMLESS = ("epoch_boundary", "first_position_counted", "masked_nan")


@rule("CKP226", "loss-distorted", "note", scope="run")
def loss_distorted(subject: Subject) -> Iterator[Hit]:
    """Single logged losses are too high or too low by a known fault of the transformers release that wrote them.

    Why it matters: a spike at each epoch's end, or a loss a few per cent too low, is not what the model did.

    How to fix: nothing for this run; upgrade transformers for the next.

    Example: transformers 4.46 to 4.51 with gradient accumulation: the last window of each epoch is 1.25 to 2 times its
    neighbours.

    Source: transformers PRs 46204, 46903; the releases are listed in docs/loss.md.
    """
    answer = subject.answers.loss
    for distortion in answer.distortions if answer is not None else ():
        if distortion.name in ("epoch_boundary", "first_position_counted"):
            yield Hit(
                _log_path(subject),
                distortion.statement,
                evidence={"kind": distortion.name, "factor": distortion.factor},
            )


@rule("CKP227", "overfitting", "note", scope="run")
def overfitting(subject: Subject) -> Iterator[Hit]:
    """The evaluation loss turned up by more than a fifth while the training loss went on falling.

    Why it matters: the later weights fit the training data better and everything else worse.

    How to fix: use the checkpoint at the minimum; train shorter, or with load_best_model_at_end.

    Example: eval_loss 1.20 at step 400, 1.62 at step 1200, while loss fell from 1.1 to 0.3.

    Source: eval_loss in log_history; the least rise of 20 % is our choice.
    """
    found = subject.run.newest_trainer_state
    if found is None:
        return
    state, path = found
    losses = [
        (entry.step, value)
        for entry in state.evals
        if entry.step is not None and (value := entry.number("eval_loss")) is not None and math.isfinite(value)
    ]
    if len(losses) < 3:
        return
    step, lowest = min(losses, key=lambda item: item[1])
    last_step, last = losses[-1]
    before = [p.value for p in state.losses if p.step is not None and p.step <= step and math.isfinite(p.value)]
    after = [p.value for p in state.losses if p.step is not None and p.step > step and math.isfinite(p.value)]
    if lowest > 0 and last > lowest * (1 + _RISE) and before and after and after[-1] < before[-1]:
        yield Hit(
            path,
            f"eval_loss was lowest at step {step} ({short(lowest)}) and is {short(last)} at step {last_step}, "
            f"while the training loss fell to {short(after[-1])}.",
            evidence={"best_step": step, "best": lowest, "last": last},
        )


@rule("CKP228", "loss-constant", "warning", scope="run")
def loss_constant(subject: Subject) -> Iterator[Hit]:
    """Every logged training loss is the same number.

    Why it matters: nothing is being trained: no parameter requires a gradient, the learning rate is 0, or the data is one row.

    How to fix: check the trainable parameters and the learning rate; compare the saved adapter with its initial values.

    Example: a LoRA whose target modules matched nothing.

    Source: PEFT troubleshooting guide ("loss does not decrease": nothing trainable).
    """
    found = subject.run.newest_trainer_state
    if found is None:
        return
    state, path = found
    values = [point.value for point in state.losses]
    if len(values) >= _LEAST_POINTS and len(set(values)) == 1 and math.isfinite(values[0]) and values[0] != 0:
        yield Hit(path, f"All {len(values)} logged losses are {short(values[0], 6)}.", evidence={"value": values[0]})


@rule("CKP229", "results-disagree", "warning", scope="run")
def results_disagree(subject: Subject) -> Iterator[Hit]:
    """The files of one directory state different values of `train_loss`.

    Why it matters: all_results.json keeps keys of earlier runs, so the directory mixes two trainings.

    How to fix: trust trainer_state.json and its log; delete results of the older run.

    Example: train_results.json says 1.93, all_results.json 2.41.

    Source: transformers trainer_pt_utils.save_metrics (read, merge, write).
    """
    answer = subject.answers.loss
    if answer is None or answer.average is None or len(answer.average.sources) < 2:
        return
    values = answer.average.sources
    reference = answer.average.reported
    odd = {
        name: value for name, value in values.items() if not math.isclose(value, reference, rel_tol=1e-6, abs_tol=1e-9)
    }
    if odd:
        told = ", ".join(f"{name} {short(value, 6)}" for name, value in values.items())
        yield Hit(next(iter(odd)), f"train_loss differs between files: {told}.", evidence=dict(values))
