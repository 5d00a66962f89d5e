"""Were the rows of new tokens moved at all? Evidence from the weights, read row by row in bounded memory.

What an untouched row looks like: transformers 4.46 and later initialise it with the mean of the others (`mean_resizing`,
modeling_utils `_init_added_embeddings_weights_with_mean`), earlier ones at random; a row the base had is the base's own;
LLaMA-Factory up to 0.9.5 adds noise of norm about 1 to the mean (model/model_utils/embedding.py). After a resize PEFT
saves the rows from before training beside the trained ones (`original_module`, `token_adapter.base_layer`); a LoRA's
half that holds one row per token begins at zero (peft 0.21.2 tuners/lora/layer.py:reset_lora_parameters).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ckpt_inspect.artifacts.embedding_names import Side, embedding_side
from ckpt_inspect.errors import CkptInspectError, UnreadableError
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
    least cosine between two new rows; `base_difference` the largest difference from the row at the same id before
    training, relative to that row's norm; `unmoved` how many rows equal those; `norms` the new rows' mean norm over that
    of the others.
    """

    side: Side
    verdict: RowVerdict
    rows: int
    distance_to_mean: float | None
    alike: float | None
    base_difference: float | None
    norms: float | None
    statement: str
    unmoved: int | None = None


@dataclass(frozen=True, slots=True)
class _Side:
    """What the files hold of one side: the rows as trained, those from before, and whose they are.

    `ids` are the tokens of the rows of `trained`, in order, where it does not hold a row for every token; `update`: the
    rows are those of a low-rank update, zero where nothing was learned, and columns where `transposed`.
    """

    trained: WeightTensor
    before: WeightTensor | None = None
    ids: tuple[int, ...] | None = None
    update: bool = False
    transposed: bool = False


def examine_rows(
    directory: StateDirectory, ids: Sequence[int], tokens: int, base: BaseFacts | None
) -> tuple[RowEvidence, ...]:
    """Look at the rows of `ids` in the saved embeddings; `tokens` is the tokenizer's length (rows above are padding)."""
    chosen = sorted(ids)[:_MOST_TOKENS]
    found: list[RowEvidence] = []
    for side, held in _sides(directory).items():
        try:
            evidence = _examine(directory.tree, side, held, chosen, set(ids), tokens, base)
        except CkptInspectError:
            continue
        if evidence is not None:
            found.append(evidence)
    return tuple(found)


def _examine(
    tree: LocalTree,
    side: Side,
    held: _Side,
    chosen: Sequence[int],
    ids: set[int],
    tokens: int,
    base: BaseFacts | None,
) -> RowEvidence | None:
    tensor = held.trained
    if held.ids is not None:
        chosen = [number for number in chosen if number in held.ids]
    places = [held.ids.index(number) for number in chosen] if held.ids is not None else list(chosen)
    length = tensor.shape[1 if held.transposed else 0]
    if not places or max(places) >= length or not _readable(tensor):
        return None
    if held.update:
        return _judge_update(side, _columns(tree, tensor, places) if held.transposed else _rows(tree, tensor, places))
    rows = _rows(tree, tensor, places)
    known = [number for number in chosen if base is not None and base.rows is not None and number < base.rows]
    before, whose = _base_rows(base, side, known, tensor.shape[1]), "the base's"
    if before is not None:  # rows the base does not have cannot be compared with its own
        rows = rows[[chosen.index(number) for number in known]]
    if before is None and held.before is not None and max(chosen) < held.before.shape[0] and _readable(held.before):
        before, whose = _rows(tree, held.before, chosen), "those saved from before training"
    mean = norms = None
    if held.ids is None:
        mean, norms = _reference(tree, tensor, ids, min(tokens, tensor.shape[0]))
    return judge_rows(side, rows, mean, norms, before, whose)


def _judge_update(side: Side, rows: Any) -> RowEvidence:
    """The verdict on the update's rows: zero is where they began."""
    count, learned = len(rows), int((rows != 0).any(axis=1).sum())
    words = f"the low-rank update of the {counted(count, 'new row')} is "
    words += "zero, as it began" if not learned else "not zero" if learned == count else f"zero for {count - learned}"
    verdict: RowVerdict = "moved" if learned else "initial"
    return RowEvidence(
        side, verdict, count, None, None, None, None, f"{side} embedding: {words}", unmoved=count - learned
    )


def judge_rows(
    side: Side, rows: Any, mean: Any, reference_norm: float | None, before: Any, whose: str = "the base's"
) -> RowEvidence:
    """The verdict on rows (n x d).

    Args:
        side: which embedding they are of.
        rows: the new tokens' rows.
        mean: the mean of the other rows, where known.
        reference_norm: the mean norm of the other rows.
        before: the same rows before training, where known.
        whose: what `before` is, in words.
    """
    import numpy as np

    count = len(rows)
    norms = np.linalg.norm(rows, axis=1)
    share = float(norms.mean() / reference_norm) if reference_norm else None
    distance = alike = difference = None
    unmoved: int | None = None
    if mean is not None and np.linalg.norm(mean) > 0:
        distance = float(np.linalg.norm(rows - mean, axis=1).max() / np.linalg.norm(mean))
    if count > 1 and norms.min() > 0:
        unit = rows / norms[:, None]
        alike = float((unit @ unit[0]).min())
    if before is not None:
        size = np.maximum(np.linalg.norm(before, axis=1), 1e-12)
        differences = np.linalg.norm(rows - before, axis=1) / size
        difference, unmoved = float(differences.max()), int((differences <= _ROUNDING).sum())
    verdict, statement = _words(count, distance, alike, difference, unmoved, whose, zero=not norms.any())
    return RowEvidence(
        side, verdict, count, distance, alike, difference, share, f"{side} embedding: {statement}", unmoved
    )


