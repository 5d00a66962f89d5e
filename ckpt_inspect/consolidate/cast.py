"""Element type conversion in bounded chunks, bit for bit as c10 does it on finite values.

Rounding is to nearest even. bfloat16: ``c10/util/BFloat16.h`` `round_to_nearest_even` (torch 2.13), every NaN becomes
0x7fc0. float16: ``c10/util/Half.h`` `fp16_ieee_from_fp32_value`, NaN becomes sign | 0x7e00. float64 goes through
float32 first, as ``c10/util/TypeCast.h`` does. Finite values that become infinite are counted. numpy is imported only
when something is cast; a plain copy and a byte swap need none.
"""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

from ckpt_inspect.formats.dtypes import BY_NAME

Buffer = memoryview
TARGETS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

_BF16_OVERFLOWS = 0x7F7F8000  # bits of the smallest finite float32 that rounds to an infinite bfloat16
_F32_INFINITY = 0x7F800000
_MAGNITUDE = 0x7FFFFFFF
_F16_OVERFLOWS = 65520.0  # halfway between float16's largest value, 65504, and the next step
_ML_DTYPES = {
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
_NUMPY = {"F16": "f2", "F32": "f4", "F64": "f8"}
_ARRAY_CODES = {2: "H", 4: "I", 8: "Q"}


def castable(source: str, target: str | None) -> bool:
    """Whether :class:`Cast` knows the way from one element type to the other."""
    return source != target and target in TARGETS.values() and (source in _NUMPY or source in {"BF16", *_ML_DTYPES})


def target_dtype(source: str, target: str | None) -> str:
    """What a tensor of `source` is written as when `target` is asked for: real floating types are cast, others stay.

    Without a target (None) every type stays.

    As ``torch.Tensor.is_floating_point`` decides in deepspeed 0.19.8 ``utils/zero_to_fp32.py``: complex and quantised
    types, integers and booleans keep their own type.
    """
    return target if target is not None and castable(source, target) else source


class Cast:
    """Converts elements chunk by chunk; keeps its scratch arrays, so each worker needs an object of its own.

    Attributes:
        chunk: elements converted at a time; larger input is cut.
    """

    chunk = 1 << 16  # 256 KiB of float32: the passes below stay in the second-level cache

    def __init__(self, source: str, target: str) -> None:
        import numpy

        self._numpy = numpy
        self.source_size = BY_NAME[source].bits // 8
        self.target_size = BY_NAME[target].bits // 8
        self._single = numpy.empty(self.chunk, "<f4")
        self._bits = numpy.empty(self.chunk, "<u4")
        self._read = self._reader(source)
        self._write: Callable[[Any, Any], int] = {
            "F32": self._to_float32,
            "BF16": self._to_bfloat16,
            "F16": self._to_float16,
        }[target]

    def convert(self, source: Buffer, target: Buffer) -> int:
        """Convert all of `source` into `target`; returns how many finite values became infinite."""
        elements = len(source) // self.source_size
        overflowed = 0
        for start in range(0, elements, self.chunk):
            stop = min(start + self.chunk, elements)
            part = self._read(source[start * self.source_size : stop * self.source_size])
            overflowed += self._write(part, target[start * self.target_size : stop * self.target_size])
        return overflowed

    def _reader(self, source: str) -> Callable[[Buffer], Any]:
        numpy = self._numpy
        if source == "F32":
            return lambda raw: numpy.frombuffer(raw, "<f4")
        if source == "BF16":
            return self._from_bfloat16
        if source in _ML_DTYPES:
            import ml_dtypes

            kind: Any = getattr(ml_dtypes, _ML_DTYPES[source])
        else:
            kind = "<" + _NUMPY[source]

        def through_float32(raw: Buffer) -> Any:
            part = numpy.frombuffer(raw, kind)
            single = self._single[: len(part)]
            with numpy.errstate(all="ignore"):
                numpy.copyto(single, part, casting="unsafe")
            return single

        return through_float32

    def _from_bfloat16(self, raw: Buffer) -> Any:
        numpy = self._numpy
        half = numpy.frombuffer(raw, "<u2")
        bits = self._single[: len(half)].view("<u4")
        numpy.copyto(bits, half)
        numpy.left_shift(bits, 16, out=bits)
        return bits.view("<f4")

    def _to_float32(self, part: Any, target: Buffer) -> int:
        out = self._numpy.frombuffer(target, "<f4")
        self._numpy.copyto(out, part)
        return 0

    def _to_bfloat16(self, part: Any, target: Buffer) -> int:
        numpy = self._numpy
        source = part.view("<u4")
        bits = self._bits[: len(source)]
        out = numpy.frombuffer(target, "<u2")
        numpy.bitwise_and(source, _MAGNITUDE, out=bits)
        largest = int(bits.max()) if len(bits) else 0
        overflowed = 0
        missing = None
        if largest >= _BF16_OVERFLOWS:
            overflowed = int(((bits >= _BF16_OVERFLOWS) & (bits < _F32_INFINITY)).sum())
            if largest > _F32_INFINITY:
                missing = bits > _F32_INFINITY
        numpy.right_shift(source, 16, out=bits)
        numpy.bitwise_and(bits, 1, out=bits)
        numpy.add(bits, 0x7FFF, out=bits)
        numpy.add(bits, source, out=bits)  # a NaN may wrap round: it is replaced below
        numpy.right_shift(bits, 16, out=bits)
        numpy.copyto(out, bits, casting="unsafe")
        if missing is not None:
            out[missing] = 0x7FC0
        return overflowed

    def _to_float16(self, part: Any, target: Buffer) -> int:
        numpy = self._numpy
        out = numpy.frombuffer(target, "<f2")
        bits = self._bits[: len(part)]
        with numpy.errstate(all="ignore"):
            numpy.copyto(out, part, casting="unsafe")
        numpy.bitwise_and(part.view("<u4"), _MAGNITUDE, out=bits)
        largest = int(bits.max()) if len(bits) else 0
        overflowed = 0
        if largest >= int(numpy.float32(_F16_OVERFLOWS).view(numpy.uint32)):
            magnitude = bits.view("<f4")
            overflowed = int(((magnitude >= _F16_OVERFLOWS) & (bits < _F32_INFINITY)).sum())
            if largest > _F32_INFINITY:
                missing = bits > _F32_INFINITY
                sign = (part.view("<u4")[missing] >> 16) & 0x8000
                out.view("<u2")[missing] = sign | 0x7E00
        return overflowed


def swap_in_place(buffer: Buffer, size: int) -> None:
    """Reverse the bytes of every element of `size` bytes (1, 2, 4, 8; complex numbers: the size of one component)."""
    if size == 1:
        return
    swapped = array.array(_ARRAY_CODES[size])
    if swapped.itemsize != size:  # pragma: no cover - no supported platform has other sizes
        raise ValueError(f"this platform has no {size}-byte integer in array")
    swapped.frombytes(buffer)
    swapped.byteswap()
    buffer[:] = swapped.tobytes()


def component_size(dtype: str) -> int:
    """Bytes of what a byte swap reverses: the element, or one component of a complex number."""
    kind = BY_NAME[dtype]
    return max(1, (kind.component_bits or kind.bits) // 8)
