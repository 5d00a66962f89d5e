"""How many parameters an adapter trained, where the tensors in its file are not simply the parameters.

Some types save a shared parameter once per module (LILY), some keep their first rows fixed (CARTRIDGE), and prompt
encoders are folded into the embeddings they produce, so their own parameters are not in the file at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.adapter import AdapterConfig
    from ckpt_inspect.artifacts.adapter_weights import AdapterTensor


def shared_elements(tensors: Iterable[AdapterTensor], config: AdapterConfig | None) -> int:
    """Elements counted more than once when every LILY tensor of the file is counted.

    All modules of one name and shape share `lily_B`, and each block of `stride_A` consecutive ones shares `lily_A`
    (peft 0.21.2 tuners/lily/model.py:_post_injection_hook).
    """
    stride = config.values.get("stride_A") if config is not None else None
    if type(stride) is not int or stride < 1:
        return 0
    groups: dict[tuple[str, str, tuple[int, ...]], list[AdapterTensor]] = {}
    for tensor in tensors:
        name = tensor.key.marker.name if tensor.key.marker is not None else ""
        if name in ("lily_A", "lily_B"):
            groups.setdefault((name, tensor.module.rpartition(".")[2], tensor.shape), []).append(tensor)
    repeated = 0
    for (name, _, _), members in groups.items():
        kept = 1 if name == "lily_B" else -(-len(members) // stride)
        repeated += (len(members) - kept) * members[0].numel
    return repeated


def compressed_elements(tensors: Iterable[AdapterTensor], config: AdapterConfig | None) -> int:
    """Elements training had and the file has not: VB-LoRA may save only the largest `topk` of `num_vectors` logits.

    (peft 0.21.2 tuners/vblora/model.py, `save_only_topk_weights`: topk indices and topk - 1 weights per row)
    """
    missing = 0
    for tensor in tensors:
        name = tensor.key.marker.name if tensor.key.marker is not None else ""
        if name.endswith("_topk_weights"):
            missing -= tensor.numel
        elif name.endswith("_topk_indices") and config is not None and tensor.shape and tensor.shape[-1] > 0:
            vectors = config.values.get("num_vectors")
            missing += tensor.numel // tensor.shape[-1] * vectors if type(vectors) is int else 0
    return missing


def expert_counts(tensors: Iterable[AdapterTensor], config: AdapterConfig | None) -> dict[str, int]:
    """Experts of each module named by `target_parameters`: its factors have `experts * rank` rows.

    (peft 0.21.2 tuners/lora/layer.py:ParamWrapper) The rank of each parameter is the configured one; the count is told
    where all factors of the module agree on it.
    """
    if config is None or not config.target_parameters:
        return {}
    possible: dict[str, set[int]] = {}
    for tensor in tensors:
        if tensor.role not in ("lora_A", "lora_B") or not tensor.rank:
            continue
        parameters = [name for name in config.target_parameters if _holds(tensor.module, name)]
        ranks = {config.rank_of(f"{tensor.module}.{name.rpartition('.')[2]}") for name in parameters}
        counts = {tensor.rank // rank for rank in ranks if rank and rank > 0 and tensor.rank % rank == 0}
        if counts:
            possible[tensor.module] = possible.get(tensor.module, counts) & counts
    return {module: next(iter(counts)) for module, counts in possible.items() if len(counts) == 1}


def _holds(module: str, parameter: str) -> bool:
    """Whether a parameter's path ("mlp.experts.down_proj") ends in a parameter of a module."""
    parent = parameter.rpartition(".")[0]
    return module == parent or module.endswith(f".{parent}")


def prompt_elements(config: AdapterConfig, saved: int) -> int:
    """Parameters of a prompt-learning type, given the elements of its saved tensors.

    Sources: peft 0.21.2 tuners/p_tuning/model.py:PromptEncoder, tuners/prefix_tuning/model.py:PrefixEncoder,
    tuners/cartridge/model.py.
    """
    values = config.values
    if config.peft_type == "P_TUNING":
        encoder = _encoder(values)
        return saved + encoder if encoder is not None else saved
    if config.peft_type == "PREFIX_TUNING" and values.get("prefix_projection") is True:
        numbers = _integers(values, "num_virtual_tokens", "token_dim", "encoder_hidden_size", "num_layers")
        if numbers is not None:
            tokens, width, hidden, layers = numbers
            return tokens * width + _linear(width, hidden) + _linear(hidden, layers * 2 * width)
    if config.peft_type == "CARTRIDGE":
        numbers = _integers(values, "num_virtual_tokens", "num_frozen_tokens")
        if numbers is not None and numbers[0] > 0:
            return saved - saved // numbers[0] * min(numbers)
    return saved


def _encoder(values: Mapping[str, Any]) -> int | None:
    numbers = _integers(values, "token_dim", "encoder_hidden_size", "encoder_num_layers")
    if numbers is None:
        return None
    width, hidden, layers = numbers
    if values.get("encoder_reparameterization_type") != "LSTM":
        return _linear(width, hidden) + _linear(hidden, hidden) + _linear(hidden, width)
    inputs = [width] + [2 * hidden] * (layers - 1)
    recurrent = sum(2 * 4 * hidden * (size + hidden + 2) for size in inputs)  # two directions, four gates, two biases
    return recurrent + _linear(2 * hidden, 2 * hidden) + _linear(2 * hidden, width)


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _integers(values: Mapping[str, Any], *keys: str) -> tuple[int, ...] | None:
    found = tuple(values.get(key) for key in keys)
    return found if all(type(value) is int and value >= 0 for value in found) else None  # type: ignore[return-value]
