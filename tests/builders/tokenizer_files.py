"""Tokenizer files in the forms transformers 4 and 5 and SentencePiece write them, small."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def added(number: int, content: str, **flags: bool) -> dict[str, Any]:
    """One entry of `added_tokens`."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": number, "content": content, **plain, **flags}


def tokenizer_json(
    vocab: Any, tokens: Iterable[dict[str, Any]] = (), merges: Any = (), kind: str = "BPE"
) -> dict[str, Any]:
    """A ``tokenizer.json``; `vocab` is a mapping, or a list of [piece, score] for Unigram."""
    model: dict[str, Any] = {"type": kind, "vocab": vocab}
    if kind == "BPE":
        model["merges"] = list(merges)
    return {"version": "1.0", "truncation": None, "added_tokens": list(tokens), "normalizer": None, "model": model}


def sentencepiece(pieces: Iterable[str]) -> bytes:
    """A SentencePiece model with these pieces and a trainer section, on the wire."""
    out = bytearray()
    for piece in pieces:
        text = piece.encode()
        body = b"\x0a" + _varint(len(text)) + text + b"\x15\x00\x00\x80\xbf"
        out += b"\x0a" + _varint(len(body)) + body
    trainer = b"\x18\x02\x20" + _varint(32000)
    return bytes(out + b"\x12" + _varint(len(trainer)) + trainer)


def write(directory: Path, files: Mapping[str, Any]) -> Path:
    """Write files: bytes and text as they are, anything else as JSON."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
    return directory


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
