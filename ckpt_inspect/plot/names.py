"""The shortest names that tell several runs apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def shortest_names(paths: Sequence[str]) -> list[str]:
    """For each path the parts at its end that no other path shares; the whole path for the same path twice.

    >>> shortest_names(["runs/a/out", "runs/b/out"])
    ['a/out', 'b/out']
    """
    parts = [Path(path).resolve().parts for path in paths]
    names: list[str] = []
    for index, own in enumerate(parts):
        others = [other for position, other in enumerate(parts) if position != index]
        for count in range(1, len(own) + 1):
            if all(other[-count:] != own[-count:] for other in others):
                break
        names.append("/".join(part.strip("/\\") for part in own[-count:]))
    return names
