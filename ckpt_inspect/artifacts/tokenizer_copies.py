"""The copies of one vocabulary in a directory, compared token by token: ``tokenizer.json`` against the slow files.

Slower than reading a tokenizer (every merge is decoded), so it is for `check`. A merge that names a token the
vocabulary lacks stops the library: tokenizers 0.23 ``models/bpe/model.rs:build`` (MergeTokenOutOfVocabulary).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckpt_inspect.artifacts.tokenizer import SENTENCEPIECE_FILES, shifts_ids, tokenizer_files
from ckpt_inspect.artifacts.tokenizer_types import Disagreement
from ckpt_inspect.artifacts.vocabularies import read_sentencepiece, read_vocab_json, read_vocab_txt
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.json_document import read_json

if TYPE_CHECKING:
    from ckpt_inspect.storage import LocalTree

_MAX_MERGES_FILE = 64 << 20
_KEPT = 20


@dataclass(frozen=True, slots=True)
class Copies:
    """What comparing found.

    Attributes:
        disagreements: tokens whose id differs between two files, and counts that differ; the first 20 of each pair.
        compared: the files compared with ``tokenizer.json``.
        unknown_merges: merges of ``tokenizer.json`` that name a token it lacks; `first_unknown` is one of them.
    """

    disagreements: tuple[Disagreement, ...]
    compared: tuple[str, ...]
    unknown_merges: int
    first_unknown: str | None


def compare_copies(tree: LocalTree, directory: str = "") -> Copies | None:
    """Compare every copy of the vocabulary with ``tokenizer.json``; None without that file."""
    names = tokenizer_files(tree, directory)
    if "tokenizer.json" not in names:
        return None
    prefix = f"{directory}/" if directory else ""
    document = _json(tree, prefix + "tokenizer.json")
    model = document.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vocab, dict | list):
        return None
    own = _ids(vocab)
    known = {**own, **_added(document.get("added_tokens"))}
    found: list[Disagreement] = []
    compared: list[str] = []
    for name, theirs in _slow(tree, prefix, names, _json(tree, prefix + "tokenizer_config.json")):
        compared.append(name)
        found.extend(_differences(own, known, theirs, name))
    merges = _pairs(model.get("merges"))
    if "merges.txt" in names and merges is not None:
        compared.append("merges.txt")
        lines = _merge_lines(tree, prefix + "merges.txt")
        if lines != merges:
            found.append(_count("merges", len(merges), "merges.txt", len(lines)))
    unknown = list(_unknown_merges(own, merges or [], model))
    return Copies(tuple(found), tuple(compared), len(unknown), unknown[0] if unknown else None)


def _json(tree: LocalTree, path: str) -> Mapping[str, Any]:
    entry = tree.get(path)
    if entry is None or entry.kind != "file":
        return {}
    with tree.open(path) as source:
        return read_json(source).mapping


def _ids(vocab: dict[str, Any] | list[Any]) -> dict[str, int]:
    if isinstance(vocab, dict):
        return {content: number for content, number in vocab.items() if type(number) is int}
    pieces = enumerate(vocab)
    return {item[0]: number for number, item in pieces if isinstance(item, list) and item and isinstance(item[0], str)}


def _added(tokens: object) -> dict[str, int]:
    entries = tokens if isinstance(tokens, list) else []
    return {
        entry["content"]: entry["id"]
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and type(entry.get("id")) is int
    }


def _slow(
    tree: LocalTree, prefix: str, names: tuple[str, ...], config: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, int]]]:
    ignored = FaultLog()  # the reader of the tokenizer says what is wrong with a file
    for name in names:
        if name == "vocab.json":
            with tree.open(prefix + name) as source:
                yield name, read_vocab_json(source, ignored).ids
        elif name == "vocab.txt":
            with tree.open(prefix + name) as source:
                yield name, read_vocab_txt(source).ids
        elif name in SENTENCEPIECE_FILES and not shifts_ids(config.get("tokenizer_class")):
            with tree.open(prefix + name) as source:
                vocabulary = read_sentencepiece(source, ignored)
            if vocabulary.kind == "SentencePiece":  # the ranks of a tiktoken file are bytes, not contents
                yield name, vocabulary.ids


def _differences(
    own: Mapping[str, int], known: Mapping[str, int], theirs: Mapping[str, int], name: str
) -> Iterator[Disagreement]:
    moved = [(text, number) for text, number in theirs.items() if known.get(text, number) != number]
    for text, number in moved[:_KEPT]:
        yield Disagreement("id", text, "tokenizer.json", known[text], name, number)
    foreign = sum(text not in known for text in theirs)
    absent = sum(text not in theirs for text in own)
    if foreign or absent:
        yield _count("tokens", len(own), name, len(theirs))


def _count(subject: str, first: int, name: str, second: int) -> Disagreement:
    return Disagreement("vocabulary", subject, "tokenizer.json", first, name, second)


def _pairs(merges: object) -> list[tuple[str, str]] | None:
    """Merges in both notations: "a b" and, since tokenizers 0.20, ["a", "b"]."""
    if not isinstance(merges, list):
        return None
    found: list[tuple[str, str]] = []
    for merge in merges:
        if isinstance(merge, str):
            first, _, second = merge.partition(" ")
            found.append((first, second))
        elif isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge):
            found.append((merge[0], merge[1]))
    return found


def _merge_lines(tree: LocalTree, path: str) -> list[tuple[str, str]]:
    with tree.open(path) as source:
        text = source.read_at(0, min(source.size, _MAX_MERGES_FILE)).decode("utf-8", "replace")
    lines = text.split("\n")
    if lines and lines[0].startswith("#version"):
        del lines[0]
    split = (line.removesuffix("\r").partition(" ") for line in lines if line.strip())
    return [(first, second) for first, _, second in split]


def _unknown_merges(own: Mapping[str, int], merges: list[tuple[str, str]], model: Mapping[str, Any]) -> Iterator[str]:
    prefix = model.get("continuing_subword_prefix")
    skip = len(prefix) if isinstance(prefix, str) else 0
    for first, second in merges:
        if first not in own or second not in own or first + second[skip:] not in own:
            yield f"{first} {second}"
