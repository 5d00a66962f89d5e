"""Were the rows of new tokens moved at all? Evidence from the weights, read row by row in bounded memory.

What an untouched row looks like: transformers 4.46 and later initialise it with the mean of the others (`mean_resizing`,
modeling_utils `_init_added_embeddings_weights_with_mean`), earlier ones at random; a row the base had is the base's own;
LLaMA-Factory up to 0.9.5 adds noise of norm about 1 to the mean (model/model_utils/embedding.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ckpt_inspect.errors import CkptInspectError
from ckpt_inspect.explain.embedding_state import Side, embedding_side, split_key
from ckpt_inspect.explain.numbers import counted, short

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.weights import WeightTensor
    from ckpt_inspect.explain.base_model import BaseFacts
    from ckpt_inspect.run import StateDirectory
    from ckpt_inspect.storage import LocalTree

RowVerdict = Literal["initial", "moved", "unclear"]

CHUNK = 4 << 20
_MOST_TOKENS = 512
_NEAR_MEAN = 1e-2  # mean-initialised rows measured: 1e-4 of the mean's norm in float32, 2e-3 in bfloat16
_ALIKE = 0.9999
_ROUNDING = 2.0**-7  # twice the rounding of bfloat16: a float32 copy of a bfloat16 row, or the reverse


@dataclass(frozen=True, slots=True)
class RowEvidence:
    """What the rows of the new tokens look like on one side.

    `distance_to_mean` is the largest distance to the mean of the other rows, relative to the mean's norm; `alike` the
    least cosine between two new rows; `base_difference` the largest difference from the base's row at the same id,
    relative to that row's norm; `norms` the new rows' mean norm over that of the others.
    """

    side: Side
    verdict: RowVerdict
    rows: int
    distance_to_mean: float | None
    alike: float | None
    base_difference: float | None
    norms: float | None
    statement: str


def examine_rows(
    directory: StateDirectory, ids: Sequence[int], tokens: int, base: BaseFacts | None
) -> tuple[RowEvidence, ...]:
    """Look at the rows of `ids` in the saved embeddings; `tokens` is the tokenizer's length (rows above are padding)."""
    chosen = sorted(ids)[:_MOST_TOKENS]
    found: list[RowEvidence] = []
    for side, tensor, delta in _embeddings(directory):
        try:
            evidence = _examine(directory.tree, side, tensor, chosen, ids, tokens, base, delta=delta)
        except CkptInspectError:
            continue
        if evidence is not None:
            found.append(evidence)
    return tuple(found)


def _examine(
    tree: LocalTree,
    side: Side,
    tensor: WeightTensor,
    chosen: Sequence[int],
    ids: Sequence[int],
    tokens: int,
    base: BaseFacts | None,
    *,
    delta: bool,
) -> RowEvidence | None:
    """`delta`: the tensor holds the rows of the sorted `ids` alone (trainable_token_indices)."""
    import numpy as np

    places = [sorted(ids).index(number) for number in chosen] if delta else list(chosen)
    if not places or max(places) >= tensor.shape[0] or _decoder(tensor.dtype) is None or tensor.offset is None:
        return None
    rows = np.concatenate([part for _, part in _rows(tree, tensor, places)])
    mean = norms = None
    if not delta:
        mean, norms = _reference(tree, tensor, set(ids), min(tokens, tensor.shape[0]))
    base_rows = _base_rows(base, side, chosen, tensor.shape[1])
    return judge_rows(side, rows, mean, norms, base_rows)


def judge_rows(side: Side, rows: Any, mean: Any, reference_norm: float | None, base_rows: Any) -> RowEvidence:
    """The verdict on rows (n x d), given the mean of the other rows, their mean norm and the base's rows, where known."""
    import numpy as np

    count = len(rows)
    norms = np.linalg.norm(rows, axis=1)
    share = float(norms.mean() / reference_norm) if reference_norm else None
    distance = alike = difference = None
    if mean is not None and np.linalg.norm(mean) > 0:
        distance = float(np.linalg.norm(rows - mean, axis=1).max() / np.linalg.norm(mean))
    if count > 1 and norms.min() > 0:
        unit = rows / norms[:, None]
        alike = float((unit @ unit[0]).min())
    if base_rows is not None:
        size = np.maximum(np.linalg.norm(base_rows, axis=1), 1e-12)
        difference = float((np.linalg.norm(rows - base_rows, axis=1) / size).max())
    verdict, statement = _words(count, distance, alike, difference, zero=not norms.any())
    return RowEvidence(side, verdict, count, distance, alike, difference, share, f"{side} embedding: {statement}")


