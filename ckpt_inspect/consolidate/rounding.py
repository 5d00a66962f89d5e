"""Whether 16-bit values are what float32 masters were rounded to, without numpy for samples and with it for all.

PyTorch and DeepSpeed's kernels round to nearest even (``c10/util/BFloat16.h`` `round_to_nearest_even`,
``c10/util/Half.h``); some CPU Adam kernels truncate. NaN payloads are not portable, so any NaN equals any NaN.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import Any, Literal

Mode = Literal["nearest", "truncate"]

# Types a master may be compared in, by (master, module). Equal types are compared as bytes.
ROUNDINGS = frozenset({("F32", "BF16"), ("F32", "F16")})


def comparable(master: str, module: str) -> bool:
    """Whether a module tensor of one type can be checked against a master of another."""
    return master == module or (master, module) in ROUNDINGS


def count_differences(
    master: bytes, module: bytes, types: tuple[str, str], swaps: tuple[bool, bool], mode: Mode = "nearest"
) -> int:
    """Elements of `module` that are not `master` rounded. `swaps`: whether either is big-endian."""
    if types[0] == types[1]:
        if swaps[0] == swaps[1] and master == module:
            return 0
        width = {"F32": 4, "F64": 8}.get(types[0], 2)
        left, right = _words(master, width, swaps[0]), _words(module, width, swaps[1])
        return sum(a != b and not (_is_nan(a, types[0]) and _is_nan(b, types[0])) for a, b in _zip(left, right))
    masters, values = _words(master, 4, swaps[0]), _words(module, 2, swaps[1])
    narrow = types[1]
    if narrow == "BF16":
        if mode == "nearest":
            expected = [(word + 0x7FFF + ((word >> 16) & 1)) >> 16 for word in masters]
        else:
            expected = [word >> 16 for word in masters]
    else:
        expected = [half_bits(word, mode) for word in masters]
    if expected == list(values):
        return 0
    return sum(
        want != got and not (_is_nan(word, "F32") and _is_nan(got, narrow))
        for word, want, got in zip(masters, expected, values, strict=True)
    )


def half_bits(word: int, mode: Mode = "nearest") -> int:
    """The float16 bits of float32 bits: rounded to nearest even or towards zero, overflow to infinity when nearest."""
    sign = (word >> 16) & 0x8000
    exponent = (word >> 23) & 0xFF
    fraction = word & 0x7FFFFF
    if exponent == 0xFF:
        return sign | 0x7C00 | (0x200 | (fraction >> 13) if fraction else 0)
    power = exponent - 127 + 15
    if power >= 31:
        return sign | (0x7C00 if mode == "nearest" else 0x7BFF)
    significand = fraction | (0x800000 if exponent else 0)
    shift = 13 if power > 0 else 14 - power
    if shift > 25:
        return sign
    kept = significand >> shift
    if mode == "nearest":
        rest, half = significand & ((1 << shift) - 1), 1 << (shift - 1)
        kept += rest > half or (rest == half and kept & 1)
    if power > 0:
        kept += (power - 1) << 10  # `kept` holds the implicit one, which carries into the exponent
    return sign | kept


def _words(data: bytes, width: int, swap: bool) -> Sequence[int]:
    words = array({2: "H", 4: "I", 8: "Q"}[width], data)
    if swap != (sys.byteorder == "big"):
        words.byteswap()
    return words


def _zip(left: Sequence[int], right: Sequence[int]) -> Any:
    return zip(left, right, strict=True)


_NAN = {
    "F32": (0x7FFFFFFF, 0x7F800000),
    "BF16": (0x7FFF, 0x7F80),
    "F16": (0x7FFF, 0x7C00),
    "F64": (2**63 - 1, 0x7FF << 52),
}


def _is_nan(bits: int, dtype: str) -> bool:
    mask, infinity = _NAN.get(dtype, (0, 1))
    return bits & mask > infinity


def count_not_finite(data: bytes, dtype: str, *, swap: bool = False) -> int:
    """Elements that are infinite or NaN; 0 for types that have neither."""
    if dtype not in _NAN:
        return 0
    mask, infinity = _NAN[dtype]
    width = {"F32": 4, "F64": 8}.get(dtype, 2)
    return sum(word & mask >= infinity for word in _words(data[: len(data) // width * width], width, swap))


def count_differences_fast(
    master: bytes, module: bytes, types: tuple[str, str], swaps: tuple[bool, bool], mode: Mode = "nearest"
) -> int:
    """:func:`count_differences` with numpy, for whole tensors in chunks."""
    import numpy as np

    def words(data: bytes, width: int, swap: bool) -> Any:
        return np.frombuffer(data, dtype=f"{'>' if swap else '<'}u{width}")

    def nan(values: Any, dtype: str) -> Any:
        mask, infinity = _NAN.get(dtype, (0, 1))
        return (values & np.array(mask, dtype=values.dtype)) > np.array(infinity, dtype=values.dtype)

    if types[0] == types[1]:
        width = {"F32": 4, "F64": 8}.get(types[0], 2)
        left, right = words(master, width, swaps[0]), words(module, width, swaps[1])
        return int(np.count_nonzero((left != right) & ~(nan(left, types[0]) & nan(right, types[0]))))
    bits, got = words(master, 4, swaps[0]).astype("<u4", copy=False), words(module, 2, swaps[1])
    if types[1] == "F16":
        if mode == "nearest":
            with np.errstate(over="ignore", invalid="ignore"):
                want = bits.view("<f4").astype("<f2").view("<u2")
        else:
            want = np.fromiter((half_bits(int(word), mode) for word in bits), dtype="<u2", count=len(bits))
    elif mode == "nearest":
        wide = bits.astype("<u8")
        want = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype("<u4")
    else:
        want = bits >> 16
    return int(np.count_nonzero((want != got) & ~(nan(bits, "F32") & nan(got, types[1]))))
