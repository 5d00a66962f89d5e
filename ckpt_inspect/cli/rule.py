"""`rule`: the documentation of a rule, which is its docstring; without a code, the list of rules."""

from __future__ import annotations

from typing import Annotated

import typer

from ckpt_inspect.cli.options import JsonOption
from ckpt_inspect.cli.session import emit, output_width


def rule(
    code: Annotated[str | None, typer.Argument(metavar="[CODE]", help="A code, a code prefix or a name.")] = None,
    json: JsonOption = False,
) -> None:
    """Print what a rule finds, why it matters and how to fix it."""
    from ckpt_inspect.report.rule_pages import rule_list, rule_page, rules_document
    from ckpt_inspect.rules.registry import all_rules
    from ckpt_inspect.rules.selection import matching

    rules = all_rules()
    chosen = [rules[name] for name in sorted(matching(rules, code))] if code is not None else list(rules.values())
    if json:
        from ckpt_inspect.report.json_text import json_text

        emit(json_text(rules_document(chosen)))
    elif len(chosen) == 1:
        emit(rule_page(chosen[0], width=output_width()))
    else:
        emit(rule_list(chosen, width=output_width()))
