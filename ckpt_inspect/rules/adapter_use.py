"""CKP31x and 32x: what an adapter's configuration says about its base, its use and its head."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ckpt_inspect.artifacts.adapter_targets import is_saved_module
from ckpt_inspect.explain.numbers import listed
from ckpt_inspect.printable import printable
from ckpt_inspect.rules.adapters import both, path_of
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject

_CONFIG, _WEIGHTS = "adapter_config", "adapter_weights"
_LIBRARIES = ("transformers", "diffusers", "lerobot", "megatron")
_HEADS = ("score", "classifier", "qa_outputs")


@rule("CKP314", "adapter-base-not-portable", "note", scope="run")
def adapter_base_not_portable(subject: Subject) -> Iterator[Hit]:
    """The adapter names its base model by a path of the training machine.

    Why it matters: on any other machine the base is not found; PEFT and vLLM then need it spelled out.

    How to fix: set base_model_name_or_path to the model's repository name before publishing.

    Example: `"/mnt/data/models/Qwen2.5-7B"`.

    Source: peft 0.21.2 peft_model.py PeftModel.save_pretrained copies model.name_or_path.
    """
    config = subject.place.adapter_config
    name = config.base_model if config is not None else None
    if name and (name.startswith(("/", "~", ".", "\\")) or re.match(r"[A-Za-z]:[\\/]", name)):
        yield Hit(path_of(subject, _CONFIG), f"The base is named by a local path, {printable(name, 120)}.")


@rule("CKP316", "adapter-config-only", "note", scope="run")
def adapter_config_only(subject: Subject) -> Iterator[Hit]:
    """inference_mode is false: this file was not written by saving a trained adapter.

    Why it matters: PeftModel.save_pretrained always writes true. The file was saved apart, before or without the weights.

    How to fix: nothing if the weights beside it are right.

    Example: Axolotl saves the configuration before training.

    Source: peft 0.21.2 peft_model.py PeftModel.save_pretrained sets inference_mode while it writes the
    configuration.
    """
    config = subject.place.adapter_config
    if config is not None and config.inference_mode is False:
        yield Hit(path_of(subject, _CONFIG), "inference_mode is false.")


@rule("CKP317", "adapter-scaling", "note", scope="run")
def adapter_scaling(subject: Subject) -> Iterator[Hit]:
    """The adapter's scaling is unusual.

    Why it matters: alpha / r (or alpha / sqrt(r)) above 8 or below 1/8 multiplies the update by far more or less than usual;
    often alpha was meant for another rank.

    How to fix: nothing if it was meant.

    Example: alpha 256 with rank 8: every update times 32.

    Source: peft 0.21.2 tuners/lora/layer.py: scaling = alpha / r, with rsLoRA alpha / sqrt(r); the thresholds 0.25
    and 4 are our choice.
    """
    config = subject.place.adapter_config
    if config is None or config.peft_type != "LORA" or config.use_rslora:
        return
    scaling = config.scaling()
    if scaling is not None and (scaling > 8 or 0 < scaling < 0.125):
        yield Hit(
            path_of(subject, _CONFIG),
            f"alpha {config.alpha:g} over rank {config.r} scales every update by {scaling:g}.",
        )


@rule("CKP320", "adapter-foreign-library", "error")
def adapter_foreign_library(subject: Subject) -> Iterator[Hit]:
    """The adapter asks AutoPeftModel to import an unexpected library.

    Why it matters: `auto_mapping.parent_library` is imported by name; before PEFT 0.21 any module could be named there, which
    runs its code.

    How to fix: do not load the adapter with AutoPeftModel; find out where the file comes from.

    Example: `"parent_library": "os"`.

    Source: peft 0.21.2 auto.py: the libraries auto_mapping may name.
    """
    config = subject.place.adapter_config
    mapping = config.values.get("auto_mapping") if config is not None else None
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if isinstance(library, str) and library.split(".")[0] not in (*_LIBRARIES, "megatron-core"):
        yield Hit(path_of(subject, _CONFIG), f"auto_mapping names the library {printable(library, 60)}.")


@rule("CKP322", "adapter-pickle", "note", scope="run")
def adapter_pickle(subject: Subject) -> Iterator[Hit]:
    """The adapter is stored as a pickle only.

    Why it matters: transformers 4.52 and later refuse to load it with torch before 2.6 (CVE-2025-32434), and a pickle can
    run code.

    How to fix: load it once and save it as safetensors.

    Example: adapter_model.bin alone.

    Source: transformers PR 37785 (CVE-2025-32434), LLaMA-Factory issue 8379.
    """
    names = {artifact.name for artifact in subject.place.own.get(_WEIGHTS, ())}
    if names and all(name.endswith(".bin") for name in names):
        yield Hit(
            path_of(subject, _WEIGHTS), "The adapter is adapter_model.bin, a pickle; there is no safetensors file."
        )


@rule("CKP324", "adapter-head-missing", "error")
def adapter_head_missing(subject: Subject) -> Iterator[Hit]:
    """A classification adapter has no head, or a module of modules_to_save has no tensor.

    Why it matters: the head is created anew with random weights when the adapter is loaded; the scores are then noise.

    How to fix: take the adapter from a checkpoint that has it; set task_type before training so that PEFT saves the head.

    Example: task_type SEQ_CLS and no `score.weight`.

    Source: peft 0.21.2 peft_model.py PeftModelForSequenceClassification adds the head to modules_to_save.
    """
    pair = both(subject)
    if pair is None or not pair[1].tensors or pair[0].prompt:
        return
    config, weights = pair
    modules = {tensor.module for tensor in weights.tensors}
    listed_modules = [
        name for name in config.modules_to_save or () if not any(_ends(module, name) for module in modules)
    ]
    if config.task_type in ("SEQ_CLS", "TOKEN_CLS"):  # PEFT adds both usual names; one of them exists in a model
        heads = [name for name in (*(config.modules_to_save or ()), "score", "classifier") if name in _HEADS]
        if not any(_ends(module, name) for name in heads for module in modules):
            yield Hit(
                path_of(subject, _WEIGHTS),
                f"task_type is {config.task_type}, and the file holds no head ({listed(heads[:2])}).",
            )
        listed_modules = [name for name in listed_modules if name not in _HEADS]
    if listed_modules:
        aliases = [name for name in listed_modules if any(is_saved_module(config, module) for module in modules)]
        missing = [name for name in listed_modules if name not in aliases]
        if missing:
            yield Hit(
                path_of(subject, _WEIGHTS),
                f"modules_to_save names {listed([printable(name, 40) for name in missing[:4]])}, and no tensor belongs to it.",
            )


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")
