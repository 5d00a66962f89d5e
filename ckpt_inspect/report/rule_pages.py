"""The pages of rules, for the terminal, for the documentation and as data: all from the rules' docstrings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from ckpt_inspect import __version__
from ckpt_inspect.rules.registry import SECTIONS, Rule


def rule_page(rule: Rule, *, width: int) -> str:
    """One rule as plain text."""
    wrap = min(width, 100)
    when = "with --deep (reads weights)" if rule.deep else "always"
    lines = [f"{rule.code} {rule.name} ({rule.severity}, checked {when})", "", *textwrap.wrap(rule.summary, wrap)]
    for title in SECTIONS:
        text = rule.section(title)
        if text:
            lines += ["", f"{title}:", *_indented(text, wrap)]
    return "\n".join(lines) + "\n"


def rule_markdown(rule: Rule) -> str:
    """One rule as a page of the documentation."""
    when = "with `--deep`, because it reads weights" if rule.deep else "by default"
    parts = [f"# {rule.code} {rule.name}", f"Severity **{rule.severity}**, checked {when}.", rule.summary]
    for title in SECTIONS:
        text = rule.section(title)
        if text:
            parts.append(f"## {title}\n\n{text}")
    return "\n\n".join(parts) + "\n"


def rule_list(rules: Sequence[Rule], *, width: int) -> str:
    """Code, severity, name and first sentence of each, a line or more per rule."""
    name_width = max((len(rule.name) for rule in rules), default=0)
    lines: list[str] = []
    for rule in rules:
        head = f"{rule.code}  {rule.severity:<7}  {rule.name:<{name_width}}  "
        room = max(width - len(head), 24)
        wrapped = textwrap.wrap(rule.summary, room) or [""]
        lines.append(head + wrapped[0])
        lines += [" " * len(head) + line for line in wrapped[1:]]
    return "\n".join(lines) + "\n"


def rules_document(rules: Iterable[Rule]) -> dict[str, Any]:
    """The rules as data."""
    return {
        "schema": "ckpt-inspect/rule/1",
        "tool_version": __version__,
        "rules": [
            {
                "code": rule.code,
                "name": rule.name,
                "severity": rule.severity,
                "scope": rule.scope,
                "deep": rule.deep,
                "summary": rule.summary,
                **{title.lower().replace(" ", "_"): rule.section(title) for title in SECTIONS},
            }
            for rule in rules
        ],
    }


def _indented(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        if lines:
            lines.append("")
        if paragraph.startswith(("    ", "```")):
            lines += [f"  {line}" for line in paragraph.splitlines()]
        else:
            lines += textwrap.wrap(" ".join(paragraph.split()), width - 2, initial_indent="  ", subsequent_indent="  ")
    return lines
