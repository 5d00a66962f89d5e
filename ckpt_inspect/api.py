"""The verbs as functions. Each takes a path or an opened :class:`~ckpt_inspect.run.Run`, which is a path too.

`show` and `args` give the documents the command line prints as JSON; the others give the objects those are made from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckpt_inspect.explain.answer import Answer
    from ckpt_inspect.progress import Progress
    from ckpt_inspect.rules.checked import CheckedRun
    from ckpt_inspect.run import Run
    from ckpt_inspect.scan import ScanReport
    from ckpt_inspect.tensors import SortKey, TensorListing

StrPath = str | os.PathLike[str]


def show(path: StrPath, *, base: StrPath | None = None) -> dict[str, Any]:
    """What is at `path` and how the run went: the document of ``ckpt-inspect show --json``.

    Args:
        path: a run, checkpoint, tag directory, adapter, model or single file.
        base: the base model's directory, where the run does not lead to it.

    Raises:
        UnreadableError: the path cannot be read at all.
    """
    from ckpt_inspect.report.json_text import jsonable
    from ckpt_inspect.report.show_document import show_document

    document: dict[str, Any] = jsonable(show_document(_opened(path), base=_path(base)))
    return document


def args(path: StrPath, *, diff: StrPath | None = None) -> dict[str, Any]:
    """Every training argument: the document of ``ckpt-inspect args --json``.

    Args:
        path: a run or checkpoint, or its ``training_args.bin``.
        diff: another one; the document then says what differs.

    Raises:
        NotAFormatError: there are no training arguments at `path`.
        UnreadableError: the path cannot be read at all.
    """
    from ckpt_inspect.report.args_document import args_document
    from ckpt_inspect.report.json_text import jsonable

    document: dict[str, Any] = jsonable(args_document(_opened(path), _opened(diff) if diff is not None else None))
    return document


def explain(path: StrPath, *topics: str, base: StrPath | None = None, deep: bool = False) -> dict[str, Answer]:
    """Answers with their arithmetic, by topic; a topic that does not apply is left out.

    Args:
        path: a run, checkpoint, tag directory, adapter, model or single file.
        topics: of "loss", "schedule", "batches", "evaluation", "tokens", "adapter", "resume" and "space"; all if none.
        base: the base model's directory, where the run does not lead to it.
        deep: read weights and whole files, where a topic can tell more from them.

    Raises:
        UsageError: no such topic.
        UnreadableError: the path cannot be read at all.
    """
    from ckpt_inspect.errors import UsageError
    from ckpt_inspect.report.explain_document import NAMES, explain_topics

    for topic in topics:
        if topic not in NAMES:
            raise UsageError(f"{topic!r} is no topic", remedy=f"the topics are {', '.join(NAMES)}")
    found = explain_topics(_opened(path), topics, base=_path(base), deep=deep)
    return {item.topic.name: item.answer for item in found if item.answer is not None}


def check(
    path: StrPath,
    *,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    severity: Mapping[str, str] | None = None,
    deep: bool = False,
    expect: Iterable[str] = (),
    contract: StrPath | None = None,
    baseline: StrPath | None = None,
    base: StrPath | None = None,
    progress: Progress | None = None,
) -> CheckedRun:
    """What is wrong at `path`: findings, worst first, and the expectations held to it. No settings file is read.

    Args:
        path: a run, checkpoint, tag directory, adapter, model or single file.
        select: only these rules: codes, prefixes ("CKP4") or names.
        ignore: not these rules.
        severity: another level for a rule: {"CKP343": "error"}; "off" leaves it out.
        deep: read weights too.
        expect: expressions over the document of `show`: "loss.final < 2.0".
        contract: a contract file to hold the run to.
        baseline: a file that lists known findings, which are left out.
        base: the base model's directory, where the run does not lead to it.
        progress: told of rules and files done.

    Raises:
        UsageError: no such rule, level or name in an expression; a contract or baseline that cannot be understood.
        UnreadableError: the path cannot be read at all.
    """
    from ckpt_inspect.report.show_document import show_document
    from ckpt_inspect.rules.baseline import read_baseline
    from ckpt_inspect.rules.check import Options, check_run
    from ckpt_inspect.rules.contract import read_contract
    from ckpt_inspect.rules.expect import parse_expectation

    options = Options(
        select=tuple(select),
        ignore=tuple(ignore),
        severity=dict(severity or {}),
        deep=deep,
        expect=tuple(parse_expectation(text) for text in expect),
        known=read_baseline(Path(baseline)) if baseline is not None else frozenset(),
        contract=read_contract(Path(contract)) if contract is not None else None,
        base=_path(base),
    )
    documents = lambda run, its_base: show_document(run, base=its_base)  # noqa: E731  # a keyword in between, no more
    return check_run(_opened(path), options, documents=documents, progress=progress)


def scan(path: StrPath, *, seconds: float | None = None, progress: Progress | None = None) -> ScanReport:
    """What loading the files at `path` would run, and the secrets in them. Nothing is executed.

    Args:
        path: a directory or a file; every file below a directory is judged by its bytes.
        seconds: time for one file; what is left of it counts as not scanned.
        progress: told of files done.

    Raises:
        UnreadableError: the path cannot be read at all. A broken file is an answer, not an error.
    """
    from ckpt_inspect.scan import ScanLimits, scan_path

    return scan_path(Path(path), limits=ScanLimits(seconds=seconds), progress=progress)


def tensors(
    paths: StrPath | Sequence[StrPath],
    *,
    match: Sequence[str] = (),
    exclude: Sequence[str] = (),
    sort: SortKey = "place",
    reverse: bool = False,
    progress: Progress | None = None,
) -> TensorListing:
    """The tensors of files and directories, from headers alone: weights, adapters, optimizers, shards.

    Args:
        paths: one or several; a run without weights of its own lists its newest checkpoint's, and `note` says so.
        match: shell patterns of names, of which one must match; one without a wildcard: any name that contains it.
        exclude: patterns of names to leave out.
        sort: "place" (as in the files), "name", "size", "dtype", "shape" or "file".
        reverse: the other way round.
        progress: told of files done.

    Raises:
        UnreadableError: a path cannot be read at all.
        NotAFormatError: a path is a single file of another format.
    """
    from ckpt_inspect.tensors import list_tensors

    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    return list_tensors(
        [Path(path) for path in several],
        patterns=match,
        exclude=exclude,
        sort=sort,
        reverse=reverse,
        progress=progress,
    )


def _opened(path: StrPath) -> Run:
    """The run at `path`; one that is opened already keeps what it has read."""
    from ckpt_inspect.run import Run, open_run

    return path if isinstance(path, Run) else open_run(path)


def _path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)
