"""All pages, or parts of pages, that are made of the program: their path below ``docs`` and their text.

A block of a page written by hand stands between ``<!-- make: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
from pathlib import Path

from make import eras, reference, tables

DOCS = Path(__file__).resolve().parents[1]
BLOCKS = {**eras.BLOCKS, "api": reference.page}
_BLOCK = re.compile(r"(?P<begin><!-- make: (?P<name>[\w-]+) -->\n).*?(?P<end>\n?<!-- end -->)", re.DOTALL)


def texts() -> dict[str, str]:
    """Path below ``docs`` -> the text it has to have."""
    made = {**tables.rule_pages(), "rules/index.md": tables.rules_index(), "files.md": tables.files_page()}
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if page.name not in made and _BLOCK.search(text):
            made[page.name] = filled(text)
    return made


def filled(text: str) -> str:
    """`text` with its blocks made anew.

    Raises:
        KeyError: a block nobody makes.
    """
    return _BLOCK.sub(lambda block: f"{block['begin']}\n{BLOCKS[block['name']]()}\n\n<!-- end -->", text)


def blocks_of(text: str) -> set[str]:
    """The names of the blocks in a page."""
    return {block["name"] for block in _BLOCK.finditer(text)}


def write() -> None:
    """Write the pages, and remove those of rules that are gone."""
    made = texts()
    (DOCS / "rules").mkdir(exist_ok=True)
    for stale in (DOCS / "rules").glob("CKP*.md"):
        if f"rules/{stale.name}" not in made:
            stale.unlink()
    for name, text in made.items():
        (DOCS / name).write_text(text, encoding="utf-8")
