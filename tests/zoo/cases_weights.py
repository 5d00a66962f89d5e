"""CKP1xx: values of weights, read with --deep."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from zoo.edits import join, set_values, split
from zoo.frame import case


@case("CKP101", base="base-resized", deep=True)
def a_weight_is_nan(run: Path) -> None:
    set_values(run / "model.safetensors", "model.norm.weight", struct.pack("<f", float("nan")))


@case("CKP102", base="lora-indices", deep=True)
def the_adapter_was_saved_before_the_first_step(run: Path) -> None:
    path = run / "adapter_model.safetensors"
    header, _ = split(path)
    for name, entry in header.items():
        if ".lora_B" in name:
            begin, end = entry["data_offsets"]
            set_values(path, name, bytes(end - begin))


@case("CKP103", base="base-resized", deep=True)
def a_matrix_never_reached_the_disk(run: Path) -> None:
    path = run / "model.safetensors"
    name = "model.layers.0.mlp.up_proj.weight"
    begin, end = split(path)[0][name]["data_offsets"]
    set_values(path, name, bytes(end - begin))


@case("CKP104", base="resumed", deep=True)
def one_bit_of_the_optimizer_flipped(run: Path) -> None:
    path = run / "checkpoint-16" / "optimizer.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # in the middle of the moments
    path.write_bytes(bytes(data))


@case("CKP105", base="lora-indices", deep=True)
def an_adapter_in_float16_is_about_to_overflow(run: Path) -> None:
    path = run / "adapter_model.safetensors"
    header, data = split(path)
    out: dict[str, object] = {"__metadata__": header.pop("__metadata__", {"format": "pt"})}
    body = b""
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = np.frombuffer(data[begin:end], "<f4").astype("<f2")
        if not body:
            values[0] = 64000
        out[name] = {"dtype": "F16", "shape": entry["shape"], "data_offsets": [len(body), len(body) + values.nbytes]}
        body += values.tobytes()
    join(path, json.dumps(out), body)
