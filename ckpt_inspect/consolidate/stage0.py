"""Stage 0: float32 masters inside the model file, without names.

``runtime/fp16/fused_optimizer.py`` keeps one flat vector per group (`fp32_groups_flat`),
``runtime/fp16/unfused_optimizer.py`` one tensor per parameter (`fp32_groups`); both in the order of each group, and
neither with names. A master is given to the first parameter, in the order of the module, that has its shape and holds
exactly its values rounded; a master no parameter agrees with makes all of them useless.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ckpt_inspect.artifacts.zero_states import ModelState
from ckpt_inspect.consolidate.addresses import AddressError, Sources, check, flat_range, item_size, must_swap
from ckpt_inspect.consolidate.layouts import Piece, element_count
from ckpt_inspect.consolidate.parts import Trainable
from ckpt_inspect.consolidate.problems import Problem, note, warn
from ckpt_inspect.consolidate.reading import OpenFiles
from ckpt_inspect.consolidate.rounding import comparable, count_differences
from ckpt_inspect.formats.torch_archive import Tensor

_WINDOW = 32


@dataclass(frozen=True, slots=True)
class _Slot:
    """A place a master may start at: `left` elements from `start` of `tensor`; `shape` None inside a flat vector."""

    tensor: Tensor
    start: int
    left: int
    shape: tuple[int, ...] | None


class _NoMatchError(Exception):
    """A master belongs to no parameter."""


def plan_stage0(
    model: ModelState, sources: Sources, files: OpenFiles
) -> tuple[list[Trainable], list[Problem], dict[str, Any]]:
    """The parameters whose masters were found, in module order of each group; none when they cannot be told apart."""
    module = model.module or {}
    candidates = _parameters(model)
    dtypes = sorted({tensor.dtype for _, tensor in candidates})
    state = model.stage_zero
    if state is None:
        facts: dict[str, Any] = {"masters": "none"}
        if all(dtype in {"F32", "F64"} for dtype in dtypes):
            return [], [note("layout", "stage 0 in float32: the module holds the full-precision weights")], facts
        missing = "saved no master weights" if model.optimizer_present else "holds no optimizer state"
        message = (
            f"stage 0: the checkpoint {missing}, so the weights are those of the module in {', '.join(dtypes)}, "
            "with no more precision than that"
        )
        return [], [warn("Z37", message, file=model.path)], facts
    source = sources.index(model.path)
    reader = _Reader(model, source, sources.size(source), files)
    try:
        trainables = (
            _match_flat(state.flat, candidates, reader)
            if state.flat is not None
            else _match_shaped(state.shaped or (), candidates, reader)
        )
    except (AddressError, _NoMatchError) as error:
        message = (
            f"stage 0: the master weights carry no names and do not agree with the module ({error}); "
            f"the weights written are those of the module in {', '.join(dtypes)}"
        )
        return [], [warn("Z38", message, file=model.path)], {"masters": "not matched"}
    order = {name: index for index, name in enumerate(module)}
    trainables.sort(key=lambda trainable: (trainable.group, order[trainable.name]))
    text = f"stage 0: {len(trainables)} nameless master weights were matched to the module by shape and value"
    return trainables, [note("Z38", text)], {"masters": "matched", "matched": len(trainables)}


def _parameters(model: ModelState) -> list[tuple[str, Tensor]]:
    """The tensors of the module that can have a master: no buffers, each storage place once."""
    buffers = set(model.buffer_names or ())
    seen: set[tuple[str, int]] = set()
    out: list[tuple[str, Tensor]] = []
    for name, tensor in (model.module or {}).items():
        place = (tensor.storage_key, tensor.storage_offset)
        if name in buffers or (tensor.nbytes and place in seen):
            continue
        seen.add(place)
        out.append((name, tensor))
    return out


@dataclass(frozen=True, slots=True)
class _Reader:
    model: ModelState
    source: int
    file_size: int
    files: OpenFiles

    def agrees(self, slot: _Slot, copy: Tensor) -> bool:
        """Whether windows of a parameter are a master's values rounded."""
        types = (slot.tensor.dtype, copy.dtype)
        count = element_count(copy.shape)
        if not comparable(*types) or count > slot.left or not copy.contiguous or copy.file_offset is None:
            return False
        if slot.shape is not None and slot.shape != copy.shape:
            return False
        wide, narrow = item_size(types[0]), item_size(types[1])
        swaps = (must_swap(types[0], self.model.big_endian), must_swap(types[1], self.model.big_endian))
        for start, length in _windows(count):
            offset = (slot.tensor.file_offset or 0) + (slot.start + start) * wide
            master = self.files.read(self.source, offset, length * wide)
            values = self.files.read(self.source, copy.file_offset + start * narrow, length * narrow)
            if len(master) != length * wide or len(values) != length * narrow:
                return False
            if count_differences(master, values, types, swaps):
                return False
        return True

    def trainable(self, name: str, copy: Tensor, slot: _Slot, group: int) -> Trainable:
        """The parameter made of a slot."""
        count = element_count(copy.shape)
        part = flat_range(slot.tensor, self.source, slot.start, count, big_endian=self.model.big_endian)
        ranges = (part,) if count else ()
        pieces = (Piece(0, slot.start, count),) if count else ()
        return Trainable(name, copy.shape, slot.tensor.dtype, ranges, group, pieces)


