from __future__ import annotations

from builders.documents import json_source

from ckpt_inspect.artifacts.launch_args import read_launch_args

SWIFT = {
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "model_type": "qwen2_5",
    "train_type": "lora",
    "template": "qwen2_5",
    "rlhf_type": "dpo",
    "output_dir": "/out/v0-20250101-120000",
    "hub_token": "hf_abcdefghijklmnopqrstuvwxyz0123456789",
    "swift_version": "3.5.0",
}


def test_the_arguments_of_ms_swift_are_recognised() -> None:
    read = read_launch_args(json_source(SWIFT, "args.json"))
    assert (read.producer, read.version, read.method) == ("ms-swift", "3.5.0", "dpo")
    assert (read.model, read.model_type, read.template) == ("Qwen/Qwen2.5-7B-Instruct", "qwen2_5", "qwen2_5")


def test_a_secret_is_masked_and_its_place_named() -> None:
    read = read_launch_args(json_source(SWIFT, "args.json"))
    assert read.secrets == ("hub_token",)
    assert "hf_" not in read.arguments["hub_token"]


def test_the_arguments_of_another_script_have_no_producer() -> None:
    read = read_launch_args(json_source({"model_name_or_path": "bert-base-uncased", "n_gpu": 1}, "args.json"))
    assert (read.producer, read.model) == (None, "bert-base-uncased")


def test_a_list_is_said() -> None:
    assert [fault.kind for fault in read_launch_args(json_source([1])).faults] == ["json-not-object"]
