"""Consolidation from a checkpoint to files: values, names, sidecars, refusals."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest

import ckpt_inspect
from ckpt_inspect.consolidate.api import consolidate, iter_tensors, plan_consolidation, verify_consolidation
from ckpt_inspect.consolidate.commit import OutputExistsError
from ckpt_inspect.consolidate.sources import SourceChangedError, SourceFiles
from ckpt_inspect.errors import CkptInspectError, OutputError, UsageError
from consolidate.making import CONFIG, make_checkpoint, read_tensors, same, small_model, snapshot, wanted


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 5])
def test_every_tensor_arrives_bit_for_bit(stage, world, tmp_path):
    checkpoint = make_checkpoint(tmp_path, stage=stage, world=world, config=CONFIG)
    result = consolidate(checkpoint, tmp_path / "out")
    same(read_tensors(tmp_path / "out"), wanted(small_model(), stage=2, world=world))
    assert result.output == tmp_path / "out"
    assert result.parameters == sum(values.size for values in wanted(small_model()).values())


def test_the_package_is_the_verb(tmp_path):
    checkpoint = make_checkpoint(tmp_path)
    result = ckpt_inspect.consolidate(checkpoint, tmp_path / "out", dtype="bf16")
    assert result.dtype == "bfloat16"
    assert ckpt_inspect.consolidate.api.consolidate is consolidate


def test_the_default_output_lies_beside_the_checkpoint_and_is_not_counted_by_rotation(tmp_path):
    make_checkpoint(tmp_path, step=4)
    checkpoint = make_checkpoint(tmp_path, step=500)
    assert consolidate(tmp_path).output == tmp_path / "fp32-checkpoint-500"
    assert consolidate(checkpoint, dtype="bfloat16").output == tmp_path / "bf16-checkpoint-500"
    assert consolidate(checkpoint / "global_step500", dtype="float16").output == tmp_path / "fp16-checkpoint-500"


def test_what_a_loader_needs_comes_along_and_pickles_stay(tmp_path):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    (checkpoint / "tokenizer.json").write_text("{}")
    (checkpoint / "additional_chat_templates").mkdir()
    (checkpoint / "additional_chat_templates" / "tools.jinja").write_text("{{ x }}")
    (checkpoint / "scheduler.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (checkpoint / "tokenizer.pkl").write_bytes(b"x")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 2}')
    (tmp_path / "tokenizer.json").write_text('{"of": "the run"}')
    consolidate(checkpoint, tmp_path / "out")
    names = {name for name in snapshot(tmp_path / "out") if not name.endswith("/")}
    assert names == {
        "model.safetensors", "consolidation.json", "config.json", "tokenizer.json", "generation_config.json",
        "additional_chat_templates/tools.jinja",
    }  # fmt: skip
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}", "the checkpoint comes before the run"


def test_files_of_an_unrelated_parent_are_left_alone(tmp_path):
    run = tmp_path / "somewhere"
    checkpoint = make_checkpoint(run, config=CONFIG)
    checkpoint.rename(run / "mine")
    (run / "generation_config.json").write_text("{}")
    consolidate(run / "mine", tmp_path / "out")
    assert not (tmp_path / "out" / "generation_config.json").exists()


@pytest.mark.parametrize(
    ("config", "changed"),
    [
        ({"dtype": "bfloat16"}, {"dtype": "float32"}),
        ({"torch_dtype": "bfloat16"}, {"torch_dtype": "float32"}),
        ({"transformers_version": "4.40.0"}, {"transformers_version": "4.40.0", "torch_dtype": "float32"}),
        ({"transformers_version": "5.1.0"}, {"transformers_version": "5.1.0", "dtype": "float32"}),
        (
            {"dtype": "bfloat16", "text_config": {"dtype": "bfloat16", "x": 1}, "vision_config": {"y": 2}},
            {"dtype": "float32", "text_config": {"dtype": "float32", "x": 1}, "vision_config": {"y": 2}},
        ),
    ],
)
def test_the_config_states_the_type_that_was_written(config, changed, tmp_path):
    checkpoint = make_checkpoint(tmp_path, config=config)
    consolidate(checkpoint, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == changed


def test_code_a_config_names_comes_along_with_what_it_imports(tmp_path):
    config = {**CONFIG, "auto_map": {"AutoModelForCausalLM": "modeling_own.Own", "AutoConfig": "other--repo.Config"}}
    checkpoint = make_checkpoint(tmp_path, config=config)
    (checkpoint / "modeling_own.py").write_text("from .parts_own import Part\n")
    (checkpoint / "parts_own.py").write_text("import os\n")
    (checkpoint / "zero_to_fp32.py").write_text("raise SystemExit\n")
    consolidate(checkpoint, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.py")} == {"modeling_own.py", "parts_own.py"}


def test_the_record_names_every_byte_and_its_checksum(tmp_path):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    consolidate(checkpoint, tmp_path / "out", max_shard_size=600)
    record = json.loads((tmp_path / "out" / "consolidation.json").read_text())
    assert record["complete"] is True
    for file in record["files"]:
        data = (tmp_path / "out" / file["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size"], file["sha256"])
    names = {path.name for path in (tmp_path / "out").iterdir()} - {"consolidation.json"}
    assert names == {file["name"] for file in record["files"]}
    assert all((checkpoint / source["path"]).stat().st_size == source["size"] for source in record["sources"])
    expected = wanted(small_model())
    for row in record["tensors"]:
        parts = []
        for source, offset, length in row["ranges"]:
            data = (checkpoint / record["sources"][source]["path"]).read_bytes()
            parts.append(data[offset : offset + length])
        if row["dtype"] == row["source_dtype"]:
            assert b"".join(parts) == expected[row["name"]].tobytes()


def test_shards_have_an_index_and_hold_everything_once(tmp_path):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    consolidate(checkpoint, tmp_path / "out", max_shard_size="1KB", jobs=3)
    same(read_tensors(tmp_path / "out"), wanted(small_model()))
    text = (tmp_path / "out" / "model.safetensors.index.json").read_text()
    index = json.loads(text)
    assert text == json.dumps(index, indent=2, sort_keys=True) + "\n"
    assert index["metadata"] == {"total_size": sum(values.nbytes for values in wanted(small_model()).values())}
    assert set(index["weight_map"]) == set(wanted(small_model()))
    assert sorted(set(index["weight_map"].values())) == sorted(
        path.name for path in (tmp_path / "out").glob("*.safetensors")
    )


def test_only_and_exclude_frozen_narrow_the_output(tmp_path):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    consolidate(checkpoint, tmp_path / "one", only=["model.layers.*", "*.mask"])
    assert set(read_tensors(tmp_path / "one")) == {
        "model.layers.0.mlp.up_proj.weight", "model.layers.0.norm.weight", "model.mask",
    }  # fmt: skip
    consolidate(checkpoint, tmp_path / "two", exclude_frozen=True)
    assert "model.frozen.weight" not in read_tensors(tmp_path / "two")
    with pytest.raises(UsageError, match="no tensor matches"):
        consolidate(checkpoint, tmp_path / "three", only=["nothing*"])
    assert not (tmp_path / "three").exists()


def test_an_existing_output_is_refused_and_replaced_only_when_it_is_ours(tmp_path):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    with pytest.raises(OutputExistsError, match="exists already"):
        consolidate(checkpoint, tmp_path / "out")
    with pytest.raises(OutputExistsError, match="never replaced"):
        consolidate(checkpoint, tmp_path / "out", replace=True)
    assert snapshot(tmp_path / "out") == {"precious.txt": b"x"}
    consolidate(checkpoint, tmp_path / "own")
    (tmp_path / "own" / "left over.txt").write_text("x")
    consolidate(checkpoint, tmp_path / "own", dtype="bfloat16", replace=True)
    assert not (tmp_path / "own" / "left over.txt").exists()
    assert json.loads((tmp_path / "own" / "consolidation.json").read_text())["dtype"] == "bfloat16"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_what_is_no_directory_is_never_replaced(kind, tmp_path):
    checkpoint = make_checkpoint(tmp_path / "run")
    consolidate(checkpoint, tmp_path / "real")
    target = tmp_path / "out"
    if kind == "file":
        target.write_text("x")
    else:
        target.symlink_to(tmp_path / ("real" if kind == "link" else "nowhere"))
    for replace in (False, True):
        with pytest.raises(OutputExistsError):
            consolidate(checkpoint, target, replace=replace)


@pytest.mark.parametrize("place", ["checkpoint-8", "checkpoint-8/global_step8", "checkpoint-8/global_step8/out"])
def test_the_output_never_lies_among_the_shards(place, tmp_path):
    checkpoint = make_checkpoint(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(OutputError):
        consolidate(checkpoint, tmp_path / place, replace=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("dtype", ["float64", "int8", "", "F32x"])
def test_an_unknown_type_is_wrong_usage(dtype, tmp_path):
    with pytest.raises(UsageError, match="unknown dtype"):
        consolidate(make_checkpoint(tmp_path), tmp_path / "out", dtype=dtype)


def test_a_shard_written_while_it_is_read_is_an_error_and_nothing_is_left(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path)
    shard = next((checkpoint / "global_step8").glob("*optim*"))
    original = SourceFiles.use

    def touching(self, index):
        os.utime(shard, ns=(1, 1))
        return original(self, index)

    monkeypatch.setattr(SourceFiles, "use", touching)
    with pytest.raises(SourceChangedError, match="was written while it was read"):
        consolidate(checkpoint, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-8"]


def test_a_shard_cut_after_planning_is_an_error_and_nothing_is_left(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path)
    shard = max((checkpoint / "global_step8").glob("*optim*"), key=lambda path: path.name)
    original = SourceFiles.check_unchanged
    calls = []

    def cutting(self):
        calls.append(1)
        if len(calls) == 1:
            original(self)
            os.truncate(shard, 100)

    monkeypatch.setattr(SourceFiles, "check_unchanged", cutting)
    with pytest.raises(CkptInspectError):
        consolidate(checkpoint, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-8"]


def test_few_file_descriptors_are_enough_for_many_ranks(tmp_path):
    checkpoint = make_checkpoint(tmp_path, stage=3, world=40)
    plan = plan_consolidation(checkpoint)
    with_two = SourceFiles(checkpoint, plan.sources, limit=2)
    for index in range(len(plan.sources)):
        with with_two.use(index) as file:
            assert file.size == plan.sources[index].size
        assert len(with_two._open) <= 2
    with_two.close()


def test_tensors_can_be_iterated_without_writing(tmp_path):
    checkpoint = make_checkpoint(tmp_path, model=small_model(ties={"lm_head.weight": "model.embed_tokens.weight"}))
    before = snapshot(tmp_path)
    found = dict(iter_tensors(checkpoint))
    assert snapshot(tmp_path) == before
    same({name: array for name, array in found.items() if name != "model.frozen.weight"},
         {name: array for name, array in wanted(small_model(ties={"lm_head.weight": "model.embed_tokens.weight"})).items()
          if name != "model.frozen.weight"})  # fmt: skip
    assert str(found["model.frozen.weight"].dtype) == "bfloat16"
    assert (
        dict(iter_tensors(checkpoint, dtype="float16", only=["*.norm.*"]))["model.layers.0.norm.weight"].dtype == "f2"
    )


def test_values_that_overflow_are_counted_and_said(tmp_path):
    model = small_model()
    values = model.parameters[0].values
    values[0, :3] = [70000.0, -1e30, np.inf]
    checkpoint = make_checkpoint(tmp_path, model=model, config=CONFIG)
    result = consolidate(checkpoint, tmp_path / "out", dtype="float16")
    assert any("2 values of 1 tensors are too large for float16" in warning for warning in result.warnings)
    record = json.loads((tmp_path / "out" / "consolidation.json").read_text())
    assert record["overflowed"] == {"model.embed_tokens.weight": 2}
    assert verify_consolidation(tmp_path / "out").shards == "equal"
