"""From the path a person gives to one tag directory: a run, a checkpoint, a tag directory or a file of it.

Nothing is guessed silently: what was chosen, and what was passed over, is said in `Selection.said`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ckpt_inspect.artifacts.zero_files import TagFiles
from ckpt_inspect.artifacts.zero_shards import read_zero_tag
from ckpt_inspect.consolidate.problems import Problem, note, refuse, warn
from ckpt_inspect.consolidate.tags import (
    Tag,
    check_tag,
    checkpoint_number,
    find_tags,
    read_latest,
)
from ckpt_inspect.errors import PathNotFoundError, UnreadableError, UsageError
from ckpt_inspect.printable import printable
from ckpt_inspect.storage import LocalTree

# Files whose presence makes the directory above a tag the checkpoint it belongs to.
_HOME_MARKS = (
    "latest",
    "latest_universal",
    "zero_to_fp32.py",
    "trainer_state.json",
    "config.json",
    "adapter_config.json",
)
_ZIP_END = b"PK\x05\x06"


@dataclass(frozen=True, slots=True)
class Selection:
    """The tag directory to consolidate.

    `tree` is rooted at the checkpoint directory, or above it where a run was given; `directory` is the tag in it,
    `home` the checkpoint directory in it. `said` are sentences to print, `problems` what `settle` gets first.
    """

    tree: LocalTree
    directory: str
    home: str
    tag: str
    files: TagFiles
    universal: bool
    said: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def where(self) -> str:
        """The checkpoint directory as a path to print."""
        return str(self.tree.root / self.home) if self.home else str(self.tree.root)


def select(path: str | os.PathLike[str], tag: str | None = None) -> Selection:
    """The tag directory `path` (and `tag`) stand for.

    Raises:
        PathNotFoundError, UnreadableError: there is no such directory.
        IncompleteCheckpointError: no tag can be chosen; the message says why and what there is.
    """
    root = Path(path)
    if root.is_file():
        root = root.parent
    if not os.path.lexists(root):
        raise PathNotFoundError("no such file or directory", where=str(path))
    tree = LocalTree(root)
    tags = find_tags(tree)
    itself = next((found for found in tags if found.directory == ""), None)
    own_latest = read_latest(tree, "")
    if own_latest is None:
        own_latest = read_latest(tree, "", "latest_universal")
    if itself is not None and not own_latest:
        return _tag_given(root, tree, itself, tag)
    if tag is not None:
        return _tag_named(tree, tags, tag)
    own = [found for found in tags if found.home == "" and found.directory]
    nested = [found for found in tags if found.home]
    if own_latest is None and not own:
        if nested:
            return _newest_nested(tree, nested)
        raise _nothing(tree).exception(str(root))
    chosen = _own(tree, own, own_latest, tags)
    newer = [found for found in nested if found.number > chosen.number]
    return _newest_nested(tree, newer, chosen) if newer else _selection(tree, chosen, (), own)


def _selection(
    tree: LocalTree, tag: Tag, said: Sequence[str], siblings: Sequence[Tag], problems: Sequence[Problem] = ()
) -> Selection:
    found = [*problems, *_siblings(tag, siblings)]
    return Selection(tree, tag.directory, tag.home, tag.name, tag.files, tag.universal, tuple(said), tuple(found))


def _siblings(tag: Tag, siblings: Sequence[Tag]) -> list[Problem]:
    """Z04 and Z08: other tags beside the chosen one."""
    others = [other for other in siblings if other.directory != tag.directory and not other.universal]
    newer = [other for other in others if other.number > tag.number >= 0]
    problems: list[Problem] = []
    if newer and not tag.universal:
        message = (
            f"{printable(tag.name)} is not the newest tag: {printable(newer[-1].name)} is here too; "
            f"give --tag {printable(newer[-1].name)} to use it"
        )
        problems.append(warn("Z04", message))
    if others:
        size = sum(other.nbytes for other in others)
        names = ", ".join(printable(other.name) for other in others[:4])
        problems.append(note("Z08", f"{len(others)} other tags lie beside it ({names}), {size} bytes"))
    return problems


def _tag_given(root: Path, tree: LocalTree, tag: Tag, named: str | None) -> Selection:
    """The path is a tag directory: find the checkpoint directory it belongs to, at most three levels up."""
    if named is not None and named.rstrip("/").rpartition("/")[2] != root.resolve().name:
        raise UsageError(f"--tag {printable(named)}: the path given is a tag directory itself", where=str(root))
    full = Path(os.path.abspath(root))
    for home in (full.parent, *full.parent.parents[:2]):
        if any((home / mark).is_file() for mark in _HOME_MARKS):
            relative = full.relative_to(home).as_posix()
            whole = LocalTree(home)
            tags = find_tags(whole)
            found = next((other for other in tags if other.directory == relative), None)
            if found is not None and found.home == "":
                problems = []
                latest = read_latest(whole, "")
                if latest and latest != relative and not tag.universal:
                    problems.append(note("Z04", f"latest names {printable(latest)}; {printable(relative)} was given"))
                return _selection(whole, found, (), (), problems)
    alone = Tag("", tag.files, "", tag.universal)
    return Selection(tree, "", "", full.name, alone.files, alone.universal, (), ())


def _tag_named(tree: LocalTree, tags: Sequence[Tag], name: str) -> Selection:
    wanted = name.strip().rstrip("/")
    problem = check_tag(wanted, "--tag", None)
    if problem:
        raise problem.exception(str(tree.root))
    matching = [found for found in tags if wanted in {found.name, found.directory}]
    exact = [found for found in matching if found.directory == wanted] or matching
    if len(exact) == 1:
        siblings = [found for found in tags if found.home == exact[0].home]
        return _selection(tree, exact[0], (), [s for s in siblings if s.number <= exact[0].number])
    if exact:
        places = ", ".join(printable(found.directory) for found in exact[:4])
        remedy = "give the checkpoint directory instead of the run"
        raise refuse("Z01", f"several tags are called {printable(wanted)}: {places}", remedy=remedy).exception(
            str(tree.root)
        )
    raise refuse("Z03", f"there is no tag {printable(wanted)}", remedy=_offer(tree, tags)).exception(str(tree.root))


def _own(tree: LocalTree, own: Sequence[Tag], latest: str | None, tags: Sequence[Tag]) -> Tag:
    """The tag of the directory given, by `latest` or because it is the only one."""
    where = str(tree.root)
    if latest is None:
        if len(own) == 1:
            return own[0]
        names = ", ".join(printable(tag.name) for tag in own[:6])
        message = f"there is no latest file and {len(own)} tags: {names}"
        raise refuse("Z01", message, remedy=_offer(tree, own)).exception(where)
    problem = check_tag(latest, "latest", "latest")
    if problem is not None:
        problem = refuse(problem.check, problem.message, file="latest", remedy=_offer(tree, own))
        raise problem.exception(where)
    wanted = latest.rstrip("/")
    for tag in tags:
        if tag.directory == wanted:
            return Tag(tag.directory, tag.files, "", tag.universal)
    entry = tree.get(wanted)
    if entry is not None and entry.kind == "directory":
        message = f"latest names {printable(wanted)}, which holds no DeepSpeed files"
    elif entry is not None and entry.problem is not None:
        message = f"latest names {printable(wanted)}, which is not followed: {entry.problem}"
    else:
        message = f"latest names {printable(wanted)}, which is not there"
    raise refuse("Z03", message, file="latest", remedy=_offer(tree, own)).exception(where)


def _offer(tree: LocalTree, tags: Sequence[Tag]) -> str:
    """What to type instead: the newest complete tag, else that there is none."""
    for tag in sorted(tags, key=lambda tag: tag.number, reverse=True):
        if incomplete(tree, tag) is None:
            return f"the newest complete tag is {printable(tag.name)}: give --tag {printable(tag.name)}"
    return "no complete tag is here" if tags else "no tag directory is here"


def incomplete(tree: LocalTree, tag: Tag) -> str | None:
    """Why a tag is not complete, by names, rank 0 and the last bytes of every file; None when it seems whole."""
    if tag.universal:
        return None
    facts = read_zero_tag(tree, tag.directory)
    if not facts.model_files:
        return "it has no model file"
    if facts.missing_ranks:
        count = len(facts.missing_ranks)
        return f"files of {count} rank{'' if count == 1 else 's'} are missing (first: rank {facts.missing_ranks[0]})"
    if facts.extra_ranks:
        return f"it has files of {len(facts.extra_ranks)} ranks too many"
    for file in (*facts.optim_files, *facts.model_files):
        if file.size == 0 or _cut_off(tree, file.path):
            return f"{printable(file.name)} is cut off"
    if facts.stage is None and facts.optimizer_class is None:
        return "rank 0 cannot be read"
    return None


def _cut_off(tree: LocalTree, path: str) -> bool:
    """Whether a file starts like a zip archive and does not end like one; torch writes no archive comment."""
    try:
        with tree.open(path) as file:
            head = file.read_at(0, 4)
            return head == b"PK\x03\x04" and file.read_at(file.size - 22, 4) != _ZIP_END
    except UnreadableError:
        return True


def _newest_nested(tree: LocalTree, nested: Sequence[Tag], fallback: Tag | None = None) -> Selection:
    """The newest complete checkpoint of a run, saying which it is and which newer ones were passed over."""
    homes: dict[str, list[Tag]] = {}
    for tag in nested:
        homes.setdefault(tag.home, []).append(tag)
    empty = [
        entry.path
        for entry in tree.entries()
        if entry.kind == "directory"
        and "/" not in entry.path
        and checkpoint_number(entry.path) is not None
        and entry.path not in homes
    ]
    order = sorted({*homes, *empty}, key=lambda home: _age(home, homes), reverse=True)
    passed: list[str] = []
    reasons: list[Problem] = []
    for home in order:
        if home not in homes:
            passed.append(f"{printable(home)} was passed over: it holds no DeepSpeed tag")
            continue
        try:
            chosen = _home_tag(tree, home, homes[home])
        except _PassedOverError as error:
            passed.append(f"{printable(home)} was passed over: {error}")
            continue
        reason = incomplete(tree, chosen)
        if reason is None:
            said = [f"using {printable(home)} ({printable(chosen.name)}), the newest complete checkpoint", *passed]
            return _selection(tree, chosen, said, homes[home])
        passed.append(f"{printable(home)} was passed over: {reason}")
        message = f"no checkpoint is complete; the newest, {printable(home)}: {reason}"
        remedy = f"copy what is missing into it, or give {printable(home)} itself to see all that is wrong with it"
        reasons.append(refuse("Z10", message, file=home, remedy=remedy))
    if fallback is not None:
        return _selection(tree, fallback, passed, ())
    message = "; ".join(passed[:4]) or "no checkpoint is here"
    problem = reasons[0] if reasons else refuse("Z01", message)
    raise problem.exception(str(tree.root))


def _age(home: str, homes: dict[str, list[Tag]]) -> tuple[int, str]:
    number = checkpoint_number(home)
    if number is None:
        number = max((tag.number for tag in homes.get(home, ())), default=-1)
    return number, home


class _PassedOverError(Exception):
    """A checkpoint of a run names no usable tag."""


def _home_tag(tree: LocalTree, home: str, tags: Sequence[Tag]) -> Tag:
    latest = read_latest(tree, home)
    if latest is None:
        if len(tags) == 1:
            return tags[0]
        raise _PassedOverError(f"it has no latest file and {len(tags)} tags")
    problem = check_tag(latest, "its latest", None)
    if problem is not None:
        raise _PassedOverError(problem.message)
    for tag in tags:
        if tag.name == latest.rstrip("/"):
            return tag
    raise _PassedOverError(f"its latest names {printable(latest)}, which is not there")


def _nothing(tree: LocalTree) -> Problem:
    """Z01 where there is no tag at all: say what is here instead."""
    entries = {entry.path for entry in tree.entries()}
    weights = sorted(
        path
        for path in entries
        if path.rpartition("/")[2] in {"model.safetensors", "pytorch_model.bin", "adapter_model.safetensors"}
    )
    if weights:
        remedy = f"{printable(weights[0])} already holds whole weights"
    else:
        remedy = "give a checkpoint directory, its run, or a directory with *_optim_states.pt files"
    return refuse("Z01", "no DeepSpeed checkpoint is here", remedy=remedy)
