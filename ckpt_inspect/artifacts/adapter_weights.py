"""What an adapter's tensors say: modules, ranks, layers, and how many parameters were trained.

Works on names, types and shapes alone (a safetensors header, or the program of a ``.bin``); see ``adapter_keys`` for the
names. What counts as trained: peft 0.21.2 sets `requires_grad` on the parameters of the type (``prefix``), on
`modules_to_save` and `trainable_tokens_delta`, and on biases where `bias` says so; base weights saved along
(`base_layer`, `original_module`, embeddings of a resized vocabulary) and projections were not trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ckpt_inspect.artifacts.adapter_counts import compressed_elements, expert_counts, prompt_elements, shared_elements
from ckpt_inspect.artifacts.adapter_keys import ParsedKey, Role, parse_key
from ckpt_inspect.artifacts.adapter_targets import is_saved_module
from ckpt_inspect.artifacts.embedding_names import embedding_side
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.sniff import sniff

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.adapter import AdapterConfig
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

Dialect = Literal["peft", "torchtune", "mlx", "kohya", "unknown"]

_TRAINED_ROLES = frozenset(
    {
        "lora_A",
        "lora_B",
        "lora_E",
        "lora_embedding_A",
        "lora_embedding_B",
        "lora_bias",
        "magnitude",
        "adapter",
        "prompt",
        "token_delta",
        "saved_module",
        "bias",
    }
)
_TORCH_FORMATS = ("zip", "legacy-torch", "pickle", "tar")
_FACTORS = frozenset({"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"})


@dataclass(frozen=True, slots=True)
class AdapterTensor:
    """One tensor of an adapter: its name taken apart, its type and shape, and what it is (`role`).

    Roles besides the parameters of a type: "saved_module" is a whole module trained because `modules_to_save` names
    it; "embedding_copy" an embedding saved only because the vocabulary was resized (frozen); "tied_copy" the trained
    input embedding written a second time under the output's name (`ensure_weight_tying`); "modules_to_save" and
    "original_module" the extra copies that stand beside those after a resize; "base_layer" a base weight under an
    adapter; "projection", "indices" and "frozen" buffers of a type.
    """

    name: str
    module: str
    suffix: str
    adapter: str | None
    role: Role
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    rank: int | None
    key: ParsedKey

    @property
    def place(self) -> str:
        """The wrapped module it belongs to: several parameters of one module nest, ``experts.base_layer``."""
        nested = self.suffix.count("base_layer.") if self.role in _FACTORS else 0
        return self.module + ".base_layer" * nested

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)


class AdapterWeights:
    """The tensors of one adapter, in file order, with what follows from their names and shapes."""

    def __init__(
        self,
        tensors: tuple[AdapterTensor, ...],
        file_format: str,
        config: AdapterConfig | None,
        faults: tuple[Fault, ...],
    ) -> None:
        self.tensors = tensors
        self.format = file_format
        self.faults = faults
        self._config = config

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @cached_property
    def trainable_parameters(self) -> int:
        """Elements that training changed, each once, those of a prompt encoder that is not saved included."""
        total = sum(tensor.numel for tensor in self.tensors if tensor.role in _TRAINED_ROLES)
        bare = {tensor.module for tensor in self.tensors if tensor.role in ("saved_module", "tied_copy")}
        total += sum(t.numel for t in self.tensors if t.role == "modules_to_save" and t.module not in bare)
        total += compressed_elements(self.tensors, self._config) - shared_elements(self.tensors, self._config)
        return prompt_elements(self._config, total) if self._config is not None and self._config.prompt else total

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The last components of the modules that carry adapter parameters, sorted: what `target_modules` would say."""
        return tuple(sorted({module.rpartition(".")[2] for module in self.modules}))

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Paths of the modules that carry parameters of the adapter's type, in file order."""
        marked = (t for t in self.tensors if t.key.marker is not None and t.role != "tied_copy")
        own = (t for t in marked if not t.suffix.startswith("token_adapter."))
        return tuple(dict.fromkeys(tensor.module for tensor in own if tensor.module))

    @cached_property
    def saved_modules(self) -> tuple[str, ...]:
        """Paths of the modules saved whole because they were trained whole, in file order."""
        return tuple(dict.fromkeys(t.module for t in self.tensors if t.role in ("saved_module", "modules_to_save")))

    @cached_property
    def ranks(self) -> Mapping[str, int]:
        """The rank of every module whose shapes show one, that of one expert where the module holds several."""
        found: dict[str, int] = {}
        for tensor in self.tensors:
            if tensor.rank is not None:
                found.setdefault(tensor.place, tensor.rank // self.experts.get(tensor.module, 1))
        return found

    @cached_property
    def experts(self) -> Mapping[str, int]:
        """How many experts each module of `target_parameters` holds, where the shapes decide it."""
        return expert_counts(self.tensors, self._config)

    @cached_property
    def layers(self) -> Mapping[str, tuple[int, ...]]:
        """Layer numbers by the path of their list ("model.layers"), sorted; gaps are layers without an adapter."""
        found: dict[str, set[int]] = {}
        for module in self.modules:
            parts = module.split(".")
            index = next((place for place, part in enumerate(parts) if part.isascii() and part.isdigit()), None)
            if index is not None and len(parts[index]) < 7:
                found.setdefault(".".join(parts[:index]), set()).add(int(parts[index]))
        return {stack: tuple(sorted(numbers)) for stack, numbers in found.items()}

    @property
    def layer_gaps(self) -> Mapping[str, tuple[int, ...]]:
        """Numbers missing below each list's largest, for lists that miss any."""
        gaps = {s: tuple(sorted(set(range(numbers[-1])) - set(numbers))) for s, numbers in self.layers.items()}
        return {stack: missing for stack, missing in gaps.items() if missing}

    @cached_property
    def dtypes(self) -> tuple[str, ...]:
        """The element types in the file, the most elements first."""
        counts: dict[str, int] = {}
        for tensor in self.tensors:
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel
        return tuple(sorted(counts, key=lambda dtype: -counts[dtype]))

    @cached_property
    def wrappers(self) -> tuple[str, ...]:
        """Names of training wrappers left in the keys: such keys load as unexpected."""
        return tuple(sorted({wrapper for tensor in self.tensors for wrapper in tensor.key.wrappers}))

    @cached_property
    def adapter_names(self) -> tuple[str, ...]:
        """Adapter names left in the keys: a raw state dict was saved (SHADOW alone keeps them on purpose)."""
        return tuple(sorted({tensor.adapter for tensor in self.tensors if tensor.adapter is not None}))

    @cached_property
    def types(self) -> tuple[str, ...]:
        """The PEFT types whose parameters are in the file, the most tensors first."""
        counts: dict[str, int] = {}
        for tensor in self.tensors:
            if tensor.key.marker is not None:
                counts[tensor.key.marker.type] = counts.get(tensor.key.marker.type, 0) + 1
        return tuple(sorted(counts, key=lambda kind: -counts[kind]))

    @cached_property
    def dialect(self) -> Dialect:
        """Which library's names these are."""
        names = {tensor.key.marker.name: tensor for tensor in self.tensors if tensor.key.marker is not None}
        if "lora_a" in names:
            return "torchtune" if names["lora_a"].suffix.endswith(".weight") else "mlx"
        if "lora_down" in names or "lora_up" in names:
            return "kohya"
        return "peft" if names or any(tensor.key.prefixed for tensor in self.tensors) else "unknown"


def adapter_weights(
    tensors: Iterable[tuple[str, str, tuple[int, ...], int]],
    config: AdapterConfig | None = None,
    *,
    file_format: str = "safetensors",
    faults: tuple[Fault, ...] = (),
) -> AdapterWeights:
    """Judge the tensors of an adapter.

    Args:
        tensors: (name, element type, shape, bytes) of every tensor, in file order.
        config: the adapter's configuration, which tells a trained module from a frozen copy.
        file_format: "safetensors" or "torch".
        faults: what the reader of the file found wrong.
    """
    log = FaultLog()
    log.extend(faults)
    judged = tuple(_tensor(name, dtype, shape, nbytes, config) for name, dtype, shape, nbytes in tensors)
    _check(judged, log)
    return AdapterWeights(judged, file_format, config, log.sealed())


def read_adapter_weights(source: ByteSource, config: AdapterConfig | None = None) -> AdapterWeights:
    """Read the tensor names and shapes of ``adapter_model.safetensors`` or ``.bin``. Never raises for content.

    Args:
        config: the configuration beside the file, which tells a trained module from a frozen copy.
    """
    kind = sniff(source)
    if kind in _TORCH_FORMATS or (kind != "safetensors" and source.name.endswith((".bin", ".pt", ".pth"))):
        from ckpt_inspect.formats.torch_archive import open_torch

        archive = open_torch(source)
        found = [(path, tensor.dtype, tensor.shape, tensor.nbytes) for path, tensor in archive.tensors()]
        return adapter_weights(found, config, file_format="torch", faults=archive.faults)
    from ckpt_inspect.formats.safetensors_header import read_safetensors_header

    header = read_safetensors_header(source)
    stored = ((tensor.name, tensor.dtype, tensor.shape, tensor.nbytes) for tensor in header.tensors)
    return adapter_weights(stored, config, faults=header.faults)


def _tensor(name: str, dtype: str, shape: tuple[int, ...], nbytes: int, config: AdapterConfig | None) -> AdapterTensor:
    key = parse_key(name)
    marker = key.marker
    role = key.role if key.role is not None else _bare_role(key, config)
    if role == "token_delta" and config is not None and _shares_token_rows(key, config):
        role = "tied_copy"
    rank = None
    if marker is not None and role != "lora_bias":
        axis = _rank_axis(key, marker.rank)
        if axis is not None and axis < len(shape) and 0 not in shape and not (role in _FACTORS and len(shape) < 2):
            rank = shape[axis]
    return AdapterTensor(name, key.module, key.suffix, key.adapter, role, dtype, shape, nbytes, rank, key)


def _rank_axis(key: ParsedKey, axis: int | None) -> int | None:
    name = key.marker.name if key.marker is not None else ""
    if name in ("lora_a", "lora_b"):  # torchtune keeps Linear's layout, mlx-lm stores the transposed matrices bare
        linear = key.suffix.endswith(".weight")
        return (0 if linear else 1) if name == "lora_a" else (1 if linear else 0)
    return axis


def _bare_role(key: ParsedKey, config: AdapterConfig | None) -> Role:
    """What a plain parameter of a module is: trained if `modules_to_save` names it, else a copy or a bias."""
    if config is not None and is_saved_module(config, key.module):
        return "saved_module"
    side = embedding_side(key.module)
    if side == "output" and config is not None and _ties_saved_input(config):
        return "tied_copy"
    if side is not None:
        return "embedding_copy"
    if key.suffix == "bias" and (config is None or config.bias not in (None, "none")):
        return "bias"
    return "unknown"


def _ties_saved_input(config: AdapterConfig) -> bool:
    """Whether the output embedding is the trained input embedding once more: with `ensure_weight_tying` PEFT puts the
    input's full path beside its name, and does so only where the base ties the two (peft 0.21.2
    tuners/lora/model.py:_add_modules_to_save_to_tie)."""
    inputs = [name for name in config.modules_to_save or () if embedding_side(name) == "input"]
    return config.ensure_weight_tying and len(inputs) > 1


def _shares_token_rows(key: ParsedKey, config: AdapterConfig) -> bool:
    """Whether an output's rows are those of the input once more: no name of `trainable_token_indices` asks for them, so
    the tie put them there (peft 0.21.2 utils/other.py:set_additional_trainable_modules)."""
    if embedding_side(key.module) != "output":
        return False
    indices = config.trainable_token_indices
    names = tuple(indices) if isinstance(indices, dict) else config.target_modules or ()
    return not any(key.module == name or key.module.endswith(f".{name}") for name in names if isinstance(name, str))


def _check(tensors: Iterable[AdapterTensor], faults: FaultLog) -> None:
    halves: dict[str, dict[Role, AdapterTensor]] = {}
    for tensor in tensors:
        if tensor.role in _FACTORS:
            if len(tensor.shape) < 2 or 0 in tensor.shape:
                faults.add("adapter-not-gathered", f"has the shape {list(tensor.shape)}", place=tensor.name)
            halves.setdefault(tensor.place, {})[tensor.role] = tensor
    for pair in halves.values():
        _check_pair(pair, faults)


def _check_pair(pair: dict[Role, AdapterTensor], faults: FaultLog) -> None:
    for first, second in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")):
        a, b = pair.get(first), pair.get(second)  # type: ignore[call-overload]
        if (a is None) != (b is None):
            present = a or b
            faults.add(
                "adapter-half-missing", f"{second if b is None else first} is not in the file", place=present.name
            )
        elif a is not None and a.rank is not None and b is not None and b.rank is not None and a.rank != b.rank:
            faults.add("adapter-rank-differs", f"rank {a.rank} here and {b.rank} in {second}", place=a.name)
