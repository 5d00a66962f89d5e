"""Large FSDP checkpoints in the true format, written without torch: as accelerate saves a model sharded on four ranks.

Values and shapes are those of :mod:`builders.zero_at_scale`; ``rows`` shards the first dimension of every tensor, as FSDP
does, ``columns`` the second of every matrix, as tensor parallelism does.
"""

from __future__ import annotations

import os.path
import sys

if __name__ == "__main__":  # run as a script: the builders are a package beside it
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from builders.dcp_files import Piece, Whole, metadata_pickle
from builders.torch_files import tensor, write_zip
from builders.zero_at_scale import HIDDEN, INTERMEDIATE, RANKS, VOCABULARY, Values, model_shapes


def pieces(shape: tuple[int, ...], axis: int) -> list[Piece]:
    """Equal parts of one axis, the rest with the first ranks."""
    each = -(-shape[axis] // RANKS)
    parts = []
    for rank in range(RANKS):
        start, end = min(rank * each, shape[axis]), min((rank + 1) * each, shape[axis])
        corner = tuple(start if one == axis else 0 for one in range(len(shape)))
        sizes = tuple(end - start if one == axis else length for one, length in enumerate(shape))
        parts.append(Piece(corner, sizes, rank))
    return parts


def write_checkpoint(directory: Path, way: str, fp32_bytes: int) -> int:
    """A `checkpoint-8` of the given sharding in `directory`; returns the bytes of its float32 weights."""
    shapes = model_shapes(fp32_bytes)
    shards = directory / "checkpoint-8" / "pytorch_model_fsdp_0"
    shards.mkdir(parents=True)
    values = Values()
    starts = np.concatenate([[0], np.cumsum([int(np.prod(shape)) for _, shape in shapes])])
    wholes = {
        f"model.{name}": Whole("F32", shape, pieces(shape, 1 if way == "columns" and len(shape) > 1 else 0))
        for name, shape in shapes
    }
    places: dict[tuple[str, tuple[int, ...] | None], tuple[str, int, int]] = {}
    for rank in range(RANKS):
        with (shards / f"__{rank}_0.distcp").open("wb") as file:
            for (name, whole), start in zip(wholes.items(), starts, strict=False):
                flat: Any = np.concatenate(list(values.master(int(start), int(np.prod(whole.shape)))))
                piece = whole.pieces[rank]
                box = tuple(slice(low, low + size) for low, size in zip(piece.offsets, piece.sizes, strict=True))
                begin = file.tell()
                write_zip(file, tensor("F32", piece.sizes, flat.reshape(whole.shape)[box].tobytes()))
                places[name, piece.offsets] = (f"__{rank}_0.distcp", begin, file.tell() - begin)
    paths: dict[str, tuple[str | int, ...]] = {name: ("model", name.removeprefix("model.")) for name in wholes}
    (shards / ".metadata").write_bytes(metadata_pickle(wholes, {}, places, paths=paths))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "vocab_size": VOCABULARY,
        "intermediate_size": INTERMEDIATE, "num_attention_heads": 16, "num_key_value_heads": 16, "dtype": "float32",
        "num_hidden_layers": (len(shapes) - 3) // 9, "tie_word_embeddings": False, "transformers_version": "5.23.0",
    }  # fmt: skip
    (shards.parent / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return 4 * int(starts[-1])


def main() -> None:
    """Write one checkpoint from the shell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--way", choices=("rows", "columns"), default="rows")
    parser.add_argument("--bytes", type=float, default=1e9, help="bytes of the weights in float32")
    arguments = parser.parse_args()
    print(write_checkpoint(arguments.directory, arguments.way, int(arguments.bytes)))


if __name__ == "__main__":
    main()
