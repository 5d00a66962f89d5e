"""A path becomes a :class:`Run`: a run's directory, a checkpoint, a tag, an adapter, a model, a cache entry or one file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_inspect.artifacts.hub_cache import HubCache, find_hub_cache
from ckpt_inspect.errors import PathNotFoundError, UnreadableError
from ckpt_inspect.memo import Memo
from ckpt_inspect.run.classify import Artifact, Classifier, directory_role
from ckpt_inspect.run.layout import (
    Layout,
    NestedRun,
    RunKind,
    StateForm,
    StatePlace,
    directories_of,
    natural,
    read_layout,
    sorted_tags,
    step_of,
)
from ckpt_inspect.run.producers import Producer, find_producers
from ckpt_inspect.run.reading import fact
from ckpt_inspect.run.state import StateDirectory
from ckpt_inspect.storage import Entry, LocalTree

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.latest_tag import LatestTag
    from ckpt_inspect.artifacts.trainer_state import TrainerState


@dataclass(eq=False)
class Checkpoint(StateDirectory):
    """One saved state of a run.

    Attributes:
        form: by which convention its directory is one.
        named_step: the step its name states.
        holder: for a DeepSpeed tag that is a state of its own, the directory that holds it and `latest`.
    """

    form: StateForm = "checkpoint"
    named_step: int | None = None
    holder: str | None = None

    @fact
    def latest(self) -> LatestTag | None:
        """The file `latest`, which lies beside a tag directory."""
        place = self.path if self.holder is None else self.holder
        path = f"{place}/latest".lstrip("/")
        if self.tree.get(path) is None:
            return None
        from ckpt_inspect.artifacts.latest_tag import read_latest_tag

        return self._read(path, read_latest_tag)

    @property
    def step(self) -> int | None:
        """The step in the directory's name, else the one its trainer_state.json or its DeepSpeed shards state."""
        if self.named_step is not None:
            return self.named_step
        if self.trainer_state is not None and self.trainer_state.global_step is not None:
            return self.trainer_state.global_step
        return self.zero.global_steps if self.tags and self.zero is not None else None


@dataclass(eq=False)
class Run(StateDirectory):
    """What a path holds. It is a state itself (its root's own files) and has checkpoints.

    A checkpoint or tag directory opened by its own path is its own only checkpoint (path ""), with the same facts:
    iterate :attr:`states` to meet each directory once.

    Attributes:
        kind: "run", "checkpoint", "adapter", "model", "zero" or "file".
        target: the path as the caller gave it.
        checkpoints: by step; those whose save was cut off (`tmp-checkpoint-N`) included.
        nested: other runs, adapters and models below this directory, not read here.
        all_artifacts: every file below the path, those of checkpoints and nested runs included, in path order.
        hub: the Hugging Face cache entry the path lies in.
        file: the one artifact when `kind` is "file".
        roles: roles of all directories (``[directory.*]`` of the artifacts table).
    """

    kind: RunKind = "run"
    target: Path = field(default_factory=Path)
    checkpoints: tuple[Checkpoint, ...] = ()
    nested: tuple[NestedRun, ...] = ()
    all_artifacts: tuple[Artifact, ...] = ()
    hub: HubCache | None = None
    file: Artifact | None = None
    empty_directories: tuple[str, ...] = ()
    roles: frozenset[str] = frozenset()

    def __fspath__(self) -> str:
        return str(self.target)

    @property
    def states(self) -> tuple[StateDirectory, ...]:
        """The root and every checkpoint, each directory once."""
        return (self, *(checkpoint for checkpoint in self.checkpoints if checkpoint.path))

    @property
    def is_collection(self) -> bool:
        """Whether it is only a directory of other runs."""
        return (
            bool(self.nested)
            and not self.checkpoints
            and all(
                artifact.path.startswith(tuple(f"{item.path}/" for item in self.nested))
                or not artifact.needed_for
                or artifact.kind in ("unknown", "model_card", "repository_file")
                for artifact in self.all_artifacts
            )
        )

    @property
    def newest_trainer_state(self) -> tuple[TrainerState, str] | None:
        """The trainer state that tells most, and its path: the root's, else that of the highest checkpoint with one."""
        for state in (self, *sorted(self.checkpoints, key=lambda item: item.named_step or -1, reverse=True)):
            facts = state.trainer_state
            if facts is not None and (facts.log_history or facts.global_step is not None):
                return facts, f"{state.path}/trainer_state.json".lstrip("/")
        return None

    @fact
    def producers(self) -> tuple[Producer, ...]:
        """What wrote the directory, the surest first, with version and evidence."""
        return find_producers(self)

    @property
    def transformers_version(self) -> str | None:
        """The transformers release a file names, None where none does."""
        return next((producer.version for producer in self.producers if producer.name == "transformers"), None)

    @property
    def unknown(self) -> tuple[Artifact, ...]:
        """Files of no known kind."""
        return tuple(artifact for artifact in self.all_artifacts if artifact.kind == "unknown")


