"""Every fault a reader of files can name has a row, and every row is named somewhere."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from ckpt_inspect.knowledge import faults

ROOM = re.compile(r"(zip|torch|dcp|fsdp|universal|json|safetensors|index|tensors)-[a-z0-9-]+")
READERS = re.compile(r"(zip|torch|dcp|json|safetensors|shard)_\w+\.py")
SOURCES = [
    *(entry for entry in files("ckpt_inspect.formats").iterdir() if READERS.fullmatch(entry.name)),
    *(files("ckpt_inspect.artifacts") / name for name in ("fsdp.py", "universal.py", "weights.py")),
    files("ckpt_inspect.tensors") / "sources.py",
]
NAMED = {
    match
    for source in SOURCES
    for match in re.findall(r'"([a-z0-9-]+)"', source.read_text(encoding="utf-8"))
    if ROOM.fullmatch(match)
} - {"dcp-safetensors"}  # a layout, not a fault


def test_the_sources_name_faults() -> None:
    assert len(NAMED) > 80


@pytest.mark.parametrize("kind", sorted(NAMED))
def test_each_fault_says_what_it_means_and_what_to_do(kind: str) -> None:
    row = faults()[kind]
    assert row["severity"] in ("error", "warning", "note")
    assert row["meaning"].endswith(".")
    assert row["remedy"].endswith(".")
    assert row["source"]


def test_no_row_is_left_of_a_fault_nobody_names() -> None:
    assert {kind for kind in faults() if ROOM.fullmatch(kind)} <= NAMED
