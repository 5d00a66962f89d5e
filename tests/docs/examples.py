"""The commands and outputs shown in the documentation. ``python docs/make outputs`` brings the outputs up to date.

Every ``ckpt-inspect`` line of a ```sh block is run, in a directory that holds only a copy of ``fixtures``; a page's
commands run in order, in the same directory. A line ends with ``# exits N`` where the exit code is not 0. A ```text
block right after a ```sh block is what its last command prints, with ``...`` for lines left out. A ```python block with a statement
about ``ckpt_inspect`` is run as it stands; a line ``expression  # value`` has to have that value.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 100
ELIDED = "..."
_BLOCKS = re.compile(r"^```sh\n(?P<commands>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
_EXITS = re.compile(r"#\s*exits (\d)\s*$")
_PYTHON = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_SHOWN = re.compile(r"^(?P<expression>[\w.()\[\]\-/\"]+) +# (?P<value>\S.*)$", re.MULTILINE)
_VARYING = (  # what differs from machine to machine, and what stands for it
    (re.compile(r"[\d.]+ m?s \([^)]*/s\)"), "N s (N MB/s)"),
    (re.compile(r"[\d.]+ kB checked"), "N kB checked"),  # a record holds the path of the shards
)


@dataclass(frozen=True, slots=True)
class Example:
    """One ``sh`` block: its commands with their exit codes, and the output of the last one if the page shows it."""

    commands: tuple[tuple[str, int], ...]
    output: str | None
    span: tuple[int, int]


def pages() -> list[Path]:
    """The README and the pages written by hand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(text: str) -> Iterator[Example]:
    for match in _BLOCKS.finditer(text):
        commands: list[tuple[str, int]] = []
        for line in match["commands"].replace("\\\n", " ").splitlines():
            if line.startswith("ckpt-inspect "):
                exits = _EXITS.search(line)
                commands.append((_EXITS.sub("", line).strip(), int(exits[1]) if exits else 0))
        if commands:
            yield Example(tuple(commands), match["output"], match.span("output"))


def run(command: str, at: Path) -> subprocess.CompletedProcess[str]:
    """Run one command line, without a shell, as a user with a plain terminal of `WIDTH` columns would."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(WIDTH), "NO_COLOR": "1"}
    words = shlex.split(command)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "ckpt_inspect", *words],
        cwd=at,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    done.stdout = done.stdout.replace(f"{at.resolve()}{os.sep}", "")
    return done


def python_blocks(text: str) -> list[str]:
    """The programs of a page; signatures and fragments, which the reference shows, are none."""
    return [block for block in _PYTHON.findall(text) if re.match(r"import |from \w+ import |\w+ = ", block)]


def run_python(block: str, at: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of a page, with an assertion for every value it shows."""
    program = _SHOWN.sub(
        lambda line: f"assert repr({line['expression']}) == {line['value']!r}, repr({line['expression']})", block
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=at, env=environment, capture_output=True, encoding="utf-8", check=False
    )


def workplace(at: Path) -> Path:
    """A directory with nothing but the bundled runs."""
    shutil.copytree(ROOT / "fixtures", at / "fixtures")
    return at


def lines_of(text: str) -> list[str]:
    """The lines to compare, without what varies."""
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    return [line.rstrip() for line in text.splitlines()]


def agrees(shown: str, printed: str) -> bool:
    """Whether `shown` is `printed`, with ``...`` for any lines."""
    parts: list[list[str]] = [[]]
    for line in lines_of(shown):
        if line == ELIDED:
            parts.append([])
        else:
            parts[-1].append(line)
    actual = lines_of(printed)
    if len(parts) == 1:
        return parts[0] == actual
    first, *middle, last = parts
    if actual[: len(first)] != first or (last and actual[-len(last) :] != last):
        return False
    position, end = len(first), len(actual) - len(last)
    for part in middle:
        found = next((at for at in range(position, end - len(part) + 1) if actual[at : at + len(part)] == part), None)
        if found is None:
            return False
        position = found + len(part)
    return position <= end


def renewed(shown: str, printed: str) -> str:
    """`printed`, with as many lines left out as `shown` leaves out."""
    old, new = shown.splitlines(), [line.rstrip() for line in printed.splitlines()]
    if ELIDED in old:
        head = old.index(ELIDED)
        tail = len(old) - 1 - head
        new = new[:head] + [ELIDED] + (new[-tail:] if tail else [])
    return "".join(f"{line}\n" for line in new)


def main() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as scratch:
            at = workplace(Path(scratch))
            pieces: list[str] = []
            position = 0
            for example in examples(text):
                done = [run(command, at) for command, _ in example.commands]
                for (command, code), one in zip(example.commands, done, strict=True):
                    if one.returncode != code:
                        print(f"{page.name}: exits {one.returncode}, not {code}: {command}\n{one.stderr}")
                if example.output is not None:
                    start, end = example.span
                    new = (
                        example.output
                        if agrees(example.output, done[-1].stdout)
                        else renewed(example.output, done[-1].stdout)
                    )
                    pieces += [text[position:start], new]
                    position = end
            renewed_text = "".join([*pieces, text[position:]])
        if renewed_text != text:
            page.write_text(renewed_text, encoding="utf-8")
            print(f"{page.name}: outputs renewed")


if __name__ == "__main__":
    main()
