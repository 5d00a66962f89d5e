"""The YAML that model-card generators really write, read without a YAML parser: importing one costs 40 ms of CPU time.

Only lines ``key: text`` and ``- text`` are understood, with texts that mean the same to every YAML reader; nested blocks
(``model-index``) are kept out. For anything else :func:`simple_mapping` gives up, and a real parser takes over.
"""

from __future__ import annotations

import re
from typing import Any

# Plain scalars that YAML 1.1 takes as the same text: no quotes, brackets, comments, nor anything that may be a number,
# a date, a boolean or null.
_PLAIN = r"(?![-?:,\[\]{}#&*!|>'\"%@`])[^\s#:](?:[^#\n:]|:(?=\S)|(?<=\S)#)*"
_KEY_TEXT = re.compile(rf"([A-Za-z_][\w-]*):[ ]+({_PLAIN})[ ]*\Z")
_KEY_ALONE = re.compile(r"([A-Za-z_][\w-]*):[ ]*\Z")
_ITEM = re.compile(rf"(?:  )?- ({_PLAIN})[ ]*\Z")
_NOT_TEXT = re.compile(
    r"(?:[-+.]?\d[\d_,.:eExXa-fA-F+-]*|[-+]?\.(?:inf|nan)|\d{4}-\d.*|~|null|true|false|yes|no|on|off|y|n|=|<<)\Z",
    re.IGNORECASE,
)
_NESTED = frozenset({"model-index"})


def simple_mapping(text: str) -> dict[str, Any] | None:
    """The mapping, or None where a real parser is needed. The value of a nested block that is skipped is None."""
    found: dict[str, Any] = {}
    items: list[str] | None = None
    skipping = False
    for line in text.replace("\r\n", "\n").split("\n"):
        if not line.strip():
            continue
        if skipping and (line[0] in " -"):
            continue
        skipping = False
        item = _ITEM.match(line)
        if item is not None:
            if items is None or _NOT_TEXT.match(item[1]):
                return None
            items.append(item[1].rstrip())
            continue
        items = None
        alone, pair = _KEY_ALONE.match(line), _KEY_TEXT.match(line)
        key = (alone or pair or [None, None])[1]
        if key is None or key in found or _NOT_TEXT.match(key):
            return None
        if pair is not None:
            if _NOT_TEXT.match(pair[2]):
                return None
            found[key] = pair[2].rstrip()
        elif key in _NESTED:
            found[key], skipping = None, True
        else:
            items = []
            found[key] = items
    return {key: value if value != [] else None for key, value in found.items()}
