"""Small inputs for artifact readers: JSON, JSON Lines and text as byte sources."""

from __future__ import annotations

import json
from typing import Any

from ckpt_inspect.storage import BytesSource


def json_source(value: Any, name: str = "x.json") -> BytesSource:
    """`value` as Python's json writes it, NaN tokens included."""
    return BytesSource(json.dumps(value, indent=2).encode(), name=name)


def text_source(text: str, name: str = "x.txt") -> BytesSource:
    """Text in UTF-8."""
    return BytesSource(text.encode(), name=name)


def kinds(result: Any) -> list[str]:
    """The kinds of a result's faults, in order."""
    return [fault.kind for fault in result.faults]
