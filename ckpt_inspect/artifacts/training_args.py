"""``training_args.bin``: every hyper-parameter, without importing the class that holds them.

Written by ``Trainer._save`` as ``torch.save(self.args)``: the pickled instance of TrainingArguments or a subclass
(Seq2SeqTrainingArguments, trl's configs, LLaMA-Factory's, anybody's own), old scripts also an ``argparse.Namespace``.
The values are the instance's ``__dict__``; enums are shown as their values, nested objects as objects with a `class`.
Secrets (`hub_token` lies there in clear) are masked before they leave this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckpt_inspect.artifacts.plain_values import class_of, plain_value
from ckpt_inspect.artifacts.secrets import without_secrets
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.pickle_nodes import Pairs, entries, instance_state
from ckpt_inspect.formats.torch_archive import open_torch

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

# What the running process keeps beside the hyper-parameters: devices, process groups, plugins.
_RUNTIME = re.compile(
    r"^(__cached__)?_?(setup_devices|n_gpu)$|^(distributed_state|deepspeed_plugin|hf_deepspeed_config)$"
)


@dataclass(frozen=True, slots=True)
class TrainingArgs:
    """The arguments of one training process.

    Attributes:
        class_name: the class that was pickled, e.g. "transformers.training_args.TrainingArguments".
        arguments: name -> plain value as pickled, secrets masked as "<hub_token: 37 characters>".
        runtime: what the process added to them (distributed_state, _n_gpu, deepspeed plugin, device).
        world_size: processes, from accelerate's PartialState; None where the file holds none.
        process_index: rank of the process that wrote the file.
        n_gpu: GPUs of one process (above 1: DataParallel); None where not recorded.
        distributed_type: "NO", "MULTI_GPU", "MULTI_CPU", "DEEPSPEED", "FSDP", "XLA", ...
        secrets: names of arguments that hold a secret, nested ones with dots.
        globals: every "module.name" the file would import.
    """

    class_name: str | None
    arguments: Mapping[str, Any]
    runtime: Mapping[str, Any]
    world_size: int | None
    process_index: int | None
    n_gpu: int | None
    distributed_type: str | None
    secrets: tuple[str, ...]
    faults: tuple[Fault, ...]
    globals: tuple[str, ...] = ()
    torch_format: str = ""
    deepspeed_config: Mapping[str, Any] | None = field(default=None)

    def number(self, name: str) -> float | None:
        """An argument that is a number (bool is none), else None."""
        value = self.arguments.get(name)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def text(self, name: str) -> str | None:
        """An argument that is a string, else None."""
        value = self.arguments.get(name)
        return value if isinstance(value, str) else None

    def flag(self, name: str) -> bool | None:
        """An argument that is true or false, else None."""
        value = self.arguments.get(name)
        return value if isinstance(value, bool) else None

    @property
    def uses_deepspeed(self) -> bool:
        """Whether the run was configured for DeepSpeed."""
        return bool(self.arguments.get("deepspeed")) or self.distributed_type == "DEEPSPEED"


def read_training_args(source: ByteSource) -> TrainingArgs:
    """Read the arguments. Never raises for content."""
    archive = open_torch(source)
    faults = FaultLog()
    faults.extend(archive.faults)
    names = tuple(sorted({name.dotted for program in archive.programs for name in program.globals}))
    state = instance_state(archive.value)
    pairs = list(entries(state)) if isinstance(state, Pairs) else list(entries(archive.value))
    if not pairs and not faults:
        faults.add("args-not-arguments", "holds no instance with attributes")
    values = {key: plain_value(value) for key, value in pairs if isinstance(key, str)}
    secrets: list[str] = []
    values = {name: without_secrets(name, value, name, secrets) for name, value in values.items()}
    runtime = {name: value for name, value in values.items() if _RUNTIME.match(name)}
    distributed = runtime.get("distributed_state")
    process = distributed if isinstance(distributed, dict) else {}
    return TrainingArgs(
        class_name=class_of(archive.value),
        arguments={name: value for name, value in values.items() if name not in runtime},
        runtime=runtime,
        world_size=_whole(process.get("num_processes")),
        process_index=_whole(process.get("process_index")),
        n_gpu=_gpus(runtime),
        distributed_type=process.get("distributed_type") if isinstance(process.get("distributed_type"), str) else None,
        secrets=tuple(secrets),
        faults=faults.sealed(),
        globals=names,
        torch_format=archive.era,
        deepspeed_config=_deepspeed_config(values),
    )


def read_training_args_yaml(source: ByteSource) -> TrainingArgs:
    """Read the ``training_args.yaml`` of LLaMA-Factory's web page: the same names, without what the process added."""
    from ckpt_inspect.artifacts.lf_yaml import read_yaml_mapping

    values, faults = read_yaml_mapping(source)
    secrets: list[str] = []
    shown = {name: without_secrets(name, value, name, secrets) for name, value in values.items()}
    return TrainingArgs(None, shown, {}, None, None, None, None, tuple(secrets), faults)


def _gpus(runtime: Mapping[str, Any]) -> int | None:
    """`_n_gpu`; releases before 4.0 cached the pair (device, number of GPUs) instead."""
    cached = runtime.get("__cached__setup_devices")
    if isinstance(cached, list) and len(cached) == 2:
        return _whole(cached[1])
    return _whole(runtime.get("_n_gpu", runtime.get("n_gpu")))


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _deepspeed_config(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The DeepSpeed configuration as the run resolved it ("auto" filled in), wherever the arguments keep it."""
    for keys in (
        ("hf_deepspeed_config", "config"),
        ("deepspeed_plugin", "hf_ds_config", "config"),
        ("deepspeed_plugin", "deepspeed_config"),
        ("deepspeed",),
    ):
        found: Any = values
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        if isinstance(found, dict):
            return found
    return None
