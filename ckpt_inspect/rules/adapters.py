"""CKP30x: PEFT adapters, what their configuration promises and what their file holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckpt_inspect.explain.adapter_size import explain_state_adapter
from ckpt_inspect.explain.numbers import counted, listed
from ckpt_inspect.printable import printable
from ckpt_inspect.rules.faults import hits
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.adapter import AdapterConfig
    from ckpt_inspect.artifacts.adapter_weights import AdapterWeights

_CONFIG, _WEIGHTS = "adapter_config", "adapter_weights"
_MUTATES_BASE = ("pissa", "olora", "corda", "lora_ga")


def path_of(subject: Subject, kind: str) -> str:
    """The path of an artifact of the directory, the directory's own where there is none."""
    artifact = subject.place.find(kind)
    return artifact.path if artifact is not None else subject.place.path


def both(subject: Subject) -> tuple[AdapterConfig, AdapterWeights] | None:
    """Configuration and weights, where both could be read."""
    config, weights = subject.place.adapter_config, subject.place.adapter_weights
    return (config, weights) if config is not None and weights is not None else None


@rule("CKP301", "adapter-without-weights", "error")
def adapter_without_weights(subject: Subject) -> Iterator[Hit]:
    """adapter_config.json is here and no adapter weights.

    Why it matters: the save was interrupted, or only the configuration was saved before training (Axolotl does).

    How to fix: take the adapter from a checkpoint, or from the machine it was trained on.

    Example: a repository with adapter_config.json and a README only.

    Source: peft 0.21.2 peft_model.py PeftModel.from_pretrained.
    """
    place = subject.place
    if place.has(_CONFIG) and not place.has(_WEIGHTS) and not place.has("adapter_weights_index", "lfs_pointer"):
        if subject.run.kind == "file" or (place.tags and not subject.is_root):
            return  # a file alone was given, or the weights are in DeepSpeed's shards
        yield Hit(
            path_of(subject, _CONFIG), "There is an adapter configuration, but no adapter_model.safetensors or .bin."
        )


@rule("CKP302", "adapter-type", "error")
def adapter_type(subject: Subject) -> Iterator[Hit]:
    """adapter_config.json names no adapter type, or one PEFT does not know.

    Why it matters: PEFT stops with a bare KeyError. The file is hand-made, of a newer PEFT, or of a type that was removed.

    How to fix: upgrade PEFT; for BONE, convert to MISS; correct a hand-made file.

    Example: `{"r": 8}` without peft_type.

    Source: peft 0.21.2 config.py PeftConfigMixin, mapping of peft_type.
    """
    yield from hits(subject, "CKP302")


@rule("CKP303", "adapter-unknown-keys", "warning")
def adapter_unknown_keys(subject: Subject) -> Iterator[Hit]:
    """adapter_config.json has keys that no known PEFT release has for this type.

    Why it matters: PEFT drops what it does not know with a warning; if such a key switches on a variant of LoRA, a plain
    LoRA is loaded instead.

    How to fix: load the adapter with the PEFT release that wrote it (`peft_version`), or remove the key.

    Example: `"use_newvariant": true`.

    Source: peft 0.21.2 config.py PeftConfigMixin.from_peft_type.
    """
    config = subject.place.adapter_config
    if config is not None and config.unknown_keys:
        names = listed([printable(key, 40) for key in config.unknown_keys[:5]])
        yield Hit(
            path_of(subject, _CONFIG),
            f"Unknown for {printable(config.peft_type or 'this type', 30)}: {names}.",
            evidence={"keys": [printable(key, 60) for key in config.unknown_keys]},
        )


@rule("CKP304", "adapter-empty", "error")
def adapter_empty(subject: Subject) -> Iterator[Hit]:
    """The adapter file holds no tensor.

    Why it matters: an empty state dict was saved, so loading it changes nothing: the famous 443-byte adapter_model.bin.

    How to fix: save again with model.save_pretrained on the PEFT model; do not patch state_dict.

    Example: adapter_model.bin of 443 bytes.

    Source: alpaca-lora issue 293, peft issue 286.
    """
    weights = subject.place.adapter_weights
    if weights is not None and not weights.tensors and not weights.faults:
        yield Hit(path_of(subject, _WEIGHTS), "The adapter file holds no tensors.")


