"""The tensors of files and directories of every kind, as one listing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders.deepspeed import Job, Model, Parameter, save_zero3
from builders.safetensors_files import model_bytes
from builders.torch_files import save_legacy, save_zip, tensor, view

from ckpt_inspect.errors import NotAFormatError, PathNotFoundError
from ckpt_inspect.tensors import TensorListing, list_tensors


def names(listing: TensorListing) -> list[str]:
    return [row.name for row in listing.rows]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two layers in a safetensors file, an optimizer beside it."""
    path = tmp_path / "model"
    path.mkdir()
    shapes = {f"layers.{number}.{part}": ("F32", [number + 1, 2]) for number in (0, 2, 10) for part in ("k", "q")}
    (path / "model.safetensors").write_bytes(model_bytes(shapes))
    save_zip(path / "optimizer.pt", {"state": {0: {"exp_avg": tensor("F32", (2, 3))}}, "param_groups": [{"lr": 0.1}]})
    (path / "config.json").write_text('{"model_type": "llama", "architectures": ["X"]}')
    return path


def test_a_file_is_listed_with_absolute_offsets(model: Path) -> None:
    listing = list_tensors([model / "model.safetensors"])
    data = (model / "model.safetensors").read_bytes()
    assert [row.file for row in listing.rows] == ["model.safetensors"] * 6
    assert listing.rows[-1].offset == len(data) - listing.rows[-1].nbytes
    assert (listing.parameters, listing.nbytes) == (2 * (1 + 3 + 11) * 2, 2 * (1 + 3 + 11) * 8)


def test_a_directory_lists_weights_before_the_optimizer(model: Path) -> None:
    listing = list_tensors([model])
    assert [file.path for file in listing.files] == ["model.safetensors", "optimizer.pt"]
    assert names(listing)[-1] == "state.0.exp_avg"
    assert listing.note is None


def test_a_run_without_weights_of_its_own_lists_its_newest_checkpoint_and_says_so(tmp_path: Path) -> None:
    for step in (9, 10):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "model.safetensors").write_bytes(model_bytes({f"at{step}": ("F32", [1])}))
        (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))
    listing = list_tensors([tmp_path])
    assert names(listing) == ["at10"]
    assert "checkpoint-10" in (listing.note or "")
    assert listing.rows[0].file == "checkpoint-10/model.safetensors"


