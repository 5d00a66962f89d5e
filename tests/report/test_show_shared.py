"""`show` on every directory of the real runs and of the corpus: it answers, under the published contract."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from ckpt_inspect.report.json_text import json_text
from ckpt_inspect.report.schema import schemas
from ckpt_inspect.report.show_document import show_document
from ckpt_inspect.report.text_show import show_text
from ckpt_inspect.run import Run, open_run

pytestmark = pytest.mark.shared

# Not artifacts of a training run: what their owners left beside them, and the collection's own notes.
FOREIGN = {"untitled.txt", "REFERENCE.json", "RUNS.md", "INDEX.tsv"}


@cache
def validator() -> Draft202012Validator:
    return Draft202012Validator(schemas()["show"])


def directories(root: Path) -> Iterator[Path]:
    for place, _, files in os.walk(root):
        if files:
            yield Path(place)


def checked(run: Run) -> dict[str, Any]:
    document = show_document(run)
    parsed: dict[str, Any] = json.loads(json_text(document), parse_constant=lambda token: pytest.fail(token))
    errors = [f"{list(error.absolute_path)}: {error.message[:200]}" for error in validator().iter_errors(parsed)]
    assert not errors, errors[:5]
    for width in (80, 160):
        text = show_text(document, width=width, color=False)
        assert "\x1b" not in text
        long = [line for line in text.splitlines() if len(line) > width]
        assert not long, long[:3]
    assert "\x1b[" in show_text(document, width=80, color=True)
    show_text(document, width=80, files=True)
    return parsed


@pytest.mark.parametrize("half", [0, 1])
def test_every_directory_of_the_real_runs_is_shown(shared: Path, half: int) -> None:
    for index, place in enumerate(sorted(directories(shared / "runs"))):
        if index % 2 != half:
            continue
        run = open_run(place)
        document = checked(run)
        unknown = {row["path"] for row in document["artifacts"] if row["kind"] == "unknown"} - FOREIGN
        assert not unknown, (place, unknown)
        assert not document["unreadable"], (place, document["unreadable"])


@pytest.mark.parametrize("half", [0, 1])
def test_every_directory_of_the_corpus_is_shown(shared: Path, half: int) -> None:
    for index, place in enumerate(sorted(directories(shared / "corpus"))):
        if index % 2 != half:
            continue
        document = checked(open_run(place))
        unknown = {
            row["path"].rpartition("/")[2] for row in document["artifacts"] if row["kind"] == "unknown"
        } - FOREIGN
        assert not unknown, (place, unknown)
        assert not document["unreadable"], (place, document["unreadable"])
