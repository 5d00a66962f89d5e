"""Every way a checkpoint breaks has its own error, which names the file, the rank and what to do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from builders.deepspeed import rounded
from builders.safetensors_files import model_bytes

from ckpt_inspect.consolidate import problems as p
from ckpt_inspect.consolidate.planning import find_problems, plan_consolidation
from ckpt_inspect.errors import ConsolidationError, UnsupportedLayoutError, UsageError
from consolidate.conftest import Written, small_model
from consolidate.gathering import arrays

Write = Callable[..., Written]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 12345\n"


def refusal(where: Written | str, error: type[ConsolidationError], **options: object) -> str:
    directory = where.directory if isinstance(where, Written) else where
    with pytest.raises(error) as caught:
        plan_consolidation(directory, **options)  # type: ignore[arg-type]
    assert type(caught.value) is error
    assert caught.value.exit_code in (1, 3)
    assert caught.value.remedy
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("rank", [0, 2, 3])
def test_a_missing_rank_file_is_named(write: Write, rank: int) -> None:
    made = write(world=4)
    made.optimizer(rank).unlink()
    text = refusal(made, p.MissingRankError)
    assert made.optimizer(rank).name in text
    assert f"node of rank {rank}" in text
    assert "3 of 4" in text


def test_files_of_more_ranks_than_took_part_are_leftovers(write: Write) -> None:
    made, larger = write(world=2), write(world=4)
    for rank in (2, 3):
        shutil.copy(larger.optimizer(rank), made.optimizer(rank))
    text = refusal(made, p.ExtraRankError)
    assert made.optimizer(2).name in text
    assert "ranks 2, 3" in text
    plan = plan_consolidation(made.directory, force=True)
    assert any(warning.startswith("forced: Z11") for warning in plan.warnings)
    assert plan.world_size == 2


def test_two_worlds_in_one_tag_are_listed_by_rank(write: Write) -> None:
    made, other = write(world=4), write(world=2)
    shutil.copy(other.optimizer(1), made.optimizer(1))
    text = refusal(made, p.MixedWorldError)
    assert "rank 1: 2" in text
    assert "ranks 0, 2, 3: 4" in text


def test_a_model_file_of_another_world_is_not_taken(write: Write) -> None:
    made, other = write(world=2), write(world=4)
    shutil.copy(other.model_file(), made.model_file())
    assert "4 data-parallel ranks" in refusal(made, p.MixedWorldError)


def test_both_prefixes_mean_two_jobs(write: Write) -> None:
    made, other = write(world=2), write(world=2, dtype="F16")
    for rank in (0, 1):
        shutil.copy(other.optimizer(rank), made.tag)
    text = refusal(made, p.MixedWorldError)
    assert "2 with bf16_" in text
    assert (
        plan_consolidation(made.directory, force=True)
        .sources[1]
        .path.endswith("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    )


@pytest.mark.parametrize("kept", [0.3, 0.9])
@pytest.mark.parametrize("stage", [2, 3])
def test_a_truncated_shard_is_named_with_its_size(write: Write, stage: int, kept: float) -> None:
    made = write(world=2, stage=stage)
    whole = made.optimizer(1).read_bytes()
    made.optimizer(1).write_bytes(whole[: int(len(whole) * kept)])
    text = refusal(made, p.TruncatedShardError)
    assert made.optimizer(1).name in text
    assert "rank 1" in text
    assert f"another rank's {made.optimizer(0).stat().st_size}" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (LFS, "git-LFS pointer"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (bytes(5000), "zeros"),
        (b"\x93DATASTATES" + b"\1" * 4000, "DataStates"),
        (b"PK\x05\x06" + bytes(18), "rank 1"),
    ],
    ids=["empty", "lfs", "html", "zeros", "other-engine", "empty-zip"],
)
def test_what_lies_in_place_of_a_shard_is_named(write: Write, content: bytes, words: str) -> None:
    made = write(world=2)
    made.optimizer(1).write_bytes(content)
    text = refusal(made, p.UnreadableShardError)
    assert words in text
    assert made.optimizer(1).name in text


@pytest.mark.parametrize("kept", [30, 40, 200])
def test_a_shard_cut_in_its_first_header_is_called_cut_off(write: Write, kept: int) -> None:
    """It was said to hold no data.pkl, with the remedy to look up what wrote it."""
    made = write(world=2)
    made.optimizer(1).write_bytes(made.optimizer(1).read_bytes()[:kept])
    assert "copy the file again" in refusal(made, p.TruncatedShardError)


@pytest.mark.parametrize("name", ["optimizer", "model_file"])
@pytest.mark.parametrize(
    ("put", "words"),
    [
        (lambda path: path.mkdir(), "a directory lies in its place"),
        (lambda path: path.symlink_to(path.name), "the link leads nowhere"),
        (lambda path: path.symlink_to("../../blobs/0123"), "the link leads nowhere"),
        (lambda path: path.symlink_to("/"), "the link leads out of the directory"),
        (os.mkfifo, "never opened"),
    ],
    ids=["directory", "loop", "dangling", "outside", "pipe"],
)
def test_a_name_without_a_file_behind_it_is_not_called_missing(
    write: Write, name: str, put: Callable[[Path], object], words: str
) -> None:
    made = write(world=2, stage=3)
    path = getattr(made, name)(1)
    path.unlink()
    put(path)
    text = refusal(made, p.UnreadableShardError)
    assert words in text
    assert path.name in text


def test_shards_of_two_steps_differ_in_their_step(write: Write) -> None:
    made, other = write(world=2, step=8), write(world=2, step=4, seed=1)
    shutil.copy(other.optimizer(1), made.optimizer(1))
    text = refusal(made, p.StepMismatchError)
    assert "rank 1 saved its optimizer at step 4, rank 0 at step 8" in text
    plan = plan_consolidation(made.directory, force=True)
    assert any(warning.startswith("forced: Z39") for warning in plan.warnings)
    assert any(warning.startswith("forced: Z38") for warning in plan.warnings)


@pytest.mark.parametrize("stage", [2, 3])
def test_shards_of_two_steps_differ_in_their_learning_rate_where_no_step_is_counted(write: Write, stage: int) -> None:
    made = write(world=2, stage=stage, step=8, optimizer="sgd")
    shutil.copy(write(world=2, stage=stage, step=4, optimizer="sgd").optimizer(1), made.optimizer(1))
    text = refusal(made, p.StepMismatchError)
    assert "rank 1 saved its optimizer with lr 0.0002" in text, text
    assert any("forced: Z39" in warning for warning in plan_consolidation(made.directory, force=True).warnings)


def save_gathered(made: Written) -> None:
    """What the Trainer saves beside the shards of stage 3: the module gathered in 16 bit."""
    values = {q.name: rounded(q.values, "BF16") for q in made.model.parameters}
    tensors = {name: ("BF16", array.shape) for name, array in values.items()}
    data = {name: array.tobytes() for name, array in values.items()}
    (made.directory / "model.safetensors").write_bytes(model_bytes(tensors, data=data))


def test_exchanged_rank_files_of_stage_three_disagree_with_the_model_saved_beside_them(write: Write) -> None:
    """It was a warning once, and wrong weights were written with exit 0."""
    made = write(world=2, stage=3)
    save_gathered(made)
    assert not plan_consolidation(made.directory).warnings
    one, other = made.optimizer(0).read_bytes(), made.optimizer(1).read_bytes()
    made.optimizer(0).write_bytes(other)
    made.optimizer(1).write_bytes(one)
    text = refusal(made, p.ModuleMismatchError)
    assert "on ranks 0, 1" in text
    assert "model.safetensors" in text
    assert "exchanged" in text
    warnings = plan_consolidation(made.directory, force=True).warnings
    assert any(warning.startswith("forced: Z38") for warning in warnings)


@pytest.mark.parametrize("optimizer", ["fused", "adam"])
def test_stage_three_shards_of_two_steps_differ_in_their_step(write: Write, optimizer: str) -> None:
    made = write(world=3, stage=3, step=8, optimizer=optimizer)
    other = write(world=3, stage=3, step=4, seed=1, optimizer=optimizer)
    shutil.copy(other.optimizer(2), made.optimizer(2))
    assert "rank 2 saved its optimizer at step 4" in refusal(made, p.StepMismatchError)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_shard_of_another_run_at_the_same_step_disagrees_with_the_module(write: Write, optimizer: str) -> None:
    made, other = write(world=2, optimizer=optimizer), write(world=2, optimizer=optimizer, seed=1)
    shutil.copy(other.optimizer(1), made.optimizer(1))
    text = refusal(made, p.ModuleMismatchError)
    assert "layers.3.weight on rank 1" in text
    assert made.optimizer(1).name in text


def test_a_model_file_of_another_step_disagrees_with_every_rank(write: Write) -> None:
    made, other = write(world=2, step=8), write(world=2, step=4, seed=1)
    shutil.copy(other.model_file(), made.model_file())
    text = refusal(made, p.ModuleMismatchError)
    assert "6 of 6 parameters differ, on ranks 0, 1" in text
    assert "counted 8 steps, the model file 4" in text


def test_one_wrong_element_in_ten_thousand_is_a_warning_and_found_only_by_looking_at_all(write: Write) -> None:
    import numpy as np
    from builders.deepspeed import Model, Parameter

    values = np.linspace(-1, 1, 40000, dtype="<f4").reshape(200, 200)
    made = write(world=2, model=Model([Parameter("big.weight", values)]))
    changed = values.copy()
    changed[10, 17] += 1
    other = write(world=2, model=Model([Parameter("big.weight", changed)]))
    shutil.copy(other.model_file(), made.model_file())
    assert not any("Z38" in warning for warning in plan_consolidation(made.directory).warnings)
    warnings = plan_consolidation(made.directory, depth="complete").warnings
    assert any("1 of 20000 elements of big.weight on rank 0" in warning for warning in warnings)


@pytest.mark.parametrize("name", ["zero_pp_rank_1_mp_rank_00_model_states.pt"])
def test_a_missing_model_file_of_stage_three_matters_for_frozen_parameters_only(write: Write, name: str) -> None:
    made = write(world=2, stage=3)
    (made.tag / name).unlink()
    text = refusal(made, p.MissingRankError)
    assert name in text
    assert "--exclude-frozen" in text
    plan = plan_consolidation(made.directory, exclude_frozen=True)
    assert "frozen.weight" not in arrays(plan)
    assert any("nothing in them is needed" in warning for warning in plan.warnings)


@pytest.mark.parametrize("stage", [2, 3])
def test_the_model_file_of_rank_zero_is_indispensable(write: Write, stage: int) -> None:
    made = write(world=2, stage=stage)
    made.model_file().unlink()
    assert made.model_file().name in refusal(made, p.MissingRankError)


def test_a_checkpoint_without_any_optimizer_file_points_at_the_whole_16_bit_module(write: Write) -> None:
    made = write(world=2)
    for rank in (0, 1):
        made.optimizer(rank).unlink()
    text = refusal(made, p.MissingRankError)
    assert "none of the 2 optimizer files" in text
    assert "mp_rank_00_model_states.pt are whole" in text


def test_offloaded_sub_groups_name_the_swap_file_that_is_missing(write: Write) -> None:
    made = write(world=2, stage=3, nvme=True)
    swap = next((made.tag / "offloaded_tensors" / "rank01").iterdir())
    swap.unlink()
    assert f"offloaded_tensors/rank01/{swap.name}" in refusal(made, p.SumError)


def test_a_short_swap_file_is_not_padded(write: Write) -> None:
    made = write(world=2, stage=3, nvme=True)
    swap = next((made.tag / "offloaded_tensors" / "rank01").iterdir())
    swap.write_bytes(swap.read_bytes()[:500])
    assert "holds 500 bytes" in refusal(made, p.SumError)


def test_stages_do_not_mix(write: Write) -> None:
    made, other = write(world=2, stage=2), write(world=2, stage=1)
    shutil.copy(other.optimizer(1), made.optimizer(1))
    assert "rank 1 saved ZeRO stage 1, rank 0 saved ZeRO stage 2" in refusal(made, p.MixedFilesError)


def test_versions_that_differ_are_told(write: Write) -> None:
    made, other = write(world=2), write(world=2, version="0.16.5")
    shutil.copy(other.optimizer(1), made.optimizer(1))
    assert any("Z28" in warning and "0.16.5" in warning for warning in plan_consolidation(made.directory).warnings)


def test_model_files_of_two_runs_disagree_on_a_shape(write: Write) -> None:
    import numpy as np
    from builders.deepspeed import Model, Parameter

    made = write(world=2, stage=3, model=Model([Parameter("a.weight", np.ones((4, 4), dtype="<f4"))]))
    other = write(world=2, stage=3, model=Model([Parameter("a.weight", np.ones((2, 8), dtype="<f4"))]))
    shutil.copy(other.model_file(1), made.model_file(1))
    assert "a.weight is [2, 8] on rank 1 and [4, 4] on rank 0" in refusal(made, p.MixedFilesError)


def test_fewer_elements_than_parameters_need_is_a_wrong_sum(write: Write) -> None:
    import numpy as np
    from builders.deepspeed import Model, Parameter

    made = write(world=2, model=Model([Parameter("a.weight", np.ones((4, 4), dtype="<f4"))]))
    other = write(world=2, model=Model([Parameter("a.weight", np.ones((9, 9), dtype="<f4"))]))
    shutil.copy(other.model_file(), made.model_file())
    assert "need 81 elements, 2 ranks saved 16" in refusal(made, p.SumError)


def test_a_file_in_parts_is_joined_by_its_owner(write: Write) -> None:
    made = write(world=2)
    whole = made.optimizer(1).read_bytes()
    made.optimizer(1).unlink()
    for part in range(2):
        (made.tag / f"{made.optimizer(1).name}-{part}.2").write_bytes(whole[part * 1000 : part * 1000 + 1000])
    assert "cat NAME-0.N" in refusal(made, p.OldLayoutError)


def test_tensor_parallel_ranks_are_refused_with_the_way_out(write: Write) -> None:
    made = write(world=2)
    for path in list(made.tag.iterdir()):
        shutil.copy(path, made.tag / path.name.replace("mp_rank_00", "mp_rank_01"))
    with pytest.raises(UnsupportedLayoutError, match="model-parallel") as caught:
        plan_consolidation(made.directory)
    assert "ds_to_universal" in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"checkpoint_parallel_dimensions": {"tp_degree": 2, "pp_degree": 1}}, "tensor-parallel over 2"),
        ({"mp_world_size": 4}, "model-parallel over 4"),
        ({"ds_autoep_layers": [{"num_experts": 4}]}, "AutoEP"),
        ({"num_experts": [4]}, "experts"),
    ],
)
def test_parallel_layouts_are_recognised_by_their_keys(write: Write, extra: dict[str, object], words: str) -> None:
    with pytest.raises(UnsupportedLayoutError, match=words):
        plan_consolidation(write(world=2, extra=extra).directory)


def test_interleaved_partitions_of_early_stage_one_are_refused(write: Write) -> None:
    from builders.torch_files import save_zip

    made = write(world=2)
    for rank in (0, 1):
        state = {
            "optimizer_state_dict": {"local_sub_partitions_of_fp32_groups": [], "zero_stage": 1, "partition_count": 2}
        }
        save_zip(made.optimizer(rank), state)
    assert "interleaved" in refusal(made, p.OldLayoutError)


def test_an_optimizer_file_without_masters_lists_what_it_holds(write: Write) -> None:
    from builders.torch_files import save_zip

    made = write(world=2)
    for rank in (0, 1):
        save_zip(
            made.optimizer(rank), {"optimizer_state_dict": {"partition_count": 2, "zero_stage": 2, "stripped": True}}
        )
    assert "stripped" in refusal(made, p.MissingKeyError)


def test_addresses_nothing_confirms_are_refused_and_forceable(write: Write) -> None:
    made = write(world=2, exclude_frozen=True, drop=("module",))
    assert plan_consolidation(made.directory).tensors
    import numpy as np
    from builders.deepspeed import Model, Parameter

    shuffled = Model([Parameter("b", np.arange(7, dtype="<f4")), Parameter("a", np.arange(9, dtype="<f4"))])
    straight = Model([shuffled.parameters[1], shuffled.parameters[0]])
    made = write(world=2, model=shuffled, drop=("module",))
    other = write(world=2, model=straight, drop=("module",))
    shutil.copy(other.model_file(), made.model_file())
    assert "param_slice_mappings" in refusal(made, p.SliceMappingError)
    assert any("forced: Z34" in warning for warning in plan_consolidation(made.directory, force=True).warnings)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_shard_full_of_zeros_looks_like_a_hole(write: Write, stage: int) -> None:
    from ckpt_inspect.formats.torch_archive import open_torch
    from ckpt_inspect.storage import LocalFile

    made = write(world=2, stage=stage, optimizer="sgd")
    data = bytearray(made.optimizer(1).read_bytes())
    with LocalFile(made.optimizer(1)) as file:
        for _, tensor in open_torch(file).tensors():
            start = tensor.file_offset or 0
            data[start : start + tensor.nbytes] = bytes(tensor.nbytes)
    made.optimizer(1).write_bytes(data)
    plan = plan_consolidation(made.directory, force=stage == 2)
    assert any("Z26" in text and "of rank 1 are zero" in text for text in plan.warnings)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_told(write: Write, value: float) -> None:
    model = small_model()
    model.parameters[2].values[:] = value
    for stage in (1, 3):
        warnings = plan_consolidation(write(world=2, stage=stage, model=model, exclude_frozen=True).directory).warnings
        assert [text for text in warnings if "Z26" in text and "layers.2.weight" in text]


def test_find_problems_collects_without_raising(write: Write) -> None:
    made, other = write(world=2, step=8), write(world=2, step=4, seed=1)
    assert [problem for problem in find_problems(made.directory) if problem.level == "error"] == []
    shutil.copy(other.optimizer(1), made.optimizer(1))
    assert {problem.check for problem in find_problems(made.directory) if problem.level == "error"} == {"Z38", "Z39"}
    made.optimizer(0).unlink()
    assert "Z10" in {problem.check for problem in find_problems(made.directory)}
    (made.directory / "latest").write_text("")
    assert [problem.check for problem in find_problems(made.directory)] == ["Z02"]


def test_unknown_dtypes_and_patterns_are_wrong_usage(write: Write) -> None:
    made = write(world=2)
    with pytest.raises(UsageError, match="int8"):
        plan_consolidation(made.directory, dtype="int8")
    with pytest.raises(UsageError, match="no tensor matches"):
        plan_consolidation(made.directory, only=("nothing.*",))
    assert [t.name for t in plan_consolidation(made.directory, only=("layers.[12].*",)).tensors] == [
        "layers.1.weight",
        "layers.2.weight",
    ]
