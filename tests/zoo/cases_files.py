"""CKP0xx: files and structure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from builders.torch_files import save_zip, tensor

from zoo.edits import edit_header, join, repack, shard, split
from zoo.frame import case, cut, edit_json, set_json


@case("CKP001", base="resumed", also=("CKP005", "CKP601"))
def only_two_small_files_were_saved(run: Path) -> None:
    place = run / "checkpoint-16"
    for path in place.iterdir():
        if path.name not in ("config.json", "generation_config.json"):
            path.unlink()


@case("CKP002", base="resumed")
def the_checkpoint_was_renamed(run: Path) -> None:
    (run / "checkpoint-12").rename(run / "checkpoint-13")


@case("CKP003", base="resumed")
def the_staging_directory_was_never_renamed(run: Path) -> None:
    (run / "checkpoint-12").rename(run / "tmp-checkpoint-12")


@case("CKP004", base="resumed", also=("CKP601",))
def the_marker_of_a_save_in_progress_is_still_there(run: Path) -> None:
    (run / "checkpoint-16" / "checkpoint-is-incomplete.txt").write_text("")


@case("CKP005", base="resumed", also=("CKP601",))
def the_save_was_killed_before_its_last_file(run: Path) -> None:
    (run / "checkpoint-16" / "trainer_state.json").unlink()


@case("CKP006", base="resumed")
def weights_of_another_format_were_left(run: Path) -> None:
    save_zip(run / "pytorch_model.bin", {"model.norm.weight": tensor("F32", (32,))})


@case("CKP010", base="resumed", also=("CKP602",))
def the_scheduler_is_a_broken_link(run: Path) -> None:
    (run / "checkpoint-16" / "scheduler.pt").unlink()
    (run / "checkpoint-16" / "scheduler.pt").symlink_to("../gone/scheduler.pt")


@case("CKP011", base="resumed", also=("CKP601",))
def the_optimizer_is_empty(run: Path) -> None:
    (run / "checkpoint-16" / "optimizer.pt").write_bytes(b"")


@case("CKP012", base="base-resized")
def the_weights_are_a_pointer(run: Path) -> None:
    (run / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\n"
        "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 160016\n"
    )


@case("CKP013", base="resumed", also=("CKP602",))
def a_web_page_was_saved_as_optimizer(run: Path) -> None:
    page = "<!DOCTYPE html>\n<html><head><title>401 Unauthorized</title></head><body></body></html>\n"
    (run / "checkpoint-16" / "optimizer.pt").write_text(page)


@case("CKP014", base="resumed", also=("CKP601",))
def the_optimizer_is_cut_off_in_a_storage(run: Path) -> None:
    path = run / "checkpoint-16" / "optimizer.pt"
    cut(path, path.stat().st_size // 2)


@case("CKP014", base="resumed", also=("CKP601",))
def the_optimizer_is_cut_off_in_the_directory(run: Path) -> None:
    cut(run / "checkpoint-16" / "optimizer.pt", -60)


@case("CKP014", base="resumed", also=("CKP601",))
def the_optimizer_is_cut_off_in_the_first_header(run: Path) -> None:
    cut(run / "checkpoint-16" / "optimizer.pt", 20)


@case("CKP015", base="resumed", also=("CKP601",))
def the_scheduler_has_its_program_twice(run: Path) -> None:
    repack(run / "checkpoint-16" / "scheduler.pt", {}, {"data.pkl": b"\x80\x02}."})


@case("CKP016", base="resumed")
def the_scheduler_holds_a_foreign_member(run: Path) -> None:
    repack(run / "checkpoint-16" / "scheduler.pt", {}, {"notes.txt": b"made by another tool"})


@case("CKP017", base="resumed", also=("CKP601",))
def a_storage_of_the_optimizer_is_too_short(run: Path) -> None:
    path = run / "checkpoint-16" / "optimizer.pt"
    repack(path, {"data/1": lambda data: data[: len(data) // 2]})


@case("CKP017", base="resumed", also=("CKP601",))
def a_storage_of_the_optimizer_is_missing(run: Path) -> None:
    repack(run / "checkpoint-16" / "optimizer.pt", {"data/1": None})


@case("CKP020", base="base-resized")
def the_download_stopped_in_the_data(run: Path) -> None:
    cut(run / "model.safetensors", -1000)


@case("CKP020", base="base-resized", also=("CKP021",))
def the_download_stopped_in_the_header(run: Path) -> None:
    cut(run / "model.safetensors", 200)


@case("CKP021", base="base-resized")
def a_tensor_has_a_type_that_does_not_exist(run: Path) -> None:
    edit_header(run / "model.safetensors", lambda header: header["model.norm.weight"].update(dtype="F33"))


@case("CKP021", base="base-resized")
def a_tensor_does_not_fit_its_offsets(run: Path) -> None:
    edit_header(run / "model.safetensors", lambda header: header["model.norm.weight"].update(shape=[33]))


@case("CKP022", base="base-resized")
def a_second_file_was_appended(run: Path) -> None:
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"PK\x03\x04 and what follows")


@case("CKP023", base="base-resized")
def a_tensor_is_named_twice(run: Path) -> None:
    path = run / "model.safetensors"
    header, data = split(path)
    entry = json.dumps(header["model.norm.weight"])
    text = json.dumps(header)
    join(path, text[:-1] + f', "model.norm\\u002eweight": {entry}}}', data)


@case("CKP024", base="base-resized")
def an_entry_has_a_field_of_its_own(run: Path) -> None:
    edit_header(run / "model.safetensors", lambda header: header["model.norm.weight"].update(scale=1))


@case("CKP030", base="base-resized")
def a_shard_was_not_downloaded(run: Path) -> None:
    shard(run / "model.safetensors")
    (run / "model-00002-of-00002.safetensors").unlink()


@case("CKP031", base="base-resized")
def a_shard_of_an_earlier_save_was_left(run: Path) -> None:
    shard(run / "model.safetensors")
    shutil.copy(run / "model-00002-of-00002.safetensors", run / "model-00003-of-00003.safetensors")


@case("CKP032", base="base-resized")
def the_index_names_the_wrong_shard(run: Path) -> None:
    shard(run / "model.safetensors")
    place = {"model.norm.weight": "model-00001-of-00002.safetensors"}
    edit_json(run / "model.safetensors.index.json", lambda index: index["weight_map"].update(place))


@case("CKP033", base="base-resized")
def the_index_states_another_size(run: Path) -> None:
    shard(run / "model.safetensors")
    edit_json(run / "model.safetensors.index.json", lambda index: index["metadata"].update(total_size=14_000_000_000))


@case("CKP034", base="base-resized", also=("CKP032",))
def the_map_of_the_index_is_a_list(run: Path) -> None:
    shard(run / "model.safetensors")
    set_json(run / "model.safetensors.index.json", weight_map=[])


@case("CKP040", base="resumed", also=("CKP601",))
def the_trainer_state_ends_in_the_history(run: Path) -> None:
    path = run / "checkpoint-16" / "trainer_state.json"
    cut(path, path.stat().st_size // 2)


@case("CKP041", base="lora-indices")
def a_trailing_comma_was_typed(run: Path) -> None:
    path = run / "adapter_config.json"
    path.write_text(path.read_text().rstrip().removesuffix("}").rstrip() + ",\n}\n")


@case("CKP042", base="base-resized")
def a_key_is_stated_twice(run: Path) -> None:
    path = run / "generation_config.json"
    path.write_text(path.read_text().replace("{", '{\n  "transformers_version": "5.23.0",', 1))


@case("CKP043", base="resumed", also=("CKP224",))
def a_gradient_norm_was_nan(run: Path) -> None:
    edit_json(
        run / "trainer_state.json",
        lambda state: next(entry for entry in state["log_history"] if "grad_norm" in entry).update(
            grad_norm=float("nan")
        ),
    )


@case("CKP044", base="base-resized")
def the_file_was_saved_with_a_byte_order_mark(run: Path) -> None:
    path = run / "generation_config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


@case("CKP045", base="resumed")
def a_number_was_written_as_text(run: Path) -> None:
    set_json(run / "trainer_state.json", logging_steps="one")
