"""CKP9xx: results, progress logs, predictions and value heads."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ckpt_inspect.explain.numbers import counted, short
from ckpt_inspect.printable import printable
from ckpt_inspect.rules.faults import hits
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject


def _where(subject: Subject, *kinds: str) -> str:
    artifact = subject.place.find(*kinds)
    return artifact.path if artifact is not None else subject.place.path


@rule("CKP901", "log-entries-odd", "warning")
def log_entries_odd(subject: Subject) -> Iterator[Hit]:
    """log_history holds entries the Trainer does not write.

    Why it matters: they were edited or come from another tool; tools that read the log may stop at them.

    How to fix: remove them, or ignore this.

    Example: an entry without a step.

    Source: transformers 5.23 Trainer.log.
    """
    yield from hits(subject, "CKP901")


@rule("CKP902", "results-odd", "note")
def results_odd(subject: Subject) -> Iterator[Hit]:
    """A results file holds values that are neither numbers nor texts, or lines that could not be read.

    Why it matters: comparisons across runs skip them.

    How to fix: nothing, unless they were meant to be numbers.

    Example: a nested object in all_results.json.

    Source: transformers trainer_pt_utils.save_metrics.
    """
    yield from hits(subject, "CKP902")


@rule("CKP903", "progress-log-resumed", "note", scope="run")
def progress_log_resumed(subject: Subject) -> Iterator[Hit]:
    """trainer_log.jsonl goes back to an earlier step: a session was resumed and the file appended to.

    Why it matters: replayed steps stand in it twice; its throughput counts tokens of the earlier session.

    How to fix: keep the last line of each step, as `plot-loss` does.

    Example: current_steps 480, 490, 500, 410, 420.

    Source: LLaMA-Factory train/callbacks.py LogCallback appends, and counts time per process.
    """
    log = subject.run.trainer_log
    if log is not None and len(log.sessions) > 1:
        yield Hit(_where(subject, "trainer_log"), f"The log holds {counted(len(log.sessions), 'session')}.")


@rule("CKP904", "progress-log-disagrees", "warning", scope="run")
def progress_log_disagrees(subject: Subject) -> Iterator[Hit]:
    """trainer_log.jsonl and trainer_state.json state different losses for the same step.

    Why it matters: the directory mixes two runs.

    How to fix: separate them by their modification times.

    Example: loss 2.31 and 1.87 at step 100.

    Source: LLaMA-Factory train/callbacks.py LogCallback copies the values of log_history.
    """
    log, found = subject.run.trainer_log, subject.run.newest_trainer_state
    if log is None or found is None:
        return
    logged = {entry.step: entry.number("loss") for entry in found[0].train}
    last: dict[int, float] = {}
    for row in log.rows:
        value = row.values.get("loss")
        if row.current_steps is not None and isinstance(value, int | float) and not isinstance(value, bool):
            last[row.current_steps] = float(value)
    for step, value in last.items():
        other = logged.get(step)
        if other is not None and math.isfinite(other) and not math.isclose(value, other, rel_tol=1e-3, abs_tol=1.5e-4):
            yield Hit(
                _where(subject, "trainer_log"),
                f"At step {step} the loss is {short(value, 6)} here and {short(other, 6)} in trainer_state.json.",
                evidence={"step": step, "log": value, "state": other},
            )
            return


@rule("CKP905", "scores-all-zero", "warning", scope="run")
def scores_all_zero(subject: Subject) -> Iterator[Hit]:
    """BLEU and ROUGE are all 0.

    Why it matters: the predictions are empty or in another form than the labels: a wrong template, or max_new_tokens too low.

    How to fix: look into generated_predictions.jsonl.

    Example: predict_bleu-4 0.0, predict_rouge-1 0.0.

    Source: LLaMA-Factory issue 6267.
    """
    for split, results in subject.run.results.items():
        scores = {
            k: v
            for k, v in results.values.items()
            if ("bleu" in k.lower() or "rouge" in k.lower()) and isinstance(v, int | float)
        }
        if len(scores) >= 2 and not any(scores.values()):
            yield Hit(_where(subject, f"{split}_results"), f"All {len(scores)} similarity scores are 0.")
            return


@rule("CKP906", "predictions-empty", "warning", scope="run")
def predictions_empty(subject: Subject) -> Iterator[Hit]:
    """Predictions are empty, echo their prompt, or still hold template marks.

    Why it matters: the scores measure a mistake in the setup, not the model.

    How to fix: use the template the model was trained with; check padding_side and max_new_tokens.

    Example: every prediction begins with "assistant".

    Source: LLaMA-Factory issue 4639.
    """
    predictions = subject.run.predictions
    if predictions is None or predictions.kind != "generated" or not predictions.lines:
        return
    for count, what in (
        (predictions.empty, "are empty"),
        (predictions.echoes, "repeat their prompt"),
        (predictions.template_leftovers, "hold marks of the chat template"),
    ):
        if count >= max(1, predictions.lines // 20):
            yield Hit(_where(subject, "generated_predictions"), f"{count} of {predictions.lines} predictions {what}.")


@rule("CKP907", "value-head-missing", "error", scope="run")
def value_head_missing(subject: Subject) -> Iterator[Hit]:
    """A reward model or PPO policy of LLaMA-Factory has no value head.

    Why it matters: loading goes on with a random head and only an info message: every score is noise.

    How to fix: copy value_head.safetensors from the run or a checkpoint.

    Example: an `rm` run published without value_head.safetensors.

    Source: LLaMA-Factory model/model_utils/valuehead.py load_valuehead_params.
    """
    if subject.run.kind != "run" or not any(producer.name == "LLaMA-Factory" for producer in subject.run.producers):
        return
    found = subject.run.newest_trainer_state
    args = subject.run.training_args
    ranking = args is not None and str(args.arguments.get("stage", "")).lower() in ("rm", "ppo")
    if found is not None and not ranking:
        keys = {key for entry in found[0].log_history for key in entry.values}
        ranking = "eval_accuracy" in keys and "reward" in keys
    weights = subject.run.has("adapter_weights", "model_weights", "model_weights_index")
    if ranking and weights and not subject.run.has("value_head"):
        yield Hit(subject.run.path, "It was trained with a value head, and there is no value_head.safetensors or .bin.")


@rule("CKP908", "pissa-not-converted", "warning", scope="run")
def pissa_not_converted(subject: Subject) -> Iterator[Hit]:
    """pissa_init is here and pissa_converted is not.

    Why it matters: the run did not reach its end; the adapter in the root fits only the residual base.

    How to fix: run the conversion again.

    Example: a PiSSA run that was stopped.

    Source: LLaMA-Factory train/callbacks.py PissaConvertCallback.
    """
    names = {path.rpartition("/")[2] for path in subject.run.directories}
    if "pissa_init" in names and "pissa_converted" not in names:
        yield Hit(subject.run.path, "pissa_init is here, pissa_converted is not: the run did not finish.")


@rule("CKP909", "results-of-another-run", "note", scope="run")
def results_of_another_run(subject: Subject) -> Iterator[Hit]:
    """all_results.json has keys that no other results file of the directory has.

    Why it matters: the file is merged over runs, so these values may be of an earlier one.

    How to fix: trust the file of each split.

    Example: predict_ keys in a directory whose predict_results.json was deleted.

    Source: transformers 5.23.0 trainer_pt_utils.py save_metrics: all_results.json is read, merged and written.
    """
    results = subject.run.results
    if "all" not in results or len(results) < 2:
        return
    known = {key for split, item in results.items() if split != "all" for key in item.values}
    extra = [key for key in results["all"].values if key not in known]
    if extra:
        yield Hit(
            _where(subject, "all_results"),
            f"Only here: {', '.join(printable(key, 40) for key in extra[:5])}.",
            evidence={"keys": [printable(key, 60) for key in extra[:20]]},
        )


@rule("CKP946", "side-file-damaged", "warning", scope="run")
def side_file_damaged(subject: Subject) -> Iterator[Hit]:
    """A plot, an event file or a table of completions is cut off or not what its name says.

    Why it matters: the record of the run is incomplete; the model is not affected.

    How to fix: make the plot again with `plot-loss`; nothing for the others.

    Example: training_loss.png of 0 bytes after the disk was full.

    Source: PNG, TFRecord and Parquet formats.
    """
    yield from hits(subject, "CKP946")
