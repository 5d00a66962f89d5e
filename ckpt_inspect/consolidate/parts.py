"""What the layout planners hand on: parameters with their ranges, before dtypes, names and proofs are settled."""

from __future__ import annotations

from dataclasses import dataclass

from ckpt_inspect.consolidate.layouts import Piece
from ckpt_inspect.consolidate.plan import Origin, Part, PlannedTensor, Range
from ckpt_inspect.formats.dtypes import BY_NAME


@dataclass(frozen=True, slots=True)
class Trainable:
    """A parameter of the optimizer: its ranges in output order, and per range the rank and the element it starts at.

    `group` is its parameter group (stages 1, 2) or sub-group (stage 3).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    ranges: tuple[Range, ...]
    group: int
    pieces: tuple[Piece, ...]


def output_dtype(source: str, target: str | None) -> str:
    """The type a tensor is written in: real floating types become `target`, all others, and without one all, stay.

    As ``to_torch_tensor`` of deepspeed 0.19.8 ``utils/zero_to_fp32.py``, which before 0.19.8 also cast integer buffers.
    """
    known = BY_NAME.get(source)
    if target is None or known is None or not known.floating or known.component_bits is not None:
        return source
    return target


def planned(
    name: str, shape: tuple[int, ...], source: str, ranges: tuple[Part, ...], origin: Origin, target: str | None
) -> PlannedTensor:
    """A tensor of the plan, written as `target`, if there is one, when it is of a floating type."""
    return PlannedTensor(name, shape, source, output_dtype(source, target), ranges, origin)
