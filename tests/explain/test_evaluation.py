"""What an evaluation measured, what was best, what was kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from builders.run_directories import fields_of, summary, train_entries, write_arguments, write_results, write_state

from ckpt_inspect.explain.evaluation import EvaluationAnswer, explain_evaluation
from ckpt_inspect.explain.evaluation_metrics import Context, bare_name, describe, is_metric, kind_of
from ckpt_inspect.knowledge import load
from ckpt_inspect.run import open_run

LLAMAFACTORY = "llamafactory.hparams.training_args.TrainingArguments"


def explained(path: Path) -> EvaluationAnswer:
    found = explain_evaluation(open_run(path))
    assert found is not None
    return found


def evals(*pairs: tuple[int, float], name: str = "eval_loss") -> list[dict[str, object]]:
    return [{"step": step, name: value, "eval_runtime": 1.0, "eval_samples_per_second": 9.0} for step, value in pairs]


# ------------------------------------------------------------------------------------------------- metrics by name


@pytest.mark.parametrize(
    ("name", "context", "kind", "better", "generated"),
    [
        ("eval_loss", Context(task="lm"), "loss", "lower", False),
        ("eval_accuracy", Context("llamafactory", task="lm"), "accuracy", "higher", False),
        ("eval_accuracy", Context("llamafactory", "rm"), "preference", "higher", False),
        ("eval_accuracy", Context(), "accuracy", "higher", None),
        ("predict_bleu-4", Context("llamafactory"), "similarity", "higher", True),
        ("predict_rouge-l", Context("llamafactory"), "similarity", "higher", True),
        ("eval_rougeLsum", Context(), "similarity", "higher", True),
        ("eval_wer", Context(), "other", "lower", True),
        ("eval_rewards/accuracies", Context("trl"), "preference", "higher", False),
        ("eval_rewards/chosen", Context("trl"), "preference", "", False),
        ("eval_mean_token_accuracy", Context("trl"), "accuracy", "higher", False),
        ("eval_macro_f1", Context(), "accuracy", "higher", False),
        ("perplexity", Context(), "loss", "lower", False),
        ("eval_wiki_loss", Context(datasets=("wiki",)), "loss", "lower", False),
        ("eval_ter", Context(), "similarity", "lower", True),
        ("eval_odds_ratio_loss", Context("trl", "orpo", "preference"), "preference", "", False),
        ("eval_somebodys_own", Context(), "other", "", None),
    ],
)
def test_metrics_are_known_by_name_and_maker(
    name: str, context: Context, kind: str, better: str, generated: bool | None
) -> None:
    found = describe(name, 0.5, context)
    assert (found.kind, found.better, found.generated) == (kind, better, generated)


def test_the_same_name_means_different_things() -> None:
    teacher = describe("eval_accuracy", 0.5, Context("llamafactory", task="lm")).meaning
    pairs = describe("eval_accuracy", 0.5, Context("llamafactory", "rm")).meaning
    assert "teacher-forced" in teacher
    assert "chosen answer" in pairs


@pytest.mark.parametrize(
    "name",
    [
        "eval_runtime",
        "eval_samples_per_second",
        "epoch",
        "train_loss",
        "eval_samples",
        "total_flos",
        "eval_mem_cpu_alloc_delta",
    ],
)
def test_bookkeeping_is_no_metric(name: str) -> None:
    assert not is_metric(name)


def test_the_data_set_is_taken_off_a_name() -> None:
    assert bare_name("eval_wiki_text_loss", ("wiki_text",)) == "loss"


def test_every_row_of_the_table_is_complete() -> None:
    for row in load("metrics")["metric"]:
        assert {"pattern", "kind", "better", "meaning", "source"} <= row.keys()
        assert row["kind"] in ("loss", "accuracy", "similarity", "preference", "other")


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ((), "none"),
        (("eval_loss",), "loss"),
        (("eval_loss", "eval_entropy"), "loss"),
        (("eval_loss", "eval_accuracy"), "accuracy"),
        (("eval_loss", "predict_rouge-1"), "similarity"),
        (("eval_wer", "eval_loss"), "other"),
    ],
)
def test_the_kind_is_that_of_the_most_telling_metric(names: tuple[str, ...], kind: str) -> None:
    assert kind_of([describe(name, 0.5, Context()) for name in names]) == kind


# ------------------------------------------------------------------------------------------------- directories


def test_the_last_value_counts_and_results_files_before_the_log(tmp_path: Path) -> None:
    write_state(tmp_path, [*train_entries([(10, 2.0), (20, 1.0)]), *evals((10, 2.5), (20, 2.0))])
    assert explained(tmp_path).metrics == {"eval_loss": 2.0}
    write_results(tmp_path, "eval", eval_loss=1.5, eval_runtime=3.0)
    assert explained(tmp_path).metrics == {"eval_loss": 1.5}


def test_teacher_forced_accuracy_is_not_called_quality_of_text(tmp_path: Path) -> None:
    write_arguments(tmp_path, cls=LLAMAFACTORY, predict_with_generate=False)
    write_results(tmp_path, "eval", eval_loss=1.0, eval_accuracy=0.7)
    found = explained(tmp_path)
    assert (found.kind, found.generated) == ("accuracy", False)
    assert "says little about generated text" in found.paragraph


def test_generated_metrics_have_their_scale_and_no_loss(tmp_path: Path) -> None:
    write_arguments(tmp_path, cls=LLAMAFACTORY, predict_with_generate=True)
    write_results(tmp_path, "predict", **{"predict_bleu-4": 31.4, "predict_rouge-1": 40.0})
    lines = [{"prompt": "p", "predict": text, "label": "s"} for text in ("s", "", "<|im_end|>x", "t")]
    (tmp_path / "generated_predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = explained(tmp_path)
    assert (found.kind, found.generated) == ("similarity", True)
    assert "BLEU-4 over single characters" in found.paragraph
    assert "there is no evaluation loss" in found.paragraph
    assert found.predictions is not None
    assert (found.predictions.lines, found.predictions.exact, found.predictions.empty) == (4, 1, 1)
    assert found.predictions.template_leftovers == 1
    assert "another chat template" in found.paragraph


def test_generation_that_was_asked_for_without_compute_metrics_did_not_happen(tmp_path: Path) -> None:
    write_arguments(
        tmp_path, cls="transformers.training_args_seq2seq.Seq2SeqTrainingArguments", predict_with_generate=True
    )
    write_state(tmp_path, [*train_entries([(4, 1.0)]), *evals((4, 0.25))])
    found = explained(tmp_path)
    assert found.generated is False
    assert "predict_with_generate is on, but the loss is the only metric" in found.paragraph


def test_a_loss_that_adds_the_answers_own_is_not_called_a_comparison_alone(tmp_path: Path) -> None:
    entry = {"step": 4, "eval_loss": 0.2, "eval_rewards/accuracies": 0.5, "eval_nll_loss": 0.1}
    write_state(tmp_path, [*train_entries([(4, 1.0)]), entry])
    assert "plus a comparison" in explained(tmp_path).paragraph


def test_a_text_file_of_predictions_is_named_and_has_no_labels_to_equal(tmp_path: Path) -> None:
    write_results(tmp_path, "predict", predict_loss=1.0)
    (tmp_path / "generated_predictions.txt").write_text("one\n\ntwo\n")
    text = explained(tmp_path).paragraph
    assert "generated_predictions.txt holds 3 predictions: 1 empty" in text
    assert "label" not in text.partition("generated_predictions.txt")[2].partition(".")[0]


def test_smoothed_labels_are_in_both_losses(tmp_path: Path) -> None:
    write_state(tmp_path, [*train_entries([(10, 0.5)]), *evals((10, 0.4))])
    write_arguments(tmp_path, label_smoothing_factor=0.1)
    text = explained(tmp_path).paragraph
    assert "Both are smoothed (label_smoothing_factor)." in text
    assert "dropout and label smoothing" not in text


@pytest.mark.parametrize(("perplexity", "said"), [(math.exp(1.5), "says nothing more"), (9.0, "different evaluations")])
def test_perplexity_is_checked_against_the_loss(tmp_path: Path, perplexity: float, said: str) -> None:
    write_results(tmp_path, "all", eval_loss=1.5, perplexity=perplexity)
    assert said in explained(tmp_path).paragraph


def test_a_classification_is_not_told_of_tokens(tmp_path: Path) -> None:
    write_state(tmp_path, [*train_entries([(10, 0.5)]), *evals((10, 0.4)), *evals((10, 0.9), name="eval_f1")])
    text = explained(tmp_path).paragraph
    assert "token" not in text
    assert "correct answer up to each position" not in text


def test_nothing_evaluated_is_said(tmp_path: Path) -> None:
    write_state(tmp_path, train_entries([(10, 2.0)]))
    found = explained(tmp_path)
    assert (found.kind, found.generated, found.metrics) == ("none", None, {})


# ------------------------------------------------------------------------------------------------- best and kept


def write_best(path: Path, *, best: float, step: int, **arguments: object) -> None:
    state, fields = fields_of((5, 4, 0))
    history = [
        *train_entries([(10, 2.1234567), (20, 1.5), (30, 1.2)]),
        *evals((10, 2.0), (20, 1.6), (30, 1.9)),
        summary(30, 1.6),
    ]
    write_state(
        path,
        history,
        **{
            **state,
            "best_metric": best,
            "best_model_checkpoint": f"/gone/run/checkpoint-{step}",
            "best_global_step": step,
        },
    )
    write_arguments(path, **{**fields, "metric_for_best_model": "loss", "greater_is_better": None, **arguments})
    for at in (10, 20, 30):
        write_state(path / f"checkpoint-{at}", [], global_step=at)
    (path / "model.safetensors").write_bytes(b"")


def test_the_root_holds_the_best_weights_where_they_were_loaded(tmp_path: Path) -> None:
    write_best(tmp_path, best=1.6, step=20, load_best_model_at_end=True)
    found = explained(tmp_path)
    assert found.best is not None
    assert (found.best.metric, found.best.checkpoint, found.best.exists, found.best.agrees) == (
        "eval_loss",
        "checkpoint-20",
        True,
        True,
    )
    assert found.root_weights is not None
    assert (found.root_weights.of, found.root_weights.step) == ("best", 20)
    assert "not those of the last step 30" in found.paragraph


def test_the_root_holds_the_last_weights_otherwise(tmp_path: Path) -> None:
    write_best(tmp_path, best=1.6, step=20, load_best_model_at_end=False)
    weights = explained(tmp_path).root_weights
    assert weights is not None
    assert (weights.of, weights.step) == ("last", 30)


def test_a_better_value_in_the_log_is_named(tmp_path: Path) -> None:
    write_best(tmp_path, best=2.0, step=10, load_best_model_at_end=True)
    found = explained(tmp_path)
    assert found.best is not None
    assert found.best.agrees is False
    assert "holds a better value" in found.paragraph


def test_a_best_checkpoint_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    write_best(tmp_path, best=1.6, step=25)
    assert "checkpoint-25, which is not here" in explained(tmp_path).paragraph


@pytest.mark.parametrize(("name", "agrees"), [("eval_wer", True), ("eval_accuracy", False), ("eval_mystery", None)])
def test_without_arguments_the_metric_itself_tells_which_way_is_better(
    tmp_path: Path, name: str, agrees: bool | None
) -> None:
    history = [*train_entries([(10, 2.0)]), *evals((10, 0.25), (20, 0.75), name=name)]
    write_state(tmp_path, history, best_metric=0.25, best_model_checkpoint="x/checkpoint-10")
    best = explained(tmp_path).best
    assert best is not None
    assert (best.metric, best.agrees) == (name, agrees)


# ------------------------------------------------------------------------------------------------- overfitting


@pytest.mark.parametrize(
    ("values", "losses", "turn"),
    [
        ((2.0, 1.5, 1.6, 1.8), (2.0, 1.5, 1.2, 0.9), 20),
        ((2.0, 1.5, 1.6, 1.8), (2.0, 1.5, 1.6, 1.8), None),  # the training loss rises too: it diverges
        ((2.0, 1.5, 1.6, 1.4), (2.0, 1.5, 1.2, 0.9), None),  # it came down again
        ((2.0, 1.8, 1.6, 1.61), (2.0, 1.5, 1.2, 0.9), None),  # one value above the lowest is noise
    ],
)
def test_the_turn_to_overfitting(
    tmp_path: Path, values: tuple[float, ...], losses: tuple[float, ...], turn: int | None
) -> None:
    points = [10 * (index + 1) for index in range(len(values))]
    write_state(tmp_path, [*train_entries(zip(points, losses, strict=True)), *evals(*zip(points, values, strict=True))])
    found = explained(tmp_path).turn
    assert (found.step if found is not None else None) == turn


# ------------------------------------------------------------------------------------------------- what carries loss


@pytest.mark.parametrize(
    ("cls", "arguments", "said"),
    [
        ("trl.trainer.sft_config.SFTConfig", {"completion_only_loss": True}, "Only completions carry loss"),
        ("trl.trainer.sft_config.SFTConfig", {"completion_only_loss": False}, "the prompt included"),
        ("trl.trainer.sft_config.SFTConfig", {"assistant_only_loss": True, "packing": True}, "Rows are packed"),
        ("trl.trainer.dpo_config.DPOConfig", {}, "compares answers"),
        ("trl.trainer.grpo_config.GRPOConfig", {}, "policy training"),
        (LLAMAFACTORY, {}, "masks the prompt unless train_on_prompt"),
        ("transformers.training_args.TrainingArguments", {}, "decided by the script's labels"),
    ],
)
def test_which_positions_carry_loss(tmp_path: Path, cls: str, arguments: dict[str, object], said: str) -> None:
    write_arguments(tmp_path, cls=cls, learning_rate=1e-4, **arguments)
    assert said in explained(tmp_path).paragraph


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("stage: sft\n", "only answers carry loss"),
        ("stage: sft\ntrain_on_prompt: true\n", "the prompt included"),
        ("stage: sft\nmask_history: true\n", "only the last answer"),
        ("stage: pt\n", "every token carries loss"),
        ("stage: dpo\n", "compares answers"),
    ],
)
def test_the_web_page_of_llama_factory_tells_what_carries_loss(tmp_path: Path, page: str, said: str) -> None:
    (tmp_path / "training_args.yaml").write_text(page)
    write_arguments(tmp_path, cls=LLAMAFACTORY, learning_rate=1e-4)
    assert said in explained(tmp_path).paragraph


def test_training_and_evaluation_loss_are_told_apart(tmp_path: Path) -> None:
    write_state(tmp_path, [*train_entries([(10, 2.0)]), *evals((10, 1.9))])
    assert "not the same statistic" in explained(tmp_path).paragraph


def test_hostile_names_are_printable(tmp_path: Path) -> None:
    write_results(tmp_path, "eval", **{"eval_\x1b[31mred": 1.0})
    found = explained(tmp_path)
    assert "\x1b" not in found.paragraph + "".join(found.arithmetic)


def test_a_best_step_without_a_checkpoint_is_not_what_the_root_holds(tmp_path: Path) -> None:
    state, fields = fields_of((5, 4, 0))
    entries = [*train_entries([(30, 5.1)]), *evals((24, 2.5), (27, 1.48), (30, 1.51))]
    best = {"best_metric": 1.48, "best_global_step": 27, "best_model_checkpoint": "/out/checkpoint-24"}
    write_state(tmp_path, [*entries, summary(30, 6.0)], **{**state, **best})
    write_arguments(tmp_path, **{**fields, "load_best_model_at_end": True, "metric_for_best_model": "eval_loss"})
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    write_state(tmp_path / "checkpoint-24", entries[:0], **{**state, "global_step": 24})
    found = explained(tmp_path)
    assert found.root_weights is not None
    assert (found.root_weights.of, found.root_weights.step) == ("best", 24)
    assert "1.480 at step 27, of which no checkpoint was saved; the best one saved is checkpoint-24" in found.paragraph
