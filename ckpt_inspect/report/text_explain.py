"""The `explain` document as text: a paragraph per topic, its arithmetic beneath."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckpt_inspect.report.screen import Screen, Span

if TYPE_CHECKING:
    from ckpt_inspect.report.explain_document import Explained


def explain_text(explained: Sequence[Explained], *, width: int = 80, color: bool = False) -> str:
    """Every answer; topics that do not apply are named in one closing line."""
    screen = Screen(width, color=color)
    silent: list[str] = []
    for item in explained:
        if item.answer is None:
            silent.append(item.topic.name)
            continue
        screen.heading(item.topic.title)
        screen.line(item.paragraph)
        if item.arithmetic:
            screen.blank()
        for line in item.arithmetic:
            depth = len(line) - len(line.lstrip(" "))
            screen.line(Span(line.strip(), "dim"), indent=2 + depth, hang=4 + depth)
    if silent:
        screen.blank()
        screen.line(Span(f"Nothing in this path to explain: {', '.join(silent)}.", "dim"))
    return str(screen)
