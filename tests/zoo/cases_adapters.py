"""CKP3xx: adapters and new tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from builders.torch_files import save_zip, tensor

from zoo.edits import join, split
from zoo.frame import FIXTURES, case, edit_json, set_json

WEIGHTS = "adapter_model.safetensors"


def config(run: Path, **values: Any) -> None:
    set_json(run / "adapter_config.json", **values)


def tensors(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    header, data = split(path)
    header.pop("__metadata__", None)
    return {name: (row["dtype"], row["shape"], data[slice(*row["data_offsets"])]) for name, row in header.items()}


def write(path: Path, content: dict[str, tuple[str, list[int], bytes]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, (dtype, shape, data) in content.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    join(path, json.dumps(header), body)


def change(run: Path, edit: Any) -> None:
    content = tensors(run / WEIGHTS)
    changed = edit(content)
    write(run / WEIGHTS, content if changed is None else changed)


def alone(run: Path) -> None:
    """Leave only the adapter of the root."""
    for path in run.iterdir():
        if path.is_dir():
            shutil.rmtree(path)


@case("CKP301", base="lora-indices")
def only_the_configuration_was_saved(run: Path) -> None:
    (run / WEIGHTS).unlink()


@case("CKP302", base="lora-indices")
def the_type_is_unknown(run: Path) -> None:
    config(run, peft_type="NEWVARIANT")


@case("CKP303", base="lora-indices")
def a_newer_peft_wrote_it(run: Path) -> None:
    config(run, use_newvariant=True)


@case("CKP304", base="lora-indices")
def an_empty_state_dict_was_saved(run: Path) -> None:
    write(run / WEIGHTS, {})


@case("CKP305", base="lora-indices")
def a_shard_was_saved_ungathered(run: Path) -> None:
    change(
        run, lambda all_: {name: (d, [0], b"") if "lora_" in name else (d, s, b) for name, (d, s, b) in all_.items()}
    )


@case("CKP306", base="lora-indices")
def half_of_a_pair_is_missing(run: Path) -> None:
    change(
        run,
        lambda all_: {name: value for name, value in all_.items() if "layers.0.self_attn.q_proj.lora_B" not in name},
    )


@case("CKP307", base="lora-indices")
def the_rank_was_edited(run: Path) -> None:
    config(run, r=16)


@case("CKP308", base="lora-indices")
def a_target_has_no_tensors(run: Path) -> None:
    edit_json(run / "adapter_config.json", lambda value: value["target_modules"].append("o_proj"))


@case("CKP309", base="lora-indices")
def trained_modules_are_not_targeted(run: Path) -> None:
    config(run, target_modules=["q_proj"])


@case("CKP310", base="lora-indices")
def a_layer_is_missing(run: Path) -> None:
    change(run, lambda all_: {name.replace("layers.1.", "layers.2."): value for name, value in all_.items()})


@case("CKP311", base="lora-indices")
def a_raw_state_dict_was_saved(run: Path) -> None:
    change(
        run,
        lambda all_: {
            name.replace(".weight", ".default.weight") if "lora_" in name else name: v for name, v in all_.items()
        },
    )


@case("CKP312", base="lora-indices")
def dora_has_no_magnitudes(run: Path) -> None:
    config(run, use_dora=True)


@case("CKP313", base="lora-indices")
def pissa_changed_the_base(run: Path) -> None:
    config(run, init_lora_weights="pissa")


@case("CKP314", base="lora-indices")
def the_base_is_a_path_of_the_training_machine(run: Path) -> None:
    config(run, base_model_name_or_path="/data/models/base-indices")


@case("CKP316", base="lora-indices")
def the_configuration_was_saved_apart(run: Path) -> None:
    config(run, inference_mode=False)


@case("CKP317", base="lora-indices")
def alpha_was_meant_for_another_rank(run: Path) -> None:
    config(run, lora_alpha=256)


@case("CKP320", base="lora-indices", also=("CKP507",))
def the_configuration_names_a_module_to_import(run: Path) -> None:
    config(run, task_type=None, auto_mapping={"base_model_class": "x", "parent_library": "os"})


@case("CKP322", base="lora-indices")
def the_adapter_is_a_pickle(run: Path) -> None:
    content = {name: tensor(dtype, tuple(shape), data) for name, (dtype, shape, data) in tensors(run / WEIGHTS).items()}
    save_zip(run / "adapter_model.bin", content)
    (run / WEIGHTS).unlink()


@case("CKP324", base="lora-indices")
def the_classifier_was_not_saved(run: Path) -> None:
    config(run, task_type="SEQ_CLS", modules_to_save=["classifier", "score"])


EMBED, HEAD = "base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"


def shorten(name: str, rows: int) -> Any:
    def edit(all_: dict[str, Any]) -> None:
        dtype, shape, data = all_[name]
        all_[name] = (dtype, [rows, shape[1]], data[: rows * shape[1] * 4])

    return edit


@case("CKP341", base="lora-resized", model="base-resized", also=("CKP346",))
def the_saved_embedding_is_too_short(run: Path) -> None:
    change(run, shorten(EMBED, 321))


@case("CKP342", base="lora-indices", model="base-indices")
def the_tokens_sit_in_padding_rows(run: Path) -> None:
    config(run, trainable_token_indices=None)
    change(run, lambda all_: {name: value for name, value in all_.items() if "token_adapter" not in name})


@case("CKP343", base="llamafactory")
def the_embeddings_are_a_frozen_copy(run: Path) -> None:
    config(run, modules_to_save=None)
    keep = (EMBED, HEAD)
    change(run, lambda all_: {n: v for n, v in all_.items() if "lora_" in n or n in keep})


@case("CKP344", base="lora-resized", model="base-resized")
def the_new_rows_were_not_saved(run: Path) -> None:
    change(run, lambda all_: {name: value for name, value in all_.items() if "lora_" in name})


@case("CKP345", base="lora-indices", model="base-indices")
def only_the_input_side_was_trained(run: Path) -> None:
    edit_json(run / "adapter_config.json", lambda value: value["trainable_token_indices"].pop("lm_head") and None)
    change(run, lambda all_: {name: value for name, value in all_.items() if "lm_head" not in name})


@case("CKP346", base="lora-resized", model="base-resized")
def only_one_embedding_was_resized(run: Path) -> None:
    def edit(all_: dict[str, Any]) -> None:
        dtype, shape, data = all_[HEAD]
        row = data[: shape[1] * 4]
        all_[HEAD] = (dtype, [shape[0] + 1, shape[1]], data + row)

    change(run, edit)


@case("CKP347", base="lora-indices", model="base-indices", also=("CKP345",))
def a_row_of_the_trained_tokens_is_missing(run: Path) -> None:
    def edit(all_: dict[str, Any]) -> None:
        name = next(name for name in all_ if "embed_tokens" in name)
        dtype, shape, data = all_[name]
        all_[name] = (dtype, [2, shape[1]], data[: 2 * shape[1] * 4])

    change(run, edit)


@case("CKP348", base="lora-resized", model="base-resized")
def each_embedding_was_saved_three_times(run: Path) -> None:
    config(run, modules_to_save=["embed_tokens", "lm_head"])

    def edit(all_: dict[str, Any]) -> None:
        for name in (EMBED, HEAD):
            for infix in ("modules_to_save", "original_module"):
                all_[name.replace(".weight", f".{infix}.weight")] = all_[name]

    change(run, edit)


@case("CKP349", base="lora-resized")
def tied_embeddings_were_trained_apart(run: Path) -> None:
    base = run.parent / "base-resized"
    shutil.copytree(FIXTURES / "base-resized", base)
    set_json(base / "config.json", tie_word_embeddings=True)
    config(run, modules_to_save=["embed_tokens", "lm_head"], base_model_name_or_path="base-resized")
