"""Torch files of every era, without torch: state dictionaries of tensors as zip archives or legacy streams.

::

    weights = {"w": tensor("F32", (2, 3), data), "tied": view(other, (3,), offset=3)}
    save_zip(path, weights)                     # as torch.save does today
    save_zip(path, weights, era="1.13")         # no byteorder, no .format_version
    save_legacy(path, weights)
"""

from __future__ import annotations

import io
import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from builders.pickles import Called, Instance, Name, Persistent, Writer, dump
from builders.zips import Data, Hole, TorchZipWriter, length_of
from ckpt_inspect.formats.dtypes import BY_NAME

Era = Literal["2.13", "2.5", "1.13"]

MAGIC = 0x1950A86A20F9469CFC6C
REBUILD_V2 = Name("torch._utils", "_rebuild_tensor_v2")
REBUILD_V3 = Name("torch._utils", "_rebuild_tensor_v3")
REBUILD_PARAMETER = Name("torch._utils", "_rebuild_parameter")
REBUILD_PARAMETER_STATE = Name("torch._utils", "_rebuild_parameter_with_state")
REBUILD_FROM_TYPE = Name("torch._tensor", "_rebuild_from_type_v2")
TENSOR = Name("torch", "Tensor")
_NAMES: dict[tuple[str, str], Name] = {}


def torch_name(module: str, name: str) -> Name:
    """The same `Name` object for the same global, as pickling one class twice gives one memo entry."""
    return _NAMES.setdefault((module, name), Name(module, name))


def dtype_global(dtype: str) -> Name:
    """`torch.float32` and the like."""
    return torch_name("torch", BY_NAME[dtype].torch or "")


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a row-major tensor, as torch computes them (a dimension of 0 counts as 1)."""
    strides: list[int] = []
    step = 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


@dataclass(eq=False)
class Storage:
    """A storage; `data` may be a :class:`Hole`. `dtype` None: an UntypedStorage, counted in bytes."""

    dtype: str | None
    data: Data
    location: str = "cpu"
    numel: int | None = None

    @property
    def count(self) -> int:
        if self.numel is not None:
            return self.numel
        return length_of(self.data) * 8 // (BY_NAME[self.dtype].bits if self.dtype else 8)


@dataclass(eq=False)
class TensorSpec:
    """A tensor as `_rebuild_tensor_v2` or, for the dtypes without a storage class, `_v3` writes it."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage: Storage
    offset: int = 0
    requires_grad: bool = False
    hooks: Any = field(default_factory=OrderedDict)
    version: Literal["v1", "v2", "v3"] = "v2"
    metadata: Any = None


def tensor(dtype: str, shape: tuple[int, ...], data: Data | None = None, **options: Any) -> TensorSpec:
    """A contiguous tensor with a storage of its own; zeros when `data` is None."""
    count = 1
    for length in shape:
        count *= length
    kind = BY_NAME[dtype]
    data = bytes(kind.nbytes(count)) if data is None else data
    location = options.pop("location", "cpu")
    version = options.pop("version", "v2" if kind.storage else "v3")
    storage = Storage(None if version == "v3" else dtype, data, location)
    return TensorSpec(dtype, shape, contiguous(shape), storage, version=version, **options)


def view(
    of: TensorSpec, shape: tuple[int, ...], *, offset: int = 0, stride: tuple[int, ...] | None = None, **options: Any
) -> TensorSpec:
    """Another tensor on the same storage; `offset` in elements."""
    strides = contiguous(shape) if stride is None else stride
    return TensorSpec(of.dtype, shape, strides, of.storage, offset, version=of.version, **options)


def parameter(data: TensorSpec, *, requires_grad: bool = True, state: dict[str, Any] | None = None) -> Called:
    """A `torch.nn.Parameter`, with Python attributes where `state` is given."""
    if state is None:
        return Called(REBUILD_PARAMETER, (data, requires_grad, OrderedDict()))
    return Called(REBUILD_PARAMETER_STATE, (data, requires_grad, OrderedDict(), state))


def with_attributes(data: TensorSpec, state: dict[str, Any]) -> Called:
    """A plain tensor with Python attributes: every flat group of ZeRO-3 carries `ds_id`."""
    call = _called(data)
    return Called(REBUILD_FROM_TYPE, (call.callee, TENSOR, call.args, state))


def _called(spec: TensorSpec) -> Called:
    head: tuple[Any, ...] = (spec.storage, spec.offset, spec.shape, spec.stride)
    tail = () if spec.metadata is None else (spec.metadata,)
    if spec.version == "v1":
        return Called(torch_name("torch._utils", "_rebuild_tensor"), head)
    head = (*head, spec.requires_grad, spec.hooks)
    if spec.version == "v3":
        return Called(REBUILD_V3, (*head, dtype_global(spec.dtype), *tail))
    return Called(REBUILD_V2, (*head, *tail))


