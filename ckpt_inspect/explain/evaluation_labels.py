"""Which positions of a row carry loss, as far as arguments tell, and why training and evaluation loss differ.

LLaMA-Factory keeps `train_on_prompt` and `mask_history` among its data arguments, which only the files of its web page
record; trl keeps `completion_only_loss`, `assistant_only_loss` and `packing` in training_args.bin; the plain Trainer leaves
labels to the script.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.training_args import TrainingArgs
    from ckpt_inspect.explain.version import VersionEvidence
    from ckpt_inspect.run import Run


def producer_of(arguments: TrainingArgs | None) -> str:
    """ "llamafactory", "trl" or "", by the class of the arguments."""
    name = arguments.class_name if arguments is not None else None
    for producer in ("llamafactory", "trl"):
        if name is not None and name.startswith(f"{producer}."):
            return producer
    return ""


def stage_of(run: Run) -> str:
    """What was trained for: "rm", "preference", "orpo", "policy", or "" for anything else.

    "rm" has a value head or logs a reward model's rewards, "preference" logs rewards, "orpo" the token loss of the chosen
    answers besides, which its loss adds.
    """
    if run.has("value_head"):
        return "rm"
    newest = run.newest_trainer_state
    keys = {key for entry in newest[0].log_history[:50] for key in entry.values} if newest is not None else set()
    bare = {key.removeprefix("eval_") for key in keys}
    if "rewards/accuracies" in bare or "rewards/margins" in bare:
        return "orpo" if bare & _ADDED else "preference"
    if {"margin", "mean_reward"} <= bare:  # trl reward_trainer.py
        return "rm"
    return "policy" if "reward" in bare else ""


def task_of(run: Run, producer: str, stage: str) -> str:
    """ "preference", "lm" or "" when nothing tells."""
    if stage in ("rm", "preference", "orpo"):
        return "preference"
    config, model = run.adapter_config, run.model_config
    if config is not None and config.task_type in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return "lm"
    names = model.architectures if model is not None else ()
    if any(name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for name in names or ()):
        return "lm"
    return "lm" if producer in ("llamafactory", "trl") and not stage else ""


def label_sentence(arguments: TrainingArgs | None, page: Mapping[str, Any] | None, stage: str = "") -> str:
    """Which positions carry loss.

    Args:
        arguments: training_args.bin.
        page: the arguments LLaMA-Factory's web page wrote down, None without.
        stage: as `stage_of` says.
    """
    producer = producer_of(arguments)
    if page is not None:
        return _page(page)
    if stage == "orpo":
        return ADDS
    if producer == "trl" and arguments is not None:
        return _trl(arguments)
    if stage in ("rm", "preference"):
        return COMPARES
    if producer == "llamafactory":
        return (
            "LLaMA-Factory masks the prompt unless train_on_prompt is set; that argument is not in training_args.bin, so it "
            "cannot be checked here."
        )
    return "Which positions carry loss is decided by the script's labels, which nothing in the directory records."


COMPARES = "The loss compares answers; it is no mean over tokens and not comparable with a fine-tuning loss."


ADDS = (
    "The loss adds the chosen answers' loss per token (prompts carry none unless the script says so) and a comparison of "
    "answers: it is not comparable with a fine-tuning loss."
)
# Parts of the loss that say so: trl orpo_trainer.py and cpo_trainer.py; LLaMA-Factory train/dpo/trainer.py.
_ADDED = frozenset({"nll_loss", "sft_loss", "odds_ratio_loss"})


def _page(page: Mapping[str, Any]) -> str:
    stage = page.get("stage", "sft")
    if stage == "pt":
        return "Pre-training: every token carries loss."
    if stage in ("dpo", "kto", "rm", "ppo"):
        return f"Stage {stage}: the loss compares answers, prompts carry none."
    parts = (
        "every token carries loss, the prompt included" if page.get("train_on_prompt") else "only answers carry loss"
    )
    if page.get("mask_history"):
        parts = "only the last answer of a conversation carries loss"
    packed = ", rows are packed" if page.get("packing") or page.get("neat_packing") else ""
    return f"Stage sft: {parts}{packed} (by training_args.yaml)."


def _trl(arguments: TrainingArgs) -> str:
    name = (arguments.class_name or "").rpartition(".")[2]
    if name == "SFTConfig":
        completion, assistant = arguments.flag("completion_only_loss"), arguments.flag("assistant_only_loss")
        packed = " Rows are packed." if arguments.flag("packing") else ""
        if assistant:
            return f"Only assistant turns carry loss (assistant_only_loss).{packed}"
        if completion is True:
            return f"Only completions carry loss (completion_only_loss).{packed}"
        if completion is False:
            return f"Every token carries loss, the prompt included (completion_only_loss is off).{packed}"
        return (
            "Completions alone carry loss where the data has separate prompts and completions, every token otherwise "
            f"(completion_only_loss is not set).{packed}"
        )
    if name in ("DPOConfig", "KTOConfig", "ORPOConfig", "CPOConfig", "RewardConfig"):
        return COMPARES
    if name in ("GRPOConfig", "RLOOConfig", "PPOConfig", "OnlineDPOConfig"):
        return "The loss is that of policy training: its value says nothing about quality, the rewards do."
    return ""


def difference_sentence(arguments: TrainingArgs | None, version: VersionEvidence, *, task: str) -> str:
    """Why a training loss and an evaluation loss are different statistics."""
    per_token = task == "lm" and version.has("per_token_loss") is True
    train = "divides the summed loss of an accumulated batch by its label tokens" if per_token else "averages batches"

    def given(name: str) -> bool:
        return bool(arguments is not None and arguments.number(name))

    noise = " and NEFTune noise" if given("neftune_noise_alpha") else ""
    # Trainer.compute_loss smooths the labels of evaluation batches too (transformers 4.36 and 5.23)
    both = " Both are smoothed (label_smoothing_factor)." if given("label_smoothing_factor") else ""
    return (
        f"Training loss and eval_loss are not the same statistic: the first {train} while the weights move, with dropout{noise}, "
        "and is averaged since the last log; the second averages batches with fixed weights and without dropout."
        f"{both}"
    )
