"""Vocabularies as tokenizers keep them: content to id, from every file format in use.

``tokenizer.json``: huggingface/tokenizers ``tokenizer/serialization.rs``; ``tokenizer.model`` and ``spiece.model``:
SentencePiece's ``sentencepiece_model.proto`` (ModelProto: 1 = repeated SentencePiece{1 = piece}); ``*.tiktoken``: lines
"base64 rank"; ``tekken.json``: mistral-common ``tokens/tokenizers/tekken.py``; ``vocab.txt``: one WordPiece per line;
``vocab.json``: content to id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckpt_inspect.artifacts.fields import json_kind
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.json_document import parse_json, read_json
from ckpt_inspect.formats.json_lists import without_last_list
from ckpt_inspect.formats.protobuf_wire import BYTES, WireError, fields

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

MAX_BYTES = 64 << 20
_REMEMBERED = 2  # the run's own tokenizer and its base model's
_recent: dict[bytes, tuple[Vocabulary, tuple[Fault, ...]]] = {}
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n?")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Content to id, the kind of the model, and what else the file says.

    `repeated` are contents that stand at several ids (the last one counts); `added` the raw entries of `added_tokens`;
    `specials` contents the file itself marks as special.
    """

    kind: str | None
    ids: dict[str, int]
    merges: int | None = None
    added: tuple[dict[str, Any], ...] = ()
    repeated: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    specials: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """Entries of the file, as the library counts them: a repeated content as often as it stands there."""
        return len(self.ids) + sum(len(places) - 1 for places in self.repeated.values())


def read_tokenizer_json(source: ByteSource, faults: FaultLog) -> Vocabulary:
    """Read ``tokenizer.json``, its merges only counted. The checkpoints of a run hold the same bytes: read once."""
    if source.size > MAX_BYTES:
        faults.extend(read_json(source, max_bytes=MAX_BYTES).faults)
        return Vocabulary(None, {})
    data = source.read_at(0, source.size)
    digest = hashlib.blake2b(data, digest_size=32).digest()
    known = _recent.get(digest)
    if known is None:
        log = FaultLog()
        known = _tokenizer_json(data, log), log.sealed()
        while len(_recent) >= _REMEMBERED:
            _recent.pop(next(iter(_recent)), None)
        _recent[digest] = known
    faults.extend(known[1])
    return known[0]


def _tokenizer_json(data: bytes, faults: FaultLog) -> Vocabulary:
    cut = without_last_list(data, "merges")
    document = parse_json(cut.data) if cut is not None else parse_json(data)
    model = document.mapping.get("model")
    if cut is not None and not (document.complete and isinstance(model, dict) and model.get("merges", 0) is None):
        cut, document = None, parse_json(data)
        model = document.mapping.get("model")
    faults.extend(document.faults)
    added = document.mapping.get("added_tokens")
    if not isinstance(model, dict):
        if document.complete:
            faults.add("tokenizer-no-model", "names no model", place="model")
        return Vocabulary(None, {}, added=_objects(added, faults))
    merges = cut.elements if cut is not None else None
    if merges is None and isinstance(model.get("merges"), list):
        merges = len(model["merges"])
    kind = model.get("type") if isinstance(model.get("type"), str) else _kind(model)
    ids, repeated = _model_ids(model.get("vocab"), faults)
    return Vocabulary(kind, ids, merges, _objects(added, faults), repeated)


def read_vocab_json(source: ByteSource, faults: FaultLog) -> Vocabulary:
    """Read ``vocab.json`` (BPE, content to id)."""
    document = read_json(source, want_object=True)
    faults.extend(document.faults)
    return Vocabulary("BPE", _checked_ids(document.mapping, faults))


def read_vocab_txt(source: ByteSource) -> Vocabulary:
    """Read ``vocab.txt`` (WordPiece, one token per line, the line number its id)."""
    text = source.read_at(0, min(source.size, MAX_BYTES)).decode("utf-8", "replace")
    tokens = [line.removesuffix("\r") for line in text.split("\n")]
    if tokens and tokens[-1] == "":
        tokens.pop()
    ids, repeated = _by_position(tokens)
    return Vocabulary("WordPiece", ids, repeated=repeated)


def read_sentencepiece(source: ByteSource, faults: FaultLog) -> Vocabulary:
    """Read the pieces of a SentencePiece model, or the ranks of a tiktoken file under the same name."""
    data = source.read_at(0, min(source.size, MAX_BYTES))
    if _TIKTOKEN_LINE.match(data):
        return _tiktoken(data, faults)
    pieces: list[str] = []
    try:
        for item in fields(data):
            if item.number == 1 and item.kind == BYTES:
                pieces.append(_piece(data, item.start, item.end))
    except WireError as error:
        faults.add("sentencepiece-broken", f"is no SentencePiece model: {error}", offset=error.offset)
    ids, repeated = _by_position(pieces)
    return Vocabulary("SentencePiece", ids, repeated=repeated)


