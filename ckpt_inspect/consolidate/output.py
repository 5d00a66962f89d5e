"""What the output files look like: which tensor goes where, headers, index. Pure: bytes of weights are not touched.

Split rule and names: huggingface_hub 1.x ``serialization/_base.py`` `split_state_dict_into_shards_factory`. Header:
safetensors 0.8 ``safetensors/src/tensor.rs`` `prepare` (element types from the widest alignment down, then names; JSON
padded with spaces to a multiple of 8). Index: deepspeed 0.19.8 ``utils/zero_to_fp32.py``.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ckpt_inspect.consolidate.plan import PlannedTensor
from ckpt_inspect.errors import OutputError, UsageError
from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.printable import printable

MAX_SHARD_SIZE = "5GB"  # huggingface_hub's and zero_to_fp32's default
MAX_HEADER = 100_000_000  # safetensors/src/tensor.rs MAX_HEADER_SIZE
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip
_WIDTH_ORDER = {name: position for position, name in enumerate(BY_NAME)}  # the declaration order of tensor.rs


@dataclass(frozen=True, slots=True)
class PlacedTensor:
    """A tensor and where its bytes begin, counted from the start of the data section."""

    tensor: PlannedTensor
    begin: int

    @property
    def end(self) -> int:
        """Where they end."""
        return self.begin + self.tensor.nbytes


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One safetensors file to be: its name, the header bytes (length prefix included), tensors in data order."""

    name: str
    header: bytes
    tensors: tuple[PlacedTensor, ...]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + (self.tensors[-1].end if self.tensors else 0)


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """All weight files, and the index where there is more than one."""

    files: tuple[OutputFile, ...]
    index_name: str | None
    index: bytes | None

    @property
    def size(self) -> int:
        """Bytes of everything."""
        return sum(file.size for file in self.files) + len(self.index or b"")


def parse_size(text: str) -> int:
    """Bytes in `"5GB"`: decimal units as huggingface_hub reads them, `GiB` and plain bytes besides.

    Raises:
        UsageError: not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS:
        raise UsageError(f"not a size: {printable(text, 40)}", remedy="write a number and KB, MB, GB or TB, as in 5GB")
    size = int(float(match[1]) * _UNITS[match[2].upper()])
    if size <= 0:
        raise UsageError("a shard cannot hold 0 bytes", remedy="write a number and KB, MB, GB or TB, as in 5GB")
    return size


def split(tensors: Sequence[PlannedTensor], max_shard_size: int) -> list[list[PlannedTensor]]:
    """Tensors cut into shards in their own order: a shard is closed before it would overflow, a giant stands alone.

    Empty tensors stand together: to huggingface_hub they share one storage, and what shares one is never parted.
    """
    shards: list[list[PlannedTensor]] = []
    current: list[PlannedTensor] = []
    held = 0
    empty: list[PlannedTensor] | None = None  # the shard of the first empty tensor
    for tensor in tensors:
        if tensor.nbytes == 0 and empty is not None:
            empty.append(tensor)
            continue
        if tensor.nbytes > max_shard_size:
            shards.append([tensor])
            continue
        if held + tensor.nbytes > max_shard_size:
            shards.append(current)
            current, held = [], 0
        current.append(tensor)
        held += tensor.nbytes
        if tensor.nbytes == 0:
            empty = current
    if current or not shards:
        shards.append(current)
    return shards


def shard_name(stem: str, index: int, count: int) -> str:
    """`model.safetensors`, or `model-00001-of-00003.safetensors` (`index` from 0)."""
    return f"{stem}.safetensors" if count == 1 else f"{stem}-{index + 1:05d}-of-{count:05d}.safetensors"


def build_header(tensors: Sequence[PlannedTensor], metadata: Mapping[str, str]) -> tuple[bytes, list[PlacedTensor]]:
    """The header of a file of these tensors, its length prefix included, and where each tensor lies.

    Raises:
        OutputError: safetensors has no such element type, a name twice, or the header is too long for the format.
    """
    placed: list[PlacedTensor] = []
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for tensor in sorted(tensors, key=lambda tensor: (-_WIDTH_ORDER[tensor.dtype], tensor.name.encode())):
        if not BY_NAME[tensor.dtype].safetensors:
            raise OutputError(
                f"tensor {printable(tensor.name)} is {tensor.dtype}, which safetensors cannot store",
                remedy="leave it out with --only",
            )
        if tensor.name in entries:
            raise OutputError(f"two tensors have the name {printable(tensor.name)}")
        placed.append(PlacedTensor(tensor, position))
        end = position + tensor.nbytes
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    document = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    document += b" " * (-len(document) % 8)
    if len(document) > MAX_HEADER:
        raise OutputError(f"a header of {len(document)} bytes is more than safetensors allows", remedy="write shards")
    return struct.pack("<Q", len(document)) + document, placed


def lay_out(
    tensors: Sequence[PlannedTensor], *, stem: str, max_shard_size: int | None, aliases: Mapping[str, str] | None = None
) -> OutputLayout:
    """Files for these tensors; `max_shard_size` None keeps them in one file.

    `aliases` (name -> name of the tensor that holds its values) go into the header's metadata, where
    ``safetensors.torch.load_model`` looks for tied weights.

    Raises:
        OutputError: see :func:`build_header`; or a name is not valid Unicode.
    """
    shards = [list(tensors)] if max_shard_size is None else split(tensors, max_shard_size)
    files: list[OutputFile] = []
    weight_map: dict[str, str] = {}
    for index, shard in enumerate(shards):
        name = shard_name(stem, index, len(shards))
        held = {tensor.name for tensor in shard}
        ties = {alias: owner for alias, owner in sorted((aliases or {}).items()) if owner in held}
        try:
            header, placed = build_header(shard, {"format": "pt", **ties})
        except UnicodeEncodeError:
            raise OutputError("a tensor name holds a lone surrogate, which no file can store") from None
        files.append(OutputFile(name, header, tuple(placed)))
        weight_map.update({tensor.name: name for tensor in shard})
    if len(files) == 1:
        return OutputLayout(tuple(files), None, None)
    document = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)}, "weight_map": weight_map}
    index_bytes = (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
    return OutputLayout(tuple(files), f"{stem}.safetensors.index.json", index_bytes)