@rule("CKP305", "adapter-not-gathered", "error")
def adapter_not_gathered(subject: Subject) -> Iterator[Hit]:
    """Adapter matrices are one-dimensional or empty: the shards of one rank were saved.

    Why it matters: under ZeRO-3 or FSDP the parameters were not gathered before saving; the adapter is lost in this file.

    How to fix: take it from the checkpoint's shards with `ckpt-inspect consolidate`; save through the Trainer or under
    GatheredParameters.

    Example: `lora_A.weight` of shape [0].

    Source: peft 0.21.2 utils/save_and_load.py _validate_lora_adapter_state_dict.
    """
    yield from hits(subject, "CKP305")


@rule("CKP306", "adapter-halves", "error")
def adapter_halves(subject: Subject) -> Iterator[Hit]:
    """A LoRA pair is incomplete, or its two matrices have different ranks.

    Why it matters: the file was cut, edited or mixed; loading stops or leaves one half at its initial value.

    How to fix: take the adapter from another checkpoint.

    Example: `q_proj.lora_A.weight` without `q_proj.lora_B.weight`.

    Source: peft 0.21.2 tuners/lora/layer.py LoraLayer.update_layer makes both halves with the same rank.
    """
    yield from hits(subject, "CKP306")


@rule("CKP307", "adapter-rank", "error")
def adapter_rank(subject: Subject) -> Iterator[Hit]:
    """The rank in the configuration is not the rank of the tensors.

    Why it matters: loading stops with a size mismatch, and the scaling alpha / r would be wrong.

    How to fix: set `r` (or rank_pattern) to the tensors' rank.

    Example: `"r": 16` over matrices of rank 8.

    Source: peft 0.21.2 PeftModel.load_adapter: a size mismatch stops the load (tried).
    """
    yield from hits(subject, "CKP307")
    pair = both(subject)
    if pair is None or pair[0].r is None or pair[0].prompt or (pair[0].peft_type or "") != "LORA":
        return
    config, weights = pair
    if config.target_parameters:
        return  # the rows of expert adapters are rank times experts
    from ckpt_inspect.artifacts.adapter_targets import pattern_key

    wrong = []
    for module, rank in weights.ranks.items():
        key = pattern_key(config.rank_pattern, module)
        wanted = config.rank_pattern[key] if key is not None else config.r
        if isinstance(wanted, int) and wanted != rank:
            wrong.append((module, rank, wanted))
    if wrong:
        module, rank, wanted = wrong[0]
        yield Hit(
            path_of(subject, _CONFIG),
            f"The configuration says rank {wanted} for {printable(module, 80)}, the tensors have rank {rank} "
            f"({counted(len(wrong), 'module')} in all).",
            evidence={"config": wanted, "tensors": rank, "modules": len(wrong)},
        )


@rule("CKP308", "adapter-target-without-tensors", "warning")
def adapter_target_without_tensors(subject: Subject) -> Iterator[Hit]:
    """The configuration targets modules for which the file holds no tensor.

    Why it matters: PEFT only warns about missing keys and leaves those modules at their initial values.

    How to fix: remove the targets, or find the tensors that were lost.

    Example: target_modules lists k_proj; only q_proj and v_proj have tensors.

    Source: peft 0.21.2 PeftModel.load_adapter: missing keys are reported by a warning only (tried).
    """
    if both(subject) is None:
        return
    answer = explain_state_adapter(subject.place)
    if answer.untouched_targets:
        names = listed([printable(name, 40) for name in answer.untouched_targets[:5]])
        yield Hit(path_of(subject, _CONFIG), f"No tensor belongs to the targets {names}.")


@rule("CKP309", "adapter-tensors-not-targeted", "error")
def adapter_tensors_not_targeted(subject: Subject) -> Iterator[Hit]:
    """The file holds tensors for modules the configuration does not target.

    Why it matters: PEFT drops them when loading and says nothing: part of the training is silently gone.

    How to fix: add the modules to target_modules.

    Example: tensors for o_proj, target_modules q_proj and v_proj.

    Source: peft 0.21.2 PeftModel.load_adapter: unexpected keys are dropped silently (tried).
    """
    if both(subject) is None:
        return
    strays = explain_state_adapter(subject.place).strays
    if strays:
        names = sorted({printable(module.rpartition(".")[2], 40) for module in strays})
        yield Hit(
            path_of(subject, _WEIGHTS),
            f"{counted(len(strays), 'module')} with tensors ({listed(names[:4])}) are not targeted by the configuration.",
            evidence={"modules": [printable(module, 100) for module in strays[:20]]},
        )


