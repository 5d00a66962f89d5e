"""The files of one saved state and how they are read: on first use, each on its own, a broken one hiding no other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar, overload

from ckpt_inspect.errors import CkptInspectError, log_failure
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.run.classify import Artifact
from ckpt_inspect.storage import ByteSource, LocalTree

T = TypeVar("T")


class fact(Generic[T]):  # noqa: N801  # used as a decorator, like property
    """A property worked out once and kept in the state's memo, which a run shares with its checkpoint of the same path."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function = function
        self._name = function.__name__
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> fact[T]: ...
    @overload
    def __get__(self, instance: StateFiles, owner: type) -> T: ...
    def __get__(self, instance: StateFiles | None, owner: type) -> fact[T] | T:
        if instance is None:
            return self
        memo = instance.memo
        if self._name not in memo:
            memo[self._name] = self._function(instance)
        value: T = memo[self._name]
        return value


@dataclass(eq=False)
class StateFiles:
    """The files of a directory that holds one state; wherever a path is asked for, it can be given itself.

    Attributes:
        tree: the whole listing it belongs to.
        path: relative to the tree's root, "" for the root.
        artifacts: its own files, those in its sub-directories included, those of nested checkpoints and runs not.
        directories: its own sub-directories.
        tags: the DeepSpeed tag directories it holds, relative to the tree's root, in natural order.
        adapters: directories of named adapters, by name.
        read_faults: (path, fault) of every file no facts could be made from.
    """

    tree: LocalTree
    path: str
    artifacts: tuple[Artifact, ...]
    directories: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    adapters: Mapping[str, str] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict, repr=False)
    read_faults: list[tuple[str, Fault]] = field(default_factory=list, repr=False)

    def __fspath__(self) -> str:
        return os.path.join(self.tree.root, self.path) if self.path else str(self.tree.root)

    @property
    def name(self) -> str:
        """The directory's own name; the real one for the root."""
        return self.path.rpartition("/")[2] or self.tree.root.resolve().name

    @cached_property
    def own(self) -> Mapping[str, tuple[Artifact, ...]]:
        """Artifacts that lie directly in the directory, by kind; copies under other names are left out."""
        found: dict[str, list[Artifact]] = {}
        for artifact in self.artifacts:
            if artifact.exact and artifact.parent == self.path:
                found.setdefault(artifact.kind, []).append(artifact)
        return {kind: tuple(items) for kind, items in found.items()}

    def find(self, *kinds: str) -> Artifact | None:
        """The first artifact of one of `kinds` that lies directly in the directory."""
        for kind in kinds:
            if kind in self.own:
                return self.own[kind][0]
        return None

    def has(self, *kinds: str) -> bool:
        """Whether an artifact of one of `kinds` lies directly in the directory."""
        return self.find(*kinds) is not None

    @property
    def bytes(self) -> int:
        """Size of everything in it, in bytes."""
        return sum(artifact.bytes for artifact in self.artifacts)

    # ------------------------------------------------------------- how a file is read

    def text_of(self, kind: str, limit: int) -> str:
        """The first `limit` bytes of a text artifact, '' where there is none."""
        data = self._one(lambda source: source.read_at(0, limit), kind)
        return data.decode("utf-8", "replace") if data else ""

    def json_of(self, kind: str) -> Any:
        """The value of a JSON artifact as it stands, None where there is none."""
        from ckpt_inspect.formats.json_document import read_json

        document = self._one(read_json, kind)
        return None if document is None else document.value

    def _one(self, reader: Callable[[ByteSource], T], *kinds: str) -> T | None:
        artifact = self.find(*kinds)
        return None if artifact is None else self._read(artifact.path, reader)

    def _every(self, reader: Callable[[ByteSource], T], kind: str) -> tuple[tuple[str, T], ...]:
        found = ((item.path, self._read(item.path, reader)) for item in self.artifacts if item.kind == kind)
        return tuple((path, facts) for path, facts in found if facts is not None)

    def _read(self, path: str, reader: Callable[[ByteSource], T]) -> T | None:
        def read() -> T:
            with self.tree.open(path) as source:
                return reader(source)

        return self._guarded(path, read)

    def _guarded(self, path: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except CkptInspectError as error:
            self.read_faults.append((path, Fault("unreadable", error.what, place=path)))
        except Exception as error:  # noqa: BLE001  # a mistake of ours in one reader must not hide the other files
            message = f"the reader failed ({type(error).__name__}); please report this file"
            self.read_faults.append((path, Fault("reader-failed", message, place=path)))
            log_failure(__name__, message)
        return None
