"""DeepSpeed universal checkpoints: one directory per parameter under ``zero/``, one file per state in it.

deepspeed 0.19.8 ``checkpoint/ds_to_universal.py``: ``zero/<name>/fp32.pt`` (and ``exp_avg.pt``, ``exp_avg_sq.pt``,
``step.pt``), ``zero/optimizer_state.pt``, copies of the model files; ``tmp/`` is removed at the end, so that its
presence means an interrupted conversion. Names are the parameters' own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ckpt_inspect.artifacts.zero_states import ModelState, read_model_state
from ckpt_inspect.errors import UnreadableError
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.pickle_nodes import entries, get_path
from ckpt_inspect.formats.torch_archive import Tensor, open_torch
from ckpt_inspect.storage import ByteSource, LocalTree

_STATE_FILE = re.compile(r"([A-Za-z0-9_]{1,64})\.pt")
_MODEL_FILE = re.compile(r"(?:zero_pp_rank_0_)?mp_rank_\d\d_model_states\.pt")
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class UniversalParameter:
    """One parameter: its `states` by name ("fp32", "exp_avg", "step", ...) as paths in the tree."""

    name: str
    states: Mapping[str, str]
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class UniversalTensor:
    """The content of one state file: the whole `tensor`, and what resuming needs to cut it again.

    `cat_dim` is the dimension tensor parallelism joins, `vocabulary` whether rows were padded,
    `extra` the names of further keys. `faults` are those of the file.
    """

    tensor: Tensor | None
    cat_dim: int | None
    vocabulary: bool
    extra: tuple[str, ...]
    faults: tuple[Fault, ...]
    big_endian: bool = False


@dataclass(frozen=True)
class UniversalCheckpoint:
    """A universal checkpoint as its listing tells; `model` and `faults` read the first model file on first use.

    `parameters` in name order; `leftover` are paths below ``tmp/``; `model_files` copies of the model files.
    """

    tree: LocalTree
    path: str
    parameters: tuple[UniversalParameter, ...]
    optimizer_state: str | None
    model_files: tuple[str, ...]
    leftover: tuple[str, ...]

    @property
    def states(self) -> tuple[str, ...]:
        """Every kind of state any parameter has, fp32 first."""
        names = {state for parameter in self.parameters for state in parameter.states}
        return tuple(sorted(names, key=lambda name: (name != "fp32", name)))

    @cached_property
    def model(self) -> ModelState | None:
        """The first model file: parameter shapes, step, version; None without one."""
        if not self.model_files:
            return None
        with self.tree.open(self.model_files[0]) as source:
            return read_model_state(source, self.model_files[0], 0)

    @cached_property
    def expected(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of trainable and frozen parameters as the model file names them, in its order; empty without it."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.model is not None:
            for group in (*(self.model.shapes or ()), self.model.frozen_shapes or ()):
                shapes.update(group)
        return shapes

    @property
    def missing(self) -> tuple[str, ...]:
        """Parameters of the model that have no fp32.pt; aliases of tied parameters need none."""
        present = {parameter.name for parameter in self.parameters if "fp32" in parameter.states}
        aliases = {alias for alias, _ in (self.model.shared or ())} if self.model is not None else set()
        return tuple(name for name in self.expected if name not in present and name not in aliases)

    @cached_property
    def faults(self) -> tuple[Fault, ...]:
        """What is missing or left over."""
        log = FaultLog()
        try:
            missing = self.missing
        except UnreadableError as error:
            log.add("unreadable", error.what, place=self.model_files[0])
            missing = ()
        for name in missing:
            log.add("universal-parameter-missing", "the model has a parameter that zero/ does not", place=name)
        if not self.model_files:
            log.add("universal-no-model-file", "there is no model file, so nothing tells whether zero/ is complete")
        if self.optimizer_state is None:
            log.add("universal-no-optimizer-state", "zero/optimizer_state.pt is not there; training cannot resume")
        if self.leftover:
            message = f"{len(self.leftover)} files lie under tmp/: the conversion was interrupted"
            log.add("universal-leftover", message, place=self.leftover[0])
        trained = [p for p in self.parameters if any(moment in p.states for moment in _MOMENTS)]
        for parameter in self.parameters:
            if "fp32" not in parameter.states:
                log.add("universal-fp32-missing", "the parameter has states but no weights", place=parameter.name)
        for parameter in trained:
            absent = [moment for moment in _MOMENTS if moment not in parameter.states]
            if absent:
                log.add("universal-state-missing", f"{absent[0]}.pt is not there", place=parameter.name)
        for parameter in self.parameters:
            for state, size in parameter.sizes.items():
                if size == 0:
                    log.add("torch-empty", "the file is empty", place=parameter.states[state])
        return log.sealed()


def read_universal(tree: LocalTree, directory: str) -> UniversalCheckpoint | None:
    """The universal checkpoint in a tag directory ("" for the root), None where it has no ``zero/``."""
    prefix = f"{directory}/" if directory else ""
    found: dict[str, dict[str, str]] = {}
    sizes: dict[str, dict[str, int]] = {}
    models: list[str] = []
    leftover: list[str] = []
    optimizer_state: str | None = None
    for entry in tree.entries():
        if entry.kind != "file" or not entry.path.startswith(prefix):
            continue
        inside = entry.path[len(prefix) :]
        if inside == "zero/optimizer_state.pt":
            optimizer_state = entry.path
        elif inside.startswith("zero/") and (match := _STATE_FILE.fullmatch(entry.name)):
            name = inside[len("zero/") : -len(entry.name) - 1]
            if name:
                found.setdefault(name, {})[match[1]] = entry.path
                sizes.setdefault(name, {})[match[1]] = entry.size
        elif inside.startswith("tmp/"):
            leftover.append(entry.path)
        elif "/" not in inside and _MODEL_FILE.fullmatch(inside):
            models.append(entry.path)
    if not found and optimizer_state is None:
        return None
    parameters = tuple(UniversalParameter(name, found[name], sizes[name]) for name in sorted(found))
    return UniversalCheckpoint(tree, directory, parameters, optimizer_state, tuple(sorted(models)), tuple(leftover))


def read_universal_tensor(source: ByteSource) -> UniversalTensor:
    """One state file: a dictionary with the whole tensor under "param", or the bare tensor of ``step.pt``."""
    archive = open_torch(source)
    bare = archive.tensor(archive.value)
    tensor = bare or archive.tensor(get_path(archive.value, "param"))
    cat_dim = get_path(archive.value, "cat_dim")
    names = tuple(key for key, _ in entries(archive.value) if type(key) is str)
    return UniversalTensor(
        tensor,
        cat_dim if type(cat_dim) is int else None,
        get_path(archive.value, "vocab_tensor") is True,
        tuple(name for name in names if name not in ("param", "cat_dim", "vocab_tensor")),
        archive.faults,
        archive.byteorder == "big",
    )