def _words(
    count: int, distance: float | None, alike: float | None, difference: float | None, *, zero: bool
) -> tuple[RowVerdict, str]:
    rows = counted(count, "new row")
    if zero:
        return "initial", f"the {rows} are zero"
    if difference is not None:
        if difference <= _ROUNDING:
            return "initial", f"the {rows} equal the base's (largest relative difference {short(difference)})"
        return "moved", f"the {rows} differ from the base's (relative difference up to {short(difference)})"
    if distance is not None and distance < _NEAR_MEAN and (alike is None or alike > _ALIKE):
        return (
            "initial",
            f"the {rows} are the mean of the others (relative distance {short(distance)}), as a resize leaves them",
        )
    if distance is not None:
        return "unclear", (
            f"the {rows} are not the mean of the others (relative distance {short(distance)}): they were trained, "
            "or initialised at random"
        )
    return "unclear", f"the {rows} cannot be compared: the base's rows are not at hand"


def _embeddings(directory: StateDirectory) -> Iterator[tuple[Side, WeightTensor, bool]]:
    """The whole matrix of each side, else the rows trained alone, with whether it is the latter."""
    from ckpt_inspect.artifacts.weights import read_weight_file

    if directory.adapter_config is not None:
        tensors: list[WeightTensor] = []
        for artifact in directory.own.get("adapter_weights", ())[:1]:
            tensors += read_weight_file(directory.tree, artifact.path)[0]
    else:
        tensors = list(directory.weights.tensors) if directory.weights is not None else []
    whole: dict[Side, WeightTensor] = {}
    deltas: dict[Side, WeightTensor] = {}
    for tensor in tensors:
        module, suffix = split_key(tensor.name)
        side = embedding_side(module)
        if side is None or len(tensor.shape) != 2:
            continue
        if suffix == "weight":
            whole[side] = tensor
        elif suffix.endswith("trainable_tokens_delta"):
            deltas[side] = tensor
    for side in ("input", "output"):
        if side in deltas:
            yield side, deltas[side], True
        elif side in whole:
            yield side, whole[side], False


def _base_rows(base: BaseFacts | None, side: Side, ids: Sequence[int], width: int) -> Any:
    """The base model's rows of `ids`, where its weights are at hand and have them all; else None."""
    if base is None or base.path is None or base.rows is None or max(ids) >= base.rows:
        return None
    import numpy as np

    from ckpt_inspect.run import open_run

    run = open_run(base.path)
    if run.weights is None:
        return None
    candidates = {
        embedding_side(split_key(tensor.name)[0]): tensor
        for tensor in run.weights.tensors
        if len(tensor.shape) == 2 and split_key(tensor.name)[1] == "weight"
    }
    tensor = candidates.get(side) or (candidates.get("input") if base.tied else None)
    if tensor is None or tensor.shape[1] != width or tensor.offset is None or _decoder(tensor.dtype) is None:
        return None
    return np.concatenate([part for _, part in _rows(run.tree, tensor, list(ids))])


def _reference(tree: LocalTree, tensor: WeightTensor, new: set[int], tokens: int) -> tuple[Any, float | None]:
    """Mean of the rows that are neither new nor padding, and their mean norm, in one pass."""
    import numpy as np

    total = np.zeros(tensor.shape[1])
    norms, count = 0.0, 0
    for first, block in _blocks(tree, tensor, tokens):
        keep = np.array([first + index not in new for index in range(len(block))])
        kept = block[keep]
        total += kept.sum(axis=0)
        norms += float(np.linalg.norm(kept, axis=1).sum())
        count += len(kept)
    return (total / count, norms / count) if count else (None, None)


def _blocks(tree: LocalTree, tensor: WeightTensor, rows: int) -> Iterator[tuple[int, Any]]:
    size = tensor.nbytes // tensor.shape[0]
    step = max(1, CHUNK // max(size, 1))
    decode = _decoder(tensor.dtype)
    if decode is None or tensor.offset is None:
        return
    with tree.open(tensor.file) as source:
        for first in range(0, rows, step):
            count = min(step, rows - first)
            data = source.read_at(tensor.offset + first * size, count * size)
            if len(data) == count * size:
                yield first, decode(data).reshape(count, -1)


def _rows(tree: LocalTree, tensor: WeightTensor, places: Sequence[int]) -> Iterator[tuple[int, Any]]:
    size = tensor.nbytes // tensor.shape[0]
    decode = _decoder(tensor.dtype)
    if decode is None or tensor.offset is None:
        return
    with tree.open(tensor.file) as source:
        for place in places:
            data = source.read_at(tensor.offset + place * size, size)
            yield place, decode(data).reshape(1, -1)


def _decoder(dtype: str) -> Any:
    """Bytes of an element type to float64; None for types no embedding has."""
    import numpy as np

    if dtype == "BF16":
        return lambda data: (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    plain = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}.get(dtype)
    return (lambda data: np.frombuffer(data, plain).astype(np.float64)) if plain else None
