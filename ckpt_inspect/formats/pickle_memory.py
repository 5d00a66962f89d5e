"""Remembers the last pickle programs read, so that the equal pickles that ranks write are interpreted once.

Under ZeRO-3 every rank's model file holds the same pickle in an archive with another root name: the files differ, the
programs do not. A program is pure data and depends on the bytes of its pickle alone.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from ckpt_inspect.formats.pickle_machine import PickleLimits, PickleProgram, run_pickle
from ckpt_inspect.storage import ByteSource, BytesSource

LARGEST = 16 << 20  # bytes of a pickle that is worth remembering
KEPT = 2  # model and optimizer files may alternate


class PickleMemory:
    """Runs pickles, each kind of bytes once. Programs are shared: treat them as immutable."""

    def __init__(self) -> None:
        self._programs: OrderedDict[tuple[bytes, PickleLimits], PickleProgram] = OrderedDict()

    def run(self, source: ByteSource, limits: PickleLimits) -> PickleProgram:
        """The program of the one pickle that `source` holds from its first byte."""
        if source.size > LARGEST:
            return run_pickle(source, limits=limits)
        data = source.read_at(0, source.size)
        key = (hashlib.sha256(data).digest(), limits)
        program = self._programs.get(key)
        if program is None:
            program = run_pickle(BytesSource(data, name=source.name), limits=limits)
            self._programs[key] = program
            if len(self._programs) > KEPT:
                self._programs.popitem(last=False)
        else:
            self._programs.move_to_end(key)
        return program
