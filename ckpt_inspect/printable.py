"""The one gate for text that came out of a file, before any renderer sees it.

Escapes control characters (C0, C1, DEL), bidirectional and other format characters, line separators, lone
surrogates and runs of combining marks, then shortens. See ``docs/security.md``.
"""

from __future__ import annotations

import unicodedata

_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MAX_COMBINING = 3


def printable(text: object, limit: int = 120) -> str:
    r"""`text` with all that is invisible or dangerous as ``\u{hex}``, cut at `limit` characters, its length noted."""
    value = text if isinstance(text, str) else str(text)
    total = len(value)
    if total <= limit and value.isascii() and value.isprintable():
        return value
    value = value[: limit + 1]  # never work through a 100 kB token to show 120 characters of it
    out: list[str] = []
    combining = 0
    for character in value[:limit]:
        if character.isascii():
            combining = 0
            out.append(character if " " <= character <= "~" else f"\\u{{{ord(character):x}}}")
            continue
        category = unicodedata.category(character)
        combining = combining + 1 if category in ("Mn", "Me", "Mc") else 0
        if category in _ESCAPED_CATEGORIES or combining > _MAX_COMBINING:
            out.append(f"\\u{{{ord(character):x}}}")
        else:
            out.append(character)
    if total > limit:
        out.append(f"… ({total} characters)")
    return "".join(out)
