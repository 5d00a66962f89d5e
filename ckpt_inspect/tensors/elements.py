"""From the bytes of an element type to numbers: tables of the small floats, numpy types of the rest.

Small floats: OCP 8-bit Floating Point Specification 1.0 (E4M3, E5M2), OCP Microscaling Formats 1.0 (E8M0, E2M1, E2M3,
E3M2), and the FNUZ variants of LLVM's APFloat (`Float8E4M3FNUZ`, `Float8E5M2FNUZ`). Sub-byte elements are packed from
the low bits of each byte up (``safetensors/src/tensor.rs`` 0.8.0 leaves the order to the writer; no statistic depends
on the order within whole bytes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class _Small:
    """A float of at most 8 bits. `special`: "ieee" inf and NaN, "fn" one NaN per sign, "fnuz" NaN for -0, "none"."""

    exponent: int
    mantissa: int
    bias: int
    special: str


_SMALL = {
    "F8_E4M3": _Small(4, 3, 7, "fn"),
    "F8_E5M2": _Small(5, 2, 15, "ieee"),
    "F8_E4M3FNUZ": _Small(4, 3, 8, "fnuz"),
    "F8_E5M2FNUZ": _Small(5, 2, 16, "fnuz"),
    "F4": _Small(2, 1, 1, "none"),
    "F6_E2M3": _Small(2, 3, 1, "none"),
    "F6_E3M2": _Small(3, 2, 3, "none"),
}
_PLAIN = {
    "U8": "u1",
    "I8": "i1",
    "QINT8": "i1",
    "QUINT8": "u1",
    "I16": "i2",
    "U16": "u2",
    "F16": "f2",
    "I32": "i4",
    "QINT32": "i4",
    "U32": "u4",
    "F32": "f4",
    "I64": "i8",
    "U64": "u8",
    "F64": "f8",
}
_PAIRS = {"C32": "F16", "C64": "F32", "C128": "F64", "F4_X2": "F4"}


@dataclass(frozen=True, slots=True)
class Elements:
    """How to read one element type.

    `bits` per element in the file; `table` maps each bit pattern to its value (as float64) where patterns have at most
    16 bits; `numpy` is the type of the others. Complex numbers and packed pairs are read as their parts (`parts` 2).
    """

    bits: int
    numpy: str
    table: Any
    parts: int = 1

    def patterns(self, data: bytes, *, big_endian: bool) -> Any:
        """Bit patterns (types with a table) or values of the elements in `data`, which must hold whole ones."""
        import numpy

        if self.bits >= 8:
            order = ">" if big_endian else "<"
            return numpy.frombuffer(data, order + self.numpy if self.bits > 8 else self.numpy)
        packed = numpy.frombuffer(data, "u1")
        if self.bits == 4:
            return numpy.stack([packed & 15, packed >> 4], axis=1).reshape(-1)
        triples = packed[: len(packed) // 3 * 3].reshape(-1, 3).astype("u4")
        word = triples[:, 0] | triples[:, 1] << 8 | triples[:, 2] << 16
        return numpy.stack([word >> shift & 63 for shift in (0, 6, 12, 18)], axis=1).reshape(-1).astype("u1")


@cache
def elements_of(dtype: str) -> Elements | None:
    """How to read `dtype` (a name of :mod:`ckpt_inspect.formats.dtypes`); None where its bits have no numbers."""
    if dtype in _PAIRS:
        part = elements_of(_PAIRS[dtype])
        return None if part is None else Elements(part.bits, part.numpy, part.table, parts=2)
    if dtype == "F8_E8M0":
        return Elements(8, "u1", _table([2.0 ** (code - 127) for code in range(255)] + [math.nan]))
    if dtype in _SMALL:
        small = _SMALL[dtype]
        bits = 1 + small.exponent + small.mantissa
        return Elements(bits, "u1", _table([_small_value(code, small) for code in range(1 << bits)]))
    if dtype == "BOOL":
        return Elements(8, "u1", _table([0.0] + [1.0] * 255))
    if dtype == "BF16":
        return Elements(16, "u2", _sixteen(bfloat=True))
    if dtype == "F16":
        return Elements(16, "u2", _sixteen(bfloat=False))
    plain = _PLAIN.get(dtype)
    if plain is None:
        return None
    bits = 8 * int(plain[1])
    if bits == 8:
        signed = plain[0] == "i"
        return Elements(8, "u1", _table([float(code - 256 if signed and code > 127 else code) for code in range(256)]))
    return Elements(bits, plain, None)


def _small_value(code: int, small: _Small) -> float:
    sign = -1.0 if code >> (small.exponent + small.mantissa) else 1.0
    exponent = code >> small.mantissa & (1 << small.exponent) - 1
    mantissa = code & (1 << small.mantissa) - 1
    top = (1 << small.exponent) - 1
    if small.special == "fnuz" and sign < 0 and exponent == 0 and mantissa == 0:
        return math.nan
    if small.special == "fn" and exponent == top and mantissa == (1 << small.mantissa) - 1:
        return math.nan
    if small.special == "ieee" and exponent == top:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return float(sign * mantissa * 2.0 ** (1 - small.bias - small.mantissa))
    return float(sign * (1 + mantissa / (1 << small.mantissa)) * 2.0 ** (exponent - small.bias))


def _table(values: list[float]) -> Any:
    import numpy

    return numpy.array(values, "f8")


def _sixteen(*, bfloat: bool) -> Any:
    import numpy

    codes = numpy.arange(1 << 16, dtype="u2")
    with numpy.errstate(invalid="ignore"):  # signalling NaNs become quiet ones
        if not bfloat:
            return codes.view("f2").astype("f8")
        return (codes.astype("u4") << 16).view("f4").astype("f8")
