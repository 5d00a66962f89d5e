from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders.documents import kinds
from builders.tokenizer_files import added, sentencepiece, tokenizer_json, write

from ckpt_inspect.artifacts import vocabularies
from ckpt_inspect.artifacts.tokenizer import Tokenizer, read_tokenizer
from ckpt_inspect.artifacts.tokenizer_types import Disagreement, Duplicate
from ckpt_inspect.storage import LocalTree

AB = {"a": 0, "b": 1}


@pytest.fixture
def tokenizer(tmp_path: Path):
    def read(files: dict[str, Any]) -> Tokenizer:
        found = read_tokenizer(LocalTree(write(tmp_path, files)))
        assert found is not None
        return found

    return read


def test_a_directory_without_tokenizer_files_has_none(tmp_path: Path) -> None:
    assert read_tokenizer(LocalTree(write(tmp_path, {"config.json": {}}))) is None


def test_length_counts_all_tokens_and_vocab_size_those_of_the_model(tokenizer) -> None:
    read = tokenizer(
        {"tokenizer.json": tokenizer_json(AB, [added(1, "b"), added(2, "<x>", special=True)], [["a", "b"]])}
    )
    assert (read.length, read.vocab_size, read.max_id) == (3, 2, 2)
    assert [(t.id, t.content, t.special) for t in read.added] == [(1, "b", False), (2, "<x>", True)]
    assert (read.model_kind, read.merges, read.hole_count, read.duplicates) == ("BPE", 1, 0, ())


@pytest.mark.parametrize("merges", [["a b", "b a"], [["a", "b"], ["b", "a"]], [['"]', "[,"], ["\\", '"']], ["] ["]])
def test_merges_are_counted_in_both_notations(tokenizer, merges: list) -> None:
    read = tokenizer({"tokenizer.json": tokenizer_json({"merges": 0, **AB, "c": 2}, [], merges)})
    assert read.merges == len(merges)
    assert read.vocab_size == 4


def test_a_file_of_transformers_5_is_told_from_one_of_4(tokenizer, tmp_path: Path) -> None:
    five = {
        "backend": "tokenizers",
        "extra_special_tokens": ["<x>"],
        "eos_token": "<x>",
        "tokenizer_class": "TokenizersBackend",
    }
    read = tokenizer({"tokenizer.json": tokenizer_json(AB, [added(2, "<x>")]), "tokenizer_config.json": five})
    assert (read.saved_by, read.extra_special, read.special) == ("5", ("<x>",), {"eos_token": "<x>"})
    assert read.special_ids == {"eos_token": 2}
    four = {
        "added_tokens_decoder": {"2": added(2, "<x>")},
        "additional_special_tokens": ["<x>"],
        "eos_token": {"content": "<x>", "lstrip": False},
    }
    (tmp_path / "tokenizer_config.json").unlink()
    read = tokenizer({"tokenizer_config.json": four})
    assert (read.saved_by, read.extra_special, read.special) == ("4", ("<x>",), {"eos_token": "<x>"})
    assert read.disagreements == ()


def test_named_extra_tokens_are_roles_and_null_roles_are_none(tokenizer) -> None:
    config = {
        "extra_special_tokens": {"image_token": "<img>"},
        "bos_token": None,
        "eos_token": "a",
        "add_bos_token": False,
    }
    read = tokenizer({"tokenizer.json": tokenizer_json(AB, [added(2, "<img>")]), "tokenizer_config.json": config})
    assert read.special == {"image_token": "<img>", "eos_token": "a"}
    assert read.special_ids == {"image_token": 2, "eos_token": 0}


def test_special_tokens_come_from_the_side_file_where_the_configuration_is_silent(tokenizer) -> None:
    read = tokenizer(
        {
            "tokenizer.json": tokenizer_json(AB),
            "tokenizer_config.json": {"eos_token": "a"},
            "special_tokens_map.json": {"eos_token": {"content": "b"}, "pad_token": "b"},
        }
    )
    assert read.special == {"eos_token": "a", "pad_token": "b"}
    assert read.disagreements == (
        Disagreement("special_token", "eos_token", "tokenizer_config.json", "a", "special_tokens_map.json", "b"),
    )


def test_a_special_token_that_is_nowhere_is_added_on_load(tokenizer) -> None:
    read = tokenizer({"tokenizer.json": tokenizer_json(AB), "tokenizer_config.json": {"pad_token": "[PAD]"}})
    assert (read.length, read.max_id, read.special_ids) == (3, 2, {"pad_token": 2})
    assert [(d.what, d.subject) for d in read.disagreements] == [("missing", "[PAD]")]


def test_a_token_written_after_a_hole_loads_under_the_next_free_id(tokenizer) -> None:
    read = tokenizer({"tokenizer.json": tokenizer_json(AB, [added(2, "<x>"), added(7, "<y>")])})
    assert [(t.id, t.written_id) for t in read.added] == [(2, 2), (3, 7)]
    assert (read.max_id, read.hole_count) == (3, 0)
    assert [(fault.kind, fault.place) for fault in read.faults] == [("tokenizer-id-moves", "<y>")]


