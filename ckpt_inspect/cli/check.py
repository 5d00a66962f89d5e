"""`check`: find what is wrong, say what to do about it, and end with an exit code a pipeline can trust."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckpt_inspect.cli.options import BaseOption, OutputOption, RunPaths
from ckpt_inspect.cli.session import emit, note, output_width, use_color
from ckpt_inspect.errors import UsageError
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckpt_inspect.rules.check import Options
    from ckpt_inspect.rules.checked import CheckReport
    from ckpt_inspect.run import Run


class Format(StrEnum):
    """How the findings are written."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"
    SARIF = "sarif"
    JUNIT = "junit"
    GITHUB = "github"


def check(
    paths: RunPaths = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to write the findings.")] = Format.TEXT,  # noqa: A002  # the option's name
    output: OutputOption = None,
    select: Annotated[
        list[str] | None,
        typer.Option("--select", metavar="RULE", help="Only these rules: code, prefix (CKP4) or name."),
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", metavar="RULE", help="Not these rules.")] = None,
    severity: Annotated[
        list[str] | None,
        typer.Option("--severity", metavar="RULE=LEVEL", help="Make a rule an error, warning, note, or off."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read weights too: NaN, checksums, master against module.")
    ] = False,
    max_findings: Annotated[
        int | None, typer.Option("--max-findings", min=1, help="Show at most so many per run.")
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option("--expect", metavar="EXPR", help="Hold the run to this, e.g. 'loss.final < 2.0'."),
    ] = None,
    contract: Annotated[
        Path | None, typer.Option("--contract", metavar="FILE", help="Hold the run to a contract.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="FILE", help="Leave out the findings this file lists.")
    ] = None,
    write_baseline: Annotated[
        Path | None, typer.Option("--write-baseline", metavar="FILE", help="List today's findings in this file.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings file to use.")] = None,
    base: BaseOption = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Processes for several runs.")] = None,
) -> int:
    """Check runs and checkpoints for what is wrong with them.

    Exit codes: 0 no error found, 1 errors (with --strict also warnings) or a missed expectation, 2 wrong usage,
    3 a path that cannot be read. The format never changes the exit code.
    """
    from dataclasses import replace

    from ckpt_inspect.rules.check import Options, check_paths, expand
    from ckpt_inspect.rules.expect import parse_expectation

    places = expand(paths or [Path()])
    given = Options(
        select=_listed(select),
        ignore=_listed(ignore),
        severity=_severities(severity),
        deep=deep,
        strict=strict,
        max_findings=max_findings,
        expect=tuple(parse_expectation(text) for text in expect or ()),
        base=base,
    )
    options = _complete(given, places[0] if places else Path(), config, baseline, contract)
    if write_baseline is not None:  # a baseline lists every finding, those of the last one too
        options = replace(options, known=frozenset(), max_findings=None)
    from ckpt_inspect.cli.progress import progress as observer

    report = check_paths(places, options, documents=_document, progress=observer(), jobs=jobs)
    if write_baseline is not None:
        from ckpt_inspect.cli.output import write_file
        from ckpt_inspect.rules.baseline import baseline_text

        findings = [finding for run in report.runs for finding in run.findings]
        write_file(write_baseline, baseline_text(findings))
        note(f"wrote {printable(write_baseline)} ({len(findings)} findings)")
    _show(report, options, format, output)
    return 0 if write_baseline is not None else report.exit_code(failing=options.failing)


def _complete(
    given: Options, place: Path, config: Path | None, baseline: Path | None, contract: Path | None
) -> Options:
    from dataclasses import replace

    from ckpt_inspect.rules.baseline import read_baseline
    from ckpt_inspect.rules.check import with_config
    from ckpt_inspect.rules.config import find_config, read_config
    from ckpt_inspect.rules.contract import read_contract

    settings = read_config(config) if config is not None else find_config(place)
    options = with_config(given, settings)
    known = baseline if baseline is not None else settings.baseline
    promised = contract if contract is not None else settings.contract
    return replace(
        options,
        known=read_baseline(known) if known is not None else frozenset(),
        contract=read_contract(promised) if promised is not None else None,
    )


def _document(run: Run, base: Path | None) -> Mapping[str, Any]:
    from ckpt_inspect.report.show_document import show_document

    return show_document(run, base=base)


def _show(report: CheckReport, options: Options, kind: Format, output: Path | None) -> None:
    from ckpt_inspect import __version__
    from ckpt_inspect.rules.registry import all_rules

    if kind is Format.SARIF:
        from ckpt_inspect.report.sarif import sarif

        text = sarif(report, all_rules(), __version__)
    elif kind is Format.JUNIT:
        from ckpt_inspect.report.junit import junit
        from ckpt_inspect.rules.finding import SEVERITIES

        text = junit(report, SEVERITIES[: SEVERITIES.index(options.failing) + 1])
    elif kind is Format.GITHUB:
        from ckpt_inspect.report.github import github

        text = github(report)
    elif kind is Format.MARKDOWN:
        from ckpt_inspect.report.markdown import markdown

        text = markdown(report)
    elif kind is Format.JSON:
        from ckpt_inspect.report.check_document import check_document
        from ckpt_inspect.report.json_text import json_text

        text = json_text(check_document(report))
    else:
        from ckpt_inspect.report.text_check import check_text

        plain = output is not None
        text = check_text(report, width=100 if plain else output_width(), color=not plain and use_color())
    if output is not None:
        from ckpt_inspect.cli.output import write_file

        write_file(output, text)
        note(f"wrote {printable(output)}")
    elif text:
        emit(text)


def _listed(given: list[str] | None) -> tuple[str, ...]:
    return tuple(part.strip() for text in given or () for part in text.split(",") if part.strip())


def _severities(given: list[str] | None) -> dict[str, str]:
    levels: dict[str, str] = {}
    for text in given or ():
        rule, separator, level = text.partition("=")
        if not separator:
            raise UsageError(f"--severity {printable(text)!r} is not RULE=LEVEL")
        levels[rule.strip()] = level.strip().lower()
    return levels