def _words(
    count: int,
    distance: float | None,
    alike: float | None,
    difference: float | None,
    unmoved: int | None,
    whose: str,
    *,
    zero: bool,
) -> tuple[RowVerdict, str]:
    rows, are = counted(count, "new row"), "is" if count == 1 else "are"
    if zero:
        return "initial", f"the {rows} {are} zero"
    if difference is not None:
        if difference <= _ROUNDING:
            return (
                "initial",
                f"the {rows} {'equals' if count == 1 else 'equal'} {whose} (largest relative difference {short(difference)})",
            )
        some = f"; {unmoved} of them did not move" if unmoved else ""
        differ = "differs" if count == 1 else "differ"
        return "moved", f"the {rows} {differ} from {whose} (relative difference up to {short(difference)}{some})"
    if distance is not None and distance < _NEAR_MEAN and (alike is None or alike > _ALIKE):
        return (
            "initial",
            f"the {rows} {are} the mean of the others (relative distance {short(distance)}), as a resize leaves them",
        )
    if distance is not None:
        return "unclear", (
            f"the {rows} {are} not the mean of the others (relative distance {short(distance)}): trained, or initialised "
            "at random"
        )
    return "unclear", f"the {rows} cannot be compared: the rows from before training are not at hand"


def _sides(directory: StateDirectory) -> dict[Side, _Side]:
    """What there is to compare on each side."""
    if directory.adapter_config is not None:
        return _adapter_sides(directory)
    weights = directory.weights
    matrices = _matrices(weights.tensors if weights is not None else ())
    return {side: _Side(tensor) for side, tensor in matrices.items()}


def _matrices(tensors: Iterable[WeightTensor]) -> dict[Side, WeightTensor]:
    found: dict[Side, WeightTensor] = {}
    for tensor in tensors:
        module, _, suffix = tensor.name.rpartition(".")
        side = embedding_side(module)
        if side is not None and suffix == "weight" and len(tensor.shape) == 2:
            found.setdefault(side, tensor)
    return found


def _adapter_sides(directory: StateDirectory) -> dict[Side, _Side]:
    from ckpt_inspect.artifacts.weights import read_weight_file
    from ckpt_inspect.explain.embedding_state import adapter_embeddings

    config, weights = directory.adapter_config, directory.adapter_weights
    if weights is None:
        return {}
    placed: dict[str, WeightTensor] = {}
    for artifact in directory.own.get("adapter_weights", ())[:1]:
        placed.update({tensor.name: tensor for tensor in read_weight_file(directory.tree, artifact.path)[0]})
    found: dict[Side, _Side] = {}
    for side, embedding in adapter_embeddings(weights.tensors, config).items():
        own = [t for t in weights.tensors if embedding_side(t.module) == side and t.name in placed]
        roles = {t.key.role or t.role: placed[t.name] for t in own}
        before = roles.get("original_module") or roles.get("base_layer")
        whole = roles.get("saved_module") or roles.get("tied_copy") or roles.get("embedding_copy")
        if "token_delta" in roles:
            found[side] = _Side(roles["token_delta"], before, embedding.ids or ())
        elif embedding.state == "low_rank" and config is not None and config.init_weights in (True, "gaussian"):
            if "lora_embedding_A" in roles:
                found[side] = _Side(roles["lora_embedding_A"], update=True, transposed=True)
            elif "lora_B" in roles:
                found[side] = _Side(roles["lora_B"], update=True)
        elif whole is not None and len(whole.shape) == 2:
            found[side] = _Side(whole, before)
    return found


def _base_rows(base: BaseFacts | None, side: Side, ids: Sequence[int], width: int) -> Any:
    """The base model's rows of `ids`, where its weights are at hand and have them all; else None."""
    if base is None or base.path is None or not ids:
        return None
    from ckpt_inspect.run import open_run

    run = open_run(base.path)
    matrices = _matrices(run.weights.tensors if run.weights is not None else ())
    tensor = matrices.get(side) or (next(iter(matrices.values()), None) if base.tied else None)
    if tensor is None or tensor.shape[1] != width or not _readable(tensor):
        return None
    return _rows(run.tree, tensor, ids)


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


def _rows(tree: LocalTree, tensor: WeightTensor, places: Sequence[int]) -> Any:
    import numpy as np

    size, decode, start = tensor.nbytes // tensor.shape[0], _decoder(tensor.dtype), tensor.offset or 0
    with tree.open(tensor.file) as source:
        data = [source.read_at(start + place * size, size) for place in places]
    if any(len(row) < size for row in data):
        raise UnreadableError(f"ends before the rows of {tensor.name}", where=tensor.file)
    return np.stack([decode(row) for row in data])


def _columns(tree: LocalTree, tensor: WeightTensor, places: Sequence[int]) -> Any:
    """Columns of a matrix of few rows, as rows: each of its rows is read once."""
    import numpy as np

    chosen = np.array(places)
    return np.stack([_rows(tree, tensor, [row])[0][chosen] for row in range(tensor.shape[0])]).T


def _readable(tensor: WeightTensor) -> bool:
    return (
        bool(tensor.nbytes)
        and tensor.offset is not None
        and len(tensor.shape) == 2
        and _decoder(tensor.dtype) is not None
    )


def _decoder(dtype: str) -> Any:
    """Bytes of an element type to float64; None for types no embedding has."""
    import numpy as np

    if dtype == "BF16":
        return lambda data: (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    plain = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}.get(dtype)
    return (lambda data: np.frombuffer(data, plain).astype(np.float64)) if plain else None
