"""``optimizer.pt`` (Trainer) and ``optimizer.bin`` (accelerate FSDP, full): the moments of every trained parameter.

Layout: ``{"state": {i: {"step", "exp_avg", ...}}, "param_groups": [{"lr", "betas", ..., "params": [i, ...]}]}``
(torch ``optim/optimizer.py:state_dict``). Parameters are numbered, weight-decay group first, and have no names, except
in FSDP's file, where the keys are names. What each optimizer keeps: ``knowledge/optimizer_states.toml``.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckpt_inspect.artifacts.plain_values import plain_value
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.pickle_nodes import Node, as_mapping, entries
from ckpt_inspect.formats.torch_archive import TorchArchive, open_torch
from ckpt_inspect.knowledge import load

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.formats.torch_archive import Tensor
    from ckpt_inspect.storage import ByteSource

READ_STEPS = 512  # step counters read per file; they are equal in all but broken files


@dataclass(frozen=True, slots=True)
class ParamGroup:
    """One parameter group; None where the optimizer has no such setting. `values`: all settings but the parameters."""

    lr: float | None
    initial_lr: float | None
    betas: tuple[float, ...] | None
    weight_decay: float | None
    params: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """The state.

    Attributes:
        kind: "adam", "adafactor", "sgd", "8bit", "lion", ...; "empty" without any state (plain SGD, or no step yet),
            "other" when it is of no known kind, "unreadable" when the file holds no state dictionary.
        parameters: parameters in the groups.
        with_state: parameters that have state (fewer when some never got a gradient).
        state_numel: elements of the parameters that have state: how many weights were trained. None when the
            optimizer's tensors do not tell.
        state_bytes: bytes of all state tensors.
        steps: distinct values of the step counters, smallest first.
        shapes: shape -> number of parameters of that shape.
        names: names of the parameters, in FSDP's file; else empty.
    """

    kind: str
    param_groups: tuple[ParamGroup, ...]
    parameters: int
    with_state: int
    state_numel: int | None
    state_bytes: int
    steps: tuple[float, ...]
    shapes: Mapping[tuple[int, ...], int]
    dtypes: tuple[str, ...]
    names: tuple[str, ...]
    faults: tuple[Fault, ...]
    globals: tuple[str, ...] = ()


def read_optimizer(source: ByteSource) -> OptimizerState:
    """Read the state: headers and pickle only, and four bytes per step counter. Never raises for content."""
    archive = open_torch(source)
    faults = FaultLog()
    faults.extend(archive.faults)
    top = as_mapping(archive.value)
    if "state" not in top and not faults:
        faults.add("optimizer-not-a-state", "holds no dictionary with a state")
    groups = _groups(top.get("param_groups"))
    reading = _States(archive, source)
    for key, value in entries(top.get("state")):
        reading.add(key, value)
    return OptimizerState(
        kind=reading.kind() if "state" in top else "unreadable",
        param_groups=groups,
        parameters=sum(group.params for group in groups),
        with_state=reading.count,
        state_numel=reading.numel,
        state_bytes=reading.bytes,
        steps=tuple(sorted(reading.steps)),
        shapes=dict(reading.shapes),
        dtypes=tuple(sorted(reading.dtypes)),
        names=tuple(reading.names),
        faults=faults.sealed(),
        globals=tuple(sorted({name.dotted for program in archive.programs for name in program.globals})),
    )


class _States:
    """Collects what the state of all parameters tells."""

    def __init__(self, archive: TorchArchive, source: ByteSource) -> None:
        self._archive = archive
        self._source = source
        self._rows: list[dict[str, Any]] = load("optimizer_states")["kind"]
        self._kinds: Counter[str] = Counter()
        self._steps_left = READ_STEPS
        self.count = 0
        self.numel: int | None = 0
        self.bytes = 0
        self.steps: set[float] = set()
        self.shapes: Counter[tuple[int, ...]] = Counter()
        self.dtypes: set[str] = set()
        self.names: list[str] = []

    def add(self, key: Node, value: Node) -> None:
        """Take in the state of one parameter."""
        self.count += 1
        if isinstance(key, str):
            self.names.append(key)
        fields = as_mapping(value)
        tensors: dict[str, Tensor] = {}
        for name, node in fields.items():
            tensor = self._archive.tensor(node)
            if tensor is not None:
                tensors[name] = tensor
                self.bytes += tensor.nbytes
                if name != "step":
                    self.dtypes.add(tensor.dtype)
        self._step(fields.get("step"), tensors.get("step"))
        row = next((row for row in self._rows if all(name in fields for name in row["has"])), None)
        if row is None:
            self._kinds["other" if fields else "empty"] += 1
            self.numel = None if fields else self.numel
            return
        self._kinds[row["name"]] += 1
        self._size(row, tensors)

    def _size(self, row: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        shape: tuple[int, ...] | None = None
        if row["size"] in tensors:
            shape = tensors[row["size"]].shape
        elif row.get("rows") in tensors and row.get("columns") in tensors:
            rows, columns = tensors[row["rows"]].shape, tensors[row["columns"]].shape
            shape = (*rows, columns[-1]) if columns else rows  # torch keeps a dimension of size 1 in both factors
            if len(rows) >= 2 and rows[-1] == 1:
                shape = (*rows[:-1], columns[-1])
        if shape is None:
            self.numel = None
            return
        self.shapes[shape] += 1
        if self.numel is not None:
            self.numel += math.prod(shape)

    def _step(self, node: Node, tensor: Tensor | None) -> None:
        if isinstance(node, int | float) and not isinstance(node, bool):
            self.steps.add(float(node))
        elif tensor is not None and self._steps_left > 0:
            self._steps_left -= 1
            value = _scalar(self._source, tensor, self._archive.byteorder)
            if value is not None:
                self.steps.add(value)

    def kind(self) -> str:
        """The kind most parameters have; 8-bit optimizers leave small parameters in 32 bits, still Adam's."""
        known = {name: count for name, count in self._kinds.items() if name not in ("other", "empty")}
        if "8bit" in known:
            return "8bit"
        if known:
            return max(known, key=lambda name: known[name])
        return "other" if self._kinds["other"] else "empty"


_SCALARS = {"F32": "f", "F64": "d", "I64": "q", "I32": "i"}


def _scalar(source: ByteSource, tensor: Tensor, byteorder: str) -> float | None:
    code = _SCALARS.get(tensor.dtype)
    if code is None or tensor.file_offset is None or math.prod(tensor.shape) != 1:
        return None
    width = struct.calcsize(code)
    data = source.read_at(tensor.file_offset, width)
    if len(data) != width:
        return None
    return float(struct.unpack((">" if byteorder == "big" else "<") + code, data)[0])


def _groups(node: Node) -> tuple[ParamGroup, ...]:
    if not isinstance(node, list | tuple):
        return ()
    groups: list[ParamGroup] = []
    for item in node:
        fields = as_mapping(item)
        params = fields.pop("params", None)
        values = {name: plain_value(value) for name, value in fields.items()}
        betas = values.get("betas")
        groups.append(
            ParamGroup(
                lr=_number(values.get("lr")),
                initial_lr=_number(values.get("initial_lr")),
                betas=tuple(value for value in map(_number, betas) if value is not None)
                if isinstance(betas, list)
                else None,
                weight_decay=_number(values.get("weight_decay")),
                params=len(params) if isinstance(params, list | tuple) else 0,
                values=values,
            )
        )
    return tuple(groups)


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
