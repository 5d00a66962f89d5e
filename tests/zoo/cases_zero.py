"""CKP40x to 44x: DeepSpeed's shards."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
from builders.deepspeed import Job, Model, Parameter, save_latest, save_zero12

from zoo.edits import change_pickle, repack, replaced
from zoo.frame import case, cut

TAG = Path("checkpoint-4/global_step4")
MODEL = "mp_rank_00_model_states.pt"
OPTIMIZER = "bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt"
MASTERS = ("data/6", "data/7")  # of both groups, behind their moments


def small(*, frozen: bool = False, ties: dict[str, str] | None = None) -> Model:
    """Three parameters; the first may be frozen."""
    values = np.arange(60, dtype="<f4").reshape(6, 10) / 64
    return Model(
        [
            Parameter("emb.weight", values, frozen),
            Parameter("up.weight", values + 1),
            Parameter("norm.bias", values[0]),
        ],
        ties=ties or {},
    )


def save(run: Path, model: Model, job: Job) -> None:
    """A checkpoint of a training loop that calls DeepSpeed itself."""
    save_zero12(run / "global_step8", model, job)
    save_latest(run, "global_step8")


@case("CKP401", base="zero2", also=("CKP601",))
def two_tags_and_no_latest(run: Path) -> None:
    shutil.copytree(run / TAG, run / "checkpoint-4" / "global_step3")
    (run / "checkpoint-4" / "latest").unlink()


@case("CKP402", base="zero2", also=("CKP601",))
def latest_is_empty(run: Path) -> None:
    (run / "checkpoint-4" / "latest").write_text("")


@case("CKP403", base="zero2", also=("CKP601",))
def latest_names_a_tag_that_was_rotated_away(run: Path) -> None:
    (run / "checkpoint-4" / "latest").write_text("global_step900")


@case("CKP404", base="zero2", also=("CKP408",))
def a_newer_tag_was_never_published(run: Path) -> None:
    shutil.copytree(run / TAG, run / "checkpoint-4" / "global_step9")


@case("CKP406", base="zero2")
def the_engine_skipped_a_step(run: Path) -> None:
    place = run / TAG
    change_pickle(place / MODEL, b"global_stepsr\x8b\x01\x00\x00K\x04", b"global_stepsr\x8b\x01\x00\x00K\x05")
    change_pickle(place / MODEL, b"skipped_stepsr\x8a\x01\x00\x00K\x00", b"skipped_stepsr\x8a\x01\x00\x00K\x01")
    place.rename(place.with_name("global_step5"))
    save_latest(place.parent, "global_step5")


@case("CKP408", base="zero2")
def an_older_tag_was_left(run: Path) -> None:
    shutil.copytree(run / TAG, run / "checkpoint-4" / "global_step3")


@case("CKP410", base="zero2", also=("CKP601",))
def a_rank_was_not_copied(run: Path) -> None:
    (run / TAG / OPTIMIZER.format(1)).unlink()


@case("CKP410", base="zero3", also=("CKP601",))
def a_rank_of_stage_3_was_not_copied(run: Path) -> None:
    (run / TAG / OPTIMIZER.format(0)).unlink()


@case("CKP410", base="zero2")
def the_model_file_was_not_copied(run: Path) -> None:
    (run / TAG / MODEL).unlink()


@case("CKP411", base="zero2")
def a_larger_job_left_its_shards(run: Path) -> None:
    for rank in (2, 3):
        shutil.copy(run / TAG / OPTIMIZER.format(0), run / TAG / OPTIMIZER.format(rank))


@case("CKP412", base="zero3")
def a_rank_is_of_a_larger_job(run: Path) -> None:
    change_pickle(run / TAG / OPTIMIZER.format(1), b"partition_countq\x0fK\x02", b"partition_countq\x0fK\x04")


@case("CKP412", base="zero2")
def shards_of_another_precision_lie_beside(run: Path) -> None:
    name = OPTIMIZER.format(0)
    shutil.copy(run / TAG / name, run / TAG / name.removeprefix("bf16_"))


@case("CKP415", base="zero2")
def there_is_a_file_of_an_expert(run: Path) -> None:
    shutil.copy(run / TAG / MODEL, run / TAG / "layer_0_expert_0_mp_rank_00_model_states.pt")


@case("CKP415", base="zero2")
def there_is_a_layer_of_a_pipeline(run: Path) -> None:
    shutil.copy(run / TAG / MODEL, run / TAG / "layer_00-model_states.pt")


@case("CKP420", base="zero2")
def a_shard_is_cut_off_in_a_storage(run: Path) -> None:
    path = run / TAG / OPTIMIZER.format(1)
    cut(path, path.stat().st_size * 9 // 10)


@case("CKP420", base="zero2", also=("CKP425",))
def a_shard_is_cut_off_in_its_program(run: Path) -> None:
    cut(run / TAG / OPTIMIZER.format(1), 1000)


@case("CKP420", base="zero2", also=("CKP013", "CKP601"))
def the_model_file_is_of_another_kind(run: Path) -> None:
    (run / TAG / MODEL).write_bytes(b"not torch at all" * 100)


@case("CKP425", base="zero2", also=("CKP420",))
def a_shard_is_of_a_smaller_save(run: Path) -> None:
    repack(run / TAG / OPTIMIZER.format(1), {"data/1": lambda data: data[:64], "data/2": lambda data: data[:64]})


@case("CKP426", base="zero3", deep=True, also=("CKP438",))
def a_shard_of_stage_3_is_a_hole(run: Path) -> None:
    path = run / TAG / OPTIMIZER.format(1)
    repack(path, dict.fromkeys(MASTERS, lambda data: bytes(len(data))))


@case("CKP426", base="zero3", deep=True, also=("CKP438",))
def a_master_weight_is_infinite(run: Path) -> None:
    path = run / TAG / OPTIMIZER.format(0)
    infinite = np.float32(np.inf).tobytes()
    repack(path, dict.fromkeys(MASTERS, lambda data: infinite + data[4:]))


@case("CKP427", base="zero2")
def a_rank_is_of_another_stage(run: Path) -> None:
    change_pickle(run / TAG / OPTIMIZER.format(1), b"ZeroStageEnum\nqeK\x02", b"ZeroStageEnum\nqeK\x01")


@case("CKP428", base="zero2")
def a_rank_ran_another_version(run: Path) -> None:
    change_pickle(run / TAG / OPTIMIZER.format(1), b"0.19.8", b"0.18.8")


@case("CKP431", base="zero2")
def the_shapes_want_more_than_was_saved(run: Path) -> None:
    other = small()
    other.parameters[0] = Parameter("emb.weight", np.zeros((60, 10), "<f4"))
    place = run / TAG
    save_zero12(run / "other", other, Job(world=2, step=4))
    save_zero12(place, small(), Job(world=2, step=4))
    shutil.move(run / "other" / MODEL, place / MODEL)
    shutil.rmtree(run / "other")


@case("CKP434", base=None)
def round_robin_recorded_wrong_addresses(run: Path) -> None:
    save(run, small(), Job(world=2, round_robin=True))


@case("CKP437", base=None)
def the_masters_are_bfloat16(run: Path) -> None:
    save(run, small(), Job(world=2, master="BF16"))


@case("CKP438", base="zero2", deep=True)
def a_shard_is_of_another_step(run: Path) -> None:
    repack(run / TAG / OPTIMIZER.format(1), dict.fromkeys(MASTERS, doubled))


@case("CKP438", base="zero3", deep=True)
def a_shard_of_stage_3_is_of_another_step(run: Path) -> None:
    repack(run / TAG / OPTIMIZER.format(1), dict.fromkeys(MASTERS, doubled))


def doubled(data: bytes) -> bytes:
    """Every number doubled."""
    return bytes((np.frombuffer(data, "<f4") * 2).tobytes())


@case("CKP439", base="zero2")
def a_rank_is_one_step_behind(run: Path) -> None:
    behind = replaced(struct.pack("<f", 4), struct.pack("<f", 3))
    repack(run / TAG / OPTIMIZER.format(1), {"data/0": behind, "data/3": behind})


@case("CKP440", base=None)
def stage_1_did_not_record_the_frozen(run: Path) -> None:
    save(run, small(frozen=True), Job(stage=1, world=2))


@case("CKP441", base=None)
def the_owner_of_a_tie_was_frozen_and_left_out(run: Path) -> None:
    save(run, small(frozen=True, ties={"head.weight": "emb.weight"}), Job(world=2, exclude_frozen=True))
