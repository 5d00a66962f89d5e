"""One saved state (a run's root, a checkpoint, an adapter or model directory) and its artifacts, read on first use.

A property is the artifact's facts, or None where the file is not there or no reader could make anything of it; in
that case `read_faults` says why. One bad file never hides the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ckpt_inspect.errors import CkptInspectError
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.run.classify import Artifact
from ckpt_inspect.storage import ByteSource, LocalTree

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.adapter import AdapterConfig
    from ckpt_inspect.artifacts.adapter_weights import AdapterWeights
    from ckpt_inspect.artifacts.chat_template import ChatTemplates
    from ckpt_inspect.artifacts.fsdp import FsdpState
    from ckpt_inspect.artifacts.latest_tag import LatestTag
    from ckpt_inspect.artifacts.model import GenerationConfig, ModelConfig
    from ckpt_inspect.artifacts.model_card import ModelCard
    from ckpt_inspect.artifacts.optimizer import OptimizerState
    from ckpt_inspect.artifacts.predictions import Predictions
    from ckpt_inspect.artifacts.results import Results
    from ckpt_inspect.artifacts.rng_state import RngState
    from ckpt_inspect.artifacts.scaler import ScalerState
    from ckpt_inspect.artifacts.scheduler import SchedulerState
    from ckpt_inspect.artifacts.tokenizer import Tokenizer
    from ckpt_inspect.artifacts.trainer_log import TrainerLog
    from ckpt_inspect.artifacts.trainer_state import TrainerState
    from ckpt_inspect.artifacts.training_args import TrainingArgs
    from ckpt_inspect.artifacts.universal import UniversalCheckpoint
    from ckpt_inspect.artifacts.weights import WeightSet
    from ckpt_inspect.artifacts.zero_shards import ZeroTag

_LOG = logging.getLogger(__name__)

_WEIGHT_KINDS = (
    "model_weights",
    "model_weights_index",
    "pytorch_weights",
    "pytorch_weights_index",
    "fsdp_full_weights",
    "adapter_weights",
    "value_head",
    "gguf_weights",
    "consolidated_weights",
    "diffusers_weights",
    "diffusers_lora",
)
_FSDP_KINDS = frozenset(
    {"dcp_metadata", "dcp_model_metadata", "dcp_optimizer_metadata", "dcp_shard", "dcp_model_shard"}
)

T = TypeVar("T")


class fact(Generic[T]):  # noqa: N801  # used as a decorator, like property
    """A property worked out once and kept in the state's memo, which a run shares with its checkpoint of the same path."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function = function
        self._name = function.__name__
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> fact[T]: ...
    @overload
    def __get__(self, instance: StateDirectory, owner: type) -> T: ...
    def __get__(self, instance: StateDirectory | None, owner: type) -> fact[T] | T:
        if instance is None:
            return self
        memo = instance.memo
        if self._name not in memo:
            try:
                memo[self._name] = self._function(instance)
            except ImportError:
                memo[self._name] = None
        value: T = memo[self._name]
        return value


