"""JSON as training tools really write it, read with limits and without surprises.

The stdlib decoder does the work, after a pass over the bytes has bounded depth and memory. Everything it would let pass
in silence (duplicate keys, NaN, lone surrogates, overflow to infinity) or raise on (a file cut short, an integer of
5,000 digits) becomes a fault. Grammar: RFC 8259; `NaN` and `Infinity` are what Python's `json.dumps` writes, so the
Hugging Face Trainer writes them too (`transformers/trainer_callback.py` 5.23, `TrainerState.save_to_json`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ckpt_inspect.formats.collector import collector_paused
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.json_structure import closable_prefixes, lone_surrogates, measure, unusual_numbers
from ckpt_inspect.formats.json_watch import WatchedDecoder
from ckpt_inspect.storage import ByteSource

MAX_BYTES = 64 << 20
MAX_DEPTH = 200
MAX_MEMORY = 320 << 20
MAX_LINE = 16 << 20
MAX_ASTRAL = 48 << 20  # bytes of a text with one character beyond U+FFFF: each then takes four bytes
_BLOCK = 1 << 20

_BELOW_ASTRAL = bytes(range(0xF0))
_NUMBER_TAIL = re.compile(r"\.|[eE][-+]?")  # "1." and "1e-": the decoder takes the 1 and stops
_LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


@dataclass(frozen=True, slots=True)
class JsonDocument:
    """`value` as plain Python data (None where nothing could be read), what was wrong, and whether it is all there.

    `complete` is False when `value` is only a beginning of what the file should hold, or None for a fault.
    """

    value: Any
    faults: tuple[Fault, ...] = ()
    complete: bool = True

    @property
    def mapping(self) -> dict[str, Any]:
        """The top-level object, empty where the top level is something else."""
        return self.value if isinstance(self.value, dict) else {}


@dataclass(frozen=True, slots=True)
class JsonLines:
    """The rows of a JSON Lines file with their line numbers (from 1), what was wrong, and whether all was read."""

    rows: tuple[tuple[int, Any], ...]
    faults: tuple[Fault, ...] = ()
    complete: bool = True


def read_json(
    source: ByteSource, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH, want_object: bool = False
) -> JsonDocument:
    """Read one JSON document. Never raises for its content.

    Fault kinds: json-empty, json-nul, json-syntax, json-truncated, json-trailing, json-duplicate-key, json-nan-token,
    json-float-overflow, json-huge-int, json-surrogate, json-bom, json-encoding, json-utf8, json-too-large,
    json-too-deep, and json-not-object where `want_object` is set.
    """
    log = FaultLog()
    if source.size > max_bytes:
        log.add("json-too-large", f"{source.size:,} bytes; at most {max_bytes:,} are read")
        return JsonDocument(None, log.sealed(), complete=False)
    document = parse_json(source.read_at(0, source.size), max_depth=max_depth)
    if want_object and document.complete and not isinstance(document.value, dict):
        fault = Fault("json-not-object", f"the top level is {_type_name(document.value)}, not an object", 0)
        return JsonDocument(document.value, (*document.faults, fault), complete=document.complete)
    return document


def parse_json(data: bytes, *, max_depth: int = MAX_DEPTH) -> JsonDocument:
    """What `read_json` does, for bytes already in memory."""
    log = FaultLog()
    text, half_character = _text(data, log)
    if text is None:
        return JsonDocument(None, log.sealed(), complete=False)
    if text.isascii() or not log:
        shape = measure(data, max_depth, MAX_MEMORY)
    else:  # another encoding than the bytes of `data` show
        shape = measure(text.encode("utf-8", "surrogatepass"), max_depth, MAX_MEMORY)
    if shape.depth > max_depth:
        log.add("json-too-deep", f"nested deeper than {max_depth} levels")
        return JsonDocument(None, log.sealed(), complete=False)
    if shape.memory(len(data)) > MAX_MEMORY:
        log.add(
            "json-too-large", f"{shape.containers:,} containers and {shape.commas:,} separators are too many to read"
        )
        return JsonDocument(None, log.sealed(), complete=False)
    integers, floats = (True, True) if log else unusual_numbers(data)
    decoder = WatchedDecoder(integers=integers, floats=floats)
    with collector_paused():
        value, complete = _document(text, decoder, log)
    if complete and half_character is not None:
        log.add("json-utf8", "ends with half a character", offset=half_character)
    decoder.report(log, data)
    return JsonDocument(value, log.sealed(), complete)


def read_json_lines(
    source: ByteSource,
    *,
    max_bytes: int = MAX_BYTES,
    max_line: int = MAX_LINE,
    max_depth: int = MAX_DEPTH,
) -> JsonLines:
    """Read a JSON Lines file: one value per line, blank lines skipped, a broken line a fault and no row.

    Reading stops at `max_bytes` with json-too-large and `complete` False, so a log of any size costs bounded memory.
    A last line without its end of line that does not parse is json-truncated: the writer was stopped in it.
    """
    log = FaultLog()
    found = _Lines(log, max_line, max_depth)
    complete = True
    memory = position = number = 0
    rest = b""
    size = min(source.size, max_bytes)
    while position < size or rest:
        block = source.read_at(position, min(_BLOCK, size - position))
        position += len(block)
        lines = (rest + block).split(b"\n")
        at_end = not block or position >= size
        rest = b"" if at_end else lines.pop()
        for index, line in enumerate(lines):
            number += 1
            ended = index < len(lines) - 1 or not at_end
            if not ended and size < source.size:
                break  # cut by our limit, not by the writer
            memory += found.add(line, number, ended=ended)
        if not block:  # the file became shorter while it was read
            break
        if len(rest) > max_line:
            log.add("json-too-large", f"a line of more than {max_line:,} bytes", place=f"line {number + 1}")
            complete = False
            break
        if memory > MAX_MEMORY or (at_end and size < source.size):
            log.add("json-too-large", f"{source.size:,} bytes; read up to line {number:,}", offset=position)
            complete = False
            break
    if any(kind in log for kind in ("json-syntax", "json-truncated", "json-too-deep")):
        complete = False
    found.decoder.report(log)
    return JsonLines(tuple(found.rows), log.sealed(), complete)


class _Lines:
    """The rows of a JSON Lines file as they are met."""

    def __init__(self, log: FaultLog, max_line: int, max_depth: int) -> None:
        self.rows: list[tuple[int, Any]] = []
        self.decoder = WatchedDecoder()
        self._log = log
        self._max_line = max_line
        self._max_depth = max_depth

    def add(self, line: bytes, number: int, *, ended: bool) -> int:
        """Decode one line into a row; the memory it may have taken, in bytes. `ended`: its end of line is there."""
        log, place = self._log, f"line {number}"
        if number == 1 and line.startswith(b"\xef\xbb\xbf"):
            log.add("json-bom", "starts with a UTF-8 byte order mark", offset=0)
            line = line[3:]
        line = line.strip(b" \t\r")
        if not line:
            return 0
        if not line.strip(b"\0"):
            log.add("json-nul", "only NUL bytes: the file system lost what was written", place=place)
            return 0
        if len(line) > self._max_line:
            log.add("json-too-large", f"a line of {len(line):,} bytes", place=place)
            return 0
        many = line.count(b"[") + line.count(b"{") > self._max_depth
        shape = measure(line, self._max_depth, MAX_MEMORY) if many else None
        if shape and shape.depth > self._max_depth:
            log.add("json-too-deep", f"nested deeper than {self._max_depth} levels", place=place)
            return 0
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            if ended or error.reason != "unexpected end of data":
                log.add("json-utf8", f"is not UTF-8: {error.reason}", place=place)
            text = line.decode("utf-8", "replace")
        try:
            self.rows.append((number, self.decoder.decode(text)))
        except json.JSONDecodeError as error:
            if ended:
                log.add("json-syntax", f"{error.msg} at column {error.colno}", place=place)
            else:
                log.add("json-truncated", "the last line is not finished", place=place)
            return 0
        return shape.memory(len(line)) if shape else 4 * len(line)


def _document(text: str, decoder: WatchedDecoder, log: FaultLog) -> tuple[Any, bool]:
    """The value and whether it is whole."""
    lenient = False
    while True:
        try:
            value, end = decoder.first(text, control_characters=lenient)
        except json.JSONDecodeError as error:
            if lenient or not error.msg.startswith("Invalid control character"):
                return _beginning(text, error, decoder, log, lenient=lenient)
            _syntax("a raw control character in a string", text, error.pos, log)
            lenient = True
        else:
            break
    rest = text[end:].lstrip(" \t\r\n")
    if rest:
        offset = _offset(text, len(text) - len(rest))
        log.add("json-trailing", "more text after the end of the document", offset=offset)
    return value, True


def _beginning(
    text: str, error: json.JSONDecodeError, decoder: WatchedDecoder, log: FaultLog, *, lenient: bool
) -> tuple[Any, bool]:
    if _cut_short(text, error):
        log.add("json-truncated", "the file ends in the middle of the document", offset=_offset(text, len(text)))
        text = text[: error.pos]
    else:
        _syntax(error.msg, text, error.pos, log)
    for prefix in closable_prefixes(text, error.pos):
        try:
            return decoder.first(prefix, control_characters=lenient)[0], False
        except json.JSONDecodeError:
            continue
    return None, False


def _syntax(message: str, text: str, position: int, log: FaultLog) -> None:
    line = text.count("\n", 0, position) + 1
    log.add("json-syntax", f"{message} (line {line})", offset=_offset(text, position))


def _text(data: bytes, log: FaultLog) -> tuple[str | None, int | None]:
    """The text of the file, and where half a character ends it: a fault only where the document before it is whole."""
    if not data.strip(b" \t\r\n"):
        log.add("json-empty", "the file is empty" if not data else "only blanks", offset=0)
        return None, None
    if not data.strip(b"\0 \t\r\n"):
        log.add("json-nul", "only NUL bytes: the file system lost what was written", offset=0)
        return None, None
    if len(data) > MAX_ASTRAL and data.translate(None, _BELOW_ASTRAL):
        log.add(
            "json-too-large", f"{len(data):,} bytes of text beyond the basic plane; at most {MAX_ASTRAL:,} are read"
        )
        return None, None
    encoding = json.detect_encoding(data)
    if encoding == "utf-8-sig":
        log.add("json-bom", "starts with a UTF-8 byte order mark", offset=0)
        data, encoding = data[3:], "utf-8"
    elif encoding != "utf-8":
        log.add("json-encoding", f"is {encoding.upper()}, not UTF-8", offset=0)
    elif data.endswith(b"\0"):
        kept = data.rstrip(b"\0")
        log.add(
            "json-nul",
            f"{len(data) - len(kept):,} NUL bytes at the end: the file system lost what was written",
            offset=len(kept),
        )
        data = kept
    half_character = None
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            half_character = error.start
            text = data[:half_character].decode(encoding)
        else:
            log.add("json-utf8", f"is not {encoding.upper()}: {error.reason}", offset=error.start)
            text = data.decode(encoding, "replace")
    for offset in lone_surrogates(data):
        log.add("json-surrogate", "half of a surrogate pair", offset=offset)
    return text, half_character


def _cut_short(text: str, error: json.JSONDecodeError) -> bool:
    """Whether the decoder stopped because the text ends, and not because of something that stands in it."""
    rest = text[error.pos :]
    if not rest.strip() or error.msg.startswith("Unterminated string"):
        return True
    if _NUMBER_TAIL.fullmatch(rest) and text[error.pos - 1 : error.pos].isdigit():
        return True
    if error.msg.startswith("Invalid \\"):
        return len(rest) < 6 and '"' not in rest
    return any(literal.startswith(rest) for literal in _LITERALS) or rest == "-"


def _offset(text: str, position: int) -> int:
    return position if text.isascii() else len(text[:position].encode("utf-8", "surrogatepass"))


def _type_name(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names[type(value)]
