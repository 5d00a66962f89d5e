"""Which weights a loader would take from a directory, and what their headers say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders.safetensors_files import model_bytes
from builders.torch_files import save_zip, tensor, view

from ckpt_inspect.artifacts.weights import WeightSet, read_weight_sets, read_weights
from ckpt_inspect.storage import LocalTree

ONE = {"a": ("F32", [2, 3])}


def weights(path: Path, directory: str = "") -> WeightSet:
    found = read_weights(LocalTree(path), directory)
    assert found is not None
    return found


def kinds(found: WeightSet) -> list[str]:
    return [fault.kind for _, fault in found.file_faults]


def write_index(
    path: Path, weight_map: dict[str, str], name: str = "model.safetensors.index.json", **metadata: Any
) -> None:
    (path / name).write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}))


def write_shards(path: Path, prefix: str = "model") -> dict[str, str]:
    weight_map = {}
    for number in (1, 2, 3):
        name = f"{prefix}-{number:05}-of-00003.safetensors"
        (path / name).write_bytes(model_bytes({f"t{number}": ("F32", [number, 2])}))
        weight_map[f"t{number}"] = name
    return weight_map


def test_a_directory_without_weights_has_none(tmp_path: Path) -> None:
    for name in ("training_args.bin", "optimizer.pt", "config.json", "model.safetensors.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert read_weights(LocalTree(tmp_path), "") is None


def test_a_single_file_is_described(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "model.safetensors").write_bytes(model_bytes(ONE, {"format": "pt"}))
    found = weights(tmp_path, "sub")
    assert (found.kind, found.role, found.files) == ("safetensors", "model", ("sub/model.safetensors",))
    assert [(item.name, item.dtype, item.shape, item.nbytes) for item in found.tensors] == [("a", "F32", (2, 3), 24)]
    assert (found.parameters, found.nbytes, found.metadata, found.faults) == (6, 24, {"format": "pt"}, ())
    data = (tmp_path / "sub" / "model.safetensors").read_bytes()
    assert found.tensors[0].offset == len(data) - 24


@pytest.mark.parametrize("prefix", ["model", "unit_42", "diffusion_pytorch_model", "adapter_model"])
def test_shards_with_an_index_are_one_set_whatever_their_prefix(tmp_path: Path, prefix: str) -> None:
    write_index(tmp_path, write_shards(tmp_path, prefix), f"{prefix}.safetensors.index.json", total_size=48)
    found = weights(tmp_path)
    assert [item.name for item in found.tensors] == ["t1", "t2", "t3"]
    assert (len(found.files), found.index is not None, found.faults) == (3, True, ())


def test_what_index_and_shards_disagree_on_is_a_fault_of_the_index(tmp_path: Path) -> None:
    shards = write_shards(tmp_path)
    write_index(tmp_path, {**shards, "t1": shards["t2"], "t2": shards["t1"]}, total_size=7)
    found = weights(tmp_path)
    assert kinds(found) == ["index-wrong-shard", "index-wrong-shard", "index-total-size"]
    assert {file for file, _ in found.file_faults} == {"model.safetensors.index.json"}


def test_a_missing_shard_is_a_fault_and_the_others_are_still_read(tmp_path: Path) -> None:
    write_index(tmp_path, write_shards(tmp_path), total_size=48)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    found = weights(tmp_path)
    assert [item.name for item in found.tensors] == ["t1", "t3"]
    assert kinds(found) == ["index-missing-shard"]


def test_an_index_without_any_shard_is_still_a_set(tmp_path: Path) -> None:
    write_index(tmp_path, {"a": "model-00001-of-00001.safetensors"})
    found = weights(tmp_path)
    assert (found.tensors, kinds(found)) == ((), ["index-missing-shard"])


def test_shards_without_an_index_are_read_and_their_count_checked(tmp_path: Path) -> None:
    write_shards(tmp_path)
    assert kinds(weights(tmp_path)) == ["index-absent"]
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    found = weights(tmp_path)
    assert (len(found.tensors), kinds(found)) == (2, ["index-absent", "index-missing-shard"])


def test_a_broken_shard_does_not_make_every_tensor_of_it_absent(tmp_path: Path) -> None:
    write_index(tmp_path, write_shards(tmp_path), total_size=48)
    (tmp_path / "model-00002-of-00003.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert kinds(weights(tmp_path)) == ["safetensors-lfs-pointer"]


def test_a_traversing_index_opens_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").write_bytes(model_bytes(ONE))
    inside = tmp_path / "model"
    inside.mkdir()
    write_index(inside, {"a": "../secret.safetensors"})
    found = weights(inside)
    assert (found.tensors, found.files, kinds(found)) == ((), (), ["index-traversal"])


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("model.safetensors", "pytorch_model.bin"), "model.safetensors"),
        (("model.safetensors", "model-00001-of-00001.safetensors"), "model.safetensors"),
        (("model-00001-of-00001.safetensors", "pytorch_model.bin"), "model-00001-of-00001.safetensors"),
        (("adapter_model.bin", "adapter_model.safetensors"), "adapter_model.safetensors"),
        (("adapter_model.safetensors", "model.safetensors"), "model.safetensors"),
        (("value_head.safetensors", "adapter_model.safetensors"), "adapter_model.safetensors"),
        (("pytorch_model_fsdp.bin", "something.safetensors"), "pytorch_model_fsdp.bin"),
    ],
)
def test_the_file_a_loader_looks_for_first_is_taken(tmp_path: Path, names: tuple[str, ...], chosen: str) -> None:
    for name in names:
        if name.endswith(".bin"):
            save_zip(tmp_path / name, {"a": tensor("F32", (2,))})
        else:
            (tmp_path / name).write_bytes(model_bytes(ONE))
    assert weights(tmp_path).files == (chosen,)
    assert {file for found in read_weight_sets(LocalTree(tmp_path), "") for file in found.files} == set(names)


def test_the_other_weights_of_the_same_role_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(model_bytes(ONE))
    save_zip(tmp_path / "pytorch_model.bin", {"a": tensor("F32", (2,))})
    (tmp_path / "value_head.safetensors").write_bytes(model_bytes(ONE))
    assert weights(tmp_path).others == ("pytorch_model.bin",)


def test_tied_weights_of_a_torch_file_count_once(tmp_path: Path) -> None:
    embedding = tensor("BF16", (5, 4), bytes(range(40)))
    save_zip(
        tmp_path / "pytorch_model.bin",
        {"embed": embedding, "head": view(embedding, (5, 4)), "bias": tensor("F32", (3,))},
    )
    found = weights(tmp_path)
    assert [item.name for item in found.tensors] == ["embed", "head", "bias"]
    assert (found.kind, found.parameters, found.nbytes) == ("torch", 23, 52)


def test_torch_shards_with_their_index_are_one_set(tmp_path: Path) -> None:
    for number in (1, 2):
        save_zip(tmp_path / f"pytorch_model-{number:05}-of-00002.bin", {f"t{number}": tensor("F32", (2,))})
    weight_map = {f"t{number}": f"pytorch_model-{number:05}-of-00002.bin" for number in (1, 2)}
    write_index(tmp_path, weight_map, "pytorch_model.bin.index.json", total_size=16)
    found = weights(tmp_path)
    assert ([item.name for item in found.tensors], found.faults) == (["t1", "t2"], ())


def test_a_gguf_file_is_named_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "model-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(100))
    found = weights(tmp_path)
    assert (found.kind, found.files, found.tensors) == ("gguf", ("model-Q4_K_M.gguf",), ())