def _windows(count: int) -> Iterator[tuple[int, int]]:
    if count <= 3 * _WINDOW:
        yield 0, count
    else:
        for start in (0, (count - _WINDOW) // 2, count - _WINDOW):
            yield start, _WINDOW


def _match_shaped(
    groups: Sequence[Sequence[Tensor]], candidates: Sequence[tuple[str, Tensor]], reader: _Reader
) -> list[Trainable]:
    free: dict[str, Tensor] = dict(candidates)
    names = [name for name, _ in candidates]
    out: list[Trainable] = []
    for group, tensors in enumerate(groups):
        position = 0
        for index, master in enumerate(tensors):
            check(master, reader.file_size)
            if not (master.contiguous or master.nbytes == 0):
                raise AddressError(f"master {index} of group {group} is not contiguous")
            slot = _Slot(master, 0, element_count(master.shape), master.shape)
            position = _take(slot, names, position, free, reader, group, out, f"master {index} of group {group}")
    return out


def _match_flat(
    vectors: Sequence[Tensor], candidates: Sequence[tuple[str, Tensor]], reader: _Reader
) -> list[Trainable]:
    free: dict[str, Tensor] = dict(candidates)
    names = [name for name, _ in candidates]
    out: list[Trainable] = []
    for group, vector in enumerate(vectors):
        check(vector, reader.file_size)
        if len(vector.shape) != 1 or not (vector.contiguous or vector.nbytes == 0):
            raise AddressError(f"group {group} is not one contiguous vector")
        start, position, total = 0, 0, vector.shape[0]
        while start < total:
            slot = _Slot(vector, start, total - start, None)
            label = f"element {start} of group {group}"
            position = _take(slot, names, position, free, reader, group, out, label)
            start += element_count(out[-1].shape)
    return out


def _take(
    slot: _Slot,
    names: Sequence[str],
    position: int,
    free: dict[str, Tensor],
    reader: _Reader,
    group: int,
    out: list[Trainable],
    label: str,
) -> int:
    """Give a slot to the next free parameter after `position` that agrees, else to any; the position after it."""
    for index in chain(range(position, len(names)), range(position)):
        copy: Tensor | None = free.get(names[index])
        if copy is not None and copy.nbytes and reader.agrees(slot, copy):
            out.append(reader.trainable(names[index], copy, slot, group))
            del free[names[index]]
            return index + 1
    raise _NoMatchError(f"{label} is not the value of any parameter")