def read_tiktoken(source: ByteSource, faults: FaultLog) -> Vocabulary:
    """Read a ``.tiktoken`` file."""
    return _tiktoken(source.read_at(0, min(source.size, MAX_BYTES)), faults)


def read_tekken(source: ByteSource, faults: FaultLog) -> Vocabulary:
    """Read ``tekken.json``: special tokens first, then as many ranks as `default_vocab_size` leaves room for."""
    document = read_json(source, want_object=True)
    faults.extend(document.faults)
    config = document.mapping.get("config")
    vocab = document.mapping.get("vocab")
    config = config if isinstance(config, dict) else {}
    size, reserved = config.get("default_vocab_size"), config.get("default_num_special_tokens")
    if not isinstance(vocab, list) or type(size) is not int or type(reserved) is not int:
        faults.add("tokenizer-no-model", "names no vocabulary or no sizes", place="vocab")
        return Vocabulary("tekken", {})
    named = _objects(document.mapping.get("special_tokens"), faults)
    specials = {item["token_str"]: item["rank"] for item in named if _is_tekken_special(item)}
    free = set(range(reserved)) - set(specials.values())
    ids = {**specials, **{f"<SPECIAL_{rank}>": rank for rank in free}}
    special_contents = frozenset(ids)
    for rank in range(min(len(vocab), max(0, size - reserved))):
        ids[f"rank {rank}"] = reserved + rank  # bytes that need not be text; only their number matters here
    return Vocabulary("tekken", ids, specials=special_contents)


def _is_tekken_special(item: dict[str, Any]) -> bool:
    return isinstance(item.get("token_str"), str) and type(item.get("rank")) is int


def _kind(model: Mapping[str, Any]) -> str | None:
    """The model of a file without `type` (tokenizers before 0.9), by its fields as the library itself guesses."""
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "continuing_subword_prefix" in model else "WordLevel" if "vocab" in model else None


def _model_ids(vocab: object, faults: FaultLog) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    if isinstance(vocab, dict):
        return _checked_ids(vocab, faults), {}
    if isinstance(vocab, list):
        pieces = [item[0] if isinstance(item, list) and item and isinstance(item[0], str) else None for item in vocab]
        if None in pieces:
            faults.add("tokenizer-vocabulary", "an entry is not a piece with its score", place="model.vocab")
        return _by_position([piece if piece is not None else "" for piece in pieces])
    if vocab is not None:
        faults.add("tokenizer-vocabulary", f"is {json_kind(vocab)}, not a vocabulary", place="model.vocab")
    return {}, {}


def _checked_ids(vocab: dict[str, Any], faults: FaultLog) -> dict[str, int]:
    if set(map(type, vocab.values())) <= {int} and min(vocab.values(), default=0) >= 0:
        return vocab
    kept = {content: number for content, number in vocab.items() if type(number) is int and number >= 0}
    faults.add("tokenizer-vocabulary", f"{len(vocab) - len(kept):,} entries have no id", place="model.vocab")
    return kept


def _by_position(pieces: list[str]) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    ids = {piece: number for number, piece in enumerate(pieces)}
    if len(ids) == len(pieces):
        return ids, {}
    places: dict[str, list[int]] = {}
    for number, piece in enumerate(pieces):
        places.setdefault(piece, []).append(number)
    return ids, {piece: tuple(numbers) for piece, numbers in places.items() if len(numbers) > 1}


def _objects(value: object, faults: FaultLog) -> tuple[dict[str, Any], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        faults.add("field-type", f"is {json_kind(value)}, not a list", place="added_tokens")
        return ()
    return tuple(item for item in value if isinstance(item, dict))


def _piece(data: bytes, start: int, end: int) -> str:
    if end > start + 2 and data[start] == 0x0A and data[start + 1] < 0x80:  # field 1 with a short length, as always
        stop = start + 2 + data[start + 1]
        if stop <= end:
            return data[start + 2 : stop].decode("utf-8", "replace")
    text = b""
    for item in fields(data, start, end):
        if item.number == 1 and item.kind == BYTES:
            text = data[item.start : item.end]
    return text.decode("utf-8", "replace")


def _tiktoken(data: bytes, faults: FaultLog) -> Vocabulary:
    ids: dict[str, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        token, _, rank = line.partition(b" ")
        try:
            ids[base64.b64decode(token, validate=True).decode("latin-1")] = int(rank)
        except (binascii.Error, ValueError):
            if line.strip():
                faults.add("tokenizer-vocabulary", "is not `base64 rank`", place=f"line {number}")
    return Vocabulary("tiktoken", ids)
