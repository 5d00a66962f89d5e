"""Where the elements of a parameter lie in ZeRO partitions: pure integer arithmetic, elements in, elements out.

Stages 1 and 2 cut one flat vector per group anywhere (deepspeed 0.19.8 ``runtime/zero/stage_1_and_2.py``
`get_data_parallel_partitions`; merged by ``utils/zero_to_fp32.py`` `_zero2_merge_trainable_params`). Stage 3 gives
every rank ``ceil(numel / world)`` elements of every parameter (`zero3_partitioned_param_info`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple


class Piece(NamedTuple):
    """`elements` elements that start at element `start` of what `rank` holds."""

    rank: int
    start: int
    elements: int


class LayoutError(ValueError):
    """Partitions cannot hold the parameters; `index` is the first parameter that does not fit, None for the sums."""

    def __init__(self, message: str, *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


def element_count(shape: Sequence[int]) -> int:
    """Elements of a tensor of this shape: 1 for a 0-dim one."""
    count = 1
    for size in shape:
        count *= size
    return count


def ceil_div(numerator: int, denominator: int) -> int:
    """The quotient rounded up, exact for any size."""
    return -(-numerator // denominator)


def align_up(value: int, alignment: int) -> int:
    """The smallest multiple of `alignment` that is not below `value`."""
    return ceil_div(value, alignment) * alignment


def flat_pieces(
    numels: Sequence[int], partitions: Sequence[int], paddings: Sequence[int] | None = None
) -> list[tuple[Piece, ...]]:
    """Stages 1 and 2: parameters one after another through the concatenation of all partitions.

    Args:
        numels: elements of each parameter, in flat-buffer order.
        partitions: elements each rank saved, in rank order; zero is allowed.
        paddings: elements skipped after each parameter (`param_alignment_paddings` of the group).

    Raises:
        LayoutError: the partitions end before the last parameter does, or `paddings` has another length.
    """
    if paddings is not None and len(paddings) != len(numels):
        raise LayoutError(f"{len(paddings)} alignment paddings for {len(numels)} parameters")
    ends = list(accumulate(partitions))
    total = ends[-1] if ends else 0
    out: list[tuple[Piece, ...]] = []
    position = 0
    for index, numel in enumerate(numels):
        if position + numel > total:
            raise LayoutError(
                f"parameter {index} needs elements {position} to {position + numel}, the ranks saved {total}",
                index=index,
            )
        pieces: list[Piece] = []
        left = numel
        rank = bisect_right(ends, position)  # the first rank that ends after `position`: skips empty partitions
        while left > 0:
            start = position - (ends[rank] - partitions[rank])
            count = min(left, ends[rank] - position)
            if count > 0:
                pieces.append(Piece(rank, start, count))
            position += count
            left -= count
            rank += 1
        out.append(tuple(pieces))
        if paddings is not None:
            position += paddings[index]
    return out


def partition_share(numel: int, world: int) -> int:
    """Stage 3: elements of one parameter in every rank's partition, padding included."""
    return ceil_div(numel, world)


def shared_pieces(numel: int, start: int, world: int) -> tuple[Piece, ...]:
    """Stage 3: one parameter whose share starts at element `start` of every rank's flat tensor.

    Ranks whose share is nothing but padding contribute no piece.
    """
    share = partition_share(numel, world)
    if share == 0:
        return ()
    return tuple(
        Piece(rank, start, min(share, numel - rank * share)) for rank in range(min(world, ceil_div(numel, share)))
    )


def share_starts(numels: Sequence[int], world: int) -> list[int]:
    """Stage 3: where each parameter's share starts in a sub-group's flat tensor, and last where the sub-group ends."""
    return [0, *accumulate(partition_share(numel, world) for numel in numels)]
