"""Which artifact a file is: by name and place (``knowledge/artifacts.toml``), by first bytes where a name is not enough."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from ckpt_inspect import knowledge
from ckpt_inspect.errors import CkptInspectError
from ckpt_inspect.formats.sniff import sniff
from ckpt_inspect.storage import Entry, LocalTree

Need = Literal["inference", "resume", "consolidate", "record"]

_DIGITS = str.maketrans("123456789", "000000000")
_COPY = re.compile(r"(.+?) ?\(\d+\)(\.[A-Za-z0-9]+)$")  # "optimizer (8).pt": a browser's second download
_POINTER_LIMIT = 1024  # the git-LFS specification: a pointer is less than 1024 bytes
_TINY = 4096
_BY_MAGIC = {
    "safetensors": "safetensors_file",
    "zip": "torch_file",
    "legacy-torch": "torch_file",
    "pickle": "pickle_file",
}
_SNIFFED_SUFFIXES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".safetensors", ".th", ".ptl")


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file below the run: what it is, what for, and how large (bytes).

    `path` is relative to the run's root. `exact` is False for a copy under another name ("optimizer (8).pt"), which
    no library would load. `detail` says more than the kind's purpose (what a git-LFS pointer stands for).
    """

    kind: str
    path: str
    bytes: int
    purpose: str
    needed_for: tuple[Need, ...]
    group: str
    exact: bool = True
    detail: str | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The directory's path, '' for the root."""
        return self.path.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table."""

    id: str
    purpose: str
    needed_for: tuple[Need, ...]
    group: str
    binary: bool
    state: bool
    source: str


@dataclass(frozen=True, slots=True)
class _Rule:
    kind: str
    pattern: re.Pattern[str] | None
    within: re.Pattern[str] | None


@dataclass(frozen=True, slots=True)
class _Table:
    kinds: Mapping[str, Kind]
    exact: Mapping[str, tuple[_Rule, ...]]
    placed: tuple[_Rule, ...]
    shaped: Mapping[str, tuple[tuple[str, str], ...]]


@cache
def kinds() -> Mapping[str, Kind]:
    """Every artifact kind by id, in the order of the table."""
    return _table().kinds


@cache
def groups() -> tuple[tuple[str, str], ...]:
    """(id, title) of every display group, in order."""
    return tuple((row["id"], row["title"]) for row in knowledge.load("artifacts")["group"])


@cache
def _table() -> _Table:
    rows: Mapping[str, Mapping[str, Any]] = knowledge.load("artifacts")["kind"]
    found: dict[str, Kind] = {}
    exact: dict[str, list[_Rule]] = {}
    placed: list[_Rule] = []
    shaped: dict[str, list[tuple[str, str]]] = {}
    for id_, row in rows.items():
        found[id_] = Kind(
            id_,
            row["purpose"],
            tuple(row["needed_for"]),
            row["group"],
            row.get("binary", False),
            row.get("state", False),
            row["source"],
        )
        within = re.compile(row["within"]) if "within" in row else None
        for name in row.get("names", ()):
            exact.setdefault(name, []).append(_Rule(id_, None, within))
        for pattern in row.get("patterns", ()):
            if within is not None:
                placed.append(_Rule(id_, re.compile(pattern), within))
            else:
                for alternative in _alternatives(pattern):
                    for suffix in _suffixes(alternative):
                        shaped.setdefault(suffix, []).append((alternative, id_))
    return _Table(
        found,
        # a row that names a place is preferred to one that does not
        {name: tuple(sorted(rules, key=lambda rule: rule.within is None)) for name, rules in exact.items()},
        tuple(placed),
        {suffix: tuple(pairs) for suffix, pairs in shaped.items()},
    )


def _alternatives(pattern: str) -> Iterator[str]:
    """The alternatives of a pattern at its top level."""
    start = depth = 0
    for index, character in enumerate(pattern):
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            yield pattern[start:index]
            start = index + 1
    yield pattern[start:]


def _suffixes(pattern: str) -> tuple[str, ...]:
    """What names that match can end in: ("pt",), ("txt", "csv"), or ("",) where the pattern leaves it open."""
    match = re.search(r"\\\.(?:([A-Za-z0-9]+)|\(([A-Za-z0-9|]+)\))$", pattern)
    return tuple((match.group(1) or match.group(2)).split("|")) if match else ("",)


@cache
def _matcher(suffix: str) -> Callable[[str], str | None]:
    """Finds the kind of a name that ends in `suffix`; compiled when the first such name is met."""
    table = _table().shaped
    pairs = (*table.get(suffix, ()), *(table.get("", ()) if suffix else ()))
    pattern = re.compile("|".join(f"(?P<k{index}>{text})" for index, (text, _) in enumerate(pairs)))

    def kind_of(name: str) -> str | None:
        match = pattern.fullmatch(name) if pairs else None
        return pairs[int((match.lastgroup or "k0")[1:])][1] if match else None

    return kind_of


class Classifier:
    """Names artifacts of one tree. Remembers what it saw, so 100,000 files of a few shapes cost little.

    `context` is the path of the root itself: its last directories decide for a tree opened inside a checkpoint.
    """

    def __init__(self, tree: LocalTree | None = None, context: str = "") -> None:
        self._tree = tree
        self._context = "/".join(part for part in context.replace("\\", "/").split("/")[-4:] if part)
        self._places: dict[str, tuple[_Rule, ...]] = {}
        self._shapes: dict[tuple[str, str], str] = {}

    def kind_by_name(self, path: str) -> tuple[str, bool]:
        """The kind a path has by its name and place alone, and whether the name is the one libraries use."""
        parent, _, name = path.rpartition("/")
        kind = self._by_name(parent, name)
        if kind == "unknown":
            copy = _COPY.fullmatch(name)
            if copy is not None:
                kind = self._by_name(parent, copy.group(1) + copy.group(2))
                return kind, kind == "unknown"
        return kind, True

    def classify(self, entry: Entry) -> Artifact:
        """The artifact of one entry that is not a directory."""
        if entry.kind == "file":
            kind, exact = self.kind_by_name(entry.path)
            if self._tree is not None and _is_ambiguous(kind, entry):
                return _by_content(self._tree, entry, kind, exact)
            return make(kind, entry.path, entry.size, exact=exact)
        kind = {"link": "broken_link", "special": "special_file"}.get(entry.kind, "unreadable")
        return make(kind, entry.path, entry.size, detail=entry.problem)

    def _by_name(self, parent: str, name: str) -> str:
        table = _table()
        place = f"{self._context}/{parent}/" if parent else f"{self._context}/"
        for rule in table.exact.get(name, ()):
            if rule.within is None or rule.within.search(place):
                return rule.kind
        rules = self._places.get(parent)
        if rules is None:
            rules = tuple(rule for rule in table.placed if rule.within is not None and rule.within.search(place))
            self._places[parent] = rules
        for rule in rules:
            if rule.pattern is not None and rule.pattern.fullmatch(name):
                return rule.kind
        suffix = name.rpartition(".")[2] if "." in name else ""
        shape = (suffix, name.translate(_DIGITS))
        known = self._shapes.get(shape)
        if known is None:
            known = _matcher(suffix)(name) or "unknown"
            self._shapes[shape] = known
        return known


def _is_ambiguous(kind: str, entry: Entry) -> bool:
    if kind == "unknown":
        return entry.name.endswith(_SNIFFED_SUFFIXES) or 0 < entry.size < _POINTER_LIMIT
    # lock files and the like are empty by nature; a config may be an LFS pointer too
    return 0 < entry.size < (_TINY if _table().kinds[kind].binary else _POINTER_LIMIT)


def _by_content(tree: LocalTree, entry: Entry, kind: str, exact: bool) -> Artifact:
    try:
        with tree.open(entry.path) as source:
            head = source.read_at(0, _POINTER_LIMIT)
            magic = sniff(source)
    except CkptInspectError:
        return make(kind, entry.path, entry.size, exact=exact)
    pointer = lfs_pointer_size(head) if entry.size < _POINTER_LIMIT else None
    if pointer is not None:
        return make("lfs_pointer", entry.path, entry.size, detail=f"stands for {pointer} bytes")
    if magic == "html" and (entry.name.endswith(_SNIFFED_SUFFIXES) or _table().kinds[kind].binary):
        return make("error_page", entry.path, entry.size)
    if kind == "unknown" and entry.name.endswith(_SNIFFED_SUFFIXES) and magic in _BY_MAGIC:
        return make(_BY_MAGIC[magic], entry.path, entry.size)
    return make(kind, entry.path, entry.size, exact=exact)


def make(kind: str, path: str, size: int, *, exact: bool = True, detail: str | None = None) -> Artifact:
    """An artifact of a known kind with its row's purpose."""
    row = _table().kinds[kind]
    # a copy under another name is found by no library: it is a record of the run, not a part of it
    needed: tuple[Need, ...] = row.needed_for if exact else ("record",)
    return Artifact(kind, path, size, row.purpose, needed, row.group, exact, detail)


def lfs_pointer_size(head: bytes) -> int | None:
    """Bytes of the object a git-LFS pointer stands for, None if `head` is no pointer (git-lfs specification 1)."""
    if not head.startswith(b"version https://git-lfs.github.com/spec/v1") and not head.startswith(
        b"version https://hawser.github.com/spec/v1"
    ):
        return None
    match = re.search(rb"\nsize (\d{1,18})\s*(?:\n|$)", head)
    return int(match.group(1)) if match else 0


@cache
def directory_roles() -> tuple[tuple[str, re.Pattern[str], Mapping[str, Any]], ...]:
    """(id, pattern of the directory's name, row) in the order of the table."""
    rows = knowledge.load("artifacts")["directory"]
    return tuple((id_, re.compile(row["pattern"]), row) for id_, row in rows.items())


def directory_role(name: str) -> str | None:
    """The role a directory's name gives it, None if it says nothing."""
    for id_, pattern, _ in directory_roles():
        if pattern.fullmatch(name):
            return id_
    return None
