from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders.tokenizer_files import added, tokenizer_json, write

from ckpt_inspect.rules.engine import run_rules
from ckpt_inspect.rules.registry import all_rules
from ckpt_inspect.rules.selection import select_rules
from ckpt_inspect.run import open_run

ABC = {"a": 0, "b": 1, "ab": 2}
CONFIG = {"pad_token": "a", "eos_token": "b"}


def found(directory: Path, files: dict[str, Any], code: str) -> list[str]:
    run = open_run(write(directory, {"tokenizer_config.json": CONFIG, **files}))
    return [finding.message for finding in run_rules(run, select_rules(all_rules(), select=[code]))]


def test_copies_of_one_vocabulary_that_agree_are_no_finding(tmp_path: Path) -> None:
    files = {
        "tokenizer.json": tokenizer_json(ABC, [added(3, "<x>")], [["a", "b"]]),
        "vocab.json": ABC,
        "merges.txt": "a b\n",
    }
    assert found(tmp_path, files, "CKP819") == []
    assert found(tmp_path, files, "CKP820") == []


def test_copies_that_differ_are_a_finding(tmp_path: Path) -> None:
    files = {"tokenizer.json": tokenizer_json(ABC), "vocab.json": {"a": 1, "b": 0, "ab": 2}}
    assert len(found(tmp_path, files, "CKP819")) == 2


def test_merges_of_removed_tokens_are_one_finding(tmp_path: Path) -> None:
    messages = found(tmp_path, {"tokenizer.json": tokenizer_json(ABC, [], [["a", "c"], ["c", "a"]])}, "CKP820")
    assert messages == ["2 merges name a token that is not in the vocabulary (a c)."]


@pytest.mark.parametrize(("length", "count"), [(512, 0), (int(1e30), 1), (1e30, 1), (None, 0)])
def test_the_placeholder_for_no_length_is_a_finding(tmp_path: Path, length: object, count: int) -> None:
    files = {"tokenizer.json": tokenizer_json(ABC), "tokenizer_config.json": {**CONFIG, "model_max_length": length}}
    assert len(found(tmp_path, files, "CKP812")) == count


def test_ids_that_move_on_load_are_a_finding(tmp_path: Path) -> None:
    code = "CKP801"
    assert found(tmp_path, {"tokenizer.json": tokenizer_json(ABC, [added(3, "<x>"), added(9, "<y>")])}, code)