@dataclass(eq=False)
class StateDirectory:
    """A directory that holds one state.

    Attributes:
        tree: the whole listing it belongs to.
        path: relative to the tree's root, "" for the root.
        artifacts: its own files, those in its sub-directories included, those of nested checkpoints and runs not.
        directories: its own sub-directories.
        tags: the DeepSpeed tag directories it holds, relative to the tree's root, in natural order.
        adapters: directories of named adapters, by name.
        read_faults: (path, fault) of every file no facts could be made from.
    """

    tree: LocalTree
    path: str
    artifacts: tuple[Artifact, ...]
    directories: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    adapters: Mapping[str, str] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict, repr=False)
    read_faults: list[tuple[str, Fault]] = field(default_factory=list, repr=False)

    @property
    def name(self) -> str:
        """The directory's own name; the real one for the root."""
        return self.path.rpartition("/")[2] or self.tree.root.resolve().name

    @cached_property
    def own(self) -> Mapping[str, tuple[Artifact, ...]]:
        """Artifacts that lie directly in the directory, by kind; copies under other names are left out."""
        found: dict[str, list[Artifact]] = {}
        for artifact in self.artifacts:
            if artifact.exact and artifact.parent == self.path:
                found.setdefault(artifact.kind, []).append(artifact)
        return {kind: tuple(items) for kind, items in found.items()}

    def find(self, *kinds: str) -> Artifact | None:
        """The first artifact of one of `kinds` that lies directly in the directory."""
        for kind in kinds:
            if kind in self.own:
                return self.own[kind][0]
        return None

    def has(self, *kinds: str) -> bool:
        """Whether an artifact of one of `kinds` lies directly in the directory."""
        return self.find(*kinds) is not None

    @property
    def bytes(self) -> int:
        """Size of everything in it, in bytes."""
        return sum(artifact.bytes for artifact in self.artifacts)

    # ------------------------------------------------------------- the Trainer's records

    @fact
    def trainer_state(self) -> TrainerState | None:
        """trainer_state.json."""
        from ckpt_inspect.artifacts.trainer_state import read_trainer_state

        return self._one(read_trainer_state, "trainer_state")

    @fact
    def results(self) -> Mapping[str, Results]:
        """The metrics files by split: "all", "train", "eval", "predict", "test"."""
        from ckpt_inspect.artifacts.results import read_results

        found: dict[str, Results] = {}
        for artifact in self.artifacts:
            if artifact.parent == self.path and artifact.name.endswith("_results.json") and artifact.exact:
                facts = self._read(artifact.path, read_results)
                if facts is not None:
                    found[artifact.name.removesuffix("_results.json")] = facts
        return found

    @fact
    def trainer_log(self) -> TrainerLog | None:
        """trainer_log.jsonl of LLaMA-Factory."""
        from ckpt_inspect.artifacts.trainer_log import read_trainer_log

        return self._one(read_trainer_log, "trainer_log")

    @fact
    def training_args(self) -> TrainingArgs | None:
        """training_args.bin."""
        from ckpt_inspect.artifacts.training_args import read_training_args

        return self._one(read_training_args, "training_args")

    @fact
    def predictions(self) -> Predictions | None:
        """generated_predictions.jsonl."""
        from ckpt_inspect.artifacts.predictions import read_predictions

        return self._one(read_predictions, "generated_predictions")

    @fact
    def model_card(self) -> ModelCard | None:
        """README.md."""
        from ckpt_inspect.artifacts.model_card import read_model_card

        return self._one(read_model_card, "model_card")

    # ------------------------------------------------------------- what a resume reads

    @fact
    def scheduler(self) -> SchedulerState | None:
        """scheduler.pt."""
        from ckpt_inspect.artifacts.scheduler import read_scheduler

        return self._one(read_scheduler, "scheduler", "scheduler_bin")

    @fact
    def optimizer(self) -> OptimizerState | None:
        """optimizer.pt or optimizer.bin."""
        from ckpt_inspect.artifacts.optimizer import read_optimizer

        return self._one(read_optimizer, "optimizer", "optimizer_bin")

    @fact
    def scaler(self) -> ScalerState | None:
        """scaler.pt."""
        from ckpt_inspect.artifacts.scaler import read_scaler

        return self._one(read_scaler, "scaler")

    @fact
    def rng_states(self) -> tuple[tuple[int | None, RngState], ...]:
        """(rank, state) of each rng_state file; rank None for `rng_state.pth` of a single process."""
        from ckpt_inspect.artifacts.rng_state import read_rng_state

        found: list[tuple[int | None, RngState]] = []
        for artifact in (*self.own.get("rng_state", ()), *self.own.get("rng_state_rank", ())):
            facts = self._read(artifact.path, read_rng_state)
            if facts is not None:
                digits = "".join(filter(str.isdigit, artifact.name))
                found.append((int(digits) if digits else None, facts))
        return tuple(sorted(found, key=lambda item: -1 if item[0] is None else item[0]))

    # ------------------------------------------------------------- weights and what describes them

    @fact
    def adapter_config(self) -> AdapterConfig | None:
        """adapter_config.json."""
        from ckpt_inspect.artifacts.adapter import read_adapter_config

        return self._one(read_adapter_config, "adapter_config")

    @fact
    def adapter_weights(self) -> AdapterWeights | None:
        """The adapter's tensors: adapter_model.safetensors with its shards, else adapter_model.bin."""
        if not self.has("adapter_weights", "adapter_weights_index", "diffusers_lora"):
            return None
        from ckpt_inspect.artifacts.adapter_weights import adapter_weights
        from ckpt_inspect.artifacts.weights import read_weight_sets

        sets = self._guarded(self.path, lambda: read_weight_sets(self.tree, self.path)) or ()
        found = next((item for item in sets if item.role == "adapter"), None)
        if found is None:
            return None
        tensors = ((tensor.name, tensor.dtype, tensor.shape, tensor.nbytes) for tensor in found.tensors)
        return adapter_weights(tensors, self.adapter_config, file_format=found.kind, faults=found.faults)

    @fact
    def model_config(self) -> ModelConfig | None:
        """config.json."""
        from ckpt_inspect.artifacts.model import read_model_config

        return self._one(read_model_config, "model_config")

    @fact
    def generation_config(self) -> GenerationConfig | None:
        """generation_config.json."""
        from ckpt_inspect.artifacts.model import read_generation_config

        return self._one(read_generation_config, "generation_config")

    @fact
    def weights(self) -> WeightSet | None:
        """The model's weights, whatever their file format; None where there are none."""
        if not self.has(*_WEIGHT_KINDS):
            return None
        from ckpt_inspect.artifacts.weights import read_weights

        return self._guarded(self.path, lambda: read_weights(self.tree, self.path))

    @fact
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer files together; None where there are none."""
        if not any(self.own[kind][0].group == "tokenizer" for kind in self.own):
            return None
        from ckpt_inspect.artifacts.tokenizer import read_tokenizer

        return self._guarded(self.path, lambda: read_tokenizer(self.tree, self.path))

    @fact
    def chat_templates(self) -> ChatTemplates | None:
        """Every chat template, in files and inline; None where there is none."""
        if not any(artifact.group == "tokenizer" for artifact in self.artifacts):
            return None
        from ckpt_inspect.artifacts.chat_template import read_chat_templates

        return self._guarded(self.path, lambda: read_chat_templates(self.tree, self.path))

    # ------------------------------------------------------------- shards

    @fact
    def latest(self) -> LatestTag | None:
        """The file `latest`."""
        from ckpt_inspect.artifacts.latest_tag import read_latest_tag

        return self._one(read_latest_tag, "latest")

    @property
    def tag(self) -> str | None:
        """The DeepSpeed tag directory this state loads from: the one `latest` names, else the only or highest one."""
        if len(self.tags) > 1 and self.latest is not None and self.latest.tag is not None:
            named = f"{self.path}/{self.latest.tag}".lstrip("/")
            if named in self.tags:
                return named
        return self.tags[-1] if self.tags else None

    @fact
    def zero(self) -> ZeroTag | None:
        """The DeepSpeed tag `tag`, from its file names and the files of rank 0."""
        tag = self.tag
        if tag is None:
            return None
        from ckpt_inspect.artifacts.zero_shards import read_zero_tag

        return self._guarded(tag, lambda: read_zero_tag(self.tree, tag))

    @fact
    def fsdp(self) -> FsdpState | None:
        """FSDP model and optimizer shards; None where there are none."""
        if not any(artifact.kind in _FSDP_KINDS for artifact in self.artifacts):
            return None
        from ckpt_inspect.artifacts.fsdp import read_fsdp

        return self._guarded(self.path, lambda: read_fsdp(self.tree, self.path))

    @fact
    def universal(self) -> UniversalCheckpoint | None:
        """The DeepSpeed universal checkpoint; None where there is none."""
        places = {artifact.parent for artifact in self.artifacts if artifact.kind == "universal_parameter"}
        if not places:
            return None
        from ckpt_inspect.artifacts.universal import read_universal

        parameters = sorted(place.rpartition("/")[0] for place in places)[0]  # the directory `zero`
        tag = parameters.rpartition("/")[0]
        return self._guarded(tag, lambda: read_universal(self.tree, tag))

    # ------------------------------------------------------------- how a file is read

    def text_of(self, kind: str, limit: int) -> str:
        """The first `limit` bytes of a text artifact, '' where there is none."""
        data = self._one(lambda source: source.read_at(0, limit), kind)
        return data.decode("utf-8", "replace") if data else ""

    def json_of(self, kind: str) -> Any:
        """The value of a JSON artifact as it stands, None where there is none."""
        from ckpt_inspect.formats.json_document import read_json

        document = self._one(read_json, kind)
        return None if document is None else document.value

    def _one(self, reader: Callable[[ByteSource], T], *kinds: str) -> T | None:
        artifact = self.find(*kinds)
        return None if artifact is None else self._read(artifact.path, reader)

    def _read(self, path: str, reader: Callable[[ByteSource], T]) -> T | None:
        def read() -> T:
            with self.tree.open(path) as source:
                return reader(source)

        return self._guarded(path, read)

    def _guarded(self, path: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except CkptInspectError as error:
            self.read_faults.append((path, Fault("unreadable", error.what, place=path)))
        except Exception as error:  # noqa: BLE001  # a mistake of ours in one reader must not hide the other files
            message = f"the reader failed ({type(error).__name__}); please report this file"
            self.read_faults.append((path, Fault("reader-failed", message, place=path)))
            _LOG.debug("%s", message, exc_info=True)
        return None


def sorted_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Tag directories in natural order, so that `global_step10` is the last after `global_step9`."""
    from ckpt_inspect.run.layout import natural

    return tuple(sorted(tags, key=natural))
