"""Large DeepSpeed ZeRO checkpoints in the true file format, written without torch.

The container is `torch.save`'s zip (``torch/serialization.py`` 2.13: stored members, data aligned to 64 bytes, real CRCs); the
keys are those of DeepSpeed 0.19.8 (``runtime/engine.py`` `_common_checkpoint_state`, ``stage_1_and_2.py`` `state_dict`,
``stage3.py`` `_rigid_state_dict`). Adam moments are there, as in a real checkpoint, because readers must step over them.
"""

from __future__ import annotations

import argparse
import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RANKS = 4
HIDDEN, INTERMEDIATE, VOCABULARY = 1024, 2816, 22_016
ALIGNMENT = 64


@dataclass(frozen=True)
class Global:
    """A name the pickle imports."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """`function(*arguments)` as REDUCE."""

    function: Global
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class Storage:
    """A storage by key; its bytes are a member of the archive."""

    kind: str
    key: str
    elements: int


class PickleWriter:
    """Protocol 2 pickles of plain values, globals, calls and storages."""

    def __init__(self) -> None:
        self._out: list[bytes] = [b"\x80\x02"]

    def dump(self, value: Any) -> bytes:
        """The pickle of `value`."""
        self._write(value)
        self._out.append(b".")
        return b"".join(self._out)

    def _write(self, value: Any) -> None:
        out = self._out
        if value is None:
            out.append(b"N")
        elif value is True or value is False:
            out.append(b"\x88" if value else b"\x89")
        elif isinstance(value, int):
            out.append(b"J" + struct.pack("<i", value) if -(2**31) <= value < 2**31 else self._long(value))
        elif isinstance(value, float):
            out.append(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            data = value.encode()
            out.append(b"X" + struct.pack("<I", len(data)) + data)
        elif isinstance(value, Global):
            out.append(f"c{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Call):
            self._write(value.function)
            self._write(value.arguments)
            out.append(b"R")
            if value.state is not None:
                self._write(value.state)
                out.append(b"b")
        elif isinstance(value, Storage):
            self._write(("storage", Global("torch", value.kind), value.key, "cpu", value.elements))
            out.append(b"Q")
        elif isinstance(value, tuple):
            self._sequence(b"(", value, b"t")
        elif isinstance(value, list):
            self._sequence(b"](", value, b"e")
        elif isinstance(value, dict):
            out.append(b"}(")
            self._pairs(value)
        else:
            raise TypeError(type(value))

    def _sequence(self, start: bytes, values: Sequence[Any], end: bytes) -> None:
        self._out.append(start)
        for value in values:
            self._write(value)
        self._out.append(end)

    def _pairs(self, value: dict[Any, Any]) -> None:
        for key, item in value.items():
            self._write(key)
            self._write(item)
        self._out.append(b"u")

    @staticmethod
    def _long(value: int) -> bytes:
        data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data


def ordered(pairs: Sequence[tuple[str, Any]]) -> Call:
    """An OrderedDict."""
    return Call(Global("collections", "OrderedDict"), ([(key, value) for key, value in pairs],))


def tensor(storage: Storage, offset: int, shape: Sequence[int]) -> Call:
    """A contiguous view of a storage."""
    stride, strides = 1, []
    for size in reversed(shape):
        strides.append(stride)
        stride *= size
    arguments = (storage, offset, tuple(shape), tuple(reversed(strides)), False, ordered(()))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)


def size(shape: Sequence[int]) -> Call:
    """A torch.Size."""
    return Call(Global("torch", "Size"), (tuple(shape),))


def write_archive(path: Path, value: Any, storages: Sequence[tuple[str, Iterator[Any]]]) -> None:
    """`torch.save(value, path)`: every storage is a key and an iterator of buffers."""
    root = path.name.removesuffix(".pt")
    directory: list[bytes] = []
    with path.open("wb") as file:

        def member(name: str, parts: Iterator[Any]) -> None:
            encoded = f"{root}/{name}".encode()
            start = file.tell()
            pad = -(start + 30 + len(encoded) + 4) % ALIGNMENT
            extra = b"FB" + struct.pack("<H", pad) + b"Z" * pad
            head = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 0, 0x808, 0, 0, 0, 0, 0, 0, len(encoded), len(extra))
            file.write(head + encoded + extra)
            begin, crc = file.tell(), 0
            for part in parts:
                crc = zlib.crc32(part, crc)
                file.write(part)
            length = file.tell() - begin
            wide = length >= 2**32 - 1
            file.write(struct.pack("<4sI" + ("QQ" if wide else "II"), b"PK\x07\x08", crc, length, length))
            cap = 0xFFFFFFFF
            record = [field for field in (length, length, start) if field >= cap]
            zip64 = struct.pack(f"<HH{len(record)}Q", 1, 8 * len(record), *record) if wide or start >= cap else b""
            directory.append(
                struct.pack(
                    "<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 0, 0, 0x808, 0, 0, 0, crc, min(length, cap), min(length, cap),
                    len(encoded), len(zip64), 0, 0, 0, 0, min(start, cap),
                ) + encoded + zip64
            )  # fmt: skip

        member("data.pkl", iter([PickleWriter().dump(value)]))
        member(".format_version", iter([b"1"]))
        member(".storage_alignment", iter([b"64"]))
        member("byteorder", iter([b"little"]))
        for key, parts in storages:
            member(f"data/{key}", parts)
        member("version", iter([b"3\n"]))
        member(".data/serialization_id", iter([b"0" * 40]))
        begin = file.tell()
        file.write(b"".join(directory))
        length = file.tell() - begin
        end = file.tell()
        file.write(
            struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 0, 45, 0, 0, len(directory), len(directory), length, begin)
        )
        file.write(struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1))
        file.write(
            struct.pack(
                "<4sHHHHIIH", b"PK\x05\x06", 0, 0, min(len(directory), 0xFFFF), min(len(directory), 0xFFFF),
                length, min(begin, 0xFFFFFFFF), 0,
            )
        )  # fmt: skip


def layer_shapes(index: int) -> list[tuple[str, tuple[int, ...]]]:
    """The matrices of one Llama-like layer."""
    prefix = f"model.layers.{index}."
    square, wide = (HIDDEN, HIDDEN), (INTERMEDIATE, HIDDEN)
    return [
        *((f"{prefix}self_attn.{name}_proj.weight", square) for name in "qkvo"),
        (f"{prefix}mlp.gate_proj.weight", wide),
        (f"{prefix}mlp.up_proj.weight", wide),
        (f"{prefix}mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)),
        (f"{prefix}input_layernorm.weight", (HIDDEN,)),
        (f"{prefix}post_attention_layernorm.weight", (HIDDEN,)),
    ]


def model_shapes(fp32_bytes: int) -> list[tuple[str, tuple[int, ...]]]:
    """Parameters of a Llama-like model of about `fp32_bytes`, in module order."""
    ends = [("model.embed_tokens.weight", (VOCABULARY, HIDDEN))]
    tail = [("model.norm.weight", (HIDDEN,)), ("lm_head.weight", (VOCABULARY, HIDDEN))]
    per_layer = sum(int(np.prod(shape)) for _, shape in layer_shapes(0))
    fixed = sum(int(np.prod(shape)) for _, shape in [*ends, *tail])
    layers = max(1, round((fp32_bytes / 4 - fixed) / per_layer))
    return [*ends, *(pair for index in range(layers) for pair in layer_shapes(index)), *tail]


class Values:
    """Master weights as if from training, produced again on every read so that no run holds them in memory."""

    block = 1 << 22

    def __init__(self) -> None:
        self._noise = np.random.default_rng(7).standard_normal(self.block, dtype=np.float32) * np.float32(0.02)

    def master(self, start: int, count: int) -> Iterator[np.ndarray[Any, Any]]:
        """Elements `[start, start + count)` of the flat model in float32."""
        position = start
        while position < start + count:
            inside = position % self.block
            taken = min(self.block - inside, start + count - position)
            yield self._noise[inside : inside + taken] * np.float32(1 + position // self.block)
            position += taken

    def half(self, start: int, count: int) -> Iterator[np.ndarray[Any, Any]]:
        """The same elements as bfloat16 bits, rounded to nearest even."""
        for part in self.master(start, count):
            bits = part.view(np.uint32)
            yield ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")


def zeros(count: int) -> Iterator[bytes]:
    """Float32 zeros."""
    block = bytes(1 << 24)
    left = count * 4
    while left > 0:
        yield block[: min(left, len(block))]
        left -= len(block)


def common_state(shapes: Sequence[tuple[str, tuple[int, ...]]], module: Any, stage: int) -> dict[str, Any]:
    """The model file's keys."""
    groups = [ordered([(name, size(shape)) for name, shape in shapes])]
    return {
        "module": module, "buffer_names": [], "optimizer": None, "param_shapes": groups, "frozen_param_shapes": None,
        "shared_params": {}, "frozen_param_fragments": None, "lr_scheduler": None, "data_sampler": None,
        "random_ltd": None, "skipped_steps": 0, "global_steps": 8, "global_samples": 64, "dp_world_size": RANKS,
        "mp_world_size": 1, "ds_config": {"bf16": {"enabled": True}, "zero_optimization": {"stage": stage}},
        "ds_version": "0.19.8",
    }  # fmt: skip


