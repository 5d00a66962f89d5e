"""The pictures of the terminal show what the program prints today, and load nothing."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from docs.examples import ROOT, pages, workplace
from make.screens import IMAGES, SCREENS, Screen, codes_after, picture, pieces, svg


@pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: screen.name)
def test_a_picture_shows_what_its_commands_print(screen: Screen, tmp_path: Path) -> None:
    path = IMAGES / f"{screen.name}.svg"
    assert path.is_file(), "python docs/make screens"
    assert path.read_text(encoding="utf-8") == picture(screen, workplace(tmp_path)), "python docs/make screens"


def test_every_picture_is_shown_and_every_shown_picture_is_there() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in pages())
    shown = set(re.findall(r"!\[[^\]]+\]\((?:docs/)?images/([\w-]+\.svg)\)", text))
    assert shown == {path.name for path in IMAGES.iterdir()}


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_is_well_formed_and_loads_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    assert not re.search(r"href|url\(|@import|<script|<style|foreignObject", text), "GitHub shows it as an image"
    assert str(ROOT) not in text


def test_columns_stay_where_the_terminal_has_them() -> None:
    assert list(pieces("a  \x1b[1mbc\x1b[0m d")) == [(0, "a", ()), (3, "bc", ("1",)), (6, "d", ())]
    assert list(pieces("日  x")) == [(0, "日", ()), (4, "x", ())]
    assert codes_after(("1",), "31") == ("1", "31")
    assert codes_after(("1", "31"), "0") == ()


def test_text_is_escaped() -> None:
    assert "&lt;tool&gt;" in svg(["<tool>"], 20, "x")
