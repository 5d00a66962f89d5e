"""From the path a person gives to one distributed checkpoint: a run, a checkpoint, its directory of shards or a file of it.

Layouts: accelerate and the Trainer keep ``pytorch_model_fsdp_0/`` and ``optimizer_0/`` in a checkpoint; torchtitan and
plain `torch.distributed.checkpoint.save` write the shards into the checkpoint itself (:mod:`ckpt_inspect.artifacts.fsdp`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ckpt_inspect.artifacts.fsdp import DcpDirectory, is_fsdp_name, read_dcp_directory
from ckpt_inspect.consolidate.problems import Problem, refuse
from ckpt_inspect.consolidate.sidecars import is_checkpoint_name
from ckpt_inspect.errors import CkptInspectError
from ckpt_inspect.knowledge import faults
from ckpt_inspect.printable import printable
from ckpt_inspect.storage import Entry, LocalTree

_HOME_MARKS = ("config.json", "adapter_config.json", "trainer_state.json", "tokenizer_config.json", "scheduler.pt")
_NUMBER = re.compile(r"(\d{1,12})(?!.*\d)")


@dataclass(frozen=True, slots=True)
class DcpSelection:
    """The directory of shards to consolidate, `home` the checkpoint directory it is of, both in `tree`.

    `said` are sentences to print; `beside` the other distributed checkpoints of the same home.
    """

    tree: LocalTree
    directory: DcpDirectory
    home: str
    beside: tuple[DcpDirectory, ...]
    said: tuple[str, ...]

    @property
    def where(self) -> str:
        """The checkpoint directory as a path to print."""
        return str(self.tree.root / self.home) if self.home else str(self.tree.root)

    @property
    def tag(self) -> str | None:
        """The directory of shards below the checkpoint; None where it is the checkpoint."""
        return (self.directory.path[len(self.home) :].lstrip("/") if self.home else self.directory.path) or None


def select_dcp(path: str | os.PathLike[str], tag: str | None = None) -> DcpSelection | None:
    """The distributed checkpoint `path` stands for, of a run the newest complete one; None where there is none.

    Args:
        path: a directory, or a file in it.
        tag: the name of the checkpoint, or of the directory of shards, where several are.

    Raises:
        UnreadableError: the directory cannot be listed.
        IncompleteCheckpointError: there are distributed checkpoints, and none is complete or none has the tag.
    """
    root = Path(path)
    if root.is_file():
        root = root.parent
    if not root.is_dir():
        return None
    tree = LocalTree(root)
    if read_dcp_directory(tree, "") is not None:
        above = _home_above(root)
        if above is not None:
            name = Path(os.path.abspath(root)).name
            found = [one for one in _directories(above) if one.path.rpartition("/")[0] == "" and one.path]
            chosen = next((one for one in found if one.path == name), None)
            if chosen is not None:
                return DcpSelection(above, chosen, "", tuple(one for one in found if one is not chosen), ())
    by_home: dict[str, list[DcpDirectory]] = {}
    for directory in _directories(tree):
        by_home.setdefault(_home_of(directory), []).append(directory)
    if tag is not None:
        by_home = _tagged(by_home, tag.strip().rstrip("/"))
    if not by_home:
        return None
    if "" in by_home:
        return _selection(tree, "", by_home[""], ())
    return _newest(tree, by_home)


def newest_number(tree: LocalTree) -> int:
    """The highest number of a checkpoint of the tree that is a distributed one; -1 where none has a number."""
    return max((_number(_home_of(directory)) for directory in _directories(tree)), default=-1)


def incomplete(directory: DcpDirectory) -> str | None:
    """Why a distributed checkpoint cannot be used, by its metadata and its files' sizes; None when it seems whole."""
    table = faults()
    for fault in directory.faults:
        if table.get(fault.kind, {}).get("severity") == "error":
            place = f"{printable(fault.place)}: " if fault.place else ""
            return f"{place}{printable(fault.message, 200)}"
    return None


def _directories(tree: LocalTree) -> list[DcpDirectory]:
    children: dict[str, list[Entry]] = {}
    for entry in tree.entries():
        if entry.kind == "file":
            children.setdefault(entry.parent, []).append(entry)
    found = [read_dcp_directory(tree, parent, entries) for parent, entries in sorted(children.items())]
    return [directory for directory in found if directory is not None]


def _home_of(directory: DcpDirectory) -> str:
    """A directory that is called as a part of a checkpoint belongs to the one above it."""
    parent, _, name = directory.path.rpartition("/")
    return parent if is_fsdp_name(name) else directory.path


def _home_above(root: Path) -> LocalTree | None:
    """The directory above one of shards, where that is the checkpoint."""
    full = Path(os.path.abspath(root))
    if not is_fsdp_name(full.name):
        return None
    parent = full.parent
    beside = any((parent / name).is_dir() for name in ("pytorch_model_fsdp_0", "optimizer_0") if name != full.name)
    if beside or is_checkpoint_name(parent.name) or any((parent / mark).is_file() for mark in _HOME_MARKS):
        try:
            return LocalTree(parent)
        except CkptInspectError:  # not readable: the shards alone have to do
            return None
    return None


def _tagged(by_home: dict[str, list[DcpDirectory]], tag: str) -> dict[str, list[DcpDirectory]]:
    homes = {home: found for home, found in by_home.items() if home and tag in (home, home.rpartition("/")[2])}
    if homes:
        return homes
    return {
        home: same
        for home, found in by_home.items()
        if (same := [one for one in found if tag in (one.path, one.path.rpartition("/")[2])])
    }


def _selection(
    tree: LocalTree, home: str, directories: Sequence[DcpDirectory], said: Sequence[str]
) -> DcpSelection | None:
    """The model's directory of one home, the optimizer's where there is no other."""
    order = sorted(directories, key=lambda one: (one.role == "optimizer", one.path))
    chosen, beside = order[0], tuple(order[1:])
    models = [one for one in order if one.role != "optimizer"]
    if len(models) > 1:
        names = ", ".join(printable(one.path) for one in models[1:4])
        said = [*said, f"{printable(chosen.path or '.')} is used; {names} beside it can be given instead"]
    return DcpSelection(tree, chosen, home, beside, tuple(said))


def _newest(tree: LocalTree, by_home: dict[str, list[DcpDirectory]]) -> DcpSelection | None:
    passed: list[str] = []
    first: Problem | None = None
    for home in sorted(by_home, key=lambda home: (_number(home), home), reverse=True):
        selection = _selection(tree, home, by_home[home], ())
        if selection is None:
            continue
        chosen = selection.directory
        reason = "it has optimizer shards only" if chosen.role == "optimizer" else incomplete(chosen)
        if reason is None:
            shards = f" ({printable(selection.tag)})" if selection.tag else ""
            said = [f"using {printable(home)}{shards}, the newest complete checkpoint", *passed, *selection.said]
            return DcpSelection(tree, chosen, home, selection.beside, tuple(said))
        passed.append(f"{printable(home)} was passed over: {reason}")
        if first is None:
            message = f"no checkpoint is complete; the newest, {printable(home)}: {reason}"
            first = refuse("Z48", message, remedy="take it from where it was written, or train from an earlier one")
    if first is not None:
        raise first.exception(str(tree.root))
    return None


def _number(home: str) -> int:
    match = _NUMBER.search(home.rpartition("/")[2])
    return int(match[1]) if match else -1