def test_holes_of_the_vocabulary_itself_are_counted_and_the_first_named(tokenizer) -> None:
    read = tokenizer({"tokenizer.json": tokenizer_json({"a": 0, "b": 3, "c": 500})})
    assert (read.length, read.max_id, read.hole_count) == (3, 500, 498)
    assert read.holes[:3] == (1, 2, 4)
    assert len(read.holes) == 100


def test_a_vast_id_costs_nothing(tokenizer) -> None:
    read = tokenizer({"tokenizer.json": tokenizer_json({"a": 0, "b": 1 << 62})})
    assert read.hole_count == (1 << 62) - 1


def test_one_id_with_two_contents_and_one_content_at_two_ids_are_duplicates(tokenizer) -> None:
    read = tokenizer({"tokenizer.json": tokenizer_json({"a": 0, "b": 0})})
    assert read.duplicates == (Duplicate("id", (0,), ("a", "b")),)


def test_a_repeated_piece_of_a_unigram_list_counts_as_often_as_it_stands_there(tokenizer) -> None:
    pieces = [["<unk>", 0.0], ["a", -1.0], ["a", -2.0]]
    read = tokenizer({"tokenizer.json": tokenizer_json(pieces, kind="Unigram")})
    assert (read.length, read.vocab_size, read.max_id, read.model_kind) == (3, 3, 2, "Unigram")
    assert read.duplicates == (Duplicate("content", (1, 2), ("a",)),)


def test_files_of_one_tokenizer_that_disagree_are_named(tokenizer) -> None:
    read = tokenizer(
        {
            "tokenizer.json": tokenizer_json(AB, [added(2, "<x>", special=True)]),
            "tokenizer_config.json": {"added_tokens_decoder": {"3": added(3, "<x>"), "4": added(4, "<z>")}},
            "added_tokens.json": {"<x>": 9},
        }
    )
    assert {(d.what, d.subject, d.second_file) for d in read.disagreements} == {
        ("id", "<x>", "tokenizer_config.json"),
        ("flags", "<x>", "tokenizer_config.json"),
        ("missing", "<z>", "tokenizer.json"),
        ("id", "<x>", "added_tokens.json"),
    }
    assert read.length == 4
    assert read.id_of("<z>") == 3


def test_files_of_one_save_agree(tokenizer) -> None:
    read = tokenizer(
        {
            "tokenizer.json": tokenizer_json(AB, [added(2, "<x>", special=True), added(3, "<y>", normalized=True)]),
            "tokenizer_config.json": {
                "added_tokens_decoder": {"2": added(2, "<x>", special=True), "3": added(3, "<y>", normalized=True)}
            },
            "added_tokens.json": {"<x>": 2, "<y>": 3},
        }
    )
    assert read.disagreements == ()
    assert read.faults == ()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("vocab.json", AB, "BPE"),
        ("vocab.txt", "a\nb\n", "WordPiece"),
        ("vocab.txt", "a\r\nb", "WordPiece"),
        ("spiece.model", sentencepiece(["a", "b"]), "SentencePiece"),
        ("tokenizer.model", sentencepiece(["a", "b"]), "SentencePiece"),
        ("tokenizer.model", b"YQ== 0\nYg== 1\n", "tiktoken"),
        ("qwen.tiktoken", b"YQ== 0\nYg== 1\n", "tiktoken"),
    ],
)
def test_a_slow_vocabulary_is_read_with_the_ids_of_its_added_tokens(
    tokenizer, name: str, content: Any, kind: str
) -> None:
    read = tokenizer({name: content, "added_tokens.json": {"<x>": 4}, "tokenizer_config.json": {"eos_token": "<x>"}})
    assert (read.model_kind, read.vocab_size, read.length, read.max_id, read.hole_count) == (kind, 2, 3, 4, 2)
    assert read.special_ids == {"eos_token": 4}


def test_ids_of_a_slow_tokenizer_come_from_the_added_tokens_decoder(tokenizer) -> None:
    config = {
        "added_tokens_decoder": {"151329": added(151329, "<|endoftext|>", special=True)},
        "tokenizer_class": "ChatGLM4Tokenizer",
    }
    read = tokenizer({"tokenizer.model": b"YQ== 0\n", "tokenizer_config.json": config})
    assert (read.length, read.max_id, read.added[0].id) == (2, 151329, 151329)


def test_classes_that_shift_the_ids_of_their_file_are_not_exact(tokenizer) -> None:
    read = tokenizer(
        {
            "sentencepiece.bpe.model": sentencepiece(["a"]),
            "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizer"},
        }
    )
    assert read.exact is False