def moments(count: int, keys: tuple[str, str]) -> dict[str, Any]:
    """Adam's state of one flat group."""
    return {
        "step": 8,
        "exp_avg": tensor(Storage("FloatStorage", keys[0], count), 0, (count,)),
        "exp_avg_sq": tensor(Storage("FloatStorage", keys[1], count), 0, (count,)),
    }


GROUP = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "params": [0]}


def write_stage2(tag: Path, shapes: Sequence[tuple[str, tuple[int, ...]]], values: Values) -> None:
    """Flat partitions, padded to 2 x ranks; the padding is trimmed from what is saved."""
    total = sum(int(np.prod(shape)) for _, shape in shapes)
    padded = -(-total // (2 * RANKS)) * 2 * RANKS
    flat = Storage("BFloat16Storage", "0", total)
    views, offset = [], 0
    for name, shape in shapes:
        views.append((name, tensor(flat, offset, shape)))
        offset += int(np.prod(shape))
    state = common_state(shapes, ordered(views), 2)
    write_archive(tag / "mp_rank_00_model_states.pt", state, [("0", values.half(0, total))])
    part = padded // RANKS
    for rank in range(RANKS):
        begin = rank * part
        saved = max(0, min(part, total - begin))
        optimizer = {
            "loss_scaler": None, "dynamic_loss_scale": False, "overflow": False, "clip_grad": 1.0,
            "base_optimizer_state": {"state": {0: moments(part, ("1", "2"))}, "param_groups": [GROUP]},
            "single_partition_of_fp32_groups": [tensor(Storage("FloatStorage", "0", saved), 0, (saved,))],
            "zero_stage": 2, "group_paddings": [part - saved], "partition_count": [RANKS], "ds_version": "0.19.8",
        }  # fmt: skip
        write_archive(
            tag / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
            {"optimizer_state_dict": optimizer, "ds_config": state["ds_config"], "ds_version": "0.19.8"},
            [("0", values.master(begin, saved)), ("1", zeros(part)), ("2", zeros(part))],
        )


def write_stage3(tag: Path, shapes: Sequence[tuple[str, tuple[int, ...]]], values: Values) -> None:
    """Every parameter cut in ceil(n / ranks) elements; the last ranks carry padding."""
    counts = [int(np.prod(shape)) for _, shape in shapes]
    starts = np.concatenate([[0], np.cumsum(counts)])
    parts = [-(-count // RANKS) for count in counts]
    held = sum(parts)
    empty = tensor(Storage("BFloat16Storage", "0", 0), 0, (0,))
    for rank in range(RANKS):
        state = common_state(shapes, ordered([(name, empty) for name, _ in shapes]), 3)
        write_archive(tag / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt", state, [("0", iter(()))])

        def master(rank: int = rank) -> Iterator[Any]:
            for index, count in enumerate(counts):
                begin = rank * parts[index]
                mine = max(0, min(parts[index], count - begin))
                yield from values.master(int(starts[index]) + begin, mine)
                if mine < parts[index]:
                    yield from zeros(parts[index] - mine)

        flat = Call(
            Global("torch._tensor", "_rebuild_from_type_v2"),
            (
                Global("torch._utils", "_rebuild_tensor_v2"), Global("torch", "Tensor"),
                tensor(Storage("FloatStorage", "0", held), 0, (held,)).arguments, {"ds_id": f"0_{len(shapes) - 1}"},
            ),
        )  # fmt: skip
        optimizer = {
            "zero_stage": 3, "loss_scaler": None, "dynamic_loss_scale": False, "overflow": False,
            "partition_count": RANKS, "fp32_flat_groups": [flat],
            "optimizer_state_dict": {"state": {0: moments(held, ("1", "2"))}, "param_groups": [GROUP]},
        }  # fmt: skip
        write_archive(
            tag / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
            {"optimizer_state_dict": optimizer, "ds_config": state["ds_config"], "ds_version": "0.19.8"},
            [("0", master()), ("1", zeros(held)), ("2", zeros(held))],
        )


def write_checkpoint(directory: Path, stage: int, fp32_bytes: int) -> int:
    """A `checkpoint-8` of the given ZeRO stage in `directory`; returns the bytes of its float32 weights."""
    shapes = model_shapes(fp32_bytes)
    tag = directory / "checkpoint-8" / "global_step8"
    tag.mkdir(parents=True)
    (tag.parent / "latest").write_text("global_step8")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "vocab_size": VOCABULARY,
        "intermediate_size": INTERMEDIATE, "num_attention_heads": 16, "num_key_value_heads": 16, "dtype": "bfloat16",
        "num_hidden_layers": (len(shapes) - 3) // 9, "tie_word_embeddings": False, "transformers_version": "5.23.0",
    }  # fmt: skip
    (tag.parent / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (write_stage2 if stage == 2 else write_stage3)(tag, shapes, Values())
    return 4 * sum(int(np.prod(shape)) for _, shape in shapes)


def main() -> None:
    """Write one checkpoint from the shell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--stage", type=int, choices=(2, 3), default=2)
    parser.add_argument("--bytes", type=float, default=1e9, help="bytes of the weights in float32")
    arguments = parser.parse_args()
    print(write_checkpoint(arguments.directory, arguments.stage, int(arguments.bytes)))


if __name__ == "__main__":
    main()