class _Saver:
    """Numbers the storages in the order they are first met, as `torch.save` does."""

    def __init__(self, *, legacy: bool = False) -> None:
        self.storages: dict[int, Storage] = {}
        self._ids: dict[int, Persistent] = {}
        self._legacy = legacy

    def resolve(self, obj: Any) -> Any:
        if isinstance(obj, TensorSpec):
            return _called(obj)
        if isinstance(obj, Storage):
            key = self._key(obj)
            kind = BY_NAME[obj.dtype].storage if obj.dtype else None
            name = torch_name("torch", kind) if kind else torch_name("torch.storage", "UntypedStorage")
            pid = ("storage", name, key, obj.location, obj.count)
            return Persistent((*pid, None) if self._legacy else pid)
        return obj

    def _key(self, storage: Storage) -> str:
        if id(storage) not in self.storages:
            self.storages[id(storage)] = storage
            self._ids[id(storage)] = Persistent(str(len(self.storages) - 1))
        return str(self._ids[id(storage)].pid)


def pickle_of(value: Any, protocol: int = 2, *, legacy: bool = False) -> tuple[bytes, list[Storage]]:
    """The pickle of a value with tensors, and its storages in the order of their keys."""
    saver = _Saver(legacy=legacy)
    buffer = io.BytesIO()
    _Writer(buffer, protocol, saver.resolve).dump(value)
    return buffer.getvalue(), list(saver.storages.values())


class _Writer(Writer):
    """Storages resolve to a persistent id anew each time: torch does not memoise them."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Storage):
            obj = self._resolve(obj) if self._resolve else obj
            self._kept.append(obj)
        super().save(obj, save_persistent_id)


def write_zip(
    file: IO[bytes],
    value: Any,
    *,
    root: str = "archive",
    era: Era = "2.13",
    byteorder: str | None = "little",
    protocol: int = 2,
    crc: bool = True,
) -> dict[str, int]:
    """Write an archive at the file's position; returns where each storage's bytes begin, by key."""
    program, storages = pickle_of(value, protocol)
    writer = TorchZipWriter(file, crc=crc)
    writer.add(f"{root}/data.pkl", program)
    if era == "2.13":
        writer.add(f"{root}/.format_version", b"1")
        writer.add(f"{root}/.storage_alignment", b"64")
    if era != "1.13" and byteorder is not None:
        writer.add(f"{root}/byteorder", byteorder.encode())
    offsets = {str(key): writer.add(f"{root}/data/{key}", storage.data) for key, storage in enumerate(storages)}
    writer.add(f"{root}/version", b"3\n")
    if era != "1.13":
        writer.add(f"{root}/.data/serialization_id", b"0849488847965048735003412658123398588097")
    writer.close()
    return offsets


def save_zip(path: Path, value: Any, **options: Any) -> dict[str, int]:
    """`torch.save(value, path)`: the root inside the archive is the file's stem unless given."""
    options.setdefault("root", path.name.rsplit(".", 1)[0] if "." in path.name[1:] else path.name)
    with path.open("wb") as file:
        return write_zip(file, value, **options)


def zip_bytes(value: Any, **options: Any) -> bytes:
    """The archive in memory."""
    buffer = io.BytesIO()
    write_zip(buffer, value, **options)
    return buffer.getvalue()


def legacy_bytes(value: Any, protocol: int = 2) -> bytes:
    """`torch.save(value, path, _use_new_zipfile_serialization=False)`."""
    program, storages = pickle_of(value, protocol, legacy=True)
    info = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    keys = sorted(str(key) for key in range(len(storages)))
    out = dump(MAGIC, protocol) + dump(1001, protocol) + dump(info, protocol) + program + dump(keys, protocol)
    for key in keys:
        storage = storages[int(key)]
        data = bytes(length_of(storage.data)) if isinstance(storage.data, Hole) else bytes(storage.data)
        out += struct.pack("<q", storage.count) + data
    return out


def save_legacy(path: Path, value: Any, protocol: int = 2) -> None:
    """The legacy stream as a file."""
    path.write_bytes(legacy_bytes(value, protocol))


__all__ = [
    "Called",
    "Hole",
    "Instance",
    "Name",
    "Storage",
    "TensorSpec",
    "legacy_bytes",
    "parameter",
    "save_legacy",
    "save_zip",
    "tensor",
    "view",
    "with_attributes",
    "write_zip",
    "zip_bytes",
]
