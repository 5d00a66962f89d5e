"""The call by which one kind of container has what it holds scanned."""

from __future__ import annotations

from typing import Protocol

from ckpt_inspect.storage import ByteSource


class Nested(Protocol):
    """Scan `source`, found at `place` of the file. `sure`: it was announced as a file of its own, not merely possible."""

    def __call__(self, source: ByteSource, place: str, depth: int, *, sure: bool = True) -> None:
        """Add what it holds to the file's answer."""
