"""What `show` says of the real runs is what torch, transformers, peft and safetensors say of them.

``library_facts.json`` holds their words (``tests/oracle/library_facts.py`` writes it).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ckpt_inspect.report.show_document import show_document
from ckpt_inspect.run import open_run

pytestmark = pytest.mark.shared

Json = dict[str, Any]


@cache
def table() -> dict[str, Json]:
    loaded: dict[str, Json] = json.loads((Path(__file__).parent / "library_facts.json").read_text(encoding="utf-8"))
    return loaded


def places() -> Iterator[tuple[str, str]]:
    for run, rows in table().items():
        for place in rows:
            if place != "zero":
                yield run, place


def tags() -> Iterator[tuple[str, str]]:
    for run, rows in table().items():
        for tag in rows["zero"]:
            yield run, tag


@pytest.mark.parametrize(("name", "place"), list(places()), ids=lambda part: part)
def test_the_facts_of_a_directory(shared: Path, name: str, place: str) -> None:
    expected = table()[name][place]
    document = show_document(open_run(shared / "runs" / name / place))
    if "trainer" in expected:
        check_trainer(document, expected["trainer"])
    if "arguments" in expected and document["batches"] is not None:
        batches = document["batches"]
        assert batches["world_size"] == expected["arguments"]["world_size"]
        assert batches["gradient_accumulation"] == expected["arguments"]["gradient_accumulation"]
        assert batches["per_device"] == expected["arguments"]["per_device"]
    if "adapter" in expected:
        check_adapter(document, expected["adapter"])
    if "tokenizer" in expected and document["new_tokens"] is not None:
        assert document["new_tokens"]["tokenizer_length"] == expected["tokenizer"]["length"]
        assert document["new_tokens"]["max_token_id"] == expected["tokenizer"]["max_id"]
    if "model" in expected:
        assert document["model"]["parameters"] == expected["model"]["parameters"]
        assert document["model"]["dtypes"] == expected["model"]["dtypes"]


def check_trainer(document: Json, expected: Json) -> None:
    progress, loss = document["progress"], document["loss"]
    assert progress["global_step"] == expected["global_step"]
    assert progress["max_steps"] == expected["max_steps"]
    assert progress["epoch"] == expected["epoch"]
    for key, wanted in (("first", expected["first_loss"]), ("final", expected["final_loss"])):
        if wanted is not None:
            assert [loss[key]["step"], loss[key]["value"]] == wanted
    if expected["minimum_loss"] is not None:
        assert loss["minimum"]["value"] == expected["minimum_loss"]
    best = document["best"]
    if expected["best_checkpoint"] is not None:
        assert best["checkpoint"] in (expected["best_checkpoint"], ".")
    if expected["best_metric"] is not None:
        assert best["value"] == expected["best_metric"]


def check_adapter(document: Json, expected: Json) -> None:
    adapter = document["adapter"]
    for key in ("peft_type", "rank", "alpha", "base_model"):
        assert adapter[key] == expected[key], key
    targets = adapter["target_modules"]
    assert (sorted(targets) if isinstance(targets, list) else targets) == expected["target_modules"]
    if expected.get("lora_parameters") is not None:
        assert adapter["trainable_parameters"] >= expected["lora_parameters"]
    if expected.get("saved_rows") is not None and document["new_tokens"] is not None:
        assert document["new_tokens"]["saved_rows"] == expected["saved_rows"]


@pytest.mark.parametrize(("name", "tag"), list(tags()), ids=lambda part: part.replace("/", "-"))
def test_the_facts_of_a_deepspeed_tag(shared: Path, name: str, tag: str) -> None:
    expected = table()[name]["zero"][tag]
    document = show_document(open_run(shared / "runs" / name / tag))
    assert document["kind"] == "zero"
    (row,) = document["checkpoints"]
    zero = row["zero"]
    if expected["stage"] is not None:
        assert zero["stage"] == expected["stage"]
    if expected["world_size"] is not None:
        assert zero["world_size"] == expected["world_size"]
    assert zero["deepspeed_version"] == expected["ds_version"]
    if expected["parameters"] is not None:
        assert zero["parameters"] == expected["parameters"]
    assert zero["tag"] == tag.rpartition("/")[2]
    assert row["step"] == expected["global_steps"]
