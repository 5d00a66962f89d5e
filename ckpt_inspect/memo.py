"""What was worked out from the bytes of small files, kept by content.

The checkpoints of a run repeat their tokenizer, arguments and scripts byte for byte, and a check opens each file twice:
for its facts and for the scan of what it would run. Equal bytes are looked at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

MOST_BYTES = 4 << 20  # of files whose answers are kept: the answers of a file take up to twenty times its size
MOST_ANSWERS = 4096


class Memo:
    """Answers by content, the ones not asked for the longest time forgotten first. Answers are shared: immutable."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def once(self, key: Hashable, size: int, compute: Callable[[], T]) -> T:
        """The answer kept under `key`, or a new one; `size` is that of the file it is about, in bytes."""
        known = self._answers.get(key)
        if known is not None:
            self._answers.move_to_end(key)
            kept: T = known[0]
            return kept
        answer = compute()
        self._answers[key] = (answer, size)
        self._bytes += size
        while self._bytes > MOST_BYTES or len(self._answers) > MOST_ANSWERS:
            self._bytes -= self._answers.popitem(last=False)[1][1]
        return answer