def test_an_index_lists_the_shards_it_names(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(model_bytes({f"t{number}": ("F32", [1])}))
    weight_map = {f"t{number}": f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "other.safetensors").write_bytes(model_bytes({"other": ("F32", [1])}))
    assert names(list_tensors([tmp_path / "model.safetensors.index.json"])) == ["t1", "t2"]
    assert names(list_tensors([tmp_path])) == ["t1", "t2", "other"]


def test_the_order_can_be_chosen(model: Path) -> None:
    path = [model / "model.safetensors"]
    by_name = ["layers.0.k", "layers.0.q", "layers.2.k", "layers.2.q", "layers.10.k", "layers.10.q"]
    assert names(list_tensors(path, sort="name")) == by_name
    assert names(list_tensors(path, sort="name", reverse=True)) == by_name[::-1]
    assert names(list_tensors(path, sort="size"))[:2] == ["layers.10.k", "layers.10.q"]
    assert names(list_tensors(path, sort="size", reverse=True))[:2] == ["layers.0.k", "layers.0.q"]
    assert names(list_tensors(path, sort="shape")) == by_name


def test_names_are_filtered_by_wildcards_or_by_what_they_contain(model: Path) -> None:
    path = [model / "model.safetensors"]
    assert names(list_tensors(path, patterns=["*.q"])) == ["layers.0.q", "layers.2.q", "layers.10.q"]
    assert names(list_tensors(path, patterns=["layers.0"])) == ["layers.0.k", "layers.0.q"]
    assert names(list_tensors(path, patterns=["layers.0.*", "*.10.k"])) == ["layers.0.k", "layers.0.q", "layers.10.k"]
    assert names(list_tensors(path, patterns=["layers.*"], exclude=["*.q", ".10."])) == ["layers.0.k", "layers.2.k"]
    assert names(list_tensors(path, patterns=["LAYERS*"])) == []
    assert names(list_tensors(path, patterns=["layers.?.k"])) == ["layers.0.k", "layers.2.k"]


def test_a_name_with_a_newline_is_matched_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(model_bytes({"a\nb": ("F32", [1])}))
    assert len(list_tensors([tmp_path / "x.safetensors"], patterns=["a*b"]).rows) == 1
    assert len(list_tensors([tmp_path / "x.safetensors"], patterns=["a"]).rows) == 1
    assert len(list_tensors([tmp_path / "x.safetensors"], patterns=["a?"]).rows) == 0


def test_tied_weights_are_listed_twice_and_counted_once(tmp_path: Path) -> None:
    shared = tensor("F32", (4, 2))
    save_zip(
        tmp_path / "pytorch_model.bin", {"embed": shared, "head": view(shared, (4, 2)), "half": view(shared, (2, 2))}
    )
    listing = list_tensors([tmp_path])
    assert names(listing) == ["embed", "head", "half"]
    assert (listing.parameters, listing.nbytes) == (12, 48)


def test_several_paths_are_called_as_they_were_given(model: Path, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(model_bytes({"x": ("F32", [1])}))
    listing = list_tensors([tmp_path / "x.safetensors", model])
    files = {row.file for row in listing.rows}
    assert files == {f"{tmp_path}/x.safetensors", f"{model}/model.safetensors", f"{model}/optimizer.pt"}
    for row in listing.rows:
        with listing.open(row.file) as source:
            assert source.size >= (row.offset or 0) + row.nbytes


def test_the_bytes_and_not_the_name_tell_the_format(tmp_path: Path) -> None:
    save_legacy(tmp_path / "weights.safetensors", {"a": tensor("F16", (2,))})
    (tmp_path / "pytorch_model.bin").write_bytes(model_bytes({"b": ("F16", [2])}))
    assert names(list_tensors([tmp_path / "weights.safetensors"])) == ["a"]
    assert names(list_tensors([tmp_path / "pytorch_model.bin"])) == ["b"]


def test_a_single_file_of_another_format_is_refused_with_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(NotAFormatError, match="git-LFS"):
        list_tensors([tmp_path / "model.bin"])
    with pytest.raises(PathNotFoundError):
        list_tensors([tmp_path / "absent"])


def test_a_broken_file_does_not_hide_the_others(model: Path) -> None:
    (model / "optimizer.pt").write_bytes(b"PK\x03\x04 and nothing else")
    listing = list_tensors([model])
    assert len(listing.rows) == 6
    assert {problem.file for problem in listing.problems} == {"optimizer.pt"}


def test_every_rank_of_a_zero_checkpoint_is_listed_though_equal_files_are_read_once(tmp_path: Path) -> None:
    import numpy

    parameters = [Parameter(f"p{number}", numpy.ones((3, number + 1), "f4")) for number in range(4)]
    save_zero3(tmp_path / "global_step1", Model(parameters), Job(stage=3, world=3))
    listing = list_tensors([tmp_path / "global_step1"])
    by_rank = {rank: [row for row in listing.rows if f"_rank_{rank}_" in row.file] for rank in range(3)}
    assert len({len(rows) for rows in by_rank.values()}) == 1
    assert len(by_rank[0]) > 4
    assert all(row.offset is not None for row in listing.rows if row.nbytes)


def test_universal_tensors_are_called_by_parameter_and_state(tmp_path: Path) -> None:
    for name in ("embed.weight", "a/b.weight"):
        for state in ("fp32", "exp_avg"):
            file = tmp_path / "global_step1_universal" / "zero" / name / f"{state}.pt"
            file.parent.mkdir(parents=True, exist_ok=True)
            save_zip(file, {"param": tensor("F32", (2,)), "cat_dim": 0})
    (tmp_path / "latest_universal").write_text("global_step1_universal")
    listing = list_tensors([tmp_path / "global_step1_universal"])
    assert {"embed.weight/fp32", "embed.weight/exp_avg", "a/b.weight/fp32"} <= set(names(listing))


@pytest.mark.shared
def test_every_real_run_lists_its_tensors(shared: Path) -> None:
    empty = []
    for run in sorted(path for path in (shared / "runs").iterdir() if path.is_dir()):
        listing = list_tensors([run])
        if not listing.rows:
            empty.append(run.name)
        assert all(row.nbytes >= 0 for row in listing.rows)
    assert empty == []


@pytest.mark.shared
def test_a_distributed_checkpoint_lists_whole_tensors_with_their_pieces(shared: Path) -> None:
    listing = list_tensors([shared / "runs" / "fsdp1-acc-sharded-2r" / "checkpoint-2" / "pytorch_model_fsdp_0"])
    assert len(listing.rows) == 27
    pieces = [row for row in listing.rows if len(row.chunks) == 2]
    assert pieces
    assert all(row.offset is None for row in pieces)
    assert sum(chunk.sizes[0] for chunk in pieces[0].chunks) == pieces[0].shape[0]


def test_a_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "model-Q4.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(100))
    with pytest.raises(NotAFormatError, match="gguf"):
        list_tensors([tmp_path / "model-Q4.gguf"])
    listing = list_tensors([tmp_path])
    assert [(problem.file, problem.fault.kind) for problem in listing.problems] == [
        ("model-Q4.gguf", "tensors-not-listed")
    ]
