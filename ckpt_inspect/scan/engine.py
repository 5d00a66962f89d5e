"""Scans a file, or every file of a directory: what each is by its bytes, and what loading it would do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ckpt_inspect import knowledge
from ckpt_inspect.errors import CkptInspectError, PathNotFoundError
from ckpt_inspect.progress import NullProgress, Progress
from ckpt_inspect.run.classify import Classifier
from ckpt_inspect.scan.collector import Collector, ScanLimits
from ckpt_inspect.scan.examine import Examiner
from ckpt_inspect.scan.tiers import expectation
from ckpt_inspect.scan.verdicts import ScanFinding, ScannedFile, ScanReport, less_covered, worse
from ckpt_inspect.storage import ByteSource, Entry, LocalFile, LocalTree, once

DEFAULT_LIMITS = ScanLimits()
_SKIPPED_DIRECTORIES = frozenset({".git", ".hg", ".svn"})


def scan_path(path: str | Path, *, limits: ScanLimits = DEFAULT_LIMITS, progress: Progress | None = None) -> ScanReport:
    """Scan a file or a directory. Nothing in it is executed, and broken files are answers, not errors.

    Raises:
        PathNotFoundError: nothing is there.
        UnreadableError: the path itself cannot be opened (a single FIFO, no permission).
    """
    root = Path(path)
    if root.is_dir():
        return scan_tree(LocalTree(root), limits=limits, progress=progress)
    if not root.exists() and not root.is_symlink():
        raise PathNotFoundError("no such file or directory", where=str(path))
    classifier = Classifier(context=str(root.absolute().parent))
    with LocalFile(root) as source:
        kind, _ = classifier.kind_by_name(root.name)
        found = scan_source(source, root.name, artifact=kind, limits=limits)
        if source.changed():
            found = _changed(found)
    return ScanReport(str(path), (found,), _version())


def scan_tree(
    tree: LocalTree,
    *,
    limits: ScanLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
    loads: bool = True,
) -> ScanReport:
    """Scan every file of a listing, in path order; version control directories are left out.

    Without `loads` the question what ``torch.load(weights_only=True)`` would say, a sixth of the work, stays open.
    """
    watch = progress if progress is not None else NullProgress()
    entries = [entry for entry in tree.entries() if entry.kind != "directory" and not _is_skipped(entry)]
    classifier = Classifier(tree, context=str(tree.root.absolute()))
    files: list[ScannedFile] = []
    watch.start(len(entries), "files", "scanning")
    try:
        for entry in entries:
            files.append(_scan_entry(tree, entry, classifier, limits, loads=loads))
            watch.advance(1)
    finally:
        watch.finish()
    problems = ("only the first files of the directory were listed",) if tree.truncated else ()
    return ScanReport(str(tree.root), tuple(files), _version(), problems)


def scan_source(
    source: ByteSource,
    path: str,
    *,
    artifact: str | None = None,
    limits: ScanLimits = DEFAULT_LIMITS,
    loads: bool = True,
) -> ScannedFile:
    """Scan one run of bytes called `path`; `artifact` is its kind by name (``knowledge/artifacts.toml``)."""
    name = path.rpartition("/")[2]
    found = once(source, ("scan", name, artifact, limits, loads), lambda: _scan(source, name, artifact, limits, loads))
    return replace(found, path=path)


def _scan(source: ByteSource, name: str, artifact: str | None, limits: ScanLimits, loads: bool) -> ScannedFile:
    collector = Collector(limits)
    examiner = Examiner(collector, expectation(artifact), name, loads=loads)
    try:
        examiner.examine(source)
    except CkptInspectError:
        raise
    except Exception as error:  # noqa: BLE001  # a file that breaks us is an answer about the file, and a bug to report
        collector.note("reader-failed", "suspicious", f"scanning stopped: {type(error).__name__}", severity="error")
        collector.cover("partial")
    answer = examiner.loads
    return collector.result(
        name, examiner.format, artifact=artifact, size=source.size, loads=answer.loads, reason=answer.reason
    )


def _scan_entry(
    tree: LocalTree, entry: Entry, classifier: Classifier, limits: ScanLimits, *, loads: bool
) -> ScannedFile:
    kind = classifier.kind_by_name(entry.path)[0]
    if entry.kind != "file":
        return _unreadable(entry, entry.kind, entry.problem or "cannot be opened")
    try:
        with tree.open(entry.path) as source:
            found = scan_source(source, entry.path, artifact=kind, limits=limits, loads=loads)
            return _changed(found) if source.changed() else found
    except CkptInspectError as error:
        return _unreadable(entry, "unreadable", error.what)


def _unreadable(entry: Entry, format_: str, problem: str) -> ScannedFile:
    collector = Collector(DEFAULT_LIMITS)
    verdict = "suspicious" if entry.kind == "special" else "unknown"
    collector.note("scan-unreadable", verdict, problem)  # type: ignore[arg-type]  # one of the two literals
    collector.cover("partial")
    return collector.result(entry.path, format_, artifact=None, size=entry.size, loads=None, reason=None)


def _changed(found: ScannedFile) -> ScannedFile:
    finding = ScanFinding("scan-changed", "unknown", "the file changed while it was scanned", severity="error")
    return replace(
        found,
        verdict=worse(found.verdict, "unknown"),
        coverage=less_covered(found.coverage, "partial"),
        findings=(finding, *found.findings),
    )


def _is_skipped(entry: Entry) -> bool:
    return not _SKIPPED_DIRECTORIES.isdisjoint(entry.parent.split("/"))


def _version() -> str:
    return str(knowledge.load("pickle_globals")["version"])
