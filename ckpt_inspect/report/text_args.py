"""The `args` document as text: a list of names and values, or the table of what differs."""

from __future__ import annotations

import json
from typing import Any

from ckpt_inspect.printable import printable
from ckpt_inspect.report.numbers import counted
from ckpt_inspect.report.screen import Screen, Span, text_width

Json = dict[str, Any]


def args_text(document: Json, *, width: int = 80, color: bool = False) -> str:
    """The document as text."""
    screen = Screen(width, color=color)
    if "diff" in document:
        _diff(screen, document)
        return str(screen)
    world = f", {counted(document['world_size'], 'process', 'processes')}" if document["world_size"] else ""
    screen.line(Span(printable(document["class"] or "training arguments", 120), "bold"), world)
    arguments = document["arguments"]
    names = {name: printable(name, 80) for name in arguments}
    column = min(36, max((text_width(name) for name in names.values()), default=0) + 2)
    for name, value in arguments.items():
        style = "warn" if name in document["secrets"] else ""
        screen.field(names[name], Span(value_text(value), style), label_width=column)  # type: ignore[arg-type]
    for fault in document["faults"]:
        screen.line(Span(printable(fault["message"], 200), "warn"))
    return str(screen)


def value_text(value: Any) -> str:
    """An argument's value as it would be written down."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return printable(value, 400) if value else '""'
    return printable(json.dumps(value, ensure_ascii=False), 400)


def _diff(screen: Screen, document: Json) -> None:
    rows = document["diff"]
    if not rows:
        screen.line("No argument differs.")
        return
    screen.line(f"{counted(len(rows), 'argument differs', 'arguments differ')}:")
    absent = Span("(not there)", "dim")
    table: list[list[str | Span]] = [["", printable(document["path"], 60), printable(document["other"]["path"], 60)]]
    for row in rows:
        table.append(
            [
                printable(row["name"], 80),
                value_text(row["here"]) if row["in_here"] else absent,
                value_text(row["there"]) if row["in_there"] else absent,
            ]
        )
    screen.table(table)
