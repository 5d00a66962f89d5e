"""Positional reads from the numbered files of a plan, with a bounded number of them open."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Self

from ckpt_inspect.consolidate.plan import SourceFile
from ckpt_inspect.storage import LocalFile, LocalTree

_MAX_OPEN = 64


class OpenFiles:
    """The files of a plan by number; the least recently used is closed when too many are open."""

    def __init__(self, tree: LocalTree, sources: Sequence[SourceFile]) -> None:
        self._tree = tree
        self._sources = sources
        self._open: OrderedDict[int, LocalFile] = OrderedDict()

    def read(self, source: int, offset: int, length: int) -> bytes:
        """Bytes of a numbered file, cut at its end."""
        file = self._open.get(source)
        if file is None:
            file = self._tree.open(self._sources[source].path)
            self._open[source] = file
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)[1].close()
        else:
            self._open.move_to_end(source)
        return file.read_at(offset, length)

    def close(self) -> None:
        """Close every file."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
