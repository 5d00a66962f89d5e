"""What is said of every run of the shared collection: nothing wrong, nothing missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_inspect.explain.batches import explain_batches
from ckpt_inspect.explain.evaluation import explain_evaluation
from ckpt_inspect.explain.loss import LossAnswer, explain_loss
from ckpt_inspect.explain.schedule import explain_schedule
from ckpt_inspect.run import open_run

pytestmark = pytest.mark.shared

RECORDS = ("trainer_state.json", "all_results.json", "train_results.json", "trainer_log.jsonl")
WHOLE = "average_of_all_steps"

# Runs that did not simply train from their first step to their last (RUNS.md), and the step they were resumed at.
RESUMED = {
    "resume-extend": ("average_since_resume", 10),
    "tf446-resume": ("resumed_sum_over_all_steps", 10),
    "tf436-resume-stale": ("resumed_sum_over_all_steps", 20),
}
DIVERGED = {"nan-run", "tf436-nan", "tf451-nan"}
KILLED = {"killed-optim", "diskfull-z2"}  # without a summary

# (verdict, resumed at) of every directory of the corpus that reports an average; the rest reports none.
CORPUS = {
    "CognmaL+GEC-Vietnamese/models": ("not_logged", None),
    "HanGyeol-Yoo+sentence_interpolation_AiMalpyeong/output": ("not_logged", None),
    "MemaSp+FT-Llama2-HRChatbot/outputs": (WHOLE, None),
    "MemaSp+FT-Llama2-HRChatbot@130658e/output": (WHOLE, None),
    "MemaSp+FT-Llama2-HRChatbot@130658e/outputs": (WHOLE, None),
    "MemaSp+FT-Llama2-HRChatbot@22d8440/Dataset_3_Setup [Custom]/outputs": (WHOLE, None),
    "MemaSp+FT-Llama2-HRChatbot@45db04e/outputs": (WHOLE, None),
    "MemaSp+FT-Llama2-HRChatbot@8170baa/outputs": (WHOLE, None),
    "MemaSp+FT-Llama2-HRChatbot@8cbdadc/outputs": (WHOLE, None),
    "MemaSp+FT-Llama2-HRChatbot@e1ffe46/Dataset_3_Setup [Custom]/outputs": (WHOLE, None),
    "MemaSp+FT-Llama2-HRChatbot@fe68e8d/outputs": (WHOLE, None),
    "P4P4N1CK+whisper-large-v2-japanese-5k-steps": (WHOLE, None),
    "Yvonne530+HealthAI-OPPO-2026": (WHOLE, None),
    "anthonyrathe+fixed-whisperv2-flemish": ("resumed_sum_over_all_steps", 11000),
    "chandlerzuo+rlhf_recsys/outputs": ("average_with_unlogged_tail", None),
    "dmcheon+ner_for_jd/outputs": ("average_with_unlogged_tail", None),
    "hsc748NLP+NSLLM": ("not_logged", None),
    "mellymeter+ES3890AI/output": ("not_logged", None),
    "nawta+Task5/model": ("average_with_unlogged_tail", None),
    "sliderSun+chinese_pytorch_pretrain_lm@ba00eb4/output": ("not_logged", None),
    "suzushi-tw+luojiu-7b-base": ("not_logged", None),
    "xueh88401-web+qwen2.5-7b-medical-finetune": ("average_with_unlogged_tail", None),
}


def directories(root: Path) -> list[Path]:
    return sorted({path.parent for path in root.rglob("*") if path.name in RECORDS})


def verdict(answer: LossAnswer | None) -> tuple[str, int | None] | None:
    if answer is None or answer.average is None:
        return None
    return answer.average.verdict, answer.average.resumed_at


def test_the_loss_verdict_of_every_run_is_what_happened(shared: Path) -> None:
    found = {}
    for path in directories(shared / "runs"):
        if "checkpoint-" in path.name:
            continue
        answer = explain_loss(open_run(path))
        name = path.relative_to(shared / "runs").as_posix()
        found[name] = verdict(answer)
        if answer is not None and answer.average is not None:
            assert answer.average.relative_error is not None
            assert answer.average.relative_error <= 1e-3, name
        assert answer is not None
        assert any(item.name == "masked_nan" for item in answer.distortions) == (name in DIVERGED), name
    expected = {name: RESUMED.get(name, (WHOLE, None)) for name in found if name not in KILLED}
    assert {name: value for name, value in found.items() if value is not None} == expected
    assert len(found) >= 47


def test_a_checkpoint_is_never_given_an_average(shared: Path) -> None:
    for path in directories(shared / "runs"):
        if "checkpoint-" in path.name:
            answer = explain_loss(open_run(path))
            assert answer is None or answer.average is None


def test_the_loss_verdict_of_every_directory_of_the_corpus(shared: Path) -> None:
    found, both, reconciled = {}, 0, 0
    for path in directories(shared / "corpus"):
        answer = explain_loss(open_run(path))
        if answer is None or answer.average is None:
            continue
        found[path.relative_to(shared / "corpus").as_posix()] = verdict(answer)
        if answer.average.verdict == "not_logged":
            assert "cannot be recomputed" in answer.average.explanation
            continue
        both += 1
        reconciled += (answer.average.relative_error or 0.0) <= 1e-3
    assert found == CORPUS
    assert reconciled >= 0.95 * both


def test_the_learning_rate_of_every_healthy_run_is_recomputed(shared: Path) -> None:
    wrong = {}
    for path in directories(shared / "runs"):
        answer = explain_schedule(open_run(path))
        if answer is None:
            continue
        name = path.relative_to(shared / "runs").as_posix()
        healthy = not name.startswith("resume-extend")
        if healthy and (answer.verdict != "matches" or (answer.max_relative_error or 0.0) > 1e-9):
            wrong[name] = answer.explanation
    assert wrong == {}


def test_a_resume_with_another_horizon_shows_in_the_learning_rate(shared: Path) -> None:
    answer = explain_schedule(open_run(shared / "runs" / "resume-extend"))
    assert answer is not None
    assert (answer.verdict, answer.first_departure) == ("differs", 6)
    assert "horizon of 10 steps instead of 20" in answer.explanation


def test_no_learning_rate_of_the_corpus_departs_without_a_cause(shared: Path) -> None:
    for path in directories(shared / "corpus"):
        answer = explain_schedule(open_run(path))
        if answer is not None and answer.verdict == "differs":
            assert "no schedule that the arguments" not in answer.explanation, path


ROWS = {"epoch-save": 40, "log7-ga4-3ep": 50}  # n= on the command line in RUNS.md
PREPARED = {"lf-dpo": 40, "lf-rm": 40, "trl-dpo-lora": 48, "trl-sft-lora": 48}


def test_the_rows_of_the_data_set_are_within_the_interval(shared: Path) -> None:
    """sft.py trains on 64 rows unless its command says otherwise."""
    for path in directories(shared / "runs"):
        name = path.relative_to(shared / "runs").as_posix()
        if "checkpoint-" in name or name in ("trl-grpo",):
            continue
        answer = explain_batches(open_run(path))
        assert answer is not None
        assert answer.dataset_rows is not None, name
        low, high = answer.dataset_rows
        rows = ROWS.get(name, PREPARED.get(name, 64))
        assert low <= rows <= high, name
        assert high - low < (answer.global_batch or 0)


@pytest.mark.parametrize(
    ("name", "world", "batch"),
    [("hf-z3-3r-odd", 3, 6), ("hf-z1-4r-odd", 4, 8), ("lf-sft-z2", 2, 4), ("log7-ga4-3ep", 1, 8)],
)
def test_processes_and_rows_per_update_are_known(shared: Path, name: str, world: int, batch: int) -> None:
    answer = explain_batches(open_run(shared / "runs" / name))
    assert answer is not None
    assert (answer.world_size, answer.global_batch) == (world, batch)


@pytest.mark.parametrize(
    ("name", "kind", "generated"),
    [
        ("lf-sft-predict", "similarity", True),
        ("epoch-save", "accuracy", False),
        ("trl-dpo-lora", "preference", False),
        ("qwen-lora-sft-mts", "loss", False),
        ("lf-sft-z2", "none", None),
    ],
)
def test_evaluations_are_told_apart(shared: Path, name: str, kind: str, generated: bool | None) -> None:
    answer = explain_evaluation(open_run(shared / "runs" / name))
    assert answer is not None
    assert (answer.kind, answer.generated) == (kind, generated)


def test_the_root_of_a_run_that_loads_its_best_model_is_not_the_last_step(shared: Path) -> None:
    answer = explain_evaluation(open_run(shared / "runs" / "epoch-save"))
    assert answer is not None
    assert answer.root_weights is not None
    assert (answer.root_weights.of, answer.root_weights.step) == ("best", 40)
