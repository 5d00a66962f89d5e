"""Signals that end a process, as exceptions, so that what was begun is cleaned up; and quiet while that happens."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ckpt_inspect.errors import ConsolidationError

_NAMES = ("SIGTERM", "SIGHUP", "SIGXCPU")


class StoppedError(ConsolidationError):
    """A signal asked the process to end."""


def _ending() -> list[signal.Signals]:
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


def _raise(number: int, frame: FrameType | None) -> None:
    """The first signal raises; further ones must not interrupt the cleaning up it starts."""
    del frame
    _ignore()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise StoppedError(f"stopped by {signal.Signals(number).name}; nothing was left behind")


@contextmanager
def signals_as_errors() -> Iterator[None]:
    """Inside, SIGTERM, SIGHUP and SIGXCPU raise :class:`StoppedError` once, SIGINT `KeyboardInterrupt` once.

    Does nothing outside the main thread.

    Signals the process ignores (as under ``nohup``) or handles itself keep their handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}
    for number in _ending():
        if signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, _raise)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, _raise)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred_while_cleaning() -> Iterator[None]:
    """When the block ends with an exception, further signals are ignored from there on, so that cleaning up completes.

    Place it inside the context manager that cleans up and inside :func:`signals_as_errors`, which restores the handlers.
    """
    try:
        yield
    except BaseException:
        _ignore()
        raise


def _ignore() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (*_ending(), signal.SIGINT):
        if signal.getsignal(number) is _raise:
            signal.signal(number, signal.SIG_IGN)