def test_tekken_counts_its_reserved_special_tokens(tokenizer) -> None:
    tekken = {
        "config": {"default_vocab_size": 12, "default_num_special_tokens": 4},
        "vocab": [{"rank": rank, "token_bytes": "YQ==", "token_str": None} for rank in range(20)],
        "special_tokens": [{"rank": 0, "token_str": "<unk>", "is_control": True}],
    }
    read = tokenizer({"tekken.json": tekken})
    assert (read.length, read.vocab_size, read.max_id) == (12, 12, 11)
    assert read.id_of("<unk>") == 0


def test_configuration_without_a_vocabulary_has_no_length(tokenizer) -> None:
    read = tokenizer({"tokenizer_config.json": {"pad_token": "<pad>", "padding_side": "left"}})
    assert (read.length, read.vocab_size, read.max_id, read.padding_side) == (None, None, None, "left")
    assert read.special == {"pad_token": "<pad>"}


@pytest.mark.parametrize(
    ("value", "length"), [(512, 512), (int(1e30), None), (1e30, None), (None, None), (0, None), (4096.0, 4096)]
)
def test_the_sentinel_for_an_unset_length_is_no_length(tokenizer, value: object, length: int | None) -> None:
    read = tokenizer({"tokenizer_config.json": {"model_max_length": value}})
    assert read.model_max_length == length
    assert read.faults == ()


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"tokenizer.json": {"version": "1.0"}}, "tokenizer-no-model"),
        ({"tokenizer.json": tokenizer_json({"a": "0"})}, "tokenizer-vocabulary"),
        ({"tokenizer.json": tokenizer_json({"a": -1})}, "tokenizer-vocabulary"),
        ({"tokenizer.json": tokenizer_json({"a": True})}, "tokenizer-vocabulary"),
        ({"tokenizer.json": tokenizer_json("a")}, "tokenizer-vocabulary"),
        ({"tokenizer.json": tokenizer_json([["a", 0.0], "b"], kind="Unigram")}, "tokenizer-vocabulary"),
        ({"tokenizer.json": tokenizer_json(AB, [{"content": "<x>"}])}, "tokenizer-added"),
        ({"tokenizer.json": tokenizer_json(AB) | {"added_tokens": {"<x>": 2}}}, "field-type"),
        ({"tokenizer.json": '{"model": {"vocab": {"a": 0, "b'}, "json-truncated"),
        ({"tokenizer.json": "[1]"}, "tokenizer-no-model"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"x": {"content": "<x>"}}}}, "tokenizer-added"),
        ({"tokenizer_config.json": {"chat_template": 5}}, "field-type"),
        ({"added_tokens.json": {"<x>": "2"}, "vocab.json": AB}, "tokenizer-added"),
        ({"tokenizer.model": b"\x0a\xff\xff\xff\xff"}, "sentencepiece-broken"),
        ({"qwen.tiktoken": b"YQ== 0\nnonsense\n"}, "tokenizer-vocabulary"),
    ],
)
def test_broken_files_are_described_and_never_raise(tokenizer, files: dict, kind: str) -> None:
    assert kinds(tokenizer(files)) == [kind]


def test_merges_that_are_no_list_of_strings_are_decoded_whole(tokenizer) -> None:
    text = '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [1, "a b"]}}'
    assert tokenizer({"tokenizer.json": text}).merges == 2
    broken = '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b", }}'
    assert "json-syntax" in kinds(tokenizer({"tokenizer.json": broken}))


def test_the_files_of_the_tokenizer_are_listed(tokenizer) -> None:
    files = {"tokenizer.json": tokenizer_json(AB), "merges.txt": "a b\n", "vocab.json": AB, "x.tiktoken": b""}
    assert tokenizer(files).files == ("tokenizer.json", "vocab.json", "merges.txt", "x.tiktoken")


def test_equal_files_are_decoded_once_and_different_ones_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    parse = vocabularies.parse_json
    monkeypatch.setattr(vocabularies, "parse_json", lambda data: decoded.append(len(data)) or parse(data))
    one, other = (
        tokenizer_json({"only": 0, "here": 1}, [], ["a b"]),
        tokenizer_json({"only": 0, "there": 1}, [], ["a b"]),
    )
    files = {f"checkpoint-{step}/tokenizer.json": one for step in range(1, 5)}
    tree = LocalTree(write(tmp_path, {**files, "tokenizer.json": other}))
    found = [read_tokenizer(tree, f"checkpoint-{step}") for step in range(1, 5)]
    assert len(decoded) == 1
    assert all(read is not None and read.id_of("here") == 1 for read in found)
    root = read_tokenizer(tree)
    assert root is not None
    assert root.id_of("here") is None


def test_a_broken_file_met_again_has_its_faults_again(tmp_path: Path) -> None:
    broken = {
        "a/tokenizer.json": '{"model": {"type": "BPE", "vocab": {"x": 0',
        "b/tokenizer.json": '{"model": {"type": "BPE", "vocab": {"x": 0',
    }
    tree = LocalTree(write(tmp_path, broken))
    first, second = read_tokenizer(tree, "a"), read_tokenizer(tree, "b")
    assert kinds(first) == kinds(second) == ["json-truncated"]
