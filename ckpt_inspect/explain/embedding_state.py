"""Whether the embeddings of a run are trained, a frozen copy, low rank, selected rows, or not there.

Which keys PEFT writes in which case: peft 0.21.2 `get_peft_model_state_dict` (utils/save_and_load.py) and
`ModulesToSaveWrapper` / `TrainableTokensWrapper` (utils/other.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ckpt_inspect.knowledge import load

State = Literal["trained", "frozen_copy", "low_rank", "selected_rows", "absent"]
Side = Literal["input", "output"]

_COPY_INFIXES = ("modules_to_save", "original_module")


@dataclass(frozen=True, slots=True)
class Saved:
    """One tensor of an embedding in the file: its full key, what follows the module name, and its shape."""

    key: str
    suffix: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Embedding:
    """One side: its state, the rows saved (None where no whole matrix is), the ids trained alone, the tensors found.

    `copies` counts whole matrices of this embedding in the file: 3 after `modules_to_save` together with a resize.
    """

    state: State
    rows: int | None
    selected_rows: int | None
    copies: int
    tensors: tuple[Saved, ...]

    @property
    def learns(self) -> bool:
        """Whether the rows of new tokens could change during training."""
        return self.state in ("trained", "low_rank", "selected_rows")


ABSENT = Embedding("absent", None, None, 0, ())


def embedding_side(module_path: str) -> Side | None:
    """Which embedding a module path ends in, by the table of names; None for every other module."""
    names = load("embedding_names")
    parts = module_path.split(".")
    for part in reversed(parts[-2:]):  # cls.predictions.decoder, embedding.word_embeddings
        if part in names["output"]:
            return "output"
        if part in names["input"]:
            return "input"
    return None


def adapter_embeddings(
    tensors: Iterable[tuple[str, Sequence[int]]], modules_to_save: Sequence[str]
) -> dict[Side, Embedding]:
    """The state of both embeddings in an adapter file.

    Args:
        tensors: key and shape of every tensor, keys as in the file.
        modules_to_save: the field of ``adapter_config.json``; a bare ``embed_tokens.weight`` is a trained copy only
            if a name in it ends the module's path, and a frozen copy of a resized matrix otherwise.
    """
    sides: dict[Side, list[tuple[str, Saved]]] = {"input": [], "output": []}
    for key, shape in tensors:
        module, suffix = split_key(key)
        side = embedding_side(module)
        if side is not None:
            sides[side].append((module, Saved(key, suffix, tuple(shape))))
    return {side: _judge(found, modules_to_save) for side, found in sides.items()}


def split_key(key: str) -> tuple[str, str]:
    """Split a key at its embedding: ``base_model.model.lm_head.lora_A.weight`` is (lm_head, lora_A.weight)."""
    parts = key.split(".")
    if parts[:2] == ["base_model", "model"]:
        parts = parts[2:]
    names = load("embedding_names")
    known = names["input"] | names["output"]
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] in known:
            return ".".join(parts[: index + 1]), ".".join(parts[index + 1 :])
    return ".".join(parts[:-1]), parts[-1] if parts else ""


def model_embeddings(tensors: Iterable[tuple[str, Sequence[int]]]) -> dict[Side, Embedding]:
    """Both embeddings of a full model's weights: whole matrices, trained unless the run froze them."""
    result: dict[Side, Embedding] = {"input": ABSENT, "output": ABSENT}
    for key, shape in tensors:
        module, suffix = split_key(key)
        side = embedding_side(module)
        if side is None or suffix != "weight" or len(shape) != 2 or result[side].state == "trained":
            continue
        result[side] = Embedding("trained", shape[0], None, 1, (Saved(key, suffix, tuple(shape)),))
    return result


def _judge(found: list[tuple[str, Saved]], modules_to_save: Sequence[str]) -> Embedding:
    if not found:
        return ABSENT
    by_suffix: dict[str, Saved] = {}
    for _, saved in found:
        by_suffix.setdefault(_kind(saved.suffix), saved)
    module = found[0][0]
    matrices = [saved for _, saved in found if _is_matrix(saved)]
    rows = matrices[0].shape[0] if matrices else None
    tensors = tuple(saved for _, saved in found)
    state: State
    selected = None
    if "token_delta" in by_suffix:
        state, selected = "selected_rows", by_suffix["token_delta"].shape[0]
    elif "low_rank" in by_suffix:
        state = "low_rank"
        if rows is None:
            rows = _low_rank_rows(tensors)
    elif "modules_to_save" in by_suffix or _named(module, modules_to_save):
        state = "trained"
    else:
        state = "frozen_copy"
    return Embedding(state, rows, selected, len(matrices), tensors)


def _kind(suffix: str) -> str:
    if suffix.endswith("trainable_tokens_delta"):
        return "token_delta"
    if suffix.startswith(("lora_", "base_layer.lora_")) or ".lora_" in suffix:
        return "low_rank"
    for infix in _COPY_INFIXES:
        if infix in suffix:
            return infix
    return suffix


def _is_matrix(saved: Saved) -> bool:
    return saved.suffix.endswith("weight") and len(saved.shape) == 2 and "lora_" not in saved.suffix


def _low_rank_rows(tensors: Iterable[Saved]) -> int | None:
    for saved in tensors:
        if saved.suffix.startswith("lora_embedding_A"):
            return saved.shape[-1]
        if saved.suffix.startswith("lora_B"):
            return saved.shape[0]
    return None


def _named(module: str, names: Sequence[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def merge_sides(first: Mapping[Side, Embedding], second: Mapping[Side, Embedding]) -> dict[Side, Embedding]:
    """The states of `first`, completed where it has nothing by those of `second`."""
    return {side: first[side] if first[side].state != "absent" else second[side] for side in first}