@rule("CKP310", "adapter-layer-gap", "warning")
def adapter_layer_gap(subject: Subject) -> Iterator[Hit]:
    """Layers in the middle have no adapter although nothing excludes them.

    Why it matters: the file was saved in part, or two files were mixed.

    How to fix: save again; if the layers were left out on purpose, record it in layers_to_transform.

    Example: layers 0 to 11 and 13 to 31, layer 12 missing.

    Source: peft 0.21.2 config.py layers_to_transform: without it every matching layer gets an adapter.
    """
    if both(subject) is None:
        return
    for stack, missing in (explain_state_adapter(subject.place).layer_gaps or {}).items():
        shown = ", ".join(str(number) for number in missing[:8])
        yield Hit(path_of(subject, _WEIGHTS), f"Layers {shown} of {printable(stack, 60)} have no adapter.")


@rule("CKP311", "adapter-wrapped-keys", "error")
def adapter_wrapped_keys(subject: Subject) -> Iterator[Hit]:
    """The tensors' names still carry a training wrapper or the adapter's name.

    Why it matters: a raw state dict was saved; PEFT finds none of the names and loads nothing.

    How to fix: rename the keys, or save with model.save_pretrained.

    Example: `...q_proj.lora_A.default.weight`, `_fsdp_wrapped_module....`.

    Source: peft 0.21.2 utils/save_and_load.py get_peft_model_state_dict strips the adapter's name from keys.
    """
    weights = subject.place.adapter_weights
    config = subject.place.adapter_config
    if weights is None or (config is not None and config.peft_type == "SHADOW"):
        return
    found = [*weights.wrappers, *weights.adapter_names]
    if found:
        yield Hit(
            path_of(subject, _WEIGHTS), f"The keys still carry {listed([printable(name, 40) for name in found[:4]])}."
        )


@rule("CKP312", "adapter-dora", "error")
def adapter_dora(subject: Subject) -> Iterator[Hit]:
    """use_dora and the tensors disagree.

    Why it matters: with use_dora and no magnitudes PEFT warns and uses initial ones; without it, saved magnitudes are
    ignored. Either way the model is another than the trained one.

    How to fix: set use_dora to what the file holds.

    Example: `lora_magnitude_vector` in the file, use_dora false.

    Source: peft 0.21.2 tuners/lora/dora.py: lora_magnitude_vector (loads of both mismatches were tried).
    """
    pair = both(subject)
    if pair is None or pair[0].peft_type != "LORA":
        return
    config, weights = pair
    present = any(tensor.role == "magnitude" for tensor in weights.tensors)
    if config.use_dora != present and weights.modules:
        state = "holds no magnitude vectors" if config.use_dora else "holds magnitude vectors"
        yield Hit(path_of(subject, _CONFIG), f"use_dora is {str(config.use_dora).lower()}, the file {state}.")


@rule("CKP313", "adapter-mutates-base", "warning")
def adapter_mutates_base(subject: Subject) -> Iterator[Hit]:
    """The adapter was initialised by changing the base model's weights.

    Why it matters: PiSSA, OLoRA, CorDA and LoRA-GA subtract their start from the base. On the untouched base the adapter is
    right only if loading repeats the very same initialisation.

    How to fix: use the converted copy (pissa_converted, or save with path_initial_model_for_weight_conversion).

    Example: `"init_lora_weights": "pissa"` in the adapter you are about to publish.

    Source: peft 0.21.2 peft_model.py PeftModel.save_pretrained, path_initial_model_for_weight_conversion.
    """
    config = subject.place.adapter_config
    init = config.init_lora_weights if config is not None else None
    if isinstance(init, str) and init.lower().startswith(_MUTATES_BASE):
        yield Hit(
            path_of(subject, _CONFIG),
            f"init_lora_weights is {printable(init, 30)}.",
            evidence={"init": printable(init)},
        )
