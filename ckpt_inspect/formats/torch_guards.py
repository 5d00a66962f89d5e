"""Whether a strided view can be what it claims: the checks torch makes with cryptic words, or not at all.

Torch 2.13 refuses a view outside its storage and silently accepts rank 1000, a stride-0 view of 10**12 elements and
strides that make elements share bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ckpt_inspect.formats.dtypes import DType
from ckpt_inspect.formats.torch_types import is_contiguous

MAX_RANK = 64
MAX_BYTES = 1 << 63
MAX_EXPANSION = 8
_EXPANSION_FROM = 1 << 20
_ENUMERATED = 256

_PACKED = {"QUINT4X2": 2, "QUINT2X4": 4}
"""Elements per storage element; the last dimension is rounded up (``aten/src/ATen/EmptyTensor.cpp``)."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """`nbytes` of the elements packed, `span` of storage elements from the first to the last; what is wrong, if so."""

    nbytes: int
    span: int
    kind: str | None = None
    message: str = ""
    problem: str | None = None
    outside: bool = False
    contiguous: bool = False


def judge_view(
    dtype: DType, shape: tuple[int, ...], stride: tuple[int, ...], start: int, available: int | None
) -> Judgement:
    """Judge a view of `available` elements (None: it has no storage)."""
    if len(shape) != len(stride):
        return _refuse("torch-view-bounds", f"{len(shape)} lengths and {len(stride)} strides")
    if len(shape) > MAX_RANK:
        return _refuse("torch-rank", f"{len(shape)} dimensions")
    count, span = 1, 1
    for length, step in zip(shape, stride, strict=True):
        if length < 0 or step < 0:
            return _refuse("torch-view-bounds", "a negative length or stride")
        count *= length
        span += (length - 1) * step
    if start < 0:
        return _refuse("torch-view-bounds", f"it begins at element {start}")
    nbytes = dtype.nbytes(count)
    if nbytes >= MAX_BYTES:
        return _refuse("torch-overflow", "more elements than 64 bits count")
    if count == 0:
        span = 0
    elif dtype.name in _PACKED:
        per = _PACKED[dtype.name]
        span = nbytes = count // shape[-1] * -(-shape[-1] // per) if shape else 1
    contiguous = is_contiguous(shape, stride)
    if available is None:
        return Judgement(nbytes, span, contiguous=contiguous)
    if count and start + span > available:
        message = f"elements {start} to {start + span} of a storage of {available}"
        return Judgement(nbytes, span, "torch-view-bounds", message, message, True, contiguous)
    if nbytes > max(_EXPANSION_FROM, MAX_EXPANSION * dtype.nbytes(available)):
        message = f"a storage of {dtype.nbytes(available)} bytes is shown as {nbytes} bytes"
        return Judgement(nbytes, span, "torch-expand", message, message)
    if not contiguous and count > 1 and _overlaps(shape, stride):
        return Judgement(nbytes, span, "torch-aliasing", "several of its elements share their bytes")
    return Judgement(nbytes, span, contiguous=contiguous)


def _refuse(kind: str, message: str) -> Judgement:
    return Judgement(0, 0, kind, message, message, outside=True)


def _overlaps(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether steps are too short for the dimensions below them; stride 0 is an ordinary expansion, not counted."""
    dimensions = sorted((step, length) for length, step in zip(shape, stride, strict=True) if length > 1 and step > 0)
    reach, count, short = 0, 1, False
    for step, length in dimensions:
        short = short or step <= reach
        reach += (length - 1) * step
        count *= length
    if not short or count > _ENUMERATED:
        return short
    places = {0}
    for step, length in dimensions:  # few elements: interleaved steps may still miss one another
        places = {place + index * step for place in places for index in range(length)}
    return len(places) < count
