from __future__ import annotations

import pytest
from builders.documents import json_source, kinds

from ckpt_inspect.artifacts.processor import read_processor


def read(values: object, name: str = "preprocessor_config.json"):
    return read_processor(json_source(values, name))


def test_an_image_processor_tells_its_class_and_size() -> None:
    found = read({"image_processor_type": "ViTImageProcessor", "size": {"height": 384, "width": 384}, "patch_size": 14})
    part = found.parts[0]
    assert (part.modality, part.class_name, part.size, part.patch_size) == (
        "image",
        "ViTImageProcessor",
        {"height": 384, "width": 384},
        14,
    )
    assert found.faults == ()


def test_a_feature_extractor_of_sound_tells_its_rate() -> None:
    part = read(
        {"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 16000, "feature_size": 80}
    ).parts[0]
    assert (part.modality, part.sampling_rate, part.feature_size) == ("audio", 16000, 80)


def test_the_parts_of_a_processor_may_be_nested() -> None:
    found = read(
        {
            "processor_class": "Qwen2_5_VLProcessor",
            "image_processor": {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14},
            "video_processor": {"video_processor_type": "Qwen2VLVideoProcessor"},
        },
        "processor_config.json",
    )
    assert found.processor_class == "Qwen2_5_VLProcessor"
    assert [(part.modality, part.class_name) for part in found.parts] == [
        ("image", "Qwen2VLImageProcessor"),
        ("video", "Qwen2VLVideoProcessor"),
    ]


@pytest.mark.parametrize(
    ("size", "expected"), [(224, {"shortest_edge": 224}), ([640, 480], {"width": 640, "height": 480}), ("big", {})]
)
def test_sizes_of_older_files_are_understood(size: object, expected: dict) -> None:
    assert read({"do_resize": True, "size": size}).parts[0].size == expected


def test_a_video_file_without_a_class_is_still_of_video() -> None:
    assert read({"size": {"shortest_edge": 1}}, "video_preprocessor_config.json").parts[0].modality == "video"


def test_wrong_types_are_faults() -> None:
    found = read({"feature_extractor_type": 5, "sampling_rate": "16k", "auto_map": []})
    assert kinds(found) == ["field-type"] * 3
