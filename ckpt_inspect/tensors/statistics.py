"""Mean, spread and oddities of a tensor's values in one pass and bounded memory.

Types of up to 16 bits are counted by bit pattern, so their statistics are exact; wider ones are merged block by block
(Chan, Golub, LeVeque 1979, as ``torch.std`` and numpy do pairwise) in float64. numpy is imported on first use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ckpt_inspect.tensors.elements import Elements

_BLOCK = 1 << 16  # elements looked at together: the passes stay in the second-level cache
_COUNTED_FROM = 1 << 16  # below this many elements, counting 65,536 patterns costs more than it saves


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the finite values: `mean`, population standard deviation `std`, `minimum`, `maximum` (None if there are none).

    `elements` counts all values, `nan` and `infinite` the odd ones, `zeros` those equal to 0. Of complex numbers the
    real and imaginary parts are the values.
    """

    elements: int
    mean: float | None
    std: float | None
    minimum: float | int | None
    maximum: float | int | None
    nan: int
    infinite: int
    zeros: int

    @property
    def zero_fraction(self) -> float | None:
        """Zeros among all values, None of no values."""
        return self.zeros / self.elements if self.elements else None

    def repeated(self, times: int) -> Statistics:
        """The statistics of the same values `times` over, as in an expanded tensor."""
        return Statistics(
            self.elements * times,
            self.mean,
            self.std,
            self.minimum,
            self.maximum,
            self.nan * times,
            self.infinite * times,
            self.zeros * times,
        )


class Accumulator:
    """Takes the values of one tensor piece by piece; every piece must hold whole elements."""

    def __init__(self, elements: Elements, expected: int, *, big_endian: bool = False) -> None:
        import numpy

        self._numpy = numpy
        self._elements = elements
        self._big_endian = big_endian
        self._table = elements.table
        counted = self._table is not None and (elements.bits <= 8 or expected >= _COUNTED_FROM)
        self._counts: Any = numpy.zeros(len(self._table), "i8") if counted else None
        self._scratch: Any = None if counted else numpy.empty(_BLOCK, "f8")
        self._seen = self._finite = self._nan = self._infinite = self._zeros = 0
        self._mean = self._squares = 0.0
        self._minimum: Any = None
        self._maximum: Any = None

    def add(self, data: bytes) -> None:
        """Look at the elements in `data`."""
        patterns = self._elements.patterns(data, big_endian=self._big_endian)
        if self._counts is not None:
            self._counts += self._numpy.bincount(patterns, minlength=len(self._counts))
            return
        for start in range(0, len(patterns), _BLOCK):
            block = patterns[start : start + _BLOCK]
            self._merge(block if self._table is None else self._table[block])

    def result(self) -> Statistics:
        """What was seen so far."""
        if self._counts is not None:
            return self._counted()
        some = self._finite > 0
        return Statistics(
            self._seen,
            self._mean if some else None,
            math.sqrt(self._squares / self._finite) if some else None,
            _plain(self._minimum),
            _plain(self._maximum),
            self._nan,
            self._infinite,
            self._zeros,
        )

    def _merge(self, block: Any) -> None:
        numpy = self._numpy
        seen = len(block)
        self._seen += seen
        self._zeros += int(numpy.count_nonzero(block == 0))
        with numpy.errstate(over="ignore", invalid="ignore"):
            low, high = block.min(), block.max()  # NaN if there is one
            if not (math.isfinite(low) and math.isfinite(high)):
                nan = int(numpy.count_nonzero(numpy.isnan(block)))
                block = block[numpy.isfinite(block)]
                self._infinite += seen - len(block) - nan
                self._nan += nan
                if not len(block):
                    return
                low, high = block.min(), block.max()
            self._minimum = low if self._minimum is None or low < self._minimum else self._minimum
            self._maximum = high if self._maximum is None or high > self._maximum else self._maximum
            self._spread(block)

    def _spread(self, block: Any) -> None:
        """Join the block's mean and sum of squares with those of the blocks before it."""
        numpy, count = self._numpy, len(block)
        values = self._scratch[:count]
        numpy.copyto(values, block)
        mean = float(values.mean())
        numpy.subtract(values, mean, out=values)
        numpy.multiply(values, values, out=values)  # not `dot`: BLAS would start its threads for every block
        squares = float(values.sum())
        total = self._finite + count
        difference = mean - self._mean
        self._mean += difference * (count / total)
        self._squares += squares + difference * difference * (self._finite * count / total)
        self._finite = total

    def _counted(self) -> Statistics:
        numpy, counts, table = self._numpy, self._counts, self._table
        used = numpy.nonzero(counts)[0]
        counts, values = counts[used], table[used]
        finite = numpy.isfinite(values)
        nan = int(counts[numpy.isnan(values)].sum())
        infinite = int(counts[numpy.isinf(values)].sum())
        zeros = int(counts[values == 0].sum())
        seen = int(counts.sum())
        counts, values = counts[finite], values[finite]
        count = int(counts.sum())
        if not count:
            return Statistics(seen, None, None, None, None, nan, infinite, zeros)
        mean = float((counts * values).sum()) / count
        away = values - mean
        std = math.sqrt(float((counts * (away * away)).sum()) / count)
        return Statistics(seen, mean, std, _plain(values.min()), _plain(values.max()), nan, infinite, zeros)


def _plain(value: Any) -> float | int | None:
    """A numpy number as Python's."""
    return None if value is None else value.item()
