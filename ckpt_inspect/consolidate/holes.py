"""Z26: partitions that look like holes, and values that are not numbers.

A file system that lost its data blocks, or `torch.serialization.skip_data`, leaves shards of the right size full of
zeros; under stage 3 nothing else would notice. A few windows per rank are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckpt_inspect.consolidate.addresses import item_size
from ckpt_inspect.consolidate.parts import Trainable
from ckpt_inspect.consolidate.problems import Problem, warn
from ckpt_inspect.consolidate.reading import OpenFiles
from ckpt_inspect.consolidate.rounding import count_not_finite
from ckpt_inspect.printable import printable

_WINDOWS = 16  # ranges looked at per rank
_SAMPLE = 256  # elements looked at per rank
_ENOUGH = 64  # fewer zeros may well be a bias


def suspicious_values(trainables: Sequence[Trainable], paths: Mapping[int, str], files: OpenFiles) -> list[Problem]:
    """Warnings about ranks whose sampled values are all zero, and about the first value that is not finite."""
    by_rank: dict[int, list[tuple[Trainable, int]]] = {}
    for trainable in trainables:
        for index, piece in enumerate(trainable.pieces):
            by_rank.setdefault(piece.rank, []).append((trainable, index))
    problems: list[Problem] = []
    for rank, held in sorted(by_rank.items()):
        seen, zeros = 0, 0
        for trainable, index in held[:: max(1, len(held) // _WINDOWS)]:
            part, piece = trainable.ranges[index], trainable.pieces[index]
            count = min(_SAMPLE // min(len(held), _WINDOWS), piece.elements)
            data = files.read(part.source, part.offset, count * item_size(trainable.dtype))
            seen += count
            zeros += count if not data.strip(b"\0") else 0
            if count_not_finite(data, trainable.dtype, swap=part.swap) and not problems:
                message = f"{printable(trainable.name)} on rank {rank} holds values that are not finite"
                remedy = "training diverged; use an earlier checkpoint"
                problems.append(
                    warn("Z26", message, file=paths.get(rank), rank=rank, tensor=trainable.name, remedy=remedy)
                )
        if seen >= _ENOUGH and zeros == seen:
            message = (
                f"all {seen} sampled master weights of rank {rank} are zero: the file may be a hole of the right size"
            )
            remedy = f"copy the file of rank {rank} again and compare its checksum"
            problems.append(warn("Z26", message, file=paths.get(rank), rank=rank, remedy=remedy))
    return problems
