"""What torch, transformers, peft and safetensors say about a run: run by a Python that has them.

    python tests/oracle/library_facts.py RUNS_DIRECTORY > tests/report/library_facts.json

Loads the pickles of the runs it is pointed at, so it is only for runs that are trusted.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from safetensors import safe_open
from transformers import AutoTokenizer
from transformers.trainer_callback import TrainerState

warnings.filterwarnings("ignore")


class _Stand:
    """Stands for a class that is not installed here (LLaMA-Factory's arguments, classes of older releases)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return _Stand


class _Pickle:
    Unpickler = _Unpickler
    __name__ = "stand_in_pickle"
    load, loads, dump = pickle.load, pickle.loads, pickle.dump


def load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_Pickle)


def trainer(directory: Path) -> dict[str, Any] | None:
    path = directory / "trainer_state.json"
    if not path.exists():
        return None
    try:
        state = TrainerState.load_from_json(str(path))
    except TypeError:  # a field of another release
        known = json.loads(path.read_text())
        state = TrainerState(**{key: known[key] for key in known if key in TrainerState.__dataclass_fields__})
    losses = [(entry["step"], entry["loss"]) for entry in state.log_history if "loss" in entry]
    best = state.best_model_checkpoint
    return {
        "global_step": state.global_step,
        "max_steps": state.max_steps,
        "epoch": state.epoch,
        "best_metric": state.best_metric,
        "best_checkpoint": best.rstrip("/").rpartition("/")[2] if best else None,
        "first_loss": losses[0] if losses else None,
        "final_loss": losses[-1] if losses else None,
        # the Trainer logs a NaN as exactly 0.0 (logging_nan_inf_filter): no loss of these runs is
        "minimum_loss": min((value for _, value in losses if value != 0), default=None),
    }


def arguments(directory: Path) -> dict[str, Any] | None:
    path = directory / "training_args.bin"
    if not path.exists():
        return None
    args = load(path)
    state = args.__dict__.get("distributed_state")
    return {
        "world_size": state.__dict__.get("num_processes") if state is not None else None,
        "per_device": args.__dict__.get("per_device_train_batch_size"),
        "gradient_accumulation": args.__dict__.get("gradient_accumulation_steps"),
        "learning_rate": args.__dict__.get("learning_rate"),
        "seed": args.__dict__.get("seed"),
    }


def adapter(directory: Path) -> dict[str, Any] | None:
    if not (directory / "adapter_config.json").exists():
        return None
    config = PeftConfig.from_pretrained(str(directory))
    targets = config.target_modules
    found: dict[str, Any] = {
        "peft_type": getattr(config.peft_type, "value", config.peft_type),
        "rank": config.r,
        "alpha": config.lora_alpha,
        "base_model": config.base_model_name_or_path,
        "target_modules": sorted(targets) if isinstance(targets, (set, list)) else targets,
    }
    weights = directory / "adapter_model.safetensors"
    if weights.exists():
        with safe_open(weights, framework="pt") as file:
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # not a dict
        found["lora_parameters"] = sum(math.prod(shape) for name, shape in shapes.items() if ".lora_" in name)
        rows = {
            shape[0]
            for name, shape in shapes.items()
            if re.search(r"(embed_tokens|lm_head)(\.base_layer)?\.weight$", name)
        }
        found["saved_rows"] = max(rows) if rows else None
    return found


def tokenizer(directory: Path) -> dict[str, Any] | None:
    if not (directory / "tokenizer.json").exists():
        return None
    loaded = AutoTokenizer.from_pretrained(str(directory))
    return {"length": len(loaded), "max_id": max(loaded.get_vocab().values())}


def model(directory: Path) -> dict[str, Any] | None:
    path = directory / "model.safetensors"
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        tensors = {name: (file.get_slice(name).get_shape(), file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118  # not a dict
    return {
        "parameters": sum(math.prod(shape) for shape, _ in tensors.values()),
        "dtypes": sorted({dtype for _, dtype in tensors.values()}),
    }


def zero(tag: Path) -> dict[str, Any] | None:
    models = sorted(tag.glob("*mp_rank_00_model_states.pt"))
    models = [path for path in models if not re.match(r"(layer_\d+_)?expert_", path.name)]
    if not models:
        return None
    state = load(models[0])
    shards = sorted(tag.glob("*zero_pp_rank_*_optim_states.pt"))
    stage, world = None, None
    if shards:
        optimizer = load(shards[0])["optimizer_state_dict"]
        stage = optimizer.get("zero_stage")
        stage = getattr(stage, "value", stage)
        count = optimizer.get("partition_count")
        world = max(count) if isinstance(count, (list, tuple)) else count
    shapes = state.get("param_shapes")
    frozen = state.get("frozen_param_shapes") or {}
    total = None
    if shapes:
        named = {name: shape for group in shapes for name, shape in group.items()} | dict(frozen)
        total = sum(math.prod(shape) for shape in named.values())
        # stage 1 keeps frozen parameters in the module and names them nowhere else
        aside = {*named, *state.get("buffer_names", ()), *(state.get("shared_params") or {})}
        module = state.get("module") or {}
        total += sum(tensor.numel() for name, tensor in module.items() if name not in aside and tensor.numel())
    return {
        "stage": stage,
        "world_size": world,
        "ds_version": state.get("ds_version"),
        "global_steps": state.get("global_steps"),
        "parameters": total,
        "optimizer_files": len(shards),
    }


def facts(run: Path) -> dict[str, Any]:
    """Every fact of the run's root, its checkpoints and its DeepSpeed tags."""
    places = {".": run} | {path.name: path for path in sorted(run.glob("checkpoint-*")) if path.is_dir()}
    found: dict[str, Any] = {}
    for name, place in places.items():
        row = {
            "trainer": trainer(place),
            "arguments": arguments(place),
            "adapter": adapter(place),
            "tokenizer": tokenizer(place),
            "model": model(place),
        }
        found[name] = {key: value for key, value in row.items() if value is not None}
    tags = {str(path.parent.relative_to(run)) for path in run.rglob("*mp_rank_00_model_states.pt")}
    found["zero"] = {tag: row for tag in sorted(tags) if (row := zero(run / tag)) is not None}
    return found


def main() -> None:
    root = Path(sys.argv[1])
    runs = [Path(name) for name in sys.argv[2:]] or sorted(path for path in root.iterdir() if path.is_dir())
    table = {}
    for run in runs:
        table[run.name] = facts(root / run.name)
    rows = (f"{json.dumps(name)}: {json.dumps(row, sort_keys=True)}" for name, row in sorted(table.items()))
    print("{\n" + ",\n".join(rows) + "\n}")


if __name__ == "__main__":
    main()
