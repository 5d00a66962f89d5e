"""CKP45x and 46x: FSDP, torch distributed and universal checkpoints, in their true format from the builders."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from builders.dcp_files import Piece, Whole, metadata_pickle, rows, save_dcp
from builders.deepspeed import Job, Model, Parameter, save_universal
from builders.pickles import Called, Name, dump

from zoo.frame import case, cut

DATA = np.arange(96, dtype="<f4").tobytes()


def fsdp(run: Path) -> Path:
    """A checkpoint of accelerate's FSDP on two ranks; returns the model's part."""
    for part, prefix in (("pytorch_model_fsdp_0", "model"), ("optimizer_0", "optimizer")):
        save_dcp(run / part, {f"{prefix}.w": rows("F32", (8, 12), DATA, 2)})
    return run / "pytorch_model_fsdp_0"


def universal(run: Path) -> Path:
    """A converted checkpoint; returns the directory of its parameters."""
    model = Model([Parameter("up.weight", np.ones((4, 6), "<f4")), Parameter("norm.bias", np.ones(6, "<f4"))])
    save_universal(run / "global_step8_universal", model, Job(world=2))
    for path in (run / "global_step8_universal" / "zero").glob("*/exp_avg.pt"):
        shutil.copy(path, path.with_name("exp_avg_sq.pt"))
    (run / "latest_universal").write_text("global_step8_universal")
    return run / "global_step8_universal" / "zero"


@case("CKP450", base=None)
def the_hidden_file_was_not_copied(run: Path) -> None:
    (fsdp(run) / ".metadata").unlink()


@case("CKP450", base=None, also=("CKP704",))
def the_metadata_was_never_renamed(run: Path) -> None:
    (fsdp(run) / ".metadata").rename(run / "pytorch_model_fsdp_0" / ".metadata.tmp")


@case("CKP451", base=None)
def the_metadata_is_of_another_class(run: Path) -> None:
    (fsdp(run) / ".metadata").write_bytes(dump({"model.w": Name("torch", "float32")}, 4))


@case("CKP452", base=None)
def a_block_of_rows_is_missing(run: Path) -> None:
    fsdp(run)
    save_dcp(
        run / "pytorch_model_fsdp_0",
        {"model.w": Whole("F32", (8, 12), [Piece((0, 0), (4, 12)), Piece((6, 0), (2, 12), 1)])},
    )


@case("CKP453", base=None, also=("CKP455",))
def a_rank_was_not_copied(run: Path) -> None:
    (fsdp(run) / "__1_0.distcp").unlink()


@case("CKP453", base=None)
def a_file_of_another_save_has_the_right_length(run: Path) -> None:
    file = fsdp(run) / "__1_0.distcp"
    other = run.parent / "other"
    save_dcp(other, {"model.w": rows("F32", (12, 8), DATA, 2)})
    file.write_bytes((other / file.name).read_bytes().ljust(file.stat().st_size, b"\0"))


@case("CKP453", base=None)
def a_file_is_a_hole(run: Path) -> None:
    file = fsdp(run) / "__0_0.distcp"
    file.write_bytes(bytes(file.stat().st_size))


@case("CKP450", base=None, also=("CKP704",))
def a_later_save_was_interrupted(run: Path) -> None:
    shutil.copy(fsdp(run) / ".metadata", run / "pytorch_model_fsdp_0" / ".metadata.tmp")


@case("CKP452", base=None)
def two_ranks_hold_the_same_rows(run: Path) -> None:
    pieces = [Piece((0, 0), (5, 12)), Piece((4, 0), (4, 12), 1)]
    save_dcp(fsdp(run), {"model.w": Whole("F32", (8, 12), pieces)})


@case("CKP501", base=None)
def the_metadata_calls_a_function(run: Path) -> None:
    parts = {"model.w": rows("F32", (8, 12), DATA, 2)}
    saved = save_dcp(fsdp(run), parts)
    extra = {"hook": Called(Name("os", "system"), ("true",))}
    (run / "pytorch_model_fsdp_0" / ".metadata").write_bytes(metadata_pickle(parts, {}, saved.places, extra=extra))


@case("CKP454", base=None)
def a_file_is_cut_off(run: Path) -> None:
    cut(fsdp(run) / "__1_0.distcp", 200)


@case("CKP455", base=None, also=("CKP001",))
def only_the_optimizer_was_copied(run: Path) -> None:
    shutil.rmtree(fsdp(run))


@case("CKP460", base=None)
def the_weights_of_a_parameter_are_missing(run: Path) -> None:
    (universal(run) / "up.weight" / "fp32.pt").unlink()


@case("CKP461", base=None)
def the_fragments_are_still_there(run: Path) -> None:
    place = universal(run).parent / "tmp" / "up.weight" / "0"
    place.mkdir(parents=True)
    shutil.copy(universal(run) / "up.weight" / "fp32.pt", place / "fp32.0")
