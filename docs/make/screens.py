"""Pictures of the terminal: commands run on the bundled runs, their coloured output drawn as SVG text.

No font is loaded: every character has its own column (`textLength`), so any monospaced font keeps tables straight.
The colours are SGR codes (ECMA-48) as :mod:`ckpt_inspect.report.screen` and plotext write them.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from shutil import copytree

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
COLUMN, LINE, PAD, BAR = 8.4, 19, 16, 34
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
INK, PAPER, DIM = "#d7dce4", "#151a21", "#8a94a3"
COLORS = {"31": "#ff7b72", "32": "#56d364", "33": "#e3b341", "34": "#79b8ff", "35": "#d2a8ff", "36": "#56c8d8"}
_SGR = re.compile(r"\x1b\[([\d;]*)m")
_VARYING = re.compile(r" in [\d.]+ m?s \([^)]*/s\)|, [\d.]+ kB checked")  # speed, and a record that holds a path
_CELL = re.compile(r"\S+(?: \S+)*")


@dataclass(frozen=True, slots=True)
class Screen:
    """A picture: its name, the commands typed, the width of the terminal; with `most`, no more lines than that."""

    name: str
    commands: tuple[str, ...]
    alt: str
    width: int = 100
    most: int | None = None


SCREENS = (
    Screen("show", ("ckpt-inspect show fixtures/lora-resized",), "ckpt-inspect show on a LoRA run"),
    Screen("loss", ("ckpt-inspect explain loss fixtures/resumed",), "ckpt-inspect explain loss on a resumed run"),
    Screen("tokens", ("ckpt-inspect tokens fixtures/lora-resized",), "ckpt-inspect tokens: saved but never trained"),
    Screen(
        "check",
        ("ckpt-inspect check fixtures/lora-resized --strict --expect 'loss.final < 6'",),
        "ckpt-inspect check with an expectation",
    ),
    Screen(
        "consolidate",
        (
            "ckpt-inspect consolidate fixtures/zero3 -o merged --quiet",
            "ckpt-inspect consolidate --verify-only merged",
            "ckpt-inspect tensors merged --match layernorm",
        ),
        "ckpt-inspect consolidate joins ZeRO-3 shards",
    ),
    Screen("plot-loss", ("ckpt-inspect plot-loss fixtures/llamafactory",), "ckpt-inspect plot-loss in the terminal"),
    Screen("scan", ("ckpt-inspect scan fixtures/zero2",), "ckpt-inspect scan", most=30),
)


def pictures() -> dict[str, str]:
    """File name -> SVG of every screen, from the program as it is."""
    with tempfile.TemporaryDirectory() as scratch:
        copytree(ROOT / "fixtures", Path(scratch) / "fixtures")
        return {f"{screen.name}.svg": picture(screen, Path(scratch)) for screen in SCREENS}


def picture(screen: Screen, at: Path) -> str:
    """Run a screen's commands in `at` and draw what a terminal would show."""
    lines: list[str] = []
    for command in screen.commands:
        lines += [f"\x1b[2m$\x1b[0m \x1b[1m{command}\x1b[0m", *output_of(command, at, screen.width), ""]
    shown = lines[:-1]
    if screen.most is not None and len(shown) > screen.most:
        shown = [*shown[: screen.most - 1], "\x1b[2m...\x1b[0m"]
    return svg(shown, screen.width, screen.alt)


def output_of(command: str, at: Path, width: int) -> list[str]:
    """What the command prints on a colour terminal of `width` columns."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "NO_COLOR"},
        "PYTHONPATH": str(ROOT),
        "COLUMNS": str(width),
        "FORCE_COLOR": "1",
    }
    done = subprocess.run(  # our own commands, listed above
        [sys.executable, "-m", "ckpt_inspect", *shlex.split(command)[1:]],
        cwd=at,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    if done.returncode > 1:
        raise RuntimeError(f"{command}: {done.stderr}")
    text = done.stdout.replace(f"{at.resolve()}{os.sep}", "")
    return [line.rstrip() for line in _VARYING.sub("", text).splitlines()]


def svg(lines: list[str], width: int, alt: str) -> str:
    """Lines with SGR codes as a picture of a terminal."""
    wide = round(width * COLUMN + 2 * PAD)
    high = BAR + len(lines) * LINE + PAD
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" role="img">',
        f"<title>{escape(alt)}</title>",
        f'<rect width="{wide}" height="{high}" rx="9" fill="{PAPER}"/>',
        *(f'<circle cx="{20 + 18 * index}" cy="18" r="5.5" fill="{DIM}" opacity="0.55"/>' for index in range(3)),
        f'<g font-family="{FONT}" font-size="14" fill="{INK}">',
    ]
    for number, line in enumerate(lines):
        spans = "".join(_span(*piece) for piece in pieces(line))
        if spans:
            parts.append(f'<text y="{BAR + (number + 1) * LINE - 5}">{spans}</text>')
    return "\n".join([*parts, "</g>", "</svg>"]) + "\n"


def pieces(line: str) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """(column, text, SGR codes) of each run of characters in one style; two spaces end one, as SVG would join them."""
    column, position = 0, 0
    codes: tuple[str, ...] = ()
    for mark in [*_SGR.finditer(line), None]:
        text = line[position : mark.start() if mark else None]
        for cell in _CELL.finditer(text):
            yield column + columns(text[: cell.start()]), cell[0], codes
        column += columns(text)
        if mark:
            position = mark.end()
            codes = codes_after(codes, mark[1])


def codes_after(codes: tuple[str, ...], given: str) -> tuple[str, ...]:
    """The codes that hold after an SGR sequence."""
    found = list(codes)
    for code in given.split(";"):
        if code in ("", "0"):
            found = []
        elif code in COLORS or code in ("1", "2"):
            found.append(code)
    return tuple(found)


def columns(text: str) -> int:
    """Columns a text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _span(column: int, text: str, codes: tuple[str, ...]) -> str:
    color = next((COLORS[code] for code in reversed(codes) if code in COLORS), DIM if "2" in codes else None)
    fill = f' fill="{color}"' if color else ""
    weight = ' font-weight="bold"' if "1" in codes else ""
    length = round(columns(text) * COLUMN, 1)
    return (
        f'<tspan x="{round(PAD + column * COLUMN, 1)}" textLength="{length}" lengthAdjust="spacingAndGlyphs"{fill}{weight}>'
        f"{escape(text)}</tspan>"
    )


def write() -> None:
    """Write the pictures, and remove those nobody makes any more."""
    made = pictures()
    IMAGES.mkdir(exist_ok=True)
    for name, text in made.items():
        (IMAGES / name).write_text(text, encoding="utf-8")
