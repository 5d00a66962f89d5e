"""Added tokens: gathers them from every file that may bring them, gives them the ids the library gives, and notes
where files disagree.

Rules: huggingface/tokenizers ``tokenizer/added_vocabulary.rs:add_tokens`` (a token of the model keeps its id, any other
gets the next free one, whatever id is written); transformers ``tokenization_utils_tokenizers.py`` (tokens of
`added_tokens_decoder` and special tokens that are not there yet are added on load).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ckpt_inspect.artifacts.tokenizer_types import AddedToken, Disagreement
from ckpt_inspect.artifacts.vocabularies import Vocabulary
from ckpt_inspect.formats.fault_log import FaultLog

_FLAGS = ("special", "lstrip", "rstrip", "normalized", "single_word")
_KEPT = 200


class TokenTable:
    """The added tokens of one tokenizer, growing as files are read."""

    def __init__(self, vocabulary: Vocabulary, faults: FaultLog) -> None:
        self._ids = vocabulary.ids
        self._size = vocabulary.size
        self._faults = faults
        self._by_content: dict[str, AddedToken] = {}
        self._largest: int | None = None
        self.disagreements: list[Disagreement] = []
        for content in vocabulary.specials:
            self._add(AddedToken(self._ids[content], content, special=True, origin="tekken.json"))

    @property
    def added(self) -> tuple[AddedToken, ...]:
        """Every added token, by id."""
        return tuple(sorted(self._by_content.values(), key=lambda token: (token.id, token.content)))

    def add_written(self, entries: Iterable[Mapping[str, Any]], origin: str) -> None:
        """The `added_tokens` of ``tokenizer.json``, in file order."""
        for index, entry in enumerate(entries):
            content, written = entry.get("content"), entry.get("id")
            if not isinstance(content, str) or type(written) is not int:
                self._faults.add(
                    "tokenizer-added", "names no content or no id", place=f"{origin}:added_tokens[{index}]"
                )
                continue
            if not content:
                continue  # the library ignores it
            known = self._by_content.get(content)
            if known is not None:
                if known.written_id != written:
                    self._note(Disagreement("id", content, origin, known.written_id, origin, written))
                continue
            number = self._assigned(content)
            if number != written:
                self._faults.add(
                    "tokenizer-id-moves", f"is written with id {written} and loads as {number}", place=content
                )
            self._add(_token(number, content, entry, written, origin))

    def add_decoder(self, decoder: Mapping[str, Any], *, trusted: bool) -> None:
        """`added_tokens_decoder` of tokenizer_config.json: id to token.

        Args:
            trusted: whether its ids count (a slow tokenizer), or only its contents (beside ``tokenizer.json``).
        """
        origin = "tokenizer_config.json"
        for key, entry in sorted(decoder.items(), key=lambda item: _order(item[0])):
            content = entry.get("content") if isinstance(entry, Mapping) else None
            if not isinstance(content, str) or not key.isdecimal() or len(key) > 18:
                self._faults.add("tokenizer-added", "names no content or no id", place=f"{origin}:{key}")
                continue
            self._compare_or_add(content, int(key), entry, origin, trusted=trusted)

    def add_side_file(self, entries: Mapping[str, Any], *, trusted: bool) -> None:
        """``added_tokens.json``: content to id."""
        origin = "added_tokens.json"
        for content, number in sorted(entries.items(), key=lambda item: _order(item[1])):
            if type(number) is not int or number < 0:
                self._faults.add("tokenizer-added", "is no id", place=f"{origin}:{content}")
                continue
            self._compare_or_add(content, number, {}, origin, trusted=trusted)

    def add_special(self, contents: Iterable[str]) -> None:
        """Special tokens no file lists as added: transformers adds them on load, new ones with the next free id."""
        for content in contents:
            if not content or content in self._by_content:
                continue
            number = self._assigned(content)
            if content not in self._ids:
                self._note(Disagreement("missing", content, "tokenizer_config.json", number, "tokenizer.json", None))
            self._add(AddedToken(number, content, special=True, origin="tokenizer_config.json"))

    def compare_special(self, config: Mapping[str, Any], special_map: Mapping[str, Any], roles: Iterable[str]) -> None:
        """Note roles that tokenizer_config.json and special_tokens_map.json give to different tokens."""
        for role in roles:
            first, second = token_content(config.get(role)), token_content(special_map.get(role))
            if role in config and role in special_map and first != second:
                self._note(
                    Disagreement(
                        "special_token", role, "tokenizer_config.json", first, "special_tokens_map.json", second
                    )
                )

    def _compare_or_add(
        self, content: str, number: int, entry: Mapping[str, Any], origin: str, *, trusted: bool
    ) -> None:
        known = self._by_content.get(content)
        here = known.id if known is not None else self._ids.get(content)
        if here is None:
            assigned = number if trusted else self._assigned(content)
            if not trusted:
                self._note(Disagreement("missing", content, origin, number, "tokenizer.json", None))
            self._add(_token(assigned, content, entry, number, origin))
            return
        if here != number:
            first = known.origin if known is not None else "the vocabulary"
            self._note(Disagreement("id", content, first, here, origin, number))
        if known is None:
            self._add(_token(here, content, entry, number, origin))
        elif entry:
            self._compare_flags(known, entry, origin)

    def _compare_flags(self, known: AddedToken, entry: Mapping[str, Any], origin: str) -> None:
        for flag in _FLAGS:
            value = entry.get(flag)
            if isinstance(value, bool) and value != getattr(known, flag):
                self._note(
                    Disagreement(
                        "flags", known.content, known.origin, {flag: getattr(known, flag)}, origin, {flag: value}
                    )
                )

    def _assigned(self, content: str) -> int:
        number = self._ids.get(content)
        if number is not None:
            return number
        return self._size if self._largest is None or self._largest < self._size else self._largest + 1

    def _add(self, token: AddedToken) -> None:
        self._by_content[token.content] = token
        self._largest = token.id if self._largest is None else max(self._largest, token.id)

    def _note(self, disagreement: Disagreement) -> None:
        if len(self.disagreements) < _KEPT:
            self.disagreements.append(disagreement)


def spoken_tokens(
    config: Mapping[str, Any], special_map: Mapping[str, Any], roles: tuple[str, ...]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """(role to content, further special tokens): tokenizer_config.json first, special_tokens_map.json where it is silent."""
    special: dict[str, str] = {}
    for source in (special_map, config):
        named = source.get("extra_special_tokens")
        own = {key: value for key, value in source.items() if key in roles or _is_role(key, value)}
        for role, value in {**(named if isinstance(named, Mapping) else {}), **own}.items():
            content = token_content(value)
            if content is not None:
                special[role] = content
            elif role in roles:
                special.pop(role, None)
    extra: list[str] = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        value = config.get(key, special_map.get(key))
        if isinstance(value, list):
            extra.extend(content for item in value if (content := token_content(item)) is not None)
    return special, tuple(dict.fromkeys(extra))


def token_content(value: object) -> str | None:
    """The text of a special token, written as text or as an object with `content`."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _is_role(key: str, value: object) -> bool:
    return key.endswith("_token") and not key.startswith("add_") and token_content(value) is not None


def _token(number: int, content: str, entry: Mapping[str, Any], written: int | None, origin: str) -> AddedToken:
    flags = {flag: entry.get(flag) is True for flag in _FLAGS}
    return AddedToken(number, content, written_id=written, origin=origin, **flags)


def _order(value: object) -> tuple[int, str]:
    if type(value) is int:
        return value, ""
    text = str(value)
    return (int(text), "") if text.isdecimal() and len(text) < 19 else (1 << 62, text)
