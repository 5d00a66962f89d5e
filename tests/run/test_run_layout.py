"""Which directories are saved states, what the root is, who owns which file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckpt_inspect.errors import PathNotFoundError, UnreadableError
from ckpt_inspect.run import Run, open_run


def tree(root: Path, *paths: str) -> Path:
    """Files (of one byte) and directories (paths ending in a slash) below `root`."""
    for path in paths:
        place = root / path
        if path.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"x")
    return root


def states(run: Run) -> list[tuple[str, str]]:
    return [(item.path, item.form) for item in run.checkpoints]


HF = ("config.json", "model.safetensors", "trainer_state.json", "training_args.bin")
CKPT = ("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def inside(directory: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{directory}/{name}" for name in names)


def test_a_run_has_its_checkpoints_in_order_of_their_step(tmp_path: Path) -> None:
    run = open_run(tree(tmp_path, *HF, *inside("checkpoint-1000", CKPT), *inside("checkpoint-500", CKPT)))
    assert run.kind == "run"
    assert states(run) == [("checkpoint-500", "checkpoint"), ("checkpoint-1000", "checkpoint")]
    assert [item.step for item in run.checkpoints] == [500, 1000]
    assert {artifact.path for artifact in run.artifacts} == set(HF)
    assert len(run.all_artifacts) == len(HF) + 2 * len(CKPT)


def test_an_empty_checkpoint_directory_is_still_a_checkpoint(tmp_path: Path) -> None:
    run = open_run(tree(tmp_path, "checkpoint-7/"))
    assert (run.kind, states(run)) == ("run", [("checkpoint-7", "checkpoint")])


def test_interrupted_and_renamed_checkpoints_are_told_apart(tmp_path: Path) -> None:
    run = open_run(
        tree(tmp_path, "tmp-checkpoint-20/config.json", "checkpoint-500-backup/config.json", "checkpoint-10/")
    )
    assert states(run) == [
        ("checkpoint-10", "checkpoint"),
        ("tmp-checkpoint-20", "tmp_checkpoint"),
        ("checkpoint-500-backup", "renamed_checkpoint"),
    ]


def test_checkpoints_of_a_hyper_parameter_search_belong_to_the_run(tmp_path: Path) -> None:
    run = open_run(tree(tmp_path, *inside("run-0/checkpoint-5", CKPT), *inside("run-1/checkpoint-5", CKPT)))
    assert run.kind == "run"
    assert [item.path for item in run.checkpoints] == ["run-0/checkpoint-5", "run-1/checkpoint-5"]


def test_a_checkpoint_opened_by_itself_is_its_own_only_checkpoint(tmp_path: Path) -> None:
    run = open_run(tree(tmp_path / "checkpoint-30", *CKPT))
    assert run.kind == "checkpoint"
    assert [(item.path, item.step) for item in run.checkpoints] == [("", 30)]
    assert len(run.states) == 1
    assert run.checkpoints[0].memo is run.memo


def test_files_that_only_a_checkpoint_has_make_a_directory_of_any_name_one(tmp_path: Path) -> None:
    assert open_run(tree(tmp_path / "last-state", *CKPT)).kind == "checkpoint"


def test_adapter_and_model_directories_are_known(tmp_path: Path) -> None:
    assert open_run(tree(tmp_path / "a", "adapter_config.json", "adapter_model.safetensors")).kind == "adapter"
    assert open_run(tree(tmp_path / "b", "config.json", "model.safetensors", "tokenizer.json")).kind == "model"


def test_named_adapters_belong_to_the_state_that_holds_them(tmp_path: Path) -> None:
    adapter = ("adapter_config.json", "adapter_model.safetensors")
    run = open_run(
        tree(
            tmp_path,
            "trainer_state.json",
            *adapter,
            *inside("critic", adapter),
            *inside("checkpoint-5/critic", adapter),
        )
    )
    assert dict(run.adapters) == {"critic": "critic"}
    assert dict(run.checkpoints[0].adapters) == {"critic": "checkpoint-5/critic"}
    assert not run.nested


def test_pissa_side_directories_are_named_adapters(tmp_path: Path) -> None:
    names = ("pissa_init", "pissa_backup", "pissa_converted")
    files = [f"{name}/adapter_config.json" for name in names]
    run = open_run(tree(tmp_path, "adapter_config.json", "trainer_log.jsonl", *files))
    assert set(run.adapters) == set(names)


ZERO2 = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt")


def test_a_trainer_checkpoint_holds_its_deepspeed_tag(tmp_path: Path) -> None:
    run = open_run(
        tree(
            tmp_path,
            "checkpoint-8/latest",
            "checkpoint-8/trainer_state.json",
            *inside("checkpoint-8/global_step7", ZERO2),
        )
    )
    assert states(run) == [("checkpoint-8", "checkpoint")]
    assert run.checkpoints[0].tags == ("checkpoint-8/global_step7",)
    assert run.checkpoints[0].step == 8


def test_tags_of_a_plain_deepspeed_directory_are_its_states_whatever_their_names(tmp_path: Path) -> None:
    (tree(tmp_path, *inside("epoch0/s2", ZERO2), *inside("epoch0/s10", ZERO2)) / "latest").write_text("epoch0/s10\n")
    run = open_run(tmp_path)
    assert run.kind == "zero"
    assert states(run) == [("epoch0/s2", "tag"), ("epoch0/s10", "tag")]
    assert run.tags == ("epoch0/s2", "epoch0/s10")
    latest = run.checkpoints[0].latest
    assert latest is not None
    assert latest.tag == "epoch0/s10"
    assert run.tag == "epoch0/s10"


def test_latest_decides_between_several_tags(tmp_path: Path) -> None:
    (tree(tmp_path, *inside("global_step4", ZERO2), *inside("global_step8", ZERO2)) / "latest").write_text(
        "global_step4"
    )
    assert open_run(tmp_path).tag == "global_step4"


def test_tags_are_ordered_by_number_not_by_letter(tmp_path: Path) -> None:
    run = open_run(tree(tmp_path, *inside("global_step9", ZERO2), *inside("global_step10", ZERO2)))
    assert [item.step for item in run.checkpoints] == [9, 10]
    assert run.tag == "global_step10"


def test_a_tag_directory_opened_by_itself_is_a_zero_state(tmp_path: Path) -> None:
    run = open_run(tree(tmp_path / "global_step8", *ZERO2))
    assert run.kind == "zero"
    assert [(item.path, item.form, item.step, item.tags) for item in run.checkpoints] == [("", "tag", 8, ("",))]


def test_a_run_whose_final_save_is_a_tag_lists_it_beside_its_checkpoints(tmp_path: Path) -> None:
    run = open_run(
        tree(
            tmp_path,
            "latest",
            "config.json",
            "training_args.bin",
            *inside("global_step8", ZERO2),
            *inside("checkpoint-8", CKPT),
        )
    )
    assert run.kind == "run"
    assert sorted(states(run)) == [("checkpoint-8", "checkpoint"), ("global_step8", "tag")]
    assert run.tags == ("global_step8",)


def test_accelerate_state_holds_its_tag_and_is_one_checkpoint(tmp_path: Path) -> None:
    run = open_run(
        tree(tmp_path / "epoch_1", "random_states_0.pkl", "scheduler.bin", "latest", *inside("pytorch_model", ZERO2))
    )
    assert run.kind == "checkpoint"
    assert [(item.path, item.tags) for item in run.checkpoints] == [("", ("pytorch_model",))]


def test_a_lightning_directory_is_one_checkpoint(tmp_path: Path) -> None:
    run = open_run(tree(tmp_path, "epoch=0-step=4.ckpt/latest", *inside("epoch=0-step=4.ckpt/checkpoint", ZERO2)))
    assert states(run) == [("epoch=0-step=4.ckpt", "named_checkpoint")]
    assert run.checkpoints[0].tags == ("epoch=0-step=4.ckpt/checkpoint",)


def test_fsdp_directories_belong_to_their_checkpoint(tmp_path: Path) -> None:
    run = open_run(
        tree(tmp_path, "checkpoint-2/pytorch_model_fsdp_0/.metadata", "checkpoint-2/optimizer_0/__0_0.distcp")
    )
    assert states(run) == [("checkpoint-2", "checkpoint")]
    assert [artifact.kind for artifact in run.checkpoints[0].artifacts] == ["dcp_optimizer_shard", "dcp_model_metadata"]


def test_a_directory_of_runs_names_them_and_reads_none(tmp_path: Path) -> None:
    run = open_run(tree(tmp_path, "notes.txt", *inside("a", HF), *inside("deep/b/checkpoint-5", CKPT)))
    assert [(item.path, item.kind) for item in run.nested] == [("a", "run"), ("deep/b", "run")]
    assert run.checkpoints == ()
    assert run.is_collection


def test_a_run_inside_a_run_is_named_and_kept_apart(tmp_path: Path) -> None:
    run = open_run(tree(tmp_path, *HF, *inside("second", HF)))
    assert [(item.path, item.kind) for item in run.nested] == [("second", "run")]
    assert {artifact.parent for artifact in run.artifacts} == {""}


def test_a_copy_under_another_name_is_recognised_but_stands_for_nothing(tmp_path: Path) -> None:
    run = open_run(tree(tmp_path, "adapter_config.json", "optimizer (8).pt"))
    copy = next(artifact for artifact in run.artifacts if artifact.kind == "optimizer")
    assert not copy.exact
    assert copy.needed_for == ("record",)
    assert not run.has("optimizer")
    assert run.kind == "adapter"


def test_a_single_file_is_a_run_of_kind_file_and_nothing_else_is_looked_at(tmp_path: Path) -> None:
    tree(tmp_path, *HF)
    run = open_run(tmp_path / "model.safetensors")
    assert run.kind == "file"
    assert [artifact.path for artifact in run.all_artifacts] == ["model.safetensors"]
    assert run.trainer_state is None


def test_a_cache_repository_stands_for_the_snapshot_of_its_main_branch(tmp_path: Path) -> None:
    old, new = "a" * 40, "b" * 40
    repo = tmp_path / "models--org--name"
    (repo / "blobs").mkdir(parents=True)
    blob = repo / "blobs" / ("c" * 64)
    blob.write_bytes(b"{}")
    (repo / "blobs" / f"{'d' * 64}.incomplete").write_bytes(b"")
    for revision in (old, new):
        (repo / "snapshots" / revision).mkdir(parents=True)
        os.symlink(f"../../blobs/{blob.name}", repo / "snapshots" / revision / "config.json")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(old)
    for path in (repo, repo / "snapshots" / old):
        run = open_run(path)
        assert run.hub is not None
        assert (run.hub.repo_id, run.hub.revision, run.hub.branch) == ("org/name", old, "main")
        assert run.hub.incomplete == (f"{'d' * 64}.incomplete",)
        assert [(artifact.path, artifact.kind) for artifact in run.artifacts] == [("config.json", "model_config")]
        assert run.kind == "model"


def test_a_link_out_of_the_directory_is_listed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    run_dir = tree(tmp_path / "run", "config.json")
    os.symlink(tmp_path / "secret", run_dir / "model.safetensors")
    run = open_run(run_dir)
    assert {artifact.path: artifact.kind for artifact in run.artifacts}["model.safetensors"] == "broken_link"
    assert not run.has("model_weights")


def test_nothing_at_the_path_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(PathNotFoundError):
        open_run(tmp_path / "nothing")


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableError):
        open_run(tmp_path / "pipe")


def test_a_step_without_a_number_comes_from_the_trainer_state(tmp_path: Path) -> None:
    tree(tmp_path / "last-state", *CKPT)
    (tmp_path / "last-state" / "trainer_state.json").write_text('{"global_step": 42, "log_history": []}')
    assert open_run(tmp_path / "last-state").checkpoints[0].step == 42


def test_one_broken_file_hides_no_other(tmp_path: Path) -> None:
    tree(tmp_path, *CKPT)
    (tmp_path / "trainer_state.json").write_text('{"global_step": 3, "log_history": []}')
    os.chmod(tmp_path / "config.json", 0)
    run = open_run(tmp_path)
    assert run.trainer_state is not None
    assert run.trainer_state.global_step == 3
    assert run.optimizer is not None
    assert run.optimizer.faults


def test_a_reader_that_fails_becomes_a_fault_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "trainer_state.json")

    def fail(source: object) -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr("ckpt_inspect.artifacts.trainer_state.read_trainer_state", fail)
    run = open_run(tmp_path)
    assert run.trainer_state is None
    assert [(path, fault.kind) for path, fault in run.read_faults] == [("trainer_state.json", "reader-failed")]
