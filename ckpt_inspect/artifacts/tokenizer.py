"""A tokenizer as transformers loads it: how many tokens, at which ids, which are special, and where its files disagree.

File sets: transformers 4 writes ``tokenizer.json``, ``tokenizer_config.json`` with `added_tokens_decoder`,
``special_tokens_map.json`` and the slow files; 5 writes ``tokenizer.json`` and ``tokenizer_config.json`` alone
(``tokenization_utils_base.py:save_pretrained``). Ids of added tokens are those huggingface/tokenizers gives on load
(``added_vocabulary.rs:add_tokens``), not those written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ckpt_inspect.artifacts.added_tokens import TokenTable, spoken_tokens, token_content
from ckpt_inspect.artifacts.fields import Fields, read_object
from ckpt_inspect.artifacts.tokenizer_types import SENTINEL_LENGTH, AddedToken, Duplicate, Tokenizer
from ckpt_inspect.artifacts.tokenizer_types import Disagreement as Disagreement
from ckpt_inspect.artifacts.vocabularies import (
    Vocabulary,
    read_sentencepiece,
    read_tekken,
    read_tiktoken,
    read_tokenizer_json,
    read_vocab_json,
    read_vocab_txt,
)
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.fault_log import FaultLog

if TYPE_CHECKING:
    from ckpt_inspect.storage import LocalTree

KEPT = 100
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "source.spm", "bpe.model")
_CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_FILES = (
    "tokenizer.json",
    *_CONFIG_FILES,
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    *SENTENCEPIECE_FILES,
    "target.spm",
    "tekken.json",
)
# Slow classes that shift the pieces of their file: ids in it are not ids of the tokenizer.
_SHIFTED = (
    "XLMRoberta",
    "MBart",
    "NLLB",
    "Nllb",
    "Camembert",
    "M2M100",
    "Barthez",
    "Bartpho",
    "XLM",
    "Marian",
    "Pegasus",
)


def read_tokenizer(tree: LocalTree, directory: str = "") -> Tokenizer | None:
    """Read the tokenizer in a directory of `tree`; None where no file of one is there. Never raises for content."""
    names = tokenizer_files(tree, directory)
    if not names:
        return None
    return _Reader(tree, directory, names).read()


def tokenizer_files(tree: LocalTree, directory: str = "") -> tuple[str, ...]:
    """The names of the tokenizer's files that lie directly in a directory, in the order transformers looks at them."""
    prefix = f"{directory}/" if directory else ""
    found = [name for name in _FILES if _is_file(tree, prefix + name)]
    found.extend(
        entry.name
        for entry in tree.entries()
        if entry.parent == directory and entry.kind == "file" and entry.name.endswith(".tiktoken")
    )
    return tuple(found)


def _is_file(tree: LocalTree, path: str) -> bool:
    entry = tree.get(path)
    return entry is not None and entry.kind == "file"


