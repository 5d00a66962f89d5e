from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders.tokenizer_files import added, sentencepiece, tokenizer_json, write

from ckpt_inspect.artifacts.tokenizer_copies import Copies, compare_copies
from ckpt_inspect.storage import LocalTree

ABC = {"a": 0, "b": 1, "ab": 2}


@pytest.fixture
def copies(tmp_path: Path):
    def read(files: dict[str, Any]) -> Copies:
        found = compare_copies(LocalTree(write(tmp_path, files)))
        assert found is not None
        return found

    return read


def test_without_tokenizer_json_there_is_nothing_to_compare(tmp_path: Path) -> None:
    assert compare_copies(LocalTree(write(tmp_path, {"vocab.json": ABC}))) is None
    assert compare_copies(LocalTree(write(tmp_path, {"tokenizer.json": {"model": {}}}))) is None


def test_files_of_one_save_agree(copies) -> None:
    found = copies(
        {
            "tokenizer.json": tokenizer_json(ABC, [added(3, "<x>")], [["a", "b"]]),
            "vocab.json": ABC,
            "merges.txt": "#version: 0.2\na b\n",
        }
    )
    assert found == Copies((), ("vocab.json", "merges.txt"), 0, None)


def test_a_slow_vocabulary_may_hold_the_added_tokens_too(copies) -> None:
    assert (
        copies(
            {"tokenizer.json": tokenizer_json(ABC, [added(3, "<x>")]), "vocab.json": {**ABC, "<x>": 3}}
        ).disagreements
        == ()
    )


def test_tokens_at_other_ids_are_named(copies) -> None:
    found = copies({"tokenizer.json": tokenizer_json(ABC), "vocab.txt": "b\na\nab\n"})
    assert [(d.what, d.subject, d.first, d.second_file, d.second) for d in found.disagreements] == [
        ("id", "b", 1, "vocab.txt", 0),
        ("id", "a", 0, "vocab.txt", 1),
    ]


@pytest.mark.parametrize("theirs", [{"a": 0, "b": 1}, {**ABC, "new": 3}])
def test_tokens_only_one_file_has_are_counted(copies, theirs: dict) -> None:
    found = copies({"tokenizer.json": tokenizer_json(ABC), "vocab.json": theirs})
    assert [(d.what, d.subject, d.first, d.second) for d in found.disagreements] == [
        ("vocabulary", "tokens", 3, len(theirs))
    ]


def test_pieces_of_sentencepiece_are_compared_unless_the_class_shifts_them(copies, tmp_path: Path) -> None:
    files = {
        "tokenizer.json": tokenizer_json([["a", 0.0], ["b", -1.0]], kind="Unigram"),
        "spiece.model": sentencepiece(["a", "c"]),
    }
    assert [d.what for d in copies(files).disagreements] == ["vocabulary"]
    shifted = copies({**files, "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizer"}})
    assert shifted.compared == ()


def test_merges_in_another_order_are_a_difference(copies) -> None:
    vocab = {**ABC, "ba": 3}
    found = copies({"tokenizer.json": tokenizer_json(vocab, [], ["a b", "b a"]), "merges.txt": "b a\na b\n"})
    assert [d.subject for d in found.disagreements] == ["merges"]


def test_merges_that_name_a_token_the_vocabulary_lacks_are_counted(copies) -> None:
    found = copies({"tokenizer.json": tokenizer_json(ABC, [], [["a", "b"], ["a", "c"], ["b", "a"]])})
    assert (found.unknown_merges, found.first_unknown) == (2, "a c")


def test_the_prefix_of_continued_words_is_taken_off(copies) -> None:
    document = tokenizer_json({"a": 0, "##b": 1, "ab": 2}, [], [["a", "##b"]])
    document["model"]["continuing_subword_prefix"] = "##"
    assert copies({"tokenizer.json": document}).unknown_merges == 0
