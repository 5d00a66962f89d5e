"""A progress bar on standard error for work that takes longer than a second on a terminal; silence anywhere else."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from ckpt_inspect.cli.session import SESSION
from ckpt_inspect.progress import NullProgress, Progress

if TYPE_CHECKING:
    import rich.progress

_PATIENCE = 1.0  # seconds of work before a bar appears


def progress() -> Progress:
    """The observer to hand to the library."""
    return TerminalProgress() if sys.stderr.isatty() and not SESSION.quiet else NullProgress()


class TerminalProgress:
    """Draws with rich, which is imported only when a bar is drawn."""

    def __init__(self, *, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._bar: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        self._total = self._done = 0
        self._unit = self._label = ""
        self._began = 0.0

    def start(self, total: int, unit: str, label: str) -> None:
        """Begin a piece of work; one that is still drawn ends."""
        self.finish()
        self._total, self._done, self._unit, self._label = total, 0, unit, label
        self._began = time.monotonic()

    def advance(self, amount: int) -> None:
        """Count, and draw once the work has taken long enough."""
        self._done += amount
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done)
        elif time.monotonic() - self._began >= self._patience:
            self._draw()

    def finish(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def _draw(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        amount: list[ProgressColumn] = (
            [DownloadColumn(), TransferSpeedColumn()] if self._unit == "bytes" else [MofNCompleteColumn()]
        )
        console = Console(
            stderr=True, highlight=False, markup=False, emoji=False, no_color=True if SESSION.color is False else None
        )
        label = TextColumn("{task.description}", markup=False)
        self._bar = Progress(label, BarColumn(), *amount, TimeRemainingColumn(), console=console, transient=True)
        self._task = self._bar.add_task(self._label, total=self._total or None, completed=self._done)
        self._bar.start()
