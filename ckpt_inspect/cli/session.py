"""What holds for the whole call: quiet, debug, colour, width; and the only way to write to the user."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass


@dataclass(slots=True)
class Session:
    """Options every verb has. `color` None means: as the terminal and NO_COLOR say."""

    debug: bool = False
    quiet: bool = False
    color: bool | None = None


SESSION = Session()

_DEFAULT_WIDTH = 80
_NARROWEST = 40


def use_color() -> bool:
    """Whether standard output gets colour: a terminal that wants it, and nobody said no (https://no-color.org)."""
    if SESSION.color is not None:
        return SESSION.color
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def output_width() -> int:
    """Columns to fill: COLUMNS, else the terminal's width, else 80."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return max(_NARROWEST, min(int(columns), 10_000))
    if sys.stdout.isatty():
        try:
            return max(_NARROWEST, os.get_terminal_size(sys.stdout.fileno()).columns)
        except OSError:
            return _DEFAULT_WIDTH
    return _DEFAULT_WIDTH


def emit(text: str) -> None:
    """Write a result to standard output. A reader that went away (``| head``) is not an error."""
    write(text if text.endswith("\n") else f"{text}\n")


def note(text: str) -> None:
    """Write a remark to standard error, unless --quiet."""
    if not SESSION.quiet:
        _write_error(text)


def complain(text: str) -> None:
    """Write an error to standard error, always."""
    _write_error(text)


def write(text: str) -> None:
    """Write to standard output as it is; characters the terminal cannot show are escaped, never an exception."""
    try:
        stream = sys.stdout
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        silence()


def silence() -> None:
    """Send the rest of standard output nowhere, so that the interpreter's last flush does not complain."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, sys.stdout.fileno())
    except (OSError, ValueError):
        pass
    finally:
        os.close(devnull)


def _write_error(text: str) -> None:
    try:
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        pass
