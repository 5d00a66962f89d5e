"""What a torch distributed checkpoint (DCP) describes: tensors as chunks in files, and other values as items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ckpt_inspect.formats.fault import Fault


@dataclass(frozen=True, slots=True)
class DcpChunk:
    """A box of a tensor: elements `offsets` to `offsets + sizes`, in the file `file` (relative to the directory).

    `offset` and `length` are bytes of the item in the file. `form` "torch": the item is a complete `torch.save` archive;
    "raw": it is the row-major elements themselves. `file` is "" for a chunk that the metadata places nowhere.
    `transforms` names what was done to the bytes ("zstd"), so that they cannot be addressed.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    offset: int
    length: int
    form: Literal["torch", "raw"] = "torch"
    transforms: tuple[str, ...] = ()

    @property
    def numel(self) -> int:
        """How many elements the box holds."""
        return volume(self.sizes)


@dataclass(frozen=True, slots=True)
class DcpTensor:
    """A whole tensor: `dtype` as everywhere (None: one this package has no name for), `shape`, and its chunks."""

    dtype: str | None
    shape: tuple[int, ...]
    chunks: tuple[DcpChunk, ...]

    @property
    def numel(self) -> int:
        """How many elements the whole has."""
        return volume(self.shape)


@dataclass(frozen=True, slots=True)
class DcpBytes:
    """A value that is no tensor, saved with `torch.save`: `length` bytes at `offset` of `file`."""

    file: str
    offset: int
    length: int
    transforms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DcpMetadata:
    """A checkpoint as its metadata state it.

    `planner_paths` gives the place of each flattened name in the original nested dictionary. `form`: "pickle"
    (``.metadata``) or "safetensors" (``HuggingFaceStorageWriter``). `globals` are the (module, name) pairs the pickle names.
    """

    tensors: Mapping[str, DcpTensor] = field(default_factory=dict)
    items: Mapping[str, DcpBytes] = field(default_factory=dict)
    planner_paths: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    version: str | None = None
    save_id: str | None = None
    checkpoint_id: str | None = None
    form: Literal["pickle", "safetensors"] = "pickle"
    globals: tuple[tuple[str, str], ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that holds a part, sorted."""
        names = {chunk.file for tensor in self.tensors.values() for chunk in tensor.chunks}
        names.update(item.file for item in self.items.values())
        return tuple(sorted(names - {""}))


def volume(sizes: tuple[int, ...]) -> int:
    """The product."""
    count = 1
    for size in sizes:
        count *= size
    return count
