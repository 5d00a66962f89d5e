"""A fault: one thing wrong with the bytes of a file, stated as data by the reader that met it.

Rules turn faults into findings; the table ``knowledge/faults.toml`` maps each `kind` to its rule code, severity and
remedy. A reader never raises for broken content and never chooses words for a person beyond `message`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong (`kind`, a stable slug such as "zip-overlap"), said in one plain clause, and where.

    `offset` is a byte offset in the file; `place` a member name, tensor name or JSON path (hostile text: print it
    only through `printable`).
    """

    kind: str
    message: str
    offset: int | None = None
    place: str | None = None
