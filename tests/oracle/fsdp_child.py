"""One rank of a job that saves distributed checkpoints of every kind: FSDP1, FSDP2, HSDP, FSDP with tensor parallel, LoRA.

Usage: python fsdp_child.py RANK WORLD DIRECTORY. Rank 0 also writes ``NAME.whole.pt`` beside each checkpoint: what the
tensors were before they were sharded, put together by torch's own collectives.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

warnings.filterwarnings("ignore")
SIZES = {
    "vocab_size": 37, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 16,
}  # fmt: skip


def whole(value: Any) -> Any:
    if hasattr(value, "full_tensor"):
        return value.full_tensor().clone()
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def tensors(world: int) -> dict[str, Any]:
    """One tensor of every placement and element type."""
    torch.manual_seed(0)
    line = init_device_mesh("cpu", (world,))
    grid = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("outer", "inner"))
    strided = torch.arange(35, dtype=torch.float32).reshape(5, 7).t()
    return {
        "rows": distribute_tensor(torch.rand(7, 5), line, [Shard(0)]),
        "columns": distribute_tensor(torch.rand(5, 7), line, [Shard(1)]),
        "last": distribute_tensor(torch.rand(3, 4, 9).bfloat16(), line, [Shard(2)]),
        "middle": distribute_tensor(torch.rand(3, 7, 2).half(), line, [Shard(1)]),
        "few": distribute_tensor(torch.rand(1, 3), line, [Shard(0)]),
        "grid": distribute_tensor(torch.rand(6, 9), grid, [Shard(0), Shard(1)]),
        "turned": distribute_tensor(torch.rand(6, 9), grid, [Shard(1), Shard(0)]),
        "twice": distribute_tensor(torch.rand(11, 3), grid, [Shard(0), Shard(0)]),
        "hybrid": distribute_tensor(torch.rand(6, 4), grid, [Replicate(), Shard(0)]),
        "hybrid_columns": distribute_tensor(torch.rand(6, 5), grid, [Replicate(), Shard(1)]),
        "replicated": distribute_tensor(torch.rand(4), line, [Replicate()]),
        "long": distribute_tensor(torch.arange(-9, 9).reshape(6, 3), line, [Shard(0)]),
        "bytes": distribute_tensor(torch.arange(21, dtype=torch.uint8).reshape(3, 7), line, [Shard(1)]),
        "flags": distribute_tensor(torch.arange(10) % 3 == 0, line, [Shard(0)]),
        "plain_flags": torch.tensor([True, False, True]),
        "count": torch.tensor(1 << 40),
        "scalar": torch.tensor(3.25),
        "half_scalar": torch.tensor(-0.5, dtype=torch.bfloat16),
        "yes": torch.tensor(True),
        "double": torch.rand(3, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "transposed": strided,
        "not_numbers": torch.tensor([float("nan"), float("inf"), -0.0]),
    }


def qwen(*, tied: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    import transformers

    torch.manual_seed(1)
    config = transformers.Qwen2Config(**SIZES, tie_word_embeddings=tied)
    return transformers.Qwen2ForCausalLM(config).to(dtype)


def sharded(model: Any, mesh: Any = None) -> Any:
    from torch.distributed.fsdp import fully_shard

    for module in list(model.modules()):
        if type(module).__name__ == "Qwen2DecoderLayer":
            fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def configured(model: Any, directory: Path, rank: int) -> None:
    if rank == 0:
        directory.mkdir(parents=True, exist_ok=True)
        model.config.save_pretrained(directory)
    dist.barrier()


def save(name: str, state: dict[str, Any], directory: Path, rank: int, **options: Any) -> None:
    """Save a state, and on rank 0 its whole tensors by path."""
    target = directory / name
    dcp.save(state, checkpoint_id=str(target), **options)
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else str(key))
        elif isinstance(value, torch.Tensor):
            flat[path] = whole(value)

    walk(state, "")
    if rank == 0:
        torch.save(flat, f"{target}.whole.pt")


def models(directory: Path, rank: int, world: int) -> None:
    """FSDP2 on one and two dimensions, tied, bf16, with an optimizer, with tensor parallel, with LoRA; FSDP1."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    name = "checkpoint-1/pytorch_model_fsdp_0"
    tied = qwen(tied=True)
    configured(tied, directory / "tied/checkpoint-1", rank)
    save(f"tied/{name}", {"model": get_model_state_dict(sharded(tied))}, directory, rank)
    small = qwen(dtype=torch.bfloat16)
    configured(small, directory / "bf16/checkpoint-1", rank)
    save(f"bf16/{name}", {"model": get_model_state_dict(sharded(small))}, directory, rank)
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("outer", "inner"))
    hybrid = sharded(qwen(), mesh)
    optimizer = torch.optim.AdamW(hybrid.parameters())
    hybrid(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    optimizer.step()
    app = {
        "model": get_model_state_dict(hybrid), "optim": get_optimizer_state_dict(hybrid, optimizer), "step": 7,
        "seen": torch.tensor(9),
    }  # fmt: skip
    save("hybrid", app, directory, rank)
    save("nested", {"app": {"model": app["model"], "optim": app["optim"]}}, directory, rank)
    save("optimizer_0", {"optimizer": app["optim"]}, directory, rank)
    parallel = torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.Linear(12, 6))
    parallelize_module(parallel, mesh["inner"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
    from torch.distributed.fsdp import fully_shard

    fully_shard(parallel, mesh=mesh["outer"])
    save("tensor_parallel", get_model_state_dict(parallel), directory, rank)


def adapters(directory: Path, rank: int) -> None:
    """LoRA as accelerate saves it, with `adapter_only` and without."""
    import peft

    torch.manual_seed(2)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=3, target_modules=["q_proj", "down_proj"], modules_to_save=["lm_head"]
    )
    model = peft.get_peft_model(qwen(), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.rand(parameter.shape))
    for name in ("lora", "lora_whole"):
        place = directory / name / "checkpoint-1"
        if rank == 0:
            model.save_pretrained(place / "expected")
            place.mkdir(parents=True, exist_ok=True)
            (place / "expected/adapter_config.json").replace(place / "adapter_config.json")
        dist.barrier()
    state = get_model_state_dict(sharded(model))
    save("lora_whole/checkpoint-1/pytorch_model_fsdp_0", {"model": state}, directory, rank)
    only = peft.get_peft_model_state_dict(model, adapter_name="default")
    save("lora/checkpoint-1/pytorch_model_fsdp_0", {"model": only}, directory, rank)


def fsdp1(directory: Path, rank: int) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

    inner = qwen()
    configured(inner, directory / "fsdp1/checkpoint-1", rank)
    model = FullyShardedDataParallel(
        inner, auto_wrap_policy=ModuleWrapPolicy({Qwen2DecoderLayer}), device_id=torch.device("cpu"),
        use_orig_params=True,
    )  # fmt: skip
    name = "fsdp1/checkpoint-1/pytorch_model_fsdp_0"
    with FullyShardedDataParallel.state_dict_type(model, StateDictType.SHARDED_STATE_DICT):
        state = model.state_dict()
        dcp.save({"model": state}, checkpoint_id=str(directory / name))
    if rank == 0:
        torch.save(
            {f"model.{key}": value for key, value in qwen().state_dict().items()}, f"{directory / name}.whole.pt"
        )


def safetensors_form(directory: Path, rank: int, world: int) -> None:
    from torch.distributed.checkpoint import HuggingFaceStorageWriter

    state = {name: value for name, value in tensors(world).items() if value.is_contiguous()}
    target = directory / "safetensors"
    dcp.save(state, storage_writer=HuggingFaceStorageWriter(str(target), save_distributed=True))
    flat = {name: whole(value) for name, value in state.items()}
    if rank == 0:
        torch.save(flat, f"{target}.whole.pt")


def main() -> None:
    rank, world, directory = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=world)
    save("tensors", tensors(world), directory, rank)
    safetensors_form(directory, rank, world)
    models(directory, rank, world)
    adapters(directory, rank)
    fsdp1(directory, rank)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
