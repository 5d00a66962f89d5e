"""The ``.metadata`` pickle of torch distributed checkpoints, and the same facts from their safetensors form.

``torch/distributed/checkpoint/metadata.py`` and ``filesystem.py`` (`_StorageInfo`), 1.13 to 2.13; classes are matched
by their attributes, because modules moved (``torch.distributed._shard.checkpoint`` until 2.0). Safetensors form:
``torch/distributed/checkpoint/hf_storage.py``: chunk offsets stand in each header under ``DCP_SHARDING_INFO``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ckpt_inspect.formats.dcp_tiling import check_files, check_tiling
from ckpt_inspect.formats.dcp_types import DcpBytes, DcpChunk, DcpMetadata, DcpTensor
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.json_document import read_json
from ckpt_inspect.formats.pickle_machine import DEFAULT, PickleLimits, run_pickle
from ckpt_inspect.formats.pickle_nodes import Call, Node, as_mapping, entries, get_path, instance_state
from ckpt_inspect.formats.safetensors_header import SafetensorsHeader
from ckpt_inspect.formats.torch_tensors import dtype_of, ints
from ckpt_inspect.storage import ByteSource, BytesSource

__all__ = [
    "DcpBytes",
    "DcpChunk",
    "DcpMetadata",
    "DcpTensor",
    "check_files",
    "check_tiling",
    "merge_metadata",
    "read_dcp_metadata",
    "read_dcp_safetensors",
]

_Place = tuple[str, int, int, tuple[str, ...]]
_MAX_RANK = 64


def read_dcp_metadata(source: ByteSource, limits: PickleLimits | None = None) -> DcpMetadata:
    """Read a ``.metadata`` file; what is not as torch writes it is noted and left out."""
    log = FaultLog()
    program = run_pickle(source, limits=limits or _limits(source.size))
    log.extend(program.faults)
    state = instance_state(program.value)
    described = get_path(state, "state_dict_metadata")
    if described is None:
        log.add("dcp-not-metadata", "the pickle holds no Metadata of a distributed checkpoint", offset=0)
        return DcpMetadata(faults=log.sealed())
    places = _places(get_path(state, "storage_data"), log)
    tensors: dict[str, DcpTensor] = {}
    items: dict[str, DcpBytes] = {}
    for name, node in entries(described):
        if type(name) is not str:
            log.add("dcp-unknown", "an entry of the metadata has no name")
            continue
        if get_path(instance_state(node), "chunks") is not None:
            tensor = _tensor(name, node, places, log)
            if tensor is not None:
                check_tiling(name, tensor, log)
                tensors[name] = tensor
            continue
        place = places.pop((name, None), None)
        if place is None:
            log.add("dcp-unplaced", "the metadata do not say where this item is", place=name)
        else:
            items[name] = DcpBytes(*place)
    for name, _ in places:
        log.add("dcp-unknown", "bytes are placed for an item that is not described", place=name)
    meta = instance_state(get_path(state, "storage_meta"))
    return DcpMetadata(
        tensors,
        items,
        _planner_paths(get_path(state, "planner_data")),
        _text(get_path(state, "version")),
        _text(get_path(meta, "save_id")),
        _path_text(get_path(meta, "checkpoint_id")),
        globals=tuple((used.module, used.name) for used in program.globals),
        faults=log.sealed(),
    )


def _limits(size: int) -> PickleLimits:
    """Larger than the default for a large file: 160 to 290 bytes a chunk, with an opcode every third byte, and ranks multiply."""
    return replace(
        DEFAULT,
        opcodes=max(DEFAULT.opcodes, min(size // 2, 100_000_000)),
        nodes=max(DEFAULT.nodes, min(size // 4, 20_000_000)),
        memo=max(DEFAULT.memo, min(size // 4, 20_000_000)),
        memo_index=max(DEFAULT.memo_index, min(size // 4, 20_000_000)),
        virtual_size=max(DEFAULT.virtual_size, min(size, 400_000_000)),
        text_total=max(DEFAULT.text_total, min(size, 256 << 20)),
    )


def _places(storage_data: Node, log: FaultLog) -> dict[tuple[str, tuple[int, ...] | None], _Place]:
    """Where each item is, by name and chunk offsets (None for what is no tensor)."""
    places: dict[tuple[str, tuple[int, ...] | None], _Place] = {}
    for key, value in entries(storage_data):
        index, info = as_mapping(instance_state(key)), as_mapping(instance_state(value))
        name, corner = index.get("fqn"), index.get("offset")
        file, offset, length = info.get("relative_path"), info.get("offset"), info.get("length")
        offsets = ints(corner) if corner is not None else None
        if type(name) is not str or type(file) is not str or type(offset) is not int or type(length) is not int:
            log.add("dcp-unknown", "an item is placed in a way torch's own writer does not", place=_text(name))
            continue
        if offset < 0 or length < 0:
            log.add("dcp-item-bounds", "an item has a negative place", offset=None, place=name)
            continue
        if not _is_plain(file):
            log.add("dcp-traversal", "an item is said to be in a file outside the directory", place=file)
            continue
        descriptors = info.get("transform_descriptors")
        transforms = tuple(t for t in _sequence(descriptors) if type(t) is str)
        if transforms:
            log.add("dcp-transformed", f"stored through {len(transforms)} transforms (compression)", place=name)
        places[name, offsets] = (file, offset, length, transforms)
    return places


def _tensor(
    name: str, node: Node, places: dict[tuple[str, tuple[int, ...] | None], _Place], log: FaultLog
) -> DcpTensor | None:
    state = as_mapping(instance_state(node))
    shape, listed, properties = ints(state.get("size")), state.get("chunks"), state.get("properties")
    described = properties.state if type(properties) is Call else None
    dtype = dtype_of(described[0] if type(described) is tuple and described else get_path(described, "dtype"))
    if shape is None or len(shape) > _MAX_RANK or any(n < 0 for n in shape):
        log.add("dcp-unknown", "a tensor is described in a way torch does not", place=name)
        return None
    if dtype is None:
        log.add("dcp-dtype", "the tensor has an element type that is not known here", place=name)
    chunks: list[DcpChunk] = []
    for part in _sequence(listed):
        box = as_mapping(instance_state(part))
        offsets, sizes = ints(box.get("offsets")), ints(box.get("sizes"))
        if offsets is None or sizes is None or len(offsets) != len(sizes):
            log.add("dcp-unknown", "a chunk is described in a way torch does not", place=name)
            continue
        place = places.pop((name, offsets), None)
        if place is None:
            log.add("dcp-unplaced", "the metadata do not say where a chunk of this tensor is", place=name)
            place = ("", 0, 0, ())
        chunks.append(DcpChunk(offsets, sizes, *place[:3], transforms=place[3]))
    return DcpTensor(dtype.name if dtype is not None else None, shape, tuple(chunks))


def _planner_paths(node: Node) -> dict[str, tuple[str | int, ...]]:
    paths: dict[str, tuple[str | int, ...]] = {}
    for name, path in entries(node):
        if type(name) is str and type(path) in (tuple, list) and all(type(part) in (str, int) for part in path):
            paths[name] = tuple(path)
    return paths


def _sequence(node: Node) -> list[Node] | tuple[Node, ...]:
    return node if type(node) is list or type(node) is tuple else ()


def _text(node: Node) -> str | None:
    return node if type(node) is str else None


def _path_text(node: Node) -> str | None:
    """A string, or the parts of a ``pathlib.PosixPath``."""
    if type(node) is Call and type(node.args) is tuple and all(type(part) is str for part in node.args):
        return "/".join(node.args).replace("//", "/") or None
    return _text(node)


def _is_plain(path: str) -> bool:
    parts = path.split("/")
    return bool(path) and not path.startswith("/") and "\\" not in path and "\x00" not in path and ".." not in parts


def merge_metadata(parts: Mapping[str, DcpMetadata]) -> DcpMetadata:
    """One checkpoint out of the ``__{rank}.metadata`` of a save without coordination, by file name.

    Each part describes whole tensors with the chunks of one rank; chunks are put together and tiling is judged anew.
    """
    log = FaultLog()
    tensors: dict[str, DcpTensor] = {}
    items: dict[str, DcpBytes] = {}
    paths: dict[str, tuple[str | int, ...]] = {}
    tiling = ("dcp-gap", "dcp-overlap")
    used: dict[tuple[str, str], None] = {}
    for part in parts.values():
        used.update(dict.fromkeys(part.globals))
        log.extend(fault for fault in part.faults if fault.kind not in tiling)
        paths.update(part.planner_paths)
        items.update(part.items)
        for name, tensor in part.tensors.items():
            known = tensors.get(name)
            if known is None:
                tensors[name] = tensor
            elif (known.shape, known.dtype) != (tensor.shape, tensor.dtype):
                log.add("dcp-conflict", "two ranks describe one tensor differently", place=name)
            else:
                corners = {chunk.offsets for chunk in known.chunks}
                new = tuple(chunk for chunk in tensor.chunks if chunk.offsets not in corners)
                tensors[name] = replace(known, chunks=known.chunks + new)
    for name, tensor in tensors.items():
        check_tiling(name, tensor, log)
    first = next(iter(parts.values()), DcpMetadata())
    return replace(first, tensors=tensors, items=items, planner_paths=paths, globals=tuple(used), faults=log.sealed())


def read_dcp_safetensors(headers: Mapping[str, SafetensorsHeader]) -> DcpMetadata:
    """The same facts from the safetensors files of a directory, by file name.

    Files without ``DCP_SHARDING_INFO`` hold whole tensors, as torch's reader takes them.
    """
    log = FaultLog()
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    chunks: dict[str, list[DcpChunk]] = {}
    for file, header in sorted(headers.items()):
        stated = header.metadata.get("DCP_SHARDING_INFO")
        document = read_json(BytesSource(stated.encode("utf-8", "surrogatepass"))) if stated else None
        info = document.value if document is not None and type(document.value) is dict else {}
        for tensor in header.tensors:
            entry = info.get(tensor.name)
            saved = entry.get("saved_offsets") if type(entry) is dict else None
            offsets = ints(saved) if saved is not None else (0,) * len(tensor.shape)
            if offsets is None or len(offsets) != len(tensor.shape) or any(start < 0 for start in offsets):
                log.add(
                    "dcp-unknown", "the place of a chunk in its tensor is not stated as torch does", place=tensor.name
                )
                continue
            reach = tuple(start + size for start, size in zip(offsets, tensor.shape, strict=True))
            dtype, shape = shapes.get(tensor.name, (tensor.dtype, reach))
            if dtype != tensor.dtype or len(shape) != len(reach):
                log.add("dcp-conflict", "two files describe one tensor differently", place=tensor.name)
                continue
            shapes[tensor.name] = (dtype, tuple(map(max, shape, reach)))
            chunk = DcpChunk(offsets, tensor.shape, file, tensor.file_offset, tensor.nbytes, "raw")
            chunks.setdefault(tensor.name, []).append(chunk)
    tensors = {name: DcpTensor(dtype, shape, tuple(chunks[name])) for name, (dtype, shape) in shapes.items()}
    for name, tensor_ in tensors.items():
        check_tiling(name, tensor_, log)
    return DcpMetadata(tensors, form="safetensors", faults=log.sealed())
