"""Torch distributed checkpoints without torch: ``.metadata`` and ``__{rank}_0.distcp`` files, and their safetensors form."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builders.pickles import Called, Instance, Name, dump
from builders.torch_files import dtype_global, tensor, view, write_zip
from ckpt_inspect.formats.dtypes import BY_NAME

MODULE = "torch.distributed.checkpoint.metadata"
FILESYSTEM = "torch.distributed.checkpoint.filesystem"


@dataclass
class Piece:
    """The box of a tensor that `rank` saves; `data` None: zeros. `stride` where the elements are not in row-major order."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    rank: int = 0
    data: bytes | None = None
    stride: tuple[int, ...] | None = None


@dataclass
class Whole:
    """A tensor and its pieces."""

    dtype: str
    shape: tuple[int, ...]
    pieces: list[Piece]


@dataclass
class Saved:
    """What `save_dcp` wrote: `places` of each (name, offsets), for comparison."""

    places: dict[tuple[str, tuple[int, ...] | None], tuple[str, int, int]] = field(default_factory=dict)


def size(values: tuple[int, ...]) -> Called:
    return Called(Name("torch", "Size"), (values,))


def rows(dtype: str, shape: tuple[int, ...], data: bytes, ranks: int) -> Whole:
    """A tensor cut along its first dimension as FSDP2 does: ceil parts, later ranks may get less or nothing."""
    each = -(-shape[0] // ranks)
    row = len(data) // shape[0] if shape[0] else 0
    pieces = []
    for rank in range(ranks):
        start, end = min(rank * each, shape[0]), min((rank + 1) * each, shape[0])
        if start < end:
            corner = (start, *(0,) * (len(shape) - 1))
            pieces.append(Piece(corner, (end - start, *shape[1:]), rank, data[start * row : end * row]))
    return Whole(dtype, shape, pieces)


def save_dcp(
    directory: Path,
    tensors: dict[str, Whole],
    items: dict[str, Any] | None = None,
    *,
    metadata: bool = True,
    byteorder: str = "little",
    **options: Any,
) -> Saved:
    """Write a checkpoint as `torch.distributed.checkpoint.save` does."""
    directory.mkdir(parents=True, exist_ok=True)
    files: dict[str, io.BytesIO] = {}
    saved = Saved()
    for name, whole in tensors.items():
        for piece in whole.pieces:
            value = tensor(whole.dtype, piece.sizes, piece.data)
            if piece.stride is not None:
                value = view(value, piece.sizes, stride=piece.stride)
            saved.places[name, piece.offsets] = _append(files, piece.rank, value, byteorder)
    for name, value in (items or {}).items():
        saved.places[name, None] = _append(files, 0, value, byteorder)
    for file, buffer in files.items():
        (directory / file).write_bytes(buffer.getvalue())
    if metadata:
        (directory / ".metadata").write_bytes(metadata_pickle(tensors, items or {}, saved.places, **options))
    return saved


def _append(files: dict[str, io.BytesIO], rank: int, value: Any, byteorder: str) -> tuple[str, int, int]:
    file = f"__{rank}_0.distcp"
    buffer = files.setdefault(file, io.BytesIO())
    start = buffer.seek(0, io.SEEK_END)
    write_zip(buffer, value, byteorder=byteorder)
    return file, start, buffer.tell() - start


def metadata_pickle(
    tensors: dict[str, Whole],
    items: dict[str, Any],
    places: dict[tuple[str, tuple[int, ...] | None], tuple[str, int, int]],
    *,
    module: str = MODULE,
    filesystem: str = FILESYSTEM,
    protocol: int = 4,
    transforms: tuple[str, ...] = (),
    meta: bool = True,
    paths: dict[str, tuple[str | int, ...]] | None = None,
    extra: dict[str, Any] | None = None,
) -> bytes:
    """The ``.metadata`` of torch 2.3 and later; without `meta` that of older ones. `paths` are the planner's."""

    def described(whole: Whole) -> Instance:
        layout = Called(Name("torch.serialization", "_get_layout"), ("torch.strided",))
        memory = Called(Name(module, "_MEM_FORMAT_ENCODING"), (0,))
        properties = Instance(
            Name(module, "TensorProperties"), (dtype_global(whole.dtype), layout, False, memory, False)
        )
        chunks = [
            Instance(Name(module, "ChunkStorageMetadata"), {"offsets": size(p.offsets), "sizes": size(p.sizes)})
            for p in whole.pieces
        ]
        state = {"properties": properties, "size": size(whole.shape), "chunks": chunks}
        return Instance(Name(module, "TensorStorageMetadata"), state)

    stored = []
    for (name, corner), (file, start, length) in places.items():
        index = {"fqn": name, "index": None if corner is None else 0}
        if corner is not None:
            index["offset"] = size(corner)
        info: dict[str, Any] = {"relative_path": file, "offset": start, "length": length}
        if transforms:
            info["transform_descriptors"] = list(transforms)
        stored.append(
            (Instance(Name(module, "MetadataIndex"), index), Instance(Name(filesystem, "_StorageInfo"), info))
        )
    # An empty dictionary filled by SETITEMS, as pickling a dictionary with these keys gives.
    placed = Called(Name("collections", "OrderedDict"), (), pairs=stored)
    state: dict[str, Any] = {
        "state_dict_metadata": {name: described(whole) for name, whole in tensors.items()}
        | {name: Instance(Name(module, "BytesStorageMetadata"), {}) for name in items},
        "planner_data": paths or {name: tuple(name.split(".")) for name in (*tensors, *items)},
        "storage_data": placed,
    }
    if meta:
        where = Called(Name("pathlib", "PosixPath"), ("/", "runs", "checkpoint-2"))
        identity = {"checkpoint_id": where, "save_id": "c0ffee", "load_id": None, "modules": []}
        state |= {"storage_meta": Instance(Name(module, "StorageMeta"), identity), "version": "1.0.0"}
    return dump(Instance(Name(module, "Metadata"), {**state, **(extra or {})}), protocol)


def save_dcp_safetensors(directory: Path, tensors: dict[str, Whole], *, offsets: bool = True) -> None:
    """Write ``shard-*-model-*.safetensors`` as `HuggingFaceStorageWriter(save_distributed=True)` does."""
    directory.mkdir(parents=True, exist_ok=True)
    ranks = sorted({piece.rank for whole in tensors.values() for piece in whole.pieces})
    for rank in ranks:
        header: dict[str, Any] = {}
        info: dict[str, Any] = {}
        data = b""
        for name, whole in tensors.items():
            for piece in (piece for piece in whole.pieces if piece.rank == rank):
                length = BY_NAME[whole.dtype].nbytes(_count(piece.sizes))
                part = bytes(length) if piece.data is None else piece.data
                span = [len(data), len(data) + length]
                header[name] = {"dtype": whole.dtype, "shape": list(piece.sizes), "data_offsets": span}
                info[name] = {"saved_offsets": list(piece.offsets)}
                data += part
        if offsets:
            header["__metadata__"] = {"DCP_SHARDING_INFO": json.dumps(info), "DCP_VERSION": "1.0", "format": "pt"}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        name = f"shard-{rank + 1:05}-model-00001-of-00001.safetensors"
        (directory / name).write_bytes(struct.pack("<Q", len(text)) + text + data)


def _count(sizes: tuple[int, ...]) -> int:
    count = 1
    for length in sizes:
        count *= length
    return count


__all__ = ["Piece", "Saved", "Whole", "metadata_pickle", "rows", "save_dcp", "save_dcp_safetensors"]
