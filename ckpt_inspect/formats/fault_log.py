"""Collects faults while a file is read, a bounded number of each kind, so that a hostile file cannot flood a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ckpt_inspect.formats.fault import Fault

KEPT_PER_KIND = 20


class FormatLimitError(Exception):
    """Reading on would cost more than the limits allow, or cannot be done; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class FaultLog:
    """Faults in the order they were met; the twenty-first of a kind and later ones are only counted."""

    def __init__(self) -> None:
        self._kept: list[Fault] = []
        self._met: Counter[str] = Counter()

    def add(self, kind: str, message: str, *, offset: int | None = None, place: str | None = None) -> None:
        """Note one fault."""
        self._met[kind] += 1
        if self._met[kind] <= KEPT_PER_KIND:
            self._kept.append(Fault(kind, message, offset, place))

    def extend(self, faults: Iterable[Fault]) -> None:
        """Note faults another reader returned."""
        for fault in faults:
            self.add(fault.kind, fault.message, offset=fault.offset, place=fault.place)

    def __contains__(self, kind: str) -> bool:
        return kind in self._met

    def __bool__(self) -> bool:
        return bool(self._met)

    def sealed(self) -> tuple[Fault, ...]:
        """What was kept, then one fault of each kind met too often to keep, saying how many more there are."""
        more = [
            Fault(kind, f"{count - KEPT_PER_KIND} more of this kind")
            for kind, count in self._met.items()
            if count > KEPT_PER_KIND
        ]
        return (*self._kept, *more)
