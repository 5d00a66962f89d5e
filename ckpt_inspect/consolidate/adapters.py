"""Whether what a checkpoint holds is an adapter without its base model.

The Trainer saves PEFT models with `exclude_frozen_parameters` (transformers 5.23 ``trainer.py`` `_save_checkpoint`), so
their shards hold the adapter alone. Names: ``knowledge/deepspeed_eras.toml``, `adapter_names`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ckpt_inspect.consolidate.plan import PlannedTensor
from ckpt_inspect.knowledge import load


def is_adapter_name(name: str) -> bool:
    """Whether PEFT gave a parameter its name."""
    markers: list[str] = load("deepspeed_eras")["adapter_names"]["markers"]
    return any(marker in name for marker in markers)


def is_adapter_only(tensors: Sequence[PlannedTensor], before: Sequence[PlannedTensor]) -> bool:
    """Whether adapter parameters are there and no matrix of a base model is.

    Vectors without a marker (biases trained with `bias="all"`, norms) do not make a base model; frozen tensors do.
    """
    if any(tensor.origin == "frozen" for tensor in before):
        return False
    weights = [tensor for tensor in tensors if tensor.origin != "buffer"]
    if not any(is_adapter_name(tensor.name) for tensor in weights):
        return False
    return not any(len(tensor.shape) > 1 and not is_adapter_name(tensor.name) for tensor in weights)
