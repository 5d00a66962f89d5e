"""Words reports share: names as people spell them, and the first sentence of an explanation."""

from __future__ import annotations

from ckpt_inspect.printable import printable

# How the papers and PEFT's documentation spell what adapter_config.json writes in capitals.
_METHODS = {
    "LORA": "LoRA",
    "ADALORA": "AdaLoRA",
    "IA3": "(IA)³",
    "LOHA": "LoHa",
    "LOKR": "LoKr",
    "VERA": "VeRA",
    "VBLORA": "VB-LoRA",
    "XLORA": "X-LoRA",
    "RANDLORA": "RandLoRA",
    "FOURIERFT": "FourierFT",
    "BONE": "Bone",
    "SHIRA": "SHiRA",
    "ROAD": "RoAd",
    "MISS": "MiSS",
    "DELORA": "DeLoRA",
    "GRALORA": "GraLoRA",
    "LN_TUNING": "LayerNorm tuning",
    "PROMPT_TUNING": "prompt tuning",
    "MULTITASK_PROMPT_TUNING": "multitask prompt tuning",
    "P_TUNING": "p-tuning",
    "PREFIX_TUNING": "prefix tuning",
    "ADAPTION_PROMPT": "LLaMA-Adapter",
    "TRAINABLE_TOKENS": "trainable tokens",
}


def method_name(peft_type: str) -> str:
    """A PEFT method as people write it."""
    return _METHODS.get(peft_type, printable(peft_type, 40))


def first_sentence(text: str) -> str:
    """The first sentence of an explanation; `explain` says the rest."""
    head, stop, _ = text.partition(". ")
    return head + "." if stop else text
