"""The entries of a safetensors header, one by one and as a layout that must cover the data without holes or overlap.

Rules and their order: `safetensors/src/tensor.rs` 0.8.0, `Metadata::validate`; types of fields: `TensorInfo` there.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.formats.fault_log import KEPT_PER_KIND, FaultLog

if TYPE_CHECKING:
    from ckpt_inspect.formats.safetensors_header import SafetensorsTensor

RawEntry = tuple[str, str, tuple[int, ...], int, int]

_U64 = 1 << 64
_FIELDS = ("dtype", "shape", "data_offsets")
_MAX_RANK = 64  # torch: "tensor has too many (>64) dims" (c10/util, kMaxDimensions)
_MAX_NAME = 1024
_MAX_METADATA = 1 << 20
_ODD_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_BITS = {dtype.name: dtype.bits for dtype in BY_NAME.values() if dtype.safetensors}


class HeaderBytes:
    """The header's bytes with the log, so that a fault can say at which byte of the file its tensor stands."""

    def __init__(self, data: bytes, log: FaultLog) -> None:
        self.data = data
        self.log = log
        self._met: Counter[str] = Counter()

    def fault(self, kind: str, message: str, name: str) -> None:
        """A fault of the entry `name`, at the byte of its name in the header."""
        self._met[kind] += 1  # searching for a name is dear; do it only for faults that are kept
        offset = self.place(name) if self._met[kind] <= KEPT_PER_KIND else None
        self.log.add(kind, message, offset=offset, place=name)

    def place(self, name: str) -> int:
        """Byte offset in the file of a name of the header (of its last mention), 8 if it is written in another way."""
        for ascii_only in (False, True):
            written = json.dumps(name, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
            found = self.data.rfind(written)
            if found >= 0:
                return 8 + found
        return 8

    def offset_of(self, text: str, position: int) -> int:
        """Byte offset in the file of a character of the decoded header."""
        return 8 + (position if text.isascii() else len(text[:position].encode("utf-8", "surrogatepass")))

    def constant(self, token: str) -> float:
        """NaN and infinities are not JSON."""
        self.log.add("safetensors-json", f"{token} is not JSON", offset=8 + max(0, self.data.find(token.encode())))
        return math.nan

    def number(self, token: str) -> float:
        """A number with a fraction or exponent; one that overflows is rejected by serde_json."""
        value = float(token)
        if value in (math.inf, -math.inf):
            self.log.add("safetensors-json", "a number too large for a float", offset=8)
        return value

    def integer(self, token: str) -> int | float:
        """An integer; -0 and what exceeds 64 bits are floats to serde_json."""
        if len(token) <= 19:
            return int(token) if token != "-0" else -0.0  # noqa: S105
        if len(token) > 308:
            self.log.add("safetensors-json", "a number too large for a float", offset=8)
            return _U64
        return int(token)


def read_metadata(header: HeaderBytes, given: Sequence[Any]) -> dict[str, str]:
    """The string map under ``__metadata__``; what is not a string is a fault and left out."""
    key = "__metadata__"
    if len(given) > 1:
        header.fault("safetensors-metadata", "__metadata__ stands twice", key)
    metadata: dict[str, str] = {}
    for value in given:
        if value is None:
            header.fault("safetensors-metadata-null", "__metadata__ is null", key)
            continue
        if not isinstance(value, tuple):
            header.fault("safetensors-metadata", "__metadata__ is not an object", key)
            continue
        for name, text in value:
            if name in metadata:
                header.fault("safetensors-duplicate-name", "the metadata key stands twice", name)
            if isinstance(text, str):
                metadata[name] = text
            else:
                header.fault("safetensors-metadata", "the metadata value is not a string", name)
    total = sum(len(name) + len(text) for name, text in metadata.items())
    if total > _MAX_METADATA:
        header.fault("safetensors-large-metadata", f"{total:,} characters of metadata", key)
    return metadata


def read_entries(header: HeaderBytes, members: Sequence[tuple[str, Any]]) -> Iterator[RawEntry]:
    """Each entry that can be understood, the last where a name stands twice (as the reference library keeps it)."""
    last = dict(members)
    if len(last) != len(members):
        for name, count in Counter(name for name, _ in members).items():
            if count > 1:
                message = f"the name stands {count} times; readers disagree which counts"
                header.fault("safetensors-duplicate-name", message, name)
        for name, value in members:
            if value is not last[name]:
                _entry(header, name, value)  # it does not count, and still has to be a whole entry
    for name, value in last.items():
        _check_name(header, name)
        entry = _entry(header, name, value)
        if entry is None:
            continue
        begin, end = entry[3], entry[4]
        if begin > end:
            header.fault("safetensors-offset", f"its data ends at {end:,}, before it begins at {begin:,}", name)
            continue
        yield entry


def _check_name(header: HeaderBytes, name: str) -> None:
    if len(name) > _MAX_NAME:
        header.fault("safetensors-long-name", f"a name of {len(name):,} characters", name)
        return
    if name.isascii() and name.isprintable():
        return
    odd = {unicodedata.category(character) for character in name} & _ODD_CATEGORIES
    if odd:
        header.fault("safetensors-name", "control, bidirectional or invisible characters in the name", name)


def _entry(header: HeaderBytes, name: str, value: Any) -> RawEntry | None:
    if not isinstance(value, tuple):
        header.fault("safetensors-entry", "the entry is not an object", name)
        return None
    fields = dict(value)
    if len(value) != 3 or len(fields) != 3:
        if len(fields) != len(value):
            header.fault("safetensors-entry", "a field stands twice in the entry", name)
        if unknown := [field for field in fields if field not in _FIELDS]:
            header.fault("safetensors-unknown-field", f"{len(unknown)} unknown fields in the entry", name)
    try:
        dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    except KeyError as missing:
        header.fault("safetensors-entry", f"the entry has no {missing.args[0]}", name)
        return None
    if not isinstance(dtype, str) or dtype not in _BITS:
        header.fault("safetensors-dtype", "the element type is not one of the format's 22", name)
        return None
    if not _counts(header, "shape", shape, name) or not _counts(header, "data_offsets", offsets, name):
        return None
    if len(offsets) != 2:
        header.fault("safetensors-entry", f"data_offsets has {len(offsets)} numbers, not 2", name)
        return None
    begin, end = offsets
    return name, dtype, tuple(shape), begin, end


def _counts(header: HeaderBytes, field: str, value: Any, name: str) -> bool:
    """Whether `value` is a list of integers from 0 to 2**64 - 1."""
    if type(value) is not list:
        header.fault("safetensors-entry", f"{field} is not a list", name)
        return False
    for number in value:
        if type(number) is not int or not 0 <= number < _U64:  # True is an int to isinstance
            if type(number) is int and number > 0:
                header.fault("safetensors-overflow", f"a number in {field} does not fit 64 bits", name)
            else:
                header.fault("safetensors-entry", f"{field} holds something other than whole numbers from 0", name)
            return False
    return True


def check_layout(
    header: HeaderBytes, tensors: Sequence[SafetensorsTensor], *, data_start: int, file_size: int, whole: bool
) -> None:
    """Fault what the tensors, sorted by place, do not cover exactly once, and shapes that do not fill their range.

    Where an entry could not be read (`whole` is False) the bytes it would cover are not called holes.
    """
    log = header.log
    position = 0
    beyond: list[str] = []
    available = file_size - data_start
    for tensor in tensors:
        begin, end = tensor.begin, tensor.end
        if begin > position and whole:
            message = f"{begin - position:,} bytes before this tensor belong to none"
            log.add("safetensors-hole", message, offset=data_start + position, place=tensor.name)
        elif begin < position:
            message = f"shares {min(position, end) - begin:,} bytes with the tensor before it"
            if begin == end:
                message = "is empty, and its place lies inside another tensor"
            log.add("safetensors-overlap", message, offset=data_start + begin, place=tensor.name)
        if end > position:
            position = end
        if end > available:
            beyond.append(tensor.name)
        _check_size(header, tensor)
    if beyond:
        missing = f"{len(beyond):,} of {len(tensors):,} tensors are cut or missing"
        message = f"the file ends {position - available:,} bytes early; {missing}"
        log.add("safetensors-truncated", message, offset=file_size, place=beyond[0])
    elif position < available and whole:
        message = f"{available - position:,} bytes after the last tensor"
        log.add("safetensors-trailing", message, offset=data_start + position)
    if tensors and data_start % 8:
        log.add("safetensors-unaligned-header", "the data does not start at a multiple of 8 bytes", offset=data_start)


def _check_size(header: HeaderBytes, tensor: SafetensorsTensor) -> None:
    bits = _BITS[tensor.dtype]
    count = 1
    for size in tensor.shape:
        count *= size
        if count >= _U64:
            header.fault("safetensors-overflow", "the number of elements does not fit 64 bits", tensor.name)
            return
    count *= bits
    if count >= _U64:
        header.fault("safetensors-overflow", "the number of bits does not fit 64 bits", tensor.name)
        return
    if count % 8:
        header.fault("safetensors-subbyte", f"its {tensor.dtype} elements do not fill whole bytes", tensor.name)
    elif count // 8 != tensor.end - tensor.begin:
        message = f"shape and element type need {count // 8:,} bytes, its range has {tensor.end - tensor.begin:,}"
        header.fault("safetensors-size", message, tensor.name)
    if len(tensor.shape) > _MAX_RANK:
        header.fault("safetensors-rank", f"{len(tensor.shape):,} dimensions; torch stops at {_MAX_RANK}", tensor.name)
    if bits > 8 and tensor.begin % (min(bits, 64) // 8):
        header.fault(
            "safetensors-misaligned", f"its {tensor.dtype} data is not aligned to its element size", tensor.name
        )
