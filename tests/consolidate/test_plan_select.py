"""From whatever path a person gives to the tag that is read, said aloud, with nothing followed out of the directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_inspect.consolidate import problems as p
from ckpt_inspect.consolidate.planning import plan_consolidation
from ckpt_inspect.consolidate.tags import unsafe_tag
from ckpt_inspect.errors import PathNotFoundError, UsageError
from consolidate.conftest import Written

Write = Callable[..., Written]


def run_of(tmp_path: Path, write: Write, *steps: int) -> Path:
    """A Trainer's output directory with a checkpoint per step."""
    run = tmp_path / "run"
    run.mkdir()
    for step in steps:
        made = write(world=2, step=step)
        made.directory.rename(run / f"checkpoint-{step}")
        (run / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    return run


def test_checkpoint_tag_directory_and_file_lead_to_the_same_plan(write: Write) -> None:
    made = write(world=2)
    plans = [plan_consolidation(path) for path in (made.directory, made.tag, made.optimizer(1), str(made.directory))]
    assert all(plan == plans[0] for plan in plans[1:])
    assert (plans[0].tag, plans[0].checkpoint) == ("global_step8", str(made.directory))


def test_a_tag_directory_without_a_checkpoint_around_it_stands_alone(write: Write, tmp_path: Path) -> None:
    made = write(world=2)
    alone = tmp_path / "alone" / "copied"
    shutil.copytree(made.tag, alone)
    plan = plan_consolidation(alone)
    assert plan.root == str(alone)
    assert {Path(source.path).parent for source in plan.sources} == {Path()}


def test_a_tag_with_a_slash_is_found_from_inside_and_from_outside(write: Write) -> None:
    made = write(world=2, tag="epoch0/s4")
    assert plan_consolidation(made.directory).tag == "epoch0/s4"
    assert plan_consolidation(made.tag).tag == "epoch0/s4"
    assert plan_consolidation(made.directory, tag="epoch0/s4/").tag == "epoch0/s4"


def test_the_newest_complete_checkpoint_of_a_run_is_taken_and_named(write: Write, tmp_path: Path) -> None:
    run = run_of(tmp_path, write, 90, 100, 110)
    plan = plan_consolidation(run)
    assert (plan.tag, plan.checkpoint) == ("global_step110", str(run / "checkpoint-110"))
    assert "using checkpoint-110" in plan.warnings[0]


@pytest.mark.parametrize("damage", ["missing rank", "cut off", "no tag", "empty latest", "empty file"])
def test_newer_checkpoints_that_are_not_whole_are_passed_over_with_the_reason(
    write: Write, tmp_path: Path, damage: str
) -> None:
    run = run_of(tmp_path, write, 4, 8)
    tag = run / "checkpoint-8" / "global_step8"
    shard = tag / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    reason = {
        "missing rank": "files of 1 rank",
        "cut off": "cut off",
        "no tag": "no DeepSpeed tag",
        "empty latest": "latest is empty",
        "empty file": "cut off",
    }[damage]
    if damage == "missing rank":
        shard.unlink()
    elif damage == "cut off":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif damage == "no tag":
        shutil.rmtree(tag)
    elif damage == "empty latest":
        shutil.copytree(tag, run / "checkpoint-8" / "global_step7")
        (run / "checkpoint-8" / "latest").write_text("")
    else:
        shard.write_bytes(b"")
    plan = plan_consolidation(run)
    assert plan.tag == "global_step4"
    assert any("checkpoint-8 was passed over" in text and reason in text for text in plan.warnings)


def test_a_named_checkpoint_is_never_replaced_by_an_older_one(write: Write, tmp_path: Path) -> None:
    run = run_of(tmp_path, write, 4, 8)
    (run / "checkpoint-8" / "global_step8" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(p.MissingRankError):
        plan_consolidation(run / "checkpoint-8")


def test_a_run_without_any_whole_checkpoint_says_what_the_newest_lacks(write: Write, tmp_path: Path) -> None:
    run = run_of(tmp_path, write, 4, 8)
    for step in (4, 8):
        (run / f"checkpoint-{step}" / f"global_step{step}" / "mp_rank_00_model_states.pt").unlink()
    with pytest.raises(p.MissingRankError, match="checkpoint-8: it has no model file") as caught:
        plan_consolidation(run)
    assert "give checkpoint-8 itself" in str(caught.value.remedy)


def test_shards_in_the_root_of_a_run_win_over_older_checkpoints(write: Write, tmp_path: Path) -> None:
    run = run_of(tmp_path, write, 4, 8)
    made = write(world=2, step=8)
    shutil.copytree(made.tag, run / "global_step8")
    shutil.copy(made.directory / "latest", run / "latest")
    assert plan_consolidation(run).checkpoint == str(run)
    (run / "checkpoint-8").rename(run / "checkpoint-12")
    (run / "checkpoint-12" / "global_step8").rename(run / "checkpoint-12" / "global_step12")
    (run / "checkpoint-12" / "latest").write_text("global_step12")
    assert plan_consolidation(run).checkpoint == str(run / "checkpoint-12")


@pytest.mark.parametrize("content", ["", " \n", "\0\0\0\0"])
def test_an_empty_latest_offers_the_newest_whole_tag(write: Write, content: str) -> None:
    made = write(world=2)
    (made.directory / "latest").write_text(content)
    with pytest.raises(p.EmptyLatestError, match="--tag global_step8"):
        plan_consolidation(made.directory)


def test_latest_naming_a_missing_tag_offers_the_newest_whole_one(write: Write) -> None:
    made = write(world=2)
    shutil.copytree(made.tag, made.directory / "global_step12")
    (made.directory / "global_step12" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
    (made.directory / "latest").write_text("global_step99\n")
    with pytest.raises(p.MissingTagError, match="--tag global_step8") as caught:
        plan_consolidation(made.directory)
    assert "latest names global_step99" in str(caught.value)


@pytest.mark.parametrize(
    "tag", ["../outside", "/etc", "a/../../b", "..", "C:\\x", "a\\b", "~root", "x" * 2000, "a\nb", "./x"]
)
def test_a_tag_never_leads_out_of_the_checkpoint(write: Write, tag: str) -> None:
    made = write(world=2)
    (made.directory / "latest").write_text(tag)
    with pytest.raises(p.UnsafeTagError):
        plan_consolidation(made.directory)
    with pytest.raises(p.UnsafeTagError):
        plan_consolidation(made.directory, tag=tag)
    assert unsafe_tag(tag)


def test_hostile_latest_reaches_the_screen_escaped(write: Write) -> None:
    made = write(world=2)
    (made.directory / "latest").write_text("\x1b[2Jglobal\u202estep")
    with pytest.raises(p.MissingTagError) as caught:
        plan_consolidation(made.directory)
    assert "\x1b" not in str(caught.value)
    assert "\u202e" not in str(caught.value)


def test_a_linked_tag_that_leads_out_is_not_followed(write: Write) -> None:
    made, other = write(world=2), write(world=2)
    shutil.rmtree(made.tag)
    os.symlink(other.tag, made.tag)
    with pytest.raises(p.MissingTagError, match="not followed: the link leads out of the directory"):
        plan_consolidation(made.directory)


def test_latest_saved_by_a_windows_editor_has_a_byte_order_mark(write: Write) -> None:
    made = write(world=2)
    (made.directory / "latest").write_bytes(b"\xef\xbb\xbfglobal_step8\r\n")
    assert plan_consolidation(made.directory).tag == "global_step8"


def test_a_tag_that_is_not_latest_is_used_when_asked_and_newer_ones_are_told(write: Write) -> None:
    made = write(world=2, step=8)
    newer = write(world=2, step=12)
    shutil.copytree(newer.tag, made.directory / "global_step12")
    plan = plan_consolidation(made.directory)
    assert plan.tag == "global_step8"
    assert any("Z04" in warning and "--tag global_step12" in warning for warning in plan.warnings)
    assert plan_consolidation(made.directory, tag="global_step12").tag == "global_step12"
    with pytest.raises(p.MissingTagError, match="no tag global_step13"):
        plan_consolidation(made.directory, tag="global_step13")


def test_without_latest_the_only_tag_is_taken_and_several_are_asked_about(write: Write) -> None:
    made = write(world=2)
    (made.directory / "latest").unlink()
    assert plan_consolidation(made.directory).tag == "global_step8"
    shutil.copytree(made.tag, made.directory / "global_step4")
    with pytest.raises(p.NoTagError, match="global_step4, global_step8"):
        plan_consolidation(made.directory)


def test_two_numbers_in_rank_names_sort_as_numbers(write: Write) -> None:
    made = write(world=12)
    paths = [source.path for source in plan_consolidation(made.directory).sources if "optim" in source.path]
    assert [path.split("_rank_")[1].split("_")[0] for path in paths] == [str(rank) for rank in range(12)]


def test_accelerate_directories_have_tags_of_any_name(write: Write) -> None:
    made = write(world=2, tag="pytorch_model")
    assert plan_consolidation(made.directory).tag == "pytorch_model"


def test_nothing_to_consolidate_says_what_is_there_instead(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(p.NoTagError, match=r"model\.safetensors already holds whole weights"):
        plan_consolidation(tmp_path)
    with pytest.raises(PathNotFoundError):
        plan_consolidation(tmp_path / "absent")


def test_a_tag_directory_takes_no_other_tag(write: Write) -> None:
    made = write(world=2)
    assert plan_consolidation(made.tag, tag="global_step8").tag == "global_step8"
    with pytest.raises(UsageError, match="tag directory itself"):
        plan_consolidation(made.tag, tag="global_step9")
