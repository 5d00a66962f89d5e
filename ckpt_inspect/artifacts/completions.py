"""``completions/*.parquet``: the samples TRL's online trainers log; looked at from outside only.

Format: Apache Parquet (``PAR1`` at both ends, the footer's length before the last); TRL 1.16 ``trainer/grpo_trainer.py`` writes
``completions_<step>.parquet`` under ``log_completions``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_inspect.formats.fault_log import FaultLog

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

_MAGIC = (b"PAR1", b"PARE")  # PARE: encrypted footer
_STEP = re.compile(r"completions_(\d+)\.parquet\Z")


@dataclass(frozen=True, slots=True)
class Completions:
    """Size in bytes, the training step in the file's name, and whether the file is a whole Parquet file."""

    bytes: int
    step: int | None
    encrypted: bool
    complete: bool
    faults: tuple[Fault, ...]


def read_completions(source: ByteSource) -> Completions:
    """Look at both ends of a Parquet file. Never raises for content."""
    faults = FaultLog()
    head, tail = source.read_at(0, 4), source.read_at(max(0, source.size - 8), 8)
    complete = True
    if head not in _MAGIC:
        faults.add("parquet-not-parquet", "does not begin with PAR1" if source.size else "is empty", offset=0)
        complete = False
    elif tail[4:] != head or source.size < 12:
        faults.add("parquet-truncated", "does not end with its footer: the writer was stopped", offset=source.size)
        complete = False
    elif int.from_bytes(tail[:4], "little") > source.size - 12:
        faults.add("parquet-truncated", "its footer is longer than the file", offset=source.size - 8)
        complete = False
    match = _STEP.search(source.name)
    step = int(match[1]) if match and len(match[1]) < 19 else None
    return Completions(source.size, step, head == b"PARE", complete, faults.sealed())
