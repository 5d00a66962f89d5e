"""One saved state (a run's root, a checkpoint, an adapter or model directory) and its artifacts, read on first use.

A property is the artifact's facts, or None where the file is not there or no reader could make anything of it; in
that case `read_faults` says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_inspect.run.reading import StateFiles, fact

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.adapter import AdapterConfig
    from ckpt_inspect.artifacts.adapter_weights import AdapterWeights
    from ckpt_inspect.artifacts.chat_template import ChatTemplates
    from ckpt_inspect.artifacts.completions import Completions
    from ckpt_inspect.artifacts.events import EventFile
    from ckpt_inspect.artifacts.fsdp import FsdpState
    from ckpt_inspect.artifacts.images import Image
    from ckpt_inspect.artifacts.latest_tag import LatestTag
    from ckpt_inspect.artifacts.lf_yaml import LlamaBoardConfig
    from ckpt_inspect.artifacts.model import GenerationConfig, ModelConfig
    from ckpt_inspect.artifacts.model_card import ModelCard
    from ckpt_inspect.artifacts.optimizer import OptimizerState
    from ckpt_inspect.artifacts.predictions import Predictions
    from ckpt_inspect.artifacts.results import Results
    from ckpt_inspect.artifacts.rng_state import RngState
    from ckpt_inspect.artifacts.scaler import ScalerState
    from ckpt_inspect.artifacts.scheduler import SchedulerState
    from ckpt_inspect.artifacts.tokenizer_types import Tokenizer
    from ckpt_inspect.artifacts.trainer_log import TrainerLog
    from ckpt_inspect.artifacts.trainer_state import TrainerState
    from ckpt_inspect.artifacts.training_args import TrainingArgs
    from ckpt_inspect.artifacts.universal import UniversalCheckpoint
    from ckpt_inspect.artifacts.weights import WeightSet
    from ckpt_inspect.artifacts.zero_shards import ZeroTag

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
    | {"dcp_optimizer_shard", "dcp_safetensors_shard", "fsdp_full_weights", "fsdp_model_rank"}
)


@dataclass(eq=False)
class StateDirectory(StateFiles):
    """A directory that holds one state, and what its files say."""

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

    @fact
    def training_args_yaml(self) -> TrainingArgs | None:
        """training_args.yaml of LLaMA-Factory's web page."""
        from ckpt_inspect.artifacts.training_args import read_training_args_yaml

        return self._one(read_training_args_yaml, "training_args_yaml")

    @fact
    def llamaboard_config(self) -> LlamaBoardConfig | None:
        """llamaboard_config.yaml of LLaMA-Factory's web page."""
        from ckpt_inspect.artifacts.lf_yaml import read_llamaboard_config

        return self._one(read_llamaboard_config, "llamaboard_config")

    @fact
    def event_files(self) -> tuple[tuple[str, EventFile], ...]:
        """(path, facts) of every TensorBoard event file, those in `runs/` included."""
        from ckpt_inspect.artifacts.events import read_events

        return self._every(read_events, "tensorboard_events")

    @fact
    def plots(self) -> tuple[tuple[str, Image], ...]:
        """(path, facts) of every curve LLaMA-Factory drew."""
        from ckpt_inspect.artifacts.images import read_png

        return self._every(read_png, "loss_plot")

    @fact
    def completions(self) -> tuple[tuple[str, Completions], ...]:
        """(path, facts) of every file of completions TRL wrote."""
        from ckpt_inspect.artifacts.completions import read_completions

        return self._every(read_completions, "completions")

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
