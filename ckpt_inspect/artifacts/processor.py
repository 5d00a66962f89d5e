"""``preprocessor_config.json``, ``processor_config.json``, ``video_preprocessor_config.json``: how images, sound and video become
tensors.

Format: transformers ``image_processing_base.py``, ``feature_extraction_utils.py``, ``video_processing_utils.py`` and
``processing_utils.py`` (5.x nests the parts: `image_processor`, `feature_extractor`, `video_processor`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ckpt_inspect.artifacts.fields import Fields, read_object
from ckpt_inspect.formats.fault_log import FaultLog

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

Modality = Literal["image", "audio", "video"]

# The key that names the class of a part, its modality, and where 5.x nests the part.
_PARTS: tuple[tuple[str, Modality, str], ...] = (
    ("image_processor_type", "image", "image_processor"),
    ("feature_extractor_type", "audio", "feature_extractor"),
    ("video_processor_type", "video", "video_processor"),
)


@dataclass(frozen=True, slots=True)
class ProcessorPart:
    """One modality: the class that handles it and its sizes (pixels, Hz, features), None where not stated."""

    modality: Modality
    class_name: str | None
    size: dict[str, int]
    patch_size: int | None
    sampling_rate: int | None
    feature_size: int | None
    values: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProcessorConfig:
    """What a processor file says; `processor_class` joins the parts with a tokenizer."""

    processor_class: str | None
    parts: tuple[ProcessorPart, ...]
    remote_code: dict[str, Any]
    values: dict[str, Any] = field(repr=False)
    complete: bool
    faults: tuple[Fault, ...]


def read_processor(source: ByteSource) -> ProcessorConfig:
    """Read one processor file. Never raises for content."""
    faults = FaultLog()
    values, complete = read_object(source, faults)
    fields = Fields(values, faults)
    parts: list[ProcessorPart] = []
    for type_key, modality, place in _PARTS:
        nested = values.get(place)
        if isinstance(nested, dict):
            parts.append(_part(Fields(nested, faults, f"{place}."), type_key, modality))
        elif type_key in values or (modality == "video" and "video_preprocessor" in source.name):
            parts.append(_part(fields, type_key, modality))
    if not parts and ("image_mean" in values or "do_resize" in values):
        parts.append(_part(fields, "image_processor_type", "image"))  # before transformers 4.20 named the class
    return ProcessorConfig(
        processor_class=fields.text("processor_class"),
        parts=tuple(parts),
        remote_code=fields.mapping("auto_map") or {},
        values=values,
        complete=complete,
        faults=faults.sealed(),
    )


def _part(fields: Fields, type_key: str, modality: Modality) -> ProcessorPart:
    return ProcessorPart(
        modality=modality,
        class_name=fields.text(type_key),
        size=_size(fields.values),
        patch_size=_patch(fields),
        sampling_rate=fields.integer("sampling_rate"),
        feature_size=fields.integer("feature_size"),
        values=dict(fields.values),
    )


def _size(values: Mapping[str, Any]) -> dict[str, int]:
    """`size` as an object; up to transformers 4.20 it was one number, or a pair (width, height)."""
    size = values.get("size")
    if isinstance(size, dict):
        return {key: value for key, value in size.items() if type(value) is int}
    if type(size) is int:
        return {"shortest_edge": size}
    if isinstance(size, list) and len(size) == 2 and all(type(value) is int for value in size):
        return {"width": size[0], "height": size[1]}
    return {}


def _patch(fields: Fields) -> int | None:
    value = fields.values.get("patch_size")
    if isinstance(value, dict):  # {"height": 14, "width": 14}
        value = value.get("height")
        return value if type(value) is int else None
    return fields.integer("patch_size")
