"""Z36: what lies in the padding of partitions. It is never written; other than zeros is worth a note.

Padding is zero when the flat buffer is made (``runtime/zero/stage_1_and_2.py`` `flatten_dense_tensors_aligned`,
``runtime/zero/partition_parameters.py`` `_partition_param`), and some versions leave garbage there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckpt_inspect.artifacts.zero_states import OptimizerState
from ckpt_inspect.consolidate.addresses import item_size
from ckpt_inspect.consolidate.parts import Trainable
from ckpt_inspect.consolidate.problems import Problem, note
from ckpt_inspect.consolidate.reading import OpenFiles

_MOST = 256  # gaps looked at; each is a handful of elements


def nonzero_padding(
    trainables: Sequence[Trainable],
    states: Sequence[OptimizerState],
    indexes: Mapping[str, int],
    files: OpenFiles,
) -> list[Problem]:
    """A note when elements no parameter uses are not zero."""
    used: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for trainable in trainables:
        for piece in trainable.pieces:
            used.setdefault((piece.rank, trainable.group), []).append((piece.start, piece.start + piece.elements))
    looked = 0
    for rank, state in enumerate(states):
        for group, tensor in enumerate(state.masters):
            if tensor.file_offset is None or len(tensor.shape) != 1:
                continue
            size = item_size(tensor.dtype)
            position = 0
            for start, stop in [*sorted(used.get((rank, group), ())), (tensor.shape[0], tensor.shape[0])]:
                if start > position and looked < _MOST:
                    looked += 1
                    length = min(start - position, 4096) * size
                    data = files.read(indexes[state.path], tensor.file_offset + position * size, length)
                    if data.strip(b"\0"):
                        message = f"padding of group {group} on rank {state.rank} is not zero; it is not written"
                        return [note("Z36", message, file=state.path, rank=state.rank)]
                position = max(position, stop)
    return []
