"""`consolidate` at the command line: documents that keep the contract, one line for every refusal, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from consolidate.making import CONFIG, make_checkpoint, snapshot

from ckpt_inspect.cli.app import main
from ckpt_inspect.consolidate.plan import Plan
from ckpt_inspect.report.documents import DOCUMENTS


def call(capfd, *arguments: object) -> tuple[int, str, str]:
    code = main(["consolidate", *map(str, arguments)])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def refused(capfd, code: int, run: Path, *arguments: object) -> str:
    """The one line of an error; nothing was written."""
    before = snapshot(run)
    got, out, err = call(capfd, *arguments)
    assert got == code, (out, err)
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("ckpt-inspect: ")
    assert "internal error" not in err
    assert snapshot(run) == before
    return lines[0]


def test_the_document_keeps_the_contract(tmp_path, capfd):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    code, out, _ = call(capfd, checkpoint, "--json", "--verify")
    assert code == 0
    document = json.loads(out)
    DOCUMENTS["consolidate"].model_validate(document)
    assert document["schema"] == "ckpt-inspect/consolidate/1"
    assert document["output"] == str(tmp_path / "fp32-checkpoint-8")
    assert document["verified"] is True
    assert (document["layout"], document["stage"], document["world_size"]) == ("zero2", 2, 3)
    on_disk = sum(path.stat().st_size for path in (tmp_path / "fp32-checkpoint-8").iterdir())
    record = (tmp_path / "fp32-checkpoint-8" / "consolidation.json").stat().st_size
    assert document["bytes_written"] == on_disk - record
    code, out, _ = call(capfd, tmp_path / "fp32-checkpoint-8", "--verify-only", "--json")
    assert code == 0
    checked = json.loads(out)
    DOCUMENTS["consolidate"].model_validate(checked)
    assert checked["verified"] is True
    assert checked["shards"] == "equal"


def test_the_screen_names_the_output_and_remarks_go_to_standard_error(tmp_path, capfd):
    make_checkpoint(tmp_path, config=CONFIG)
    code, out, err = call(capfd, tmp_path)
    assert code == 0
    assert str(tmp_path / "fp32-checkpoint-8") in out
    assert "ZeRO-2, 3 ranks" in out
    assert "using checkpoint-8 (global_step8), the newest complete checkpoint" in err
    code, out, err = call(capfd, tmp_path, "--replace", "--quiet")
    assert (code, err) == (0, "")


def test_the_plan_is_printed_and_nothing_is_written(tmp_path, capfd):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    before = snapshot(tmp_path)
    code, out, _ = call(capfd, checkpoint, "--plan")
    assert code == 0
    assert "model.embed_tokens.weight  F32  31x8  master" in out
    assert "zero_pp_rank_0_mp_rank_00_optim_states.pt [" in out
    code, out, _ = call(capfd, checkpoint, "--plan", "--json")
    plan = Plan.from_json(json.loads(out))
    assert plan.parameters == sum(tensor.elements for tensor in plan.tensors)
    assert snapshot(tmp_path) == before


def test_wrong_usage_is_exit_code_two(tmp_path, capfd):
    checkpoint = make_checkpoint(tmp_path)
    for options in (["--dtype", "int8"], ["--max-shard-size", "many"], ["--engine", "magic"], ["--jobs", "0"]):
        code, out, err = call(capfd, checkpoint, "-o", tmp_path / "out", *options)
        assert (code, out, err.count("\n")) == (2, "", 1), err
    assert not (tmp_path / "out").exists()


def test_a_missing_path_is_exit_code_three(tmp_path, capfd):
    assert "no such file" in refused(capfd, 3, tmp_path, tmp_path / "nothing")


DAMAGE = {
    "missing rank": lambda tag: shard(tag, 1).unlink(),
    "extra rank": lambda tag: shutil.copy(shard(tag, 1), tag / shard(tag, 1).name.replace("rank_1_mp", "rank_3_mp")),
    "truncated shard": lambda tag: os.truncate(shard(tag, 2), shard(tag, 2).stat().st_size // 2),
    "empty shard": lambda tag: os.truncate(shard(tag, 0), 0),
    "LFS pointer": lambda tag: shard(tag, 1).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123\n"
    ),
    "web page": lambda tag: shard(tag, 1).write_text("<!DOCTYPE html><html>404</html>"),
    "empty latest": lambda tag: (tag.parent / "latest").write_text(""),
    "latest names nothing": lambda tag: (tag.parent / "latest").write_text("global_step99"),
    "latest leads out": lambda tag: (tag.parent / "latest").write_text("../../etc"),
    "no model file": lambda tag: (tag / "mp_rank_00_model_states.pt").unlink(),
    "link out": lambda tag: (shard(tag, 1).unlink(), os.symlink("/etc/hostname", tag / "x_optim_states.pt")),
}


def shard(tag: Path, rank: int) -> Path:
    return next(tag.glob(f"*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"))


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damage_is_one_line_and_nothing_is_written(damage, tmp_path, capfd):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    tag = checkpoint / "global_step8"
    names = {rank: shard(tag, rank).name for rank in range(3)}
    DAMAGE[damage](tag)
    before = snapshot(tmp_path) if damage != "link out" else None
    code, out, err = call(capfd, checkpoint)
    assert code in (1, 3), err
    assert out == ""
    assert err.count("\n") == 1, err
    assert "internal error" not in err
    if before is not None:
        assert snapshot(tmp_path) == before
    assert not (tmp_path / "fp32-checkpoint-8").exists()
    if damage in ("truncated shard", "empty shard", "LFS pointer", "web page"):
        rank = {"truncated shard": 2, "empty shard": 0}.get(damage, 1)
        assert names[rank] in err


def test_shards_of_two_steps_are_refused_and_force_records_it(tmp_path, capfd):
    from consolidate.making import small_model

    first = make_checkpoint(tmp_path / "a", config=CONFIG)
    model = small_model()
    for item in model.parameters:
        item.values *= -1.5
    second = make_checkpoint(tmp_path / "b", model=model)
    name = shard(second / "global_step8", 1).name
    shutil.copy(second / "global_step8" / name, first / "global_step8" / name)
    assert "rank" in refused(capfd, 1, tmp_path, first)
    code, _, err = call(capfd, first, "--force")
    assert code == 0
    assert "forced" in err
    record = json.loads((tmp_path / "a" / "fp32-checkpoint-8" / "consolidation.json").read_text())
    assert any("forced" in warning for warning in record["warnings"])


def test_hostile_names_reach_no_terminal(tmp_path, capfd):
    from builders.deepspeed import Model
    from consolidate.making import parameter

    evil = "model.\x1b[31mred\x1b[0m\u202eweight\nckpt-inspect: all is well"
    checkpoint = make_checkpoint(tmp_path, model=Model([parameter(evil, 4, 4)]), config=CONFIG)
    for options in (["--plan"], ["--plan", "--json"], [], ["--json", "--replace"]):
        code, out, err = call(capfd, checkpoint, *options)
        assert code == 0, err
        for text in (out, err):
            assert "\x1b" not in text
            assert "\u202e" not in text
    (tmp_path / "fp32-checkpoint-8" / "model.safetensors").write_bytes(b"x")
    code, out, err = call(capfd, tmp_path / "fp32-checkpoint-8", "--verify-only")
    assert code == 1
    assert "\x1b" not in err
    assert err.count("\n") == 1
