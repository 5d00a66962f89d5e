"""The facts about a tokenizer; see ``tokenizer.py`` for where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault

SENTINEL_LENGTH = 10**20
"""`model_max_length` above this is transformers' "not set" (``VERY_LARGE_INTEGER``, 1e30)."""


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token outside the model's own vocabulary, or one of it that is never split.

    `id` is the id the library gives it on load; `written_id` the one in the file (None where the file gives none);
    `origin` the file that brings it in.
    """

    id: int
    content: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False
    written_id: int | None = None
    origin: str = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Duplicate:
    """kind "id": one id stands for several contents; kind "content": one content stands at several ids."""

    kind: Literal["id", "content"]
    ids: tuple[int, ...]
    contents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two files of one tokenizer say different things: `first` in `first_file`, `second` in `second_file`."""

    what: Literal["id", "flags", "missing", "special_token", "vocabulary"]
    subject: str
    first_file: str
    first: Any
    second_file: str
    second: Any


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer as transformers loads it.

    Attributes:
        length: tokens in all, ``len(tokenizer)``; None where no vocabulary could be read.
        vocab_size: entries of the model itself, ``tokenizer.vocab_size``.
        max_id: the largest id; the embedding needs `max_id + 1` rows.
        added: every added token, by id.
        hole_count, holes: ids below `max_id` that no token has; the first 100 of them.
        duplicates: ids or contents that stand twice, at most 100.
        special: role ("eos_token", "pad_token", ...) to content.
        extra_special: further special tokens without a role (`additional_special_tokens`, `extra_special_tokens`).
        model_max_length: None where it is the sentinel for "not set".
        chat_template_inline: `chat_template` of tokenizer_config.json as it stands there (text, or a list of objects).
        model_kind: "BPE", "Unigram", "WordPiece", "WordLevel", "tiktoken", "tekken", ...
        saved_by: "5" (tokenizer.json alone carries the vocabulary), "4" (its side files are here), None unknown.
        files: names of the tokenizer's files that are here, those not needed for the facts included.
        exact: False where the class of a slow tokenizer may change ids the files do not show.
    """

    length: int | None
    vocab_size: int | None
    max_id: int | None
    added: tuple[AddedToken, ...]
    hole_count: int
    holes: tuple[int, ...]
    duplicates: tuple[Duplicate, ...]
    disagreements: tuple[Disagreement, ...]
    special: dict[str, str]
    extra_special: tuple[str, ...]
    tokenizer_class: str | None
    model_max_length: int | None
    padding_side: str | None
    chat_template_inline: str | list[Any] | None
    model_kind: str | None
    merges: int | None
    saved_by: Literal["4", "5"] | None
    transformers_version: str | None
    auto_map: dict[str, Any]
    files: tuple[str, ...]
    exact: bool
    config: dict[str, Any] = field(repr=False)
    faults: tuple[Fault, ...]
    vocabulary: Mapping[str, int] = field(repr=False, default_factory=dict)

    def id_of(self, content: str) -> int | None:
        """The id of a token, added or of the model; None where it is no token."""
        for token in self.added:
            if token.content == content:
                return token.id
        return self.vocabulary.get(content)

    @property
    def special_ids(self) -> dict[str, int | None]:
        """Role to id; None where the content is no token."""
        return {role: self.id_of(content) for role, content in self.special.items()}
