"""Every error this package raises on purpose, and the exit code the command line gives it.

::

    CkptInspectError                      1
    ├── UsageError                        2   the call itself is wrong (option, pattern, expression)
    ├── UnreadableError                   3   the path cannot be read at all
    │   ├── PathNotFoundError             3
    │   └── NotAFormatError               3   the one file asked for is not what it has to be
    ├── ConsolidationError                1   nothing was written
    │   ├── IncompleteCheckpointError     1   a rank file, a tag or bytes are missing
    │   ├── UnsupportedLayoutError        1   experts, pipeline or tensor parallel: recognised, not merged
    │   ├── ProofFailedError              1   the numbers do not add up; writing would be guessing
    │   └── OutputError                   1   the output exists, is being written by another, or has no room
    └── VerificationError                 1   a finished output no longer agrees with its record

Readers below `artifacts` do not raise for broken content: they return what they could read with `faults`
(:mod:`ckpt_inspect.formats.fault`). They raise only where there is nothing to describe.
"""

from __future__ import annotations

from typing import ClassVar


class CkptInspectError(Exception):
    """One line for a person: what is wrong, where, and what to do about it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"; {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}{advice}"


class UsageError(CkptInspectError):
    """The call is wrong: catch it to show usage."""

    exit_code = 2


class UnreadableError(CkptInspectError):
    """The path cannot be read at all (permission, a FIFO, a device, an I/O error)."""

    exit_code = 3


class PathNotFoundError(UnreadableError):
    """There is nothing at the path."""


class NotAFormatError(UnreadableError):
    """The single file asked for is not of the format the call needs."""


class ConsolidationError(CkptInspectError):
    """Shards were not turned into weights; no output exists under the final name."""


class IncompleteCheckpointError(ConsolidationError):
    """Files, ranks or bytes of the checkpoint are missing."""


class UnsupportedLayoutError(ConsolidationError):
    """The layout is recognised and cannot be merged; the remedy names the tool that can."""


class ProofFailedError(ConsolidationError):
    """Coverage, sums, steps or the comparison with the 16-bit module do not agree."""


class OutputError(ConsolidationError):
    """The output directory exists, is locked by another process, or cannot hold the result."""


class VerificationError(CkptInspectError):
    """A finished output disagrees with its `consolidation.json` or with its sources."""


def log_failure(module: str, message: str) -> None:
    """Write the exception at hand to the log of `module` at level DEBUG, where ``--debug`` shows it."""
    import logging  # only where something failed

    logging.getLogger(module).debug("%s", message, exc_info=True)
