"""The tensors of one or more paths as one listing, filtered and sorted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from ckpt_inspect.errors import NotAFormatError, PathNotFoundError
from ckpt_inspect.formats.collector import collector_paused
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.progress import NullProgress, Progress
from ckpt_inspect.storage import LocalFile, LocalTree
from ckpt_inspect.tensors.places import Places, find_places, universal_name
from ckpt_inspect.tensors.rows import TensorRow
from ckpt_inspect.tensors.sources import FileReader, FileTensors, read_distributed

SortKey: TypeAlias = Literal["place", "name", "size", "dtype", "shape", "file"]
SORT_KEYS: tuple[SortKey, ...] = get_args(SortKey)

_WILDCARD = re.compile(r"[*?\[]")
_DIGITS = re.compile(r"(\d+)")


class FileProblem(NamedTuple):
    """A fault of one of the files."""

    file: str
    fault: Fault


class ListedFile(NamedTuple):
    """A file that was read: its `format` and how many tensors it holds, whatever the filter."""

    path: str
    format: str
    tensors: int


@dataclass(frozen=True, slots=True)
class TensorListing:
    """The tensors of one or more paths; `note` says where they are from when that is not the path itself.

    Files are called by their path relative to the one given, or by the given path itself where several are.
    """

    paths: tuple[str, ...]
    rows: tuple[TensorRow, ...]
    files: tuple[ListedFile, ...]
    problems: tuple[FileProblem, ...]
    note: str | None = None
    places: Mapping[str, tuple[LocalTree, str]] = field(default_factory=dict, repr=False)

    @property
    def parameters(self) -> int:
        """Elements of all rows; rows that share their bytes (tied weights in a torch file) count once."""
        return self.totals()[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows; rows that share their bytes count once."""
        return self.totals()[1]

    def totals(self) -> tuple[int, int]:
        """`parameters` and `nbytes` in one pass."""
        parameters = nbytes = 0
        seen: set[tuple[str, int, tuple[int, ...]]] = set()
        may_share = {file.path for file in self.files if file.format != "safetensors"}
        for row in self.rows:
            if row.offset is not None and row.nbytes and row.file in may_share:
                place = (row.file, row.offset, row.shape)
                if place in seen:
                    continue
                seen.add(place)
            parameters += prod(row.shape)
            nbytes += row.nbytes
        return parameters, nbytes

    def open(self, file: str) -> LocalFile:
        """Open a file of the listing to read tensors from it.

        Raises:
            UnreadableError: it is gone or must not be opened.
        """
        if file not in self.places:
            raise PathNotFoundError("not a file of this listing", where=file)
        tree, path = self.places[file]
        return tree.open(path)


def list_tensors(
    paths: Sequence[str | Path],
    *,
    patterns: Sequence[str] = (),
    exclude: Sequence[str] = (),
    sort: SortKey = "place",
    reverse: bool = False,
    progress: Progress | None = None,
) -> TensorListing:
    """List the tensors of files and directories: weights, adapters, optimizers, ZeRO, universal and DCP shards.

    A directory lists its own state; a run whose root holds no tensors lists its newest checkpoint, and `note` says so.
    `patterns` are shell wildcards for whole names (one without a wildcard: any name that contains it), of which one
    must match and none of `exclude`. `sort` "place" is the order in the files; "size" puts the largest first.

    Raises:
        UnreadableError: a path cannot be read at all.
        NotAFormatError: a path is a single file of another format.
    """
    wanted = _matcher(patterns)
    unwanted = _matcher(exclude)
    watcher = progress if progress is not None else NullProgress()
    collected = _Collected()
    with collector_paused():
        for path in paths:
            collected.add(Path(path), alone=len(paths) == 1, progress=watcher)
        rows = collected.rows
        if wanted is not None:
            rows = [row for row in rows if wanted(row.name)]
        if unwanted is not None:
            rows = [row for row in rows if not unwanted(row.name)]
        rows = _sorted(rows, sort, reverse)
    return TensorListing(
        paths=tuple(str(path) for path in paths),
        rows=tuple(rows),
        files=tuple(collected.files),
        problems=tuple(collected.problems),
        note="; ".join(collected.notes) or None,
        places=collected.places,
    )


class _Collected:
    """What has been read so far."""

    def __init__(self) -> None:
        self.rows: list[TensorRow] = []
        self.files: list[ListedFile] = []
        self.problems: list[FileProblem] = []
        self.notes: list[str] = []
        self.places: dict[str, tuple[LocalTree, str]] = {}

    def add(self, path: Path, *, alone: bool, progress: Progress) -> None:
        places = find_places(path)
        if places.note:
            self.notes.append(places.note)
        prefix = "" if alone else f"{path}/" if not places.single else f"{path.parent}/" if path.parent.name else ""
        reader = FileReader(places.tree, prefix)
        progress.start(len(places.files) + len(places.directories), "files", "reading headers")
        try:
            for directory in places.directories:
                shown = prefix + (directory.path or ".")
                for shard in directory.files:
                    self.places[prefix + shard.path] = (places.tree, shard.path)
                self._take(shown, read_distributed(directory, prefix), quiet=False)
                progress.advance(1)
            for file in places.files:
                self._file(places, file, prefix, reader)
                progress.advance(1)
        finally:
            progress.finish()

    def _file(self, places: Places, file: str, prefix: str, reader: FileReader) -> None:
        shown = prefix + file
        found = reader.read(file)
        if places.single and not found.rows and found.format not in ("safetensors", "torch"):
            reason = found.faults[0].message if found.faults else f"a file of kind {found.format}"
            raise NotAFormatError(f"no tensors to list: {reason}", where=shown)
        self.places[shown] = (places.tree, file)
        if universal_name(file, "") is not None:
            rows = tuple(row._replace(name=universal_name(file, row.name) or row.name) for row in found.rows)
            found = FileTensors(found.format, rows, found.faults)
        self._take(shown, found, quiet=file in places.quiet)

    def _take(self, shown: str, found: FileTensors, *, quiet: bool) -> None:
        if quiet and not found.rows:
            return
        self.files.append(ListedFile(shown, found.format, len(found.rows)))
        self.problems.extend(FileProblem(shown, fault) for fault in found.faults)
        self.rows.extend(found.rows)


def _matcher(patterns: Sequence[str]) -> Any:
    """A function that says whether a name matches one of the patterns; None where there are none."""
    if not patterns:
        return None
    parts = [translate(text if _WILDCARD.search(text) else f"*{text}*") for text in patterns]
    return re.compile("|".join(f"(?:{part})" for part in parts)).match


def _sorted(rows: list[TensorRow], sort: SortKey, reverse: bool) -> list[TensorRow]:
    if sort == "place":
        return rows[::-1] if reverse else rows
    keys: dict[str, Any] = {
        "name": lambda row: _natural(row.name),
        "size": lambda row: -row.nbytes,
        "dtype": lambda row: row.dtype,
        "shape": lambda row: (len(row.shape), row.shape),
        "file": lambda row: _natural(row.file),
    }
    return sorted(rows, key=keys[sort], reverse=reverse)


def _natural(text: str) -> list[tuple[int, str]]:
    """A key that puts `layers.10` after `layers.2`."""
    return [(int(part), "") if part.isdecimal() and len(part) < 20 else (-1, part) for part in _DIGITS.split(text)]
