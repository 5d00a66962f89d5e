"""Which files of a path hold tensors: a file, a state's weight and optimizer files, distributed checkpoints."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_inspect.artifacts.fsdp import DcpDirectory, read_dcp_directory
from ckpt_inspect.artifacts.weights import read_weight_sets
from ckpt_inspect.knowledge import load
from ckpt_inspect.run import open_run
from ckpt_inspect.storage import LocalTree

if TYPE_CHECKING:
    from ckpt_inspect.run import Artifact, Run, StateDirectory

_ORDER = {"weights": 0, "adapter": 1, "resume": 2, "shards": 3}
_GROUPS = frozenset({"weights", "adapter", "shards"})
_KINDS = frozenset({"optimizer", "optimizer_bin", "fsdp_optimizer_rank"})
_UNKNOWN = frozenset({"torch_file", "safetensors_file", "pickle_file"})
_UNIVERSAL = re.compile(r"(?:.*/)?zero/(?P<name>.+)/(?P<state>[A-Za-z0-9_]+)\.pt")


@dataclass(slots=True)
class Places:
    """The files and distributed checkpoints of one path, in a tree, and why it is not the path itself (`note`).

    `quiet` are files that need not hold any tensor; `single` is set where the path is one file.
    """

    tree: LocalTree
    files: list[str] = field(default_factory=list)
    directories: list[DcpDirectory] = field(default_factory=list)
    quiet: set[str] = field(default_factory=set)
    single: bool = False
    note: str | None = None


def find_places(path: Path) -> Places:
    """Where the tensors of `path` lie.

    Raises:
        UnreadableError: the path cannot be read at all.
    """
    if path.name.endswith((".distcp", ".metadata")) and path.is_file():
        tree = LocalTree(path.parent)
        directory = read_dcp_directory(tree, "")
        if directory is not None:
            return Places(tree, directories=[directory], note=f"{path.name} is part of the checkpoint in its directory")
    if path.name.endswith(".json") and ".index" in path.name and path.is_file():
        tree = LocalTree(path.parent)
        for weights in read_weight_sets(tree, ""):
            if weights.index_path == path.name:
                return Places(tree, files=list(weights.files), note=f"the shards {path.name} names")
    run = open_run(path)
    if run.file is not None:
        return Places(run.tree, files=[run.file.path], single=True)
    return _of_run(run)


def _of_run(run: Run) -> Places:
    states: list[StateDirectory] = [run, *reversed(run.checkpoints)]
    for state in states:
        places = _of_state(state)
        if places.files or places.directories:
            if state is not run and state.path:
                places.note = f"from {state.path}, the newest checkpoint; the directory itself holds no tensors"
            return places
    return Places(run.tree)


def _of_state(state: StateDirectory) -> Places:
    places = Places(state.tree)
    distributed = sorted({item.parent for item in state.artifacts if item.name.endswith((".distcp", ".metadata"))})
    for parent in distributed:
        directory = read_dcp_directory(state.tree, parent)
        if directory is not None and directory.form == "pickle":
            places.directories.append(directory)
    for artifact in _candidates(state):
        places.files.append(artifact.path)
        if artifact.kind in _UNKNOWN:
            places.quiet.add(artifact.path)
    return places


def _candidates(state: StateDirectory) -> list[Artifact]:
    """The state's files that hold tensors: weights first, then optimizer states and shards."""
    rows = load("artifacts")["kind"]

    def listed(artifact: Artifact) -> bool:
        if artifact.name.endswith((".distcp", ".metadata")) or not artifact.bytes:
            return False
        if artifact.group in _GROUPS:
            return bool(rows.get(artifact.kind, {}).get("binary")) or artifact.name.endswith(".pt")
        return artifact.kind in _KINDS or artifact.kind in _UNKNOWN

    found = [artifact for artifact in state.artifacts if listed(artifact)]
    return sorted(found, key=lambda artifact: _ORDER.get(artifact.group, len(_ORDER)))


def universal_name(path: str, name: str) -> str | None:
    """The name of a tensor in a file of a DeepSpeed universal checkpoint: the parameter's, then the state's.

    None for files that are no part of one. ``zero/<parameter>/<state>.pt`` holds the tensor under "param".
    """
    match = _UNIVERSAL.fullmatch(path)
    if match is None:
        return None
    return f"{match['name']}/{match['state']}" if name in ("", "param") else f"{match['name']}/{match['state']}/{name}"
