"""Text on a terminal: wrapping, columns and a few colours, for any width and for no colour at all.

Escape sequences are SGR (ECMA-48); widths of characters follow Unicode's East Asian Width. Everything that came out
of a file has to pass :func:`ckpt_inspect.printable.printable` before it gets here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Style = Literal["", "bold", "dim", "good", "warn", "bad", "accent"]

_SGR: dict[str, str] = {"bold": "1", "dim": "2", "good": "32", "warn": "33", "bad": "31", "accent": "36"}


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text in one style."""

    text: str
    style: Style = ""


Piece = str | Span


def text_width(text: str) -> int:
    """Columns `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shorten(text: str, width: int) -> str:
    """`text` cut in its middle to `width` columns: the ends of a path tell most."""
    if text_width(text) <= width:
        return text
    tail = (width - 1) // 2
    end = text[-tail:] if tail > 0 else ""
    while text_width(end) > tail:
        end = end[1:]
    start = _fitting(text, width - 1 - text_width(end))
    return f"{start}…{end}"


def _fitting(text: str, width: int) -> str:
    """The longest beginning of `text` that takes at most `width` columns."""
    if text.isascii():
        return text[: max(0, width)]
    used = 0
    for index, character in enumerate(text):
        used += _columns(character)
        if used > width:
            return text[:index]
    return text


class Screen:
    """Lines of a given width; `str()` gives the whole."""

    def __init__(self, width: int, *, color: bool) -> None:
        self.width = width
        self._color = color
        self._lines: list[str] = []

    def __str__(self) -> str:
        return "\n".join(self._lines).rstrip("\n") + "\n"

    def blank(self) -> None:
        """An empty line, never two in a row."""
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def heading(self, text: str) -> None:
        """A section's title after an empty line."""
        self.blank()
        self._lines.append(self._styled(text, "bold"))

    def line(self, *pieces: Piece, indent: int = 0, hang: int | None = None) -> None:
        """One paragraph, wrapped; following lines are indented by `hang` columns (by `indent` if None)."""
        self._paragraph(" " * indent, pieces, hang if hang is not None else indent)

    def field(self, label: str, *pieces: Piece, label_width: int = 15, style: Style = "bold") -> None:
        """A label and a wrapped text beside it."""
        start = self._styled(label, style) + " " * max(1, label_width - text_width(label))
        self._paragraph(start, pieces, label_width, used=max(label_width, text_width(label) + 1))

    def table(
        self, rows: Sequence[Sequence[Piece]], *, right: Iterable[int] = (), indent: int = 2, head: bool = True
    ) -> None:
        """Columns as wide as their widest cell, the widest one shortened until the table fits."""
        if not rows:
            return
        right = set(right)
        cells = [[cell if isinstance(cell, Span) else Span(cell) for cell in row] for row in rows]
        count = max(len(row) for row in cells)
        widths = [max((text_width(row[i].text) for row in cells if i < len(row)), default=0) for i in range(count)]
        gap = 2
        while sum(widths) + gap * (count - 1) + indent > self.width and max(widths) > 8:
            widths[widths.index(max(widths))] -= 1
        for number, row in enumerate(cells):
            parts = []
            for index, cell in enumerate(row):
                text = shorten(cell.text, widths[index])
                padding = " " * (widths[index] - text_width(text))
                style: Style = "dim" if head and number == 0 else cell.style
                styled = self._styled(text, style)
                parts.append(padding + styled if index in right else styled + padding)
            self._lines.append((" " * indent + (" " * gap).join(parts)).rstrip())

    def _paragraph(self, start: str, pieces: Iterable[Piece], hang: int, used: int | None = None) -> None:
        line, column = start, used if used is not None else text_width(start)
        at_start = True
        for text, style in _words(pieces, max(10, self.width - hang)):
            width = text_width(text)
            if not at_start and column + 1 + width > self.width:
                self._lines.append(line.rstrip())
                line, column, at_start = " " * hang, hang, True
            if not at_start:
                line, column = f"{line} ", column + 1
            line, column, at_start = line + self._word(text, style), column + width, False
        self._lines.append(line.rstrip())

    def _word(self, text: str, style: tuple[tuple[str, Style], ...]) -> str:
        del text
        return "".join(self._styled(part, kind) for part, kind in style)

    def _styled(self, text: str, style: Style) -> str:
        return f"\x1b[{_SGR[style]}m{text}\x1b[0m" if self._color and style and text else text


Word = tuple[str, tuple[tuple[str, Style], ...]]


def _words(pieces: Iterable[Piece], longest: int) -> Iterator[Word]:
    """Words with their styled parts: a word may run over several pieces ("(" + styled + ")"), and is cut at `longest`."""
    parts: list[tuple[str, Style]] = []
    room = longest
    for piece in pieces:
        span = piece if isinstance(piece, Span) else Span(piece)
        for number, chunk in enumerate(span.text.split(" ")):
            if number and parts:
                yield _join(parts)
                parts, room = [], longest
            rest = chunk
            while text_width(rest) > room:
                start = _fitting(rest, room)
                rest = rest[len(start) :]
                yield _join([*parts, (start, span.style)])
                parts, room = [], longest
            if rest:
                parts.append((rest, span.style))
                room -= text_width(rest)
    if parts:
        yield _join(parts)


def _join(parts: list[tuple[str, Style]]) -> Word:
    return "".join(text for text, _ in parts), tuple(parts)
