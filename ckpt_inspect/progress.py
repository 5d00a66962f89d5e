"""How a long piece of work tells whoever asked how far it is. The library is silent unless it is handed an observer."""

from __future__ import annotations

import threading
from typing import Protocol


class Progress(Protocol):
    """Watches one piece of work at a time."""

    def start(self, total: int, unit: str, label: str) -> None:
        """Work begins: `total` of `unit` ("bytes", "files"), described by `label`."""

    def advance(self, amount: int) -> None:
        """`amount` more is done."""

    def finish(self) -> None:
        """The work is over, done or not."""


class NullProgress:
    """Watches nothing."""

    def start(self, total: int, unit: str, label: str) -> None:
        """Ignore it."""

    def advance(self, amount: int) -> None:
        """Ignore it."""

    def finish(self) -> None:
        """Ignore it."""


class SharedProgress:
    """Passes on to an observer what several threads report, one at a time."""

    def __init__(self, observer: Progress) -> None:
        self._observer = observer
        self._lock = threading.Lock()

    def start(self, total: int, unit: str, label: str) -> None:
        """Pass it on."""
        with self._lock:
            self._observer.start(total, unit, label)

    def advance(self, amount: int) -> None:
        """Pass it on."""
        with self._lock:
            self._observer.advance(amount)

    def finish(self) -> None:
        """Pass it on."""
        with self._lock:
            self._observer.finish()
