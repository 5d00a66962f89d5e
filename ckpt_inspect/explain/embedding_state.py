"""Whether the embeddings of a run are trained, a frozen copy, low rank, selected rows, or not there.

Which keys PEFT writes in which case: peft 0.21.2 `get_peft_model_state_dict` (utils/save_and_load.py) and
`ModulesToSaveWrapper` / `TrainableTokensWrapper` (utils/other.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ckpt_inspect.artifacts.adapter import named_ids
from ckpt_inspect.artifacts.embedding_names import Side, embedding_side, is_called

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.adapter import AdapterConfig
    from ckpt_inspect.artifacts.adapter_weights import AdapterTensor

State = Literal["trained", "frozen_copy", "low_rank", "selected_rows", "absent"]

_WHOLE = frozenset({"saved_module", "modules_to_save", "tied_copy"})
_MATRICES = _WHOLE | {"embedding_copy", "original_module", "base_layer"}


@dataclass(frozen=True, slots=True)
class Saved:
    """One tensor of an embedding in the file: its full key and its shape."""

    key: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Embedding:
    """One side: its state, the rows saved (None where no whole matrix is), the rows trained alone, the tensors found.

    `ids` are the tokens of the rows trained alone, in the order of the rows; None where no file names them. `copies`
    counts whole matrices of this embedding in the file: 3 after `modules_to_save` together with a resize. `shared`: it is
    the other side's training once more, through the tie; `called`: a forward pass goes through the module.
    """

    state: State
    rows: int | None
    selected_rows: int | None
    copies: int
    tensors: tuple[Saved, ...]
    ids: tuple[int, ...] | None = None
    shared: bool = False
    called: bool = True

    @property
    def learns(self) -> bool:
        """Whether some of its rows could change during training."""
        return self.state in ("trained", "low_rank", "selected_rows")


ABSENT = Embedding("absent", None, None, 0, ())


def adapter_embeddings(tensors: Iterable[AdapterTensor], config: AdapterConfig | None) -> dict[Side, Embedding]:
    """The state of both embeddings in an adapter file, by what each tensor is and what the configuration names."""
    sides: dict[Side, list[AdapterTensor]] = {"input": [], "output": []}
    for tensor in tensors:
        side = embedding_side(tensor.module)
        if side is not None:
            sides[side].append(tensor)
    ids = token_ids(config)
    return {side: _judge(side, found, ids) for side, found in sides.items()}


def model_embeddings(
    tensors: Iterable[tuple[str, Sequence[int]]], *, tied: bool | None = None
) -> dict[Side, Embedding]:
    """Both embeddings of a full model's weights: whole matrices, trained unless the run froze them.

    Args:
        tensors: key and shape of every tensor.
        tied: whether input and output are one matrix, which the file then holds once.
    """
    result: dict[Side, Embedding] = {"input": ABSENT, "output": ABSENT}
    for key, shape in tensors:
        module, _, suffix = key.rpartition(".")
        side = embedding_side(module)
        if side is None or suffix != "weight" or len(shape) != 2 or result[side].state == "trained":
            continue
        result[side] = Embedding("trained", shape[0], None, 1, (Saved(key, tuple(shape)),))
    if tied:
        for side, other in (("input", "output"), ("output", "input")):
            if result[side].state == "absent":  # type: ignore[index]
                result[side] = replace(result[other], tensors=(), shared=True)  # type: ignore[index]
    return result


def token_ids(config: AdapterConfig | None) -> Mapping[str, tuple[int, ...]]:
    """The ids whose rows are trained alone, by the name of the embedding ("" for the list form, the input embedding).

    LoRA keeps them in `trainable_token_indices`, the TRAINABLE_TOKENS type in `token_indices` (peft 0.21.2).
    """
    if config is None:
        return {}
    own = config.values.get("token_indices")
    return named_ids(own if isinstance(own, list | dict) else config.trainable_token_indices)


def _judge(side: Side, found: Sequence[AdapterTensor], ids: Mapping[str, tuple[int, ...]]) -> Embedding:
    if not found:
        return ABSENT
    roles = {tensor.role for tensor in found}
    deltas = [tensor for tensor in found if tensor.key.role == "token_delta"]
    matrices = [tensor for tensor in found if tensor.role in _MATRICES and tensor not in deltas]
    adapted = [tensor for tensor in found if tensor.key.marker is not None and tensor not in deltas]
    rows = next((tensor.shape[0] for tensor in matrices if len(tensor.shape) == 2), None)
    selected: int | None = None
    named: tuple[int, ...] | None = None
    state: State = "frozen_copy"
    if deltas:
        state, selected = "selected_rows", deltas[0].shape[0]
        named = _ids_of(deltas[0].module, side, ids, selected)
    elif not is_called(found[0].module):
        pass
    elif adapted:
        state, rows = "low_rank", rows if rows is not None else _low_rank_rows(adapted)
    elif roles & _WHOLE:
        state = "trained"
    return Embedding(
        state,
        rows,
        selected,
        len(matrices),
        tuple(Saved(tensor.name, tensor.shape) for tensor in found),
        named,
        shared="tied_copy" in roles,
        called=bool(deltas) or is_called(found[0].module),
    )


def _ids_of(module: str, side: Side, named: Mapping[str, tuple[int, ...]], rows: int) -> tuple[int, ...] | None:
    """The ids of one embedding's rows: under its own name, else the input's, which a tied output shares."""
    candidates = [ids for name, ids in named.items() if name and (module == name or module.endswith(f".{name}"))]
    candidates += [
        ids for name, ids in named.items() if not name or (side == "output" and embedding_side(name) == "input")
    ]
    return next((ids for ids in candidates if len(ids) == rows), None)


def _low_rank_rows(tensors: Iterable[AdapterTensor]) -> int | None:
    for tensor in tensors:
        if tensor.role == "lora_embedding_A":
            return tensor.shape[-1]
        if tensor.role == "lora_B":
            return tensor.shape[0]
    return None
