"""Distributed checkpoints: which directory a path stands for, what is the model in it, and how each way of breaking is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.dcp_files import Piece, Whole, metadata_pickle, rows, save_dcp, save_dcp_safetensors
from builders.pickles import Called, Name, dump

from ckpt_inspect.consolidate import problems as p
from ckpt_inspect.consolidate.api import consolidate, iter_tensors, output_directory, verify_consolidation
from ckpt_inspect.consolidate.planning import find_problems, plan_consolidation
from ckpt_inspect.errors import CkptInspectError, ConsolidationError
from consolidate.gathering import arrays

VALUES = np.arange(96, dtype="<f4").reshape(8, 12)
OTHER = np.arange(96, 0, -1, dtype="<f4").reshape(8, 12)
MODEL = "pytorch_model_fsdp_0"


def tensors(prefix: str = "model", ranks: int = 2, values: Any = VALUES) -> dict[str, Whole]:
    names = {"up.weight": values, "norm.bias": values[:, 0].copy()}
    return {f"{prefix}.{name}": rows("F32", part.shape, part.tobytes(), ranks) for name, part in names.items()}


def paths(names: Any, head: str = "model") -> dict[str, tuple[str | int, ...]]:
    """accelerate's nesting: one key, below it the flat state dict."""
    return {name: (head, name.removeprefix(f"{head}.")) for name in names}