def open_run(path: str | os.PathLike[str], *, memo: Memo | None = None) -> Run:
    """Find out what is at `path`, reading names and a few first bytes only; artifacts are read on first use.

    Args:
        path: a run, a checkpoint, an adapter or model directory, or one file.
        memo: shared with other runs, spares reading again the small files they have in common.

    Raises:
        PathNotFoundError: there is nothing at the path.
        UnreadableError: it is neither a directory nor a regular file, or cannot be listed.
    """
    target = Path(path)
    try:
        if target.is_file():
            return _open_file(target)
        if not target.is_dir():
            if not os.path.lexists(target):
                raise PathNotFoundError("no such file or directory", where=str(target))
            raise UnreadableError("neither a directory nor a regular file", where=str(target))
    except (OSError, ValueError) as error:
        raise UnreadableError(f"cannot read: {getattr(error, 'strerror', None) or error}", where=str(target)) from error
    hub = find_hub_cache(target)
    root = hub.snapshot if hub is not None and hub.snapshot is not None else target
    tree = LocalTree(root, memo=memo)
    entries = tree.entries()
    if entries and entries[0].kind == "unreadable" and entries[0].path == "":
        raise UnreadableError(entries[0].problem or "cannot list", where=str(target))
    return _assemble(tree, entries, target, hub)


def _assemble(tree: LocalTree, entries: Sequence[Entry], target: Path, hub: HubCache | None) -> Run:
    real = tree.root.resolve()
    classifier = Classifier(tree, str(real))
    artifacts = tuple(classifier.classify(entry) for entry in entries if entry.kind != "directory")
    directories = directories_of(entries, artifacts, real.name)
    layout = read_layout(directories)
    by_state: dict[str, list[Artifact]] = {}
    for artifact in artifacts:
        by_state.setdefault(layout.owner[artifact.parent], []).append(artifact)
    run = Run(
        tree,
        "",
        tuple(by_state.get("", ())),
        directories=tuple(path for path, owner in layout.owner.items() if path and owner == ""),
        tags=_tags(layout, ""),
        adapters=_adapters(layout, ""),
        kind=layout.kind,
        target=target,
        nested=layout.nested,
        all_artifacts=artifacts,
        hub=hub,
        empty_directories=tuple(
            path for path, directory in directories.items() if path and not directory.files and not directory.children
        ),
        roles=frozenset(role for directory in directories.values() if (role := directory_role(directory.name))),
    )
    run.checkpoints = tuple(_checkpoint(run, layout, place, by_state) for place in _places(layout, real.name, run))
    return run


def _places(layout: Layout, root_name: str, run: Run) -> Iterator[StatePlace]:
    """The saved states; a directory that is one by itself comes as the place ""."""
    is_tag = layout.kind == "zero" and not layout.states
    if layout.kind == "checkpoint" or is_tag:
        if is_tag and not run.tags:
            run.tags = ("",)
        yield StatePlace("", "tag" if is_tag else "checkpoint", step_of(root_name))
    yield from layout.states


def _checkpoint(run: Run, layout: Layout, place: StatePlace, by_state: Mapping[str, Sequence[Artifact]]) -> Checkpoint:
    own = place.path == ""
    return Checkpoint(
        run.tree,
        place.path,
        run.artifacts if own else tuple(by_state.get(place.path, ())),
        directories=run.directories
        if own
        else tuple(path for path, owner in layout.owner.items() if owner == place.path and path != place.path),
        tags=run.tags if own else ((place.path,) if place.form == "tag" else _tags(layout, place.path)),
        adapters=run.adapters if own else _adapters(layout, place.path),
        memo=run.memo if own else {},
        read_faults=run.read_faults if own else [],
        form=place.form,
        named_step=place.step,
        holder=layout.tags.get(place.path) if place.form == "tag" else None,
    )


def _tags(layout: Layout, holder: str) -> tuple[str, ...]:
    return sorted_tags([tag for tag, state in layout.tags.items() if state == holder])


def _adapters(layout: Layout, state: str) -> dict[str, str]:
    found = sorted((path for path, owner in layout.adapters.items() if owner == state), key=natural)
    return {path[len(state) :].lstrip("/"): path for path in found}


def _open_file(target: Path) -> Run:
    """One file: a tree of its directory that holds nothing else."""
    tree = _OneFileTree(target)
    entry = tree.entries()[0]
    artifact = Classifier(tree, str(target.resolve().parent)).classify(entry)
    return Run(tree, "", (artifact,), kind="file", target=target, all_artifacts=(artifact,), file=artifact)


class _OneFileTree(LocalTree):
    """The listing of a directory as if it held a single file: naming a file inspects that file only."""

    def __init__(self, target: Path) -> None:
        self.root = target.parent
        self._memo = Memo()
        self.truncated = False
        try:
            status = os.stat(target)
        except OSError as error:
            raise UnreadableError(f"cannot read: {error.strerror}", where=str(target)) from error
        entry = Entry(target.name, "file", status.st_size, status.st_mtime_ns)
        self._entries = (entry,)
        self._by_path = {entry.path: entry}
