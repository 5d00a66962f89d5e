"""A document as JSON text: NaN and infinities as strings, ASCII only, so that every reader takes it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(document: Mapping[str, Any], *, indent: int | None = 2) -> str:
    """`document` as strict JSON (RFC 8259). Lone surrogates and control characters come out escaped."""
    try:
        return json.dumps(document, indent=indent, ensure_ascii=True, allow_nan=False)
    except ValueError:
        return json.dumps(jsonable(document), indent=indent, ensure_ascii=True, allow_nan=False)


def jsonable(value: Any) -> Any:
    """`value` with every NaN and infinity as the strings "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value
