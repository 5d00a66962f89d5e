"""Whether the chunks of a tensor cover each of its elements exactly once, and its items lie within their files."""

from __future__ import annotations

from collections.abc import Mapping

from ckpt_inspect.formats.dcp_types import DcpChunk, DcpMetadata, DcpTensor
from ckpt_inspect.formats.fault_log import FaultLog


def check_tiling(name: str, tensor: DcpTensor, log: FaultLog) -> None:
    """Note boxes outside the tensor, boxes that overlap, and elements no box holds."""
    inside = True
    for chunk in tensor.chunks:
        if len(chunk.offsets) != len(tensor.shape) or any(
            start < 0 or size < 0 or start + size > length
            for start, size, length in zip(chunk.offsets, chunk.sizes, tensor.shape, strict=False)
        ):
            inside = False
            log.add("dcp-chunk-bounds", "a chunk lies outside its tensor", place=name)
    if not inside:
        return
    covered = sum(chunk.numel for chunk in tensor.chunks)
    if _overlapping(tensor.chunks):
        log.add("dcp-overlap", "two chunks hold the same elements", place=name)
    elif covered != tensor.numel:
        log.add("dcp-gap", f"the chunks hold {covered} of {tensor.numel} elements", place=name)


def _overlapping(chunks: tuple[DcpChunk, ...]) -> bool:
    """Sweep along the axis that is cut most often; compare only boxes that share a stretch of it."""
    boxes = [chunk for chunk in chunks if chunk.numel]
    if len(boxes) < 2:
        return False
    rank = len(boxes[0].offsets)
    if rank == 0:
        return True
    axis = max(range(rank), key=lambda i: len({box.offsets[i] for box in boxes}))
    boxes.sort(key=lambda box: box.offsets[axis])
    open_boxes: list[DcpChunk] = []
    for box in boxes:
        open_boxes = [other for other in open_boxes if other.offsets[axis] + other.sizes[axis] > box.offsets[axis]]
        if any(_share(box, other) for other in open_boxes):
            return True
        open_boxes.append(box)
    return False


def _share(one: DcpChunk, other: DcpChunk) -> bool:
    return all(
        a < b + m and b < a + n for a, n, b, m in zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
    )


def check_files(metadata: DcpMetadata, sizes: Mapping[str, int], log: FaultLog) -> None:
    """Note items in files that are missing from `sizes` (bytes by name), past a file's end, or sharing bytes."""
    placed: dict[str, list[tuple[int, int, str]]] = {}
    for name, tensor in metadata.tensors.items():
        for chunk in tensor.chunks:
            if chunk.file:
                placed.setdefault(chunk.file, []).append((chunk.offset, chunk.length, name))
    for name, item in metadata.items.items():
        placed.setdefault(item.file, []).append((item.offset, item.length, name))
    for file, items in sorted(placed.items()):
        size = sizes.get(file)
        if size is None:
            log.add("dcp-file-missing", f"the metadata name a file that holds {len(items)} items", place=file)
            continue
        reached = 0
        for offset, length, name in sorted(items):
            if offset + length > size:
                message = f"an item ends {offset + length - size} bytes after its file {file} does"
                log.add("dcp-item-bounds", message, offset=offset, place=name)
            elif offset < reached:
                log.add("dcp-item-overlap", "two items share bytes of one file", offset=offset, place=name)
            reached = max(reached, offset + length)
        if metadata.form == "pickle" and reached < size:
            message = f"{size - reached} bytes at the end belong to no item: the file is of another save"
            log.add("dcp-file-rest", message, offset=reached, place=file)
