"""From the names of a PEFT model's parameters to the names in ``adapter_model.safetensors``.

Grammar: peft 0.21.2 ``tuners/tuners_utils.py`` `_remove_adapter_name_from_state_dict_key`, ``tuners/lora/model.py``
(DoRA's magnitude keeps no ".weight"), ``tuners/adalora/model.py`` (ranknum is not saved), ``utils/other.py``
`ModulesToSaveWrapper` and `TrainableTokensWrapper`, ``tuners/tuners_utils.py`` `BasePromptEncoder`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ckpt_inspect.consolidate.plan import PlannedTensor
from ckpt_inspect.errors import UnsupportedLayoutError
from ckpt_inspect.knowledge import load
from ckpt_inspect.printable import printable

PREFIX = "base_model."
VALUE_HEAD_PREFIX = "v_head."
_WRAPPERS = ("pretrained_model.", "_forward_module.", "module.", "_orig_mod.")
_TOKENS = "token_adapter.trainable_tokens_delta."
_SAVED = ".modules_to_save."
_ORIGINAL = ".original_module."
_BASE = ".base_layer."
_PROMPT = re.compile(r"(?:.*\.)?prompt_encoder\.([^.]+)\.(.+)")


@dataclass(frozen=True, slots=True)
class AdapterTensors:
    """The tensors of one adapter under their file names; `left_out` counts parameters of the base model."""

    adapter: str
    tensors: tuple[PlannedTensor, ...]
    left_out: int
    others: tuple[str, ...]


def is_peft_name(name: str) -> bool:
    """Whether a parameter belongs to an adapter: to its layers, to a module saved with it, or to its prompt."""
    return adapter_of(name) is not None or is_file_name(name)


def is_file_name(name: str) -> bool:
    """Whether an adapter's tensor already has its name in the file, without the adapter's: ``...q_proj.lora_A.weight``.

    So accelerate's `save_fsdp_model` with `adapter_only` saves them (1.15 ``utils/fsdp_utils.py`` `_get_model_state_dict`).
    """
    parts = unwrapped(name).split(".")
    if parts[-1] == "prompt_embeddings":
        return True
    layers = parts[:-1] if parts[-1] in ("weight", "bias") else parts
    prefixes = (*_layer_prefixes(), "trainable_tokens_delta")
    inside = len(layers) > 1 and layers[-2].startswith(prefixes)  # the last is an adapter's name, such as lora_b
    return bool(layers) and layers[-1].startswith(prefixes) and not inside


def adapter_of(name: str) -> str | None:
    """The adapter ("default", mostly) a parameter belongs to, None for a parameter of the base model."""
    if _SAVED in name:
        return name.partition(_SAVED)[2].partition(".")[0]
    if _TOKENS in name:
        return name.partition(_TOKENS)[2].partition(".")[0]
    prompt = _PROMPT.fullmatch(name)
    if prompt:
        return prompt[1]
    parts = name.split(".")
    for index, part in enumerate(parts[:-1]):
        if part.startswith(_layer_prefixes()):
            return parts[index + 1] if not is_file_name(name) else None
    return None


def file_name(name: str, adapter: str) -> str:
    """The key of a parameter in the adapter file.

    Raises:
        UnsupportedLayoutError: a prompt encoder whose output is computed, not stored.
    """
    name = unwrapped(name)
    prompt = _PROMPT.fullmatch(name)
    if prompt:
        if prompt[2] != "embedding.weight":
            raise UnsupportedLayoutError(
                f"{printable(name)} belongs to a prompt encoder that computes its embeddings with a network",
                remedy="load the checkpoint with PEFT and call save_pretrained",
            )
        return "prompt_embeddings"
    if _SAVED in name:
        return name.replace(f"{_SAVED}{adapter}.", ".", 1)
    if name.endswith(f".lora_magnitude_vector.{adapter}.weight"):
        name = name.removesuffix(".weight")
    if name.endswith(f".{adapter}"):
        return name.removesuffix(f".{adapter}")
    head, _, last = name.rpartition(".")
    return f"{head.removesuffix(f'.{adapter}')}.{last}" if head else name


def unwrapped(name: str) -> str:
    """A name without what trl's value-head model, Lightning, DDP or torch.compile put before it."""
    while name.startswith(_WRAPPERS) and not name.startswith(PREFIX):
        name = name.partition(".")[2]
    return name


def adapter_tensors(tensors: Sequence[PlannedTensor], *, bias: str = "none") -> AdapterTensors:
    """The tensors of the adapter, "default" where there are several, renamed as PEFT saves them.

    Args:
        tensors: what the checkpoint holds, with the names of the training-time model.
        bias: the adapter configuration's `bias`: "all" and "..._only" save biases of the base model too.
    """
    if any(is_file_name(tensor.name) for tensor in tensors):
        named = tuple(replace(tensor, name=unwrapped(tensor.name)) for tensor in tensors)
        return AdapterTensors("default", named, 0, ())
    owners = {tensor.name: adapter_of(tensor.name) for tensor in tensors}
    counts = Counter(owner for owner in owners.values() if owner is not None)
    adapter = "default" if "default" in counts else min(counts, default="default")
    adapted = {name.partition(_BASE)[0] for name in owners if _BASE in name}
    kept: dict[str, PlannedTensor] = {}
    left_out = 0
    for tensor in tensors:
        if owners[tensor.name] == adapter:
            if tensor.name.endswith(f".ranknum.{adapter}"):
                continue
            name = file_name(tensor.name, adapter)
            kept[name] = replace(tensor, name=name)
        elif owners[tensor.name] is None:
            if _is_saved_bias(tensor.name, bias, adapted):
                name = unwrapped(tensor.name)
                kept[name] = replace(tensor, name=name)
            else:
                left_out += 1
    return AdapterTensors(adapter, tuple(kept.values()), left_out, tuple(sorted(set(counts) - {adapter})))


def belongs_in_file(name: str) -> bool:
    """Whether a key of a saved adapter file is one loaders read: not one of the copies PEFT writes of wrapped modules."""
    return _SAVED not in name and _ORIGINAL not in name


def _is_saved_bias(name: str, bias: str, adapted: Iterable[str]) -> bool:
    if bias == "all":
        return name.endswith(".bias") and _ORIGINAL not in name
    return bias.endswith("_only") and name.endswith(f"{_BASE}bias") and name.partition(_BASE)[0] in adapted


def _layer_prefixes() -> tuple[str, ...]:
    types = load("peft_types")["type"]
    return tuple(sorted({row["prefix"] for row in types.values() if row.get("prefix")}))