def save(directory: Path, parts: dict[str, Whole], head: str = "model", **options: Any) -> Path:
    save_dcp(directory, parts, paths=paths(parts, head), **options)
    return directory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two checkpoints as accelerate and the Trainer save FSDP."""
    for step in (2, 4):
        checkpoint = tmp_path / "run" / f"checkpoint-{step}"
        save(checkpoint / MODEL, tensors(values=VALUES + step))
        save(checkpoint / "optimizer_0", tensors("optimizer"), "optimizer")
        (checkpoint / "config.json").write_text('{"model_type": "qwen2", "dtype": "float32"}')
    return tmp_path / "run"


def refusal(path: Path, error: type[ConsolidationError], **options: Any) -> str:
    out = path.parent / "never"
    with pytest.raises(CkptInspectError) as caught:
        consolidate(path, out, **options)
    assert type(caught.value) is error, caught.value
    assert caught.value.exit_code in (1, 3)
    assert caught.value.remedy
    assert not out.exists()
    text = str(caught.value)
    assert "\n" not in text
    return text


# What a path stands for


def test_a_run_gives_its_newest_checkpoint_and_says_so(run: Path) -> None:
    plan = plan_consolidation(run)
    assert plan.checkpoint == str(run / "checkpoint-4")
    assert (plan.layout, plan.stage, plan.world_size, plan.tag) == ("dcp", None, 2, MODEL)
    assert plan.warnings == ("using checkpoint-4 (pytorch_model_fsdp_0), the newest complete checkpoint",)
    assert arrays(plan)["up.weight"].tolist() == (VALUES + 4).tolist()


@pytest.mark.parametrize("path", ["checkpoint-2", f"checkpoint-2/{MODEL}", f"checkpoint-2/{MODEL}/.metadata"])
def test_a_checkpoint_its_shards_and_a_file_of_them_are_the_same(run: Path, path: str) -> None:
    plan = plan_consolidation(run / path)
    assert (plan.tag, plan.warnings) == (MODEL, ())
    assert Path(plan.checkpoint).resolve() == (run / "checkpoint-2").resolve()
    assert output_directory(plan, None, "float32").name == "fp32-checkpoint-2"


def test_an_unfinished_checkpoint_of_a_run_is_passed_over(run: Path) -> None:
    (run / "checkpoint-4" / MODEL / ".metadata").rename(run / "checkpoint-4" / MODEL / ".metadata.tmp")
    plan = plan_consolidation(run)
    assert plan.checkpoint == str(run / "checkpoint-2")
    assert "checkpoint-4 was passed over" in plan.warnings[1]
    for metadata in run.rglob(".metadata"):
        metadata.unlink()
    assert "no checkpoint is complete" in refusal(run, p.UnfinishedSaveError)


def test_a_tag_names_a_checkpoint_or_a_directory_of_shards(run: Path) -> None:
    assert plan_consolidation(run, tag="checkpoint-2").checkpoint == str(run / "checkpoint-2")
    save(run / "checkpoint-2" / "pytorch_model_fsdp_1", tensors(values=OTHER))
    plan = plan_consolidation(run / "checkpoint-2", tag="pytorch_model_fsdp_1")
    assert arrays(plan)["up.weight"].tolist() == OTHER.tolist()
    assert "pytorch_model_fsdp_1 beside it" in plan_consolidation(run / "checkpoint-2").warnings[0]


def test_shards_far_from_any_checkpoint_stand_alone(tmp_path: Path) -> None:
    save(tmp_path / "copied" / MODEL, tensors())
    plan = plan_consolidation(tmp_path / "copied" / MODEL)
    assert (plan.tag, Path(plan.checkpoint).name) == (None, MODEL)


def test_a_whole_consolidation_is_recorded_and_verified(run: Path, tmp_path: Path) -> None:
    result = consolidate(run / "checkpoint-2", tmp_path / "out")
    assert (result.layout, result.world_size, result.dtype, result.kind) == ("dcp", 2, "float32", "model")
    assert set(result.files) >= {"model.safetensors", "config.json"}
    report = verify_consolidation(tmp_path / "out")
    assert (report.ok, report.shards) == (True, "equal")
    with pytest.raises(CkptInspectError, match="where the shards are"):
        consolidate(run / "checkpoint-2", run / "checkpoint-2" / MODEL / "out")


# Which tensors, and their names


@pytest.mark.parametrize(
    ("state", "written", "left"),
    [
        ({"model.a.w": ("model", "a.w")}, {"a.w"}, {}),
        ({"a.w": ("a.w",)}, {"a.w"}, {}),
        ({"model.w": ("model.w",), "model.b": ("model.b",)}, {"model.w", "model.b"}, {}),
        ({"model.w": ("model", "w"), "optimizer_0.state.w.exp_avg": ("optimizer_0", "state", "w", "exp_avg")}, {"w"},
         {"optimizer_0": 1}),
        ({"app.model.w": ("app", "model", "w"), "app.optim.state.w.step": ("app", "optim", "state", "w", "step")}, {"w"},
         {"optim": 1}),
        ({"w": ("w",), "optimizer.state.w.step": ("optimizer", "state", "w", "step"), "train_state": ("train_state",)},
         {"w"}, {"optimizer": 1, "train_state": 1}),
        ({"ema.w": ("ema", "w"), "model.w": ("model", "w")}, {"w"}, {"ema": 1}),
        ({"m.layers.0.w": ("m", "layers", 0, "w")}, {"m.layers.0.w"}, {}),
        ({"model._orig_mod.l._fsdp_wrapped_module.w": ("model", "_orig_mod.l._fsdp_wrapped_module.w")}, {"l.w"}, {}),
        ({"module.l.w": ("module.l.w",), "module.b": ("module.b",)}, {"l.w", "b"}, {}),
    ],
)  # fmt: skip
def test_the_model_is_found_in_every_nesting(
    tmp_path: Path, state: dict[str, Any], written: set[str], left: dict[str, int]
) -> None:
    save_dcp(tmp_path, {name: rows("F32", (2, 3), bytes(24), 2) for name in state}, paths=state)
    plan = plan_consolidation(tmp_path)
    assert {tensor.name for tensor in plan.tensors} == written
    assert plan.facts.get("left_out", {}) == left


def test_what_is_no_tensor_is_reported_and_not_written(tmp_path: Path) -> None:
    save_dcp(tmp_path, tensors(), {"model.extra_state": "text"}, paths=paths([*tensors(), "model.extra_state"]))
    plan = plan_consolidation(tmp_path)
    assert {tensor.name for tensor in plan.tensors} == {"up.weight", "norm.bias"}
    assert any("extra_state" in warning and "no tensors" in warning for warning in plan.warnings)


def test_the_type_that_was_saved_is_written_unless_another_is_asked_for(tmp_path: Path) -> None:
    state = {"model.w": rows("BF16", (4, 2), bytes(range(16)), 2), "model.n": rows("I64", (2,), bytes(16), 1)}
    save(tmp_path / "checkpoint-1", state)
    (tmp_path / "checkpoint-1" / "config.json").write_text('{"dtype": "float32"}')
    result = consolidate(tmp_path / "checkpoint-1")
    assert (result.dtype, result.output.name) == ("bfloat16", "bf16-checkpoint-1")
    assert json.loads((result.output / "config.json").read_text())["dtype"] == "bfloat16"
    kinds = {tensor.name: tensor.dtype for tensor in plan_consolidation(tmp_path / "checkpoint-1").tensors}
    assert kinds == {"w": "BF16", "n": "I64"}
    kinds = {
        tensor.name: tensor.dtype for tensor in plan_consolidation(tmp_path / "checkpoint-1", dtype="fp32").tensors
    }
    assert kinds == {"w": "F32", "n": "I64"}


@pytest.mark.parametrize("equal", [True, False])
def test_embeddings_the_config_ties_are_one_tensor_where_their_values_are(tmp_path: Path, equal: bool) -> None:
    head = VALUES if equal else OTHER
    names = {"model.model.embed_tokens.weight": VALUES, "model.lm_head.weight": head}
    save(tmp_path / "saved", {name: rows("F32", (8, 12), v.tobytes(), 3) for name, v in names.items()})
    (tmp_path / "saved" / "config.json").write_text('{"tie_word_embeddings": true}')
    consolidate(tmp_path / "saved", tmp_path / "out")
    written = {name for name, _ in iter_tensors(tmp_path / "saved")}
    assert written == {"model.embed_tokens.weight", "lm_head.weight"}
    record = json.loads((tmp_path / "out" / "consolidation.json").read_text())
    assert record["tied"] == ({"lm_head.weight": "model.embed_tokens.weight"} if equal else {})
    flag = json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
    assert flag is equal


def test_only_a_pattern_is_written(tmp_path: Path) -> None:
    save(tmp_path / "saved", tensors())
    consolidate(tmp_path / "saved", tmp_path / "out", only=["*.bias"])
    assert [name for name, _ in iter_tensors(tmp_path / "saved", only=["*.bias"])] == ["norm.bias"]
    assert len(json.loads((tmp_path / "out" / "consolidation.json").read_text())["tensors"]) == 1


# What is refused


def test_an_optimizer_is_named_and_the_weights_beside_it_too(run: Path) -> None:
    text = refusal(run / "checkpoint-4" / "optimizer_0", p.OptimizerOnlyError)
    assert "holds the optimizer's states" in text
    assert f"give {MODEL}" in text
    shutil.rmtree(run / "checkpoint-4" / MODEL)
    assert "no weights lie beside it" in refusal(run / "checkpoint-4", p.OptimizerOnlyError)


def test_an_optimizer_in_a_plain_directory_is_known_by_its_key(tmp_path: Path) -> None:
    save(tmp_path / "saved", tensors("optimizer"), "optimizer")
    refusal(tmp_path / "saved", p.OptimizerOnlyError)


@pytest.mark.parametrize("mark", ["common.pt", "metadata.json"])
def test_megatron_checkpoints_are_named_and_not_merged(tmp_path: Path, mark: str) -> None:
    save(tmp_path / "iter_0000010", tensors())
    (tmp_path / "iter_0000010" / mark).write_text('{"sharded_backend": "torch_dist"}')
    assert "Megatron" in refusal(tmp_path / "iter_0000010", p.MegatronError)


def test_another_metadata_file_makes_no_megatron_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "saved", tensors())
    (tmp_path / "saved" / "metadata.json").write_text('{"author": "me"}')
    assert plan_consolidation(tmp_path / "saved").tensors


def test_flat_parameters_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "saved", {"model.layers.0._flat_param": rows("F32", (8,), bytes(32), 2)})
    assert "flat parameters" in refusal(tmp_path / "saved", p.OldLayoutError)


def test_a_save_without_its_metadata_did_not_finish(run: Path) -> None:
    (run / "checkpoint-4" / MODEL / ".metadata").unlink()
    text = refusal(run / "checkpoint-4", p.UnfinishedSaveError)
    assert "the save did not finish" in text
    assert MODEL in text


def test_a_later_save_that_was_interrupted_leaves_the_shards_in_doubt(run: Path) -> None:
    shards = run / "checkpoint-4" / MODEL
    shutil.copy(shards / ".metadata", shards / ".metadata.tmp")
    assert ".metadata.tmp" in refusal(run / "checkpoint-4", p.UnfinishedSaveError)
    plan = plan_consolidation(run / "checkpoint-4", force=True)
    assert any(warning.startswith("forced: Z48") for warning in plan.warnings)


def test_a_missing_shard_file_is_named_with_its_rank(run: Path) -> None:
    (run / "checkpoint-4" / MODEL / "__1_0.distcp").unlink()
    text = refusal(run / "checkpoint-4", p.MissingRankError)
    assert "__1_0.distcp" in text
    (problem,) = [found for found in find_problems(run / "checkpoint-4") if found.level == "error"]
    assert problem.rank == 1


def test_a_truncated_shard_file_is_named(run: Path) -> None:
    file = run / "checkpoint-4" / MODEL / "__1_0.distcp"
    file.write_bytes(file.read_bytes()[:-100])
    assert "__1_0.distcp" in refusal(run / "checkpoint-4", p.TruncatedShardError)


def test_a_shard_file_full_of_zeros_is_a_hole(run: Path) -> None:
    file = run / "checkpoint-4" / MODEL / "__0_0.distcp"
    file.write_bytes(bytes(file.stat().st_size))
    text = refusal(run / "checkpoint-4", p.TilingMismatchError)
    assert "full of zeros" in text
    assert "__0_0.distcp" in text


def test_a_shard_file_of_another_save_is_found_by_its_items(run: Path, tmp_path: Path) -> None:
    turned = {**tensors(), "model.up.weight": rows("F32", (12, 8), VALUES.tobytes(), 2)}
    save(tmp_path / "other", turned)
    place = run / "checkpoint-4" / MODEL / "__1_0.distcp"
    other = (tmp_path / "other" / "__1_0.distcp").read_bytes()
    place.write_bytes(other.ljust(place.stat().st_size, b"\0")[: place.stat().st_size])
    assert "of another save" in refusal(run / "checkpoint-4", p.TilingMismatchError)


def test_a_longer_shard_file_is_of_another_save(run: Path) -> None:
    file = run / "checkpoint-4" / MODEL / "__1_0.distcp"
    file.write_bytes(file.read_bytes() + bytes(64))
    assert "of another save" in refusal(run / "checkpoint-4", p.TilingMismatchError)
    assert plan_consolidation(run / "checkpoint-4", force=True).tensors


def test_a_file_of_a_larger_job_is_only_left_over(run: Path) -> None:
    shards = run / "checkpoint-4" / MODEL
    shutil.copy(shards / "__1_0.distcp", shards / "__2_0.distcp")
    plan = plan_consolidation(run / "checkpoint-4")
    assert any("__2_0.distcp" in warning for warning in plan.warnings)


@pytest.mark.parametrize(
    ("pieces", "what"),
    [
        ([((0, 0), (4, 12)), ((6, 0), (2, 12))], "72 of 96 elements"),
        ([((0, 0), (5, 12)), ((4, 0), (4, 12))], "two chunks hold the same elements"),
        ([((0, 0), (4, 12)), ((4, 0), (5, 12))], "outside its tensor"),
    ],
)
def test_chunks_that_do_not_tile_are_refused(tmp_path: Path, pieces: list[Any], what: str) -> None:
    parts = [Piece(start, size, rank) for rank, (start, size) in enumerate(pieces)]
    save(tmp_path / "saved", {"model.up.weight": Whole("F32", (8, 12), parts)})
    text = refusal(tmp_path / "saved", p.TilingMismatchError)
    assert what in text
    assert "model.up.weight" in text


def test_a_gap_in_the_optimizer_does_not_keep_the_weights_back(tmp_path: Path) -> None:
    broken = {"optimizer.state.w.exp_avg": Whole("F32", (4,), [Piece((0,), (2,))])}
    names = {**paths(tensors()), "optimizer.state.w.exp_avg": ("optimizer", "state", "w", "exp_avg")}
    save_dcp(tmp_path, {**tensors(), **broken}, paths=names)
    plan = plan_consolidation(tmp_path)
    assert any("optimizer.state.w.exp_avg" in warning for warning in plan.warnings)


def test_compressed_items_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "saved", tensors(), transforms=("zstd",))
    assert "compression" in refusal(tmp_path / "saved", p.OldLayoutError)


@pytest.mark.parametrize("name", [("os", "system"), ("training.script", "Thing")])
def test_a_strange_name_in_the_metadata_is_refused_and_never_imported(tmp_path: Path, name: tuple[str, str]) -> None:
    directory = tmp_path / "saved"
    saved = save_dcp(directory, tensors())
    extra = {"extra": Called(Name(*name), ("echo",))}
    (directory / ".metadata").write_bytes(metadata_pickle(tensors(), {}, saved.places, extra=extra))
    assert ".".join(name) in refusal(directory, p.StrangePickleError)


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04", dump({"model.w": Name("torch", "float32")}, 4), b"<html>not found</html>", bytes(300)]
)
def test_metadata_that_are_none_are_refused(run: Path, content: bytes) -> None:
    (run / "checkpoint-4" / MODEL / ".metadata").write_bytes(content)
    text = refusal(run / "checkpoint-4", p.UnreadableShardError)
    assert ".metadata" in text


def test_cut_off_metadata_are_refused(run: Path) -> None:
    file = run / "checkpoint-4" / MODEL / ".metadata"
    file.write_bytes(file.read_bytes()[:-40])
    refusal(run / "checkpoint-4", p.UnreadableShardError)


def test_a_file_outside_the_directory_is_never_read(run: Path) -> None:
    shards = run / "checkpoint-4" / MODEL
    places = {(name, piece.offsets): ("../__0_0.distcp", 0, 64) for name, w in tensors().items() for piece in w.pieces}
    (shards / ".metadata").write_bytes(metadata_pickle(tensors(), {}, places))
    refusal(run / "checkpoint-4", p.UnsafeTagError)


def test_the_safetensors_form_with_a_missing_file_has_a_gap(tmp_path: Path) -> None:
    save_dcp_safetensors(tmp_path / "saved", tensors())
    assert arrays(plan_consolidation(tmp_path / "saved"))["model.up.weight"].tolist() == VALUES.tolist()
    (tmp_path / "saved" / "shard-00001-model-00001-of-00001.safetensors").unlink()
    refusal(tmp_path / "saved", p.TilingMismatchError)


def test_frozen_parameters_cannot_be_told_apart(run: Path) -> None:
    plan = plan_consolidation(run / "checkpoint-4", exclude_frozen=True)
    assert any("which parameters are frozen" in warning for warning in plan.warnings)
