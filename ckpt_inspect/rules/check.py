"""Checks paths: rules, baseline, expectations and contract together; several runs in parallel processes."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckpt_inspect.errors import UnreadableError, UsageError
from ckpt_inspect.formats.collector import collector_paused
from ckpt_inspect.memo import Memo
from ckpt_inspect.progress import Progress
from ckpt_inspect.rules.baseline import without_known
from ckpt_inspect.rules.checked import CheckedRun, CheckReport, worst_first
from ckpt_inspect.rules.config import Config
from ckpt_inspect.rules.contract import hold
from ckpt_inspect.rules.engine import run_rules
from ckpt_inspect.rules.expect import Expectation, Outcome, evaluate, parse_expectation
from ckpt_inspect.rules.finding import Severity
from ckpt_inspect.rules.registry import all_rules
from ckpt_inspect.rules.selection import select_rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_inspect.run import Run

    Documents = Callable[[Run, Path | None], Mapping[str, Any]]

_MOST_AT_ONCE = 32  # runs handed to a process at a time
FEW = 3  # below so many runs a second process costs more than it saves


@dataclass(frozen=True, slots=True)
class Options:
    """Everything a check is asked to do; plain data, so that it can be handed to another process.

    `contract` is the parsed contract, `known` the fingerprints of a baseline, `deep` reads weights too.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    severity: Mapping[str, str] = field(default_factory=dict)
    deep: bool = False
    strict: bool = False
    max_findings: int | None = None
    expect: tuple[Expectation, ...] = ()
    known: frozenset[str] = frozenset()
    contract: Mapping[str, Any] | None = None
    base: Path | None = None

    @property
    def failing(self) -> Severity:
        """The least severity that fails a pipeline."""
        return "warning" if self.strict else "error"


def with_config(options: Options, config: Config) -> Options:
    """The options given on the command line, completed by the settings of a file; the command line wins."""
    return replace(
        options,
        select=options.select or config.select,
        ignore=(*config.ignore, *options.ignore),
        severity={**config.severity, **options.severity},
        deep=options.deep or config.deep,
        strict=options.strict or config.strict,
        max_findings=options.max_findings if options.max_findings is not None else config.max_findings,
        expect=(*(parse_expectation(text) for text in config.expect), *options.expect),
        base=options.base if options.base is not None else config.base,
    )


def check_run(
    run: Run, options: Options, *, documents: Documents | None = None, progress: Progress | None = None
) -> CheckedRun:
    """Check one opened run.

    Args:
        documents: makes the ``show --json`` object of a run, needed for expectations and contracts only.

    Raises:
        UsageError: a rule, severity or expectation that does not exist.
    """
    selection = select_rules(
        all_rules(), select=options.select, ignore=options.ignore, severity=options.severity, deep=options.deep
    )
    findings = run_rules(run, selection, base=options.base, progress=progress)
    outcomes: tuple[Outcome, ...] = ()
    if (options.expect or options.contract) and documents is not None:
        document = documents(run, options.base)
        outcomes = tuple(evaluate(expectation, document) for expectation in options.expect)
        if options.contract is not None:
            findings = worst_first((*findings, *hold(run, document, options.contract)))
    kept, known = without_known(findings, options.known)
    shown = kept if options.max_findings is None else kept[: options.max_findings]
    return CheckedRun(str(run.target), shown, outcomes, None, known, len(kept) - len(shown))


def check_path(
    path: Path,
    options: Options,
    *,
    documents: Documents | None = None,
    progress: Progress | None = None,
    memo: Memo | None = None,
) -> CheckedRun:
    """Check one path; a path that cannot be read is a result, not an error. Runs may share a `memo` of small files."""
    from ckpt_inspect.run import open_run

    with collector_paused():
        try:
            run = open_run(path, memo=memo)
        except UnreadableError as error:
            return CheckedRun(str(path), unreadable=str(error))
        return check_run(run, options, documents=documents, progress=progress)


def check_paths(
    paths: Sequence[Path],
    options: Options,
    *,
    documents: Documents | None = None,
    progress: Progress | None = None,
    jobs: int | None = None,
) -> CheckReport:
    """Check several paths, in processes when there are many; results keep the order of `paths`."""
    workers = min(jobs or os.cpu_count() or 1, len(paths))
    if workers < 2 or len(paths) < FEW:
        memo = Memo()
        return CheckReport(
            tuple(check_path(path, options, documents=documents, progress=progress, memo=memo) for path in paths)
        )
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial

    size = max(1, min(_MOST_AT_ONCE, len(paths) // (4 * workers)))
    parts = [paths[start : start + size] for start in range(0, len(paths), size)]
    results: list[CheckedRun] = []
    if progress is not None:
        progress.start(len(paths), "runs", "checking")
    with ProcessPoolExecutor(workers) as pool:
        for checked in pool.map(partial(_check_part, options=options, documents=documents), parts):
            results.extend(checked)
            if progress is not None:
                progress.advance(len(checked))
    if progress is not None:
        progress.finish()
    return CheckReport(tuple(results))


def _check_part(paths: Sequence[Path], options: Options, documents: Documents | None) -> list[CheckedRun]:
    """What one call to another process does: a few runs, with what they have in common read once."""
    memo = Memo()
    return [check_path(path, options, documents=documents, memo=memo) for path in paths]


def expand(given: Iterable[Path]) -> tuple[Path, ...]:
    """Paths with their wildcards resolved (a shell on Windows leaves them), each once, in order.

    Raises:
        UsageError: a pattern that matches nothing.
    """
    found: dict[Path, None] = {}
    for path in given:
        if path.exists() or not glob.has_magic(str(path)):
            found[path] = None
            continue
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            raise UsageError("the pattern matches nothing", where=str(path))
        found.update(dict.fromkeys(Path(match) for match in matches if Path(match).is_dir()))
    return tuple(found)
