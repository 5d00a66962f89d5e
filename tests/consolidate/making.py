"""Small checkpoints for the tests of writing, and their expected tensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from builders.deepspeed import Job, Model, Parameter, expected, save_latest, save_zero3, save_zero12

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "dtype": "bfloat16",
    "model_type": "llama",
    "tie_word_embeddings": False,
    "transformers_version": "5.23.0",
    "vocab_size": 31,
}


def parameter(name: str, *shape: int, seed: int = 0, **options) -> Parameter:
    random = np.random.default_rng([seed, *name.encode()])
    return Parameter(name, np.asarray(random.standard_normal(shape), dtype="<f4").reshape(shape), **options)


def small_model(*, ties: dict[str, str] | None = None) -> Model:
    return Model(
        [
            parameter("model.embed_tokens.weight", 31, 8),
            parameter("model.layers.0.mlp.up_proj.weight", 13, 8),
            parameter("model.layers.0.norm.weight", 8, group=1),
            parameter("model.frozen.weight", 5, 3, frozen=True),
            *([] if ties else [parameter("lm_head.weight", 31, 8)]),
        ],
        {"model.steps": np.array(16777217, dtype="<i8"), "model.mask": np.array([True, False, True])},
        ties or {},
    )


def make_checkpoint(
    run: Path, *, step: int = 8, stage: int = 2, world: int = 3, model: Model | None = None, config: dict | None = None
) -> Path:
    """A `checkpoint-N` as the Trainer leaves it, below `run`."""
    checkpoint = run / f"checkpoint-{step}"
    job = Job(stage=stage, world=world, step=step)
    save = save_zero3 if stage == 3 else save_zero12
    save(checkpoint / f"global_step{step}", model or small_model(), job)
    save_latest(checkpoint, f"global_step{step}")
    if config is not None:
        (checkpoint / "config.json").write_text(json.dumps(config))
    return checkpoint


def wanted(model: Model, *, stage: int = 2, world: int = 3) -> dict[str, np.ndarray]:
    return expected(model, Job(stage=stage, world=world))


def read_tensors(directory: Path) -> dict[str, np.ndarray]:
    """Every tensor of every safetensors file, read without the code under test."""
    kinds = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "BOOL": "?", "I32": "<i4", "F64": "<f8"}
    out: dict[str, np.ndarray] = {}
    for file in sorted(directory.glob("*.safetensors")):
        data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, row in header.items():
            assert name not in out
            begin, end = row["data_offsets"]
            raw = data[8 + length + begin : 8 + length + end]
            out[name] = np.frombuffer(raw, kinds[row["dtype"]]).reshape(row["shape"])
    return out


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        assert found[name].shape == values.shape, name
        assert found[name].tobytes() == values.tobytes(), name


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file below a directory by its relative path; directories end in a slash."""
    return {
        path.relative_to(directory).as_posix() + ("/" if path.is_dir() else ""): b""
        if path.is_dir()
        else path.read_bytes()
        for path in sorted(directory.rglob("*"))
    }
