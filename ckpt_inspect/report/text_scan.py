"""A scan on a terminal: the answer first, then the files that need a look, then the names that loading resolves."""

from __future__ import annotations

from collections.abc import Iterable

from ckpt_inspect import knowledge
from ckpt_inspect.printable import printable
from ckpt_inspect.report.screen import Piece, Screen, Span, Style
from ckpt_inspect.scan import VERDICTS, ScanFinding, ScannedFile, ScannedGlobal, ScanReport, Verdict, rank

_STYLE: dict[Verdict, Style] = {
    "clean": "good",
    "known": "good",
    "unknown": "warn",
    "suspicious": "bad",
    "dangerous": "bad",
}
_ANSWER: dict[Verdict, str] = {
    "clean": "Loading these files builds data and nothing else.",
    "known": "Loading these files builds data and objects of known libraries.",
    "unknown": "Some files hold what could not be judged.",
    "suspicious": "Some files are not as any library writes them. Do not load those.",
    "dangerous": "Loading some of these files runs code. Do not load them.",
}
_USES = {"reference": "named", "instance": "made", "call": "called"}
_FILES_SHOWN = 40
_FINDINGS_SHOWN = 6
_NAMES_SHOWN = 12
_PLACE_LIMIT = 60


def scan_text(report: ScanReport, *, width: int, color: bool, every: bool = False) -> str:
    """The report; `every` shows each file and each name."""
    screen = Screen(width, color=color)
    verdict = report.verdict
    counts = [(level, sum(file.verdict == level for file in report.files)) for level in reversed(VERDICTS)]
    listed = ", ".join(f"{count} {level}" for level, count in counts if count)
    files = "1 file" if len(report.files) == 1 else f"{len(report.files)} files"
    screen.line(Span(printable(report.path, 200), "bold"), f" {files}: {listed or 'nothing to scan'}")
    if report.files:
        screen.line(Span(_ANSWER[verdict], _STYLE[verdict]))
    for problem in report.problems:
        screen.line(Span(problem, "warn"))
    _files(screen, report.files, every=every)
    _names(screen, report.files, every=every)
    _weights_only(screen, report.files)
    _remarks(screen, report.files, every=every)
    return str(screen)


def _files(screen: Screen, files: tuple[ScannedFile, ...], *, every: bool) -> None:
    chosen = [file for file in files if every or rank(file.verdict) >= rank("unknown") or _has_secret(file)]
    chosen.sort(key=lambda file: -rank(file.verdict))
    for file in chosen[: None if every else _FILES_SHOWN]:
        screen.blank()
        coverage = "" if file.coverage == "complete" else f", {file.coverage}"
        screen.line(
            Span(file.verdict, _STYLE[file.verdict]),
            Span(f" {printable(file.path, 200)}", "bold"),
            f" ({file.format}{coverage})",
        )
        shown = [found for found in file.findings if every or found.severity != "note"]
        for found in shown[: None if every else _FINDINGS_SHOWN]:
            screen.line(*_finding(found), indent=2, hang=4)
        if len(shown) > _FINDINGS_SHOWN and not every:
            screen.line(Span(f"and {len(shown) - _FINDINGS_SHOWN} more (--all)", "dim"), indent=2)
        remedy = _remedy(shown)
        if remedy:
            screen.line(Span(remedy, "accent"), indent=2, hang=4)
    if len(chosen) > _FILES_SHOWN and not every:
        screen.blank()
        screen.line(Span(f"{len(chosen) - _FILES_SHOWN} more such files (--all shows them)", "dim"))


def _finding(found: ScanFinding) -> list[Piece]:
    where = printable(found.place, _PLACE_LIMIT) if found.place else ""
    byte = f"byte {found.offset}" if found.offset is not None else ""
    place = " ".join(part for part in (where, byte) if part)
    style: Style = "bad" if found.severity == "error" else "warn" if found.severity == "warning" else ""
    return [Span(found.message, style), Span(f" [{place}]", "dim") if place else ""]


def _remedy(findings: Iterable[ScanFinding]) -> str:
    for found in findings:
        remedy = knowledge.faults().get(found.kind, {}).get("remedy", "")
        if remedy and found.severity != "note":
            return remedy
    return ""


def _names(screen: Screen, files: tuple[ScannedFile, ...], *, every: bool) -> None:
    found: dict[str, tuple[ScannedGlobal, int]] = {}
    for file in files:
        for one in file.globals:
            known = found.get(one.name)
            found[one.name] = (
                one if known is None or _weight(one) > _weight(known[0]) else known[0],
                (known[1] if known else 0) + 1,
            )
    if not found:
        return
    ordered = sorted(found.values(), key=lambda pair: (-_weight(pair[0]), pair[0].name))
    screen.heading("What loading resolves")
    chosen = ordered if every else [pair for pair in ordered if pair[0].tier != "T0"][:_NAMES_SHOWN]
    for one, count in chosen:
        style: Style = "bad" if one.tier == "T3" else "warn" if one.tier == "T2" else "dim"
        where = "" if len(files) == 1 else f" in {count} file{'s' if count > 1 else ''}"
        name = Span(printable(one.name, 160), "" if style == "dim" else style)
        screen.line(
            Span(one.tier, style), f" {_USES[one.use]}{where} ", name, Span(f": {one.reason}", "dim"), indent=2, hang=5
        )
    left = len(ordered) - len(chosen)
    if left:
        plain = sum(pair[0].tier == "T0" for pair in ordered) if not every else 0
        screen.line(Span(f"{left} more names, {plain} of them build plain data (--all lists them)", "dim"), indent=2)


def _weight(found: ScannedGlobal) -> int:
    return int(found.tier[1]) * 3 + ("reference", "instance", "call").index(found.use)


def _weights_only(screen: Screen, files: tuple[ScannedFile, ...]) -> None:
    asked = [file for file in files if file.loads_with_weights_only is not None]
    if not asked:
        return
    accepted = [file for file in asked if file.loads_with_weights_only]
    screen.heading("torch.load(weights_only=True)")
    if len(accepted) == len(asked):
        screen.line(f"reads all {len(asked)} torch files" if len(asked) > 1 else "reads it", indent=2)
        return
    screen.line(f"reads {len(accepted)} of {len(asked)} torch files; refuses:", indent=2)
    reasons: dict[str, list[str]] = {}
    for file in asked:
        if not file.loads_with_weights_only:
            reasons.setdefault(printable(file.reason or "", 160), []).append(file.path)
    for reason, paths in sorted(reasons.items(), key=lambda pair: -len(pair[1]))[:_NAMES_SHOWN]:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        screen.line(f"{printable(paths[0], 120)}{more}: {reason}", indent=2, hang=4)


def _remarks(screen: Screen, files: tuple[ScannedFile, ...], *, every: bool) -> None:
    """Notes of files that need no look, counted by what they say."""
    if every:
        return
    counts: dict[str, int] = {}
    for file in files:
        for kind in {found.kind for found in file.findings if found.severity == "note"}:
            counts[kind] = counts.get(kind, 0) + 1
    if counts:
        screen.heading("Remarks")
        for kind, count in sorted(counts.items(), key=lambda pair: -pair[1]):
            meaning = knowledge.faults().get(kind, {}).get("meaning", kind).partition(". ")[0].rstrip(".")
            screen.line(f"{count} {'file' if count == 1 else 'files'}: {meaning}.", indent=2, hang=4)


def _has_secret(file: ScannedFile) -> bool:
    return any(found.kind == "secret" for found in file.findings)
