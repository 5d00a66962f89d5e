"""Element types: one name for each across safetensors, torch storages and numpy.

The name used everywhere in this package is safetensors' (`safetensors/src/tensor.rs` 0.8.0); types that format lacks
keep torch's name in capitals (QINT8, C32). Torch's storage classes: ``torch/storage.py`` 2.13,
`_dtype_to_storage_type_map`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DType:
    """An element type: `bits` per element, `torch` attribute name, legacy `storage` class, safetensors membership."""

    name: str
    bits: int
    torch: str | None
    storage: str | None
    safetensors: bool
    floating: bool
    component_bits: int | None = None

    def nbytes(self, elements: int) -> int:
        """Bytes that hold `elements` (sub-byte types are packed, rounded up)."""
        return (elements * self.bits + 7) // 8


_ALL = (
    DType("BOOL", 8, "bool", "BoolStorage", True, False),
    DType("F4", 4, None, None, True, True),
    DType("F6_E2M3", 6, None, None, True, True),
    DType("F6_E3M2", 6, None, None, True, True),
    DType("U8", 8, "uint8", "ByteStorage", True, False),
    DType("I8", 8, "int8", "CharStorage", True, False),
    DType("F8_E5M2", 8, "float8_e5m2", None, True, True),
    DType("F8_E4M3", 8, "float8_e4m3fn", None, True, True),
    DType("F8_E8M0", 8, "float8_e8m0fnu", None, True, True),
    DType("F8_E4M3FNUZ", 8, "float8_e4m3fnuz", None, True, True),
    DType("F8_E5M2FNUZ", 8, "float8_e5m2fnuz", None, True, True),
    DType("I16", 16, "int16", "ShortStorage", True, False),
    DType("U16", 16, "uint16", None, True, False),
    DType("F16", 16, "float16", "HalfStorage", True, True),
    DType("BF16", 16, "bfloat16", "BFloat16Storage", True, True),
    DType("I32", 32, "int32", "IntStorage", True, False),
    DType("U32", 32, "uint32", None, True, False),
    DType("F32", 32, "float32", "FloatStorage", True, True),
    DType("C64", 64, "complex64", "ComplexFloatStorage", True, True, 32),
    DType("F64", 64, "float64", "DoubleStorage", True, True),
    DType("I64", 64, "int64", "LongStorage", True, False),
    DType("U64", 64, "uint64", None, True, False),
    # Torch counts pairs: a tensor of n elements of this type is 2 n values of F4 in n bytes.
    DType("F4_X2", 8, "float4_e2m1fn_x2", None, False, True),
    DType("C32", 32, "complex32", None, False, True, 16),
    DType("C128", 128, "complex128", "ComplexDoubleStorage", False, True, 64),
    DType("QINT8", 8, "qint8", "QInt8Storage", False, False),
    DType("QUINT8", 8, "quint8", "QUInt8Storage", False, False),
    DType("QINT32", 32, "qint32", "QInt32Storage", False, False),
    DType("QUINT4X2", 8, "quint4x2", "QUInt4x2Storage", False, False),
    DType("QUINT2X4", 8, "quint2x4", "QUInt2x4Storage", False, False),
    DType("BITS1X8", 8, "bits1x8", None, False, False),
    DType("BITS2X4", 8, "bits2x4", None, False, False),
    DType("BITS4X2", 8, "bits4x2", None, False, False),
    DType("BITS8", 8, "bits8", None, False, False),
    DType("BITS16", 16, "bits16", None, False, False),
)

BY_NAME: dict[str, DType] = {dtype.name: dtype for dtype in _ALL}
BY_TORCH: dict[str, DType] = {dtype.torch: dtype for dtype in _ALL if dtype.torch}
BY_STORAGE: dict[str, DType] = {dtype.storage: dtype for dtype in _ALL if dtype.storage}