class _Reader:
    """Reads one directory's files, each once."""

    def __init__(self, tree: LocalTree, directory: str, names: tuple[str, ...]) -> None:
        self._tree = tree
        self._prefix = f"{directory}/" if directory else ""
        self._names = names
        self._faults = FaultLog()
        self._placed: list[Fault] = []

    def read(self) -> Tokenizer:
        config_fields = Fields(self._object("tokenizer_config.json"), self._faults, "tokenizer_config.json:")
        config = config_fields.values
        special_map = self._object("special_tokens_map.json")
        source, vocabulary = self._vocabulary()
        table = TokenTable(vocabulary, self._faults)
        table.add_written(vocabulary.added, source or "tokenizer.json")
        decoder = config_fields.mapping("added_tokens_decoder") or {}
        table.add_decoder(decoder, trusted=source != "tokenizer.json")
        side_file = self._object("added_tokens.json")
        table.add_side_file(side_file, trusted=source != "tokenizer.json" and not decoder)
        special, extra = spoken_tokens(config, special_map, ROLES)
        table.compare_special(config, special_map, ROLES)
        if vocabulary.ids:
            table.add_special((*special.values(), *extra))
        added = table.added
        holes, hole_count = _holes(vocabulary.ids, added)
        maximum = max(max(vocabulary.ids.values(), default=-1), max((token.id for token in added), default=-1))
        return Tokenizer(
            length=_length(vocabulary, added) if vocabulary.ids else None,
            vocab_size=vocabulary.size or None,
            max_id=maximum if maximum >= 0 else None,
            added=added,
            hole_count=hole_count,
            holes=holes,
            duplicates=_duplicates(vocabulary, added),
            disagreements=tuple(table.disagreements),
            special=special,
            extra_special=extra,
            tokenizer_class=config_fields.text("tokenizer_class"),
            model_max_length=self._max_length(config_fields),
            padding_side=config_fields.text("padding_side"),
            chat_template_inline=_template(config_fields),
            model_kind=vocabulary.kind,
            merges=vocabulary.merges,
            saved_by=self._saved_by(config),
            transformers_version=config_fields.text("transformers_version"),
            auto_map=config_fields.mapping("auto_map") or {},
            files=self._names,
            exact=source in ("tokenizer.json", "tekken.json") or not shifts_ids(config.get("tokenizer_class")),
            config=dict(config),
            faults=(*self._placed, *self._faults.sealed()),
            vocabulary=vocabulary.ids,
        )

    def _object(self, name: str) -> dict[str, Any]:
        if name not in self._names:
            return {}
        log = FaultLog()
        with self._tree.open(self._prefix + name) as source:
            values, _ = read_object(source, log)
        self._keep(name, log, values)
        return values

    def _keep(self, name: str, log: FaultLog, values: Mapping[str, Any] | None = None) -> None:
        sentinel = _is_sentinel((values or {}).get("model_max_length"))
        for fault in log.sealed():
            if fault.kind == "json-huge-int" and sentinel:
                continue  # transformers' own "not set"
            place = f"{name}:{fault.place}" if fault.place else name
            self._placed.append(Fault(fault.kind, fault.message, fault.offset, place))

    def _vocabulary(self) -> tuple[str | None, Vocabulary]:
        """The first file that gives ids, by the preference of transformers."""
        for name in self._names:
            read = _READERS.get(name) or (_READERS["*.tiktoken"] if name.endswith(".tiktoken") else None)
            if read is None:
                continue
            log = FaultLog()
            with self._tree.open(self._prefix + name) as source:
                vocabulary = read(source, log)
            self._keep(name, log)
            if vocabulary.ids or vocabulary.added:
                return name, vocabulary
        return None, Vocabulary(None, {})

    def _max_length(self, fields: Fields) -> int | None:
        value = fields.number("model_max_length")
        return None if value is None or not 0 < value < SENTINEL_LENGTH else int(value)

    def _saved_by(self, config: Mapping[str, Any]) -> Literal["4", "5"] | None:
        if "backend" in config or isinstance(config.get("extra_special_tokens"), list):
            return "5"
        if "added_tokens_decoder" in config or "special_tokens_map.json" in self._names:
            return "4"
        return None


def _read_vocab_txt(source: Any, _: FaultLog) -> Vocabulary:
    return read_vocab_txt(source)


_READERS: dict[str, Any] = {
    "tokenizer.json": read_tokenizer_json,
    "vocab.json": read_vocab_json,
    "vocab.txt": _read_vocab_txt,
    **dict.fromkeys(SENTENCEPIECE_FILES, read_sentencepiece),
    "tekken.json": read_tekken,
    "*.tiktoken": read_tiktoken,
}


def _is_sentinel(value: object) -> bool:
    return isinstance(value, int | float) and value >= SENTINEL_LENGTH


def shifts_ids(name: object) -> bool:
    """Whether a slow tokenizer's class gives the pieces of its file other ids than their places."""
    return isinstance(name, str) and name.startswith(_SHIFTED)


def _template(fields: Fields) -> str | list[Any] | None:
    value = fields.values.get("chat_template")
    if value is None or isinstance(value, str | list):
        return value
    fields.wrong("chat_template", "a string or a list")
    return None


def _length(vocabulary: Vocabulary, added: Iterable[AddedToken]) -> int:
    return vocabulary.size + sum(token.content not in vocabulary.ids for token in added)


def _holes(ids: Mapping[str, int], added: Iterable[AddedToken]) -> tuple[tuple[int, ...], int]:
    present = set(ids.values())
    present.update(token.id for token in added)
    if not present:
        return (), 0
    count = max(present) + 1 - len(present)
    if count <= 0:
        return (), 0
    missing: list[int] = []
    expected = 0
    for number in sorted(present):
        for hole in range(expected, min(number, expected + KEPT)):
            missing.append(hole)
            if len(missing) == KEPT:
                return tuple(missing), count
        expected = number + 1
    return tuple(missing), count


def _duplicates(vocabulary: Vocabulary, added: Iterable[AddedToken]) -> tuple[Duplicate, ...]:
    found = [Duplicate("content", ids, (content,)) for content, ids in list(vocabulary.repeated.items())[:KEPT]]
    ids = vocabulary.ids
    outside = [token for token in added if token.content not in ids]
    if len(set(ids.values()) | {token.id for token in outside}) < len(ids) + len(outside):
        contents: dict[int, list[str]] = {}
        for content, number in ids.items():
            contents.setdefault(number, []).append(content)
        for token in outside:
            contents.setdefault(token.id, []).append(token.content)
        found.extend(Duplicate("id", (number,), tuple(names)) for number, names in contents.items() if len(names) > 1)
    return tuple(found[:KEPT])


def content_of(value: object) -> str | None:
    """The text of a special token, written as text or as an object with `content`."""
    return token_content(value)
