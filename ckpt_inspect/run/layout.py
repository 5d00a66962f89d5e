"""How a directory is laid out: which directories hold a saved state, and what the root itself is.

The layouts are those of transformers (`checkpoint-N`, `run-<id>/checkpoint-N`, `tmp-checkpoint-N`), DeepSpeed (a tag
directory of any depth beside `latest`), accelerate `save_state`, FSDP, Lightning (`*.ckpt/`), PEFT (one sub-directory
per named adapter), LLaMA-Factory (`pissa_*`) and the Hugging Face cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ckpt_inspect.run.classify import Artifact, directory_role, directory_roles, kinds
from ckpt_inspect.storage import Entry

RunKind = Literal["run", "checkpoint", "adapter", "model", "zero", "file"]
StateForm = Literal["checkpoint", "tmp_checkpoint", "renamed_checkpoint", "named_checkpoint", "tag"]

SHARD_KINDS = frozenset(
    {
        "zero_optimizer_shard",
        "zero3_model_shard",
        "zero_model_states",
        "zero_expert",
        "zero_expert_optimizer",
        "pipeline_layer",
    }
)
DCP_KINDS = frozenset(kind for kind in kinds() if kind.startswith("dcp_"))
RESUME_KINDS = frozenset(
    {"optimizer", "optimizer_bin", "fsdp_optimizer_rank", "scheduler", "scheduler_bin", "rng_state", "rng_state_rank"}
    | {"accelerate_random_states", "torchtune_recipe_state", "fsdp_full_weights", "fsdp_model_rank", "megatron_shard"}
)
RUN_KINDS = frozenset(
    {"trainer_state", "training_args", "all_results", "train_results", "eval_results", "predict_results"}
    | {"trainer_log", "llamaboard_config", "training_args_yaml", "swift_log"}
)
ADAPTER_KINDS = frozenset({"adapter_config", "adapter_weights", "diffusers_lora"})
_STATE_KINDS = frozenset(id_ for id_, kind in kinds().items() if kind.state)


@dataclass(slots=True)
class Directory:
    """One directory of the tree while the layout is worked out."""

    path: str
    name: str
    files: list[Artifact] = field(default_factory=list)
    children: list[str] = field(default_factory=list)

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of its direct files that libraries would find (copies under other names do not count)."""
        return frozenset(artifact.kind for artifact in self.files if artifact.exact)

    @property
    def parent(self) -> str:
        """The directory above, '' for one directly below the root."""
        return self.path.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class StatePlace:
    """A directory that holds one saved state: its form, its step if the name tells it, the DeepSpeed tag if it is one."""

    path: str
    form: StateForm
    step: int | None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class NestedRun:
    """Another run, adapter or model below this one; open it by its path."""

    path: str
    kind: RunKind


@dataclass(frozen=True, slots=True)
class Layout:
    """What is where. `tags` maps a DeepSpeed tag directory to the directory that holds it; `adapters` maps a named
    adapter's directory to the state directory it belongs to; `owner` maps every directory to its state directory."""

    kind: RunKind
    states: tuple[StatePlace, ...]
    tags: Mapping[str, str]
    adapters: Mapping[str, str]
    nested: tuple[NestedRun, ...]
    owner: Mapping[str, str]
    directories: Mapping[str, Directory]


def directories_of(entries: Sequence[Entry], artifacts: Sequence[Artifact], root_name: str) -> dict[str, Directory]:
    """Group a listing by directory; every directory is there, empty ones too."""
    found = {"": Directory("", root_name)}
    for entry in entries:
        if entry.kind == "directory":
            found[entry.path] = Directory(entry.path, entry.name)
    for directory in list(found.values()):
        if directory.path:
            found[directory.parent].children.append(directory.path)
    for artifact in artifacts:
        found[artifact.parent].files.append(artifact)
    return found


def read_layout(directories: Mapping[str, Directory]) -> Layout:
    """Work out the layout of the tree whose root is ``directories['']``."""
    root = directories[""]
    named = {path: place for path in directories if path and (place := _state_place(directories[path], directories))}
    tags = {path: "" for path, directory in directories.items() if path and directory.kinds & SHARD_KINDS}
    root_is_state = _is_saved_state(root, directories, named, tags)
    trials = any(
        directory_role(directories[child].name) == "hpo_trial" and _child_states(directories[child], named, tags)
        for child in root.children
    )
    collection = not (root_is_state or trials or _is_state(root) or _child_states(root, named, tags))
    nested_roots = _nested_roots(directories, named, tags, collection=collection)

    states: dict[str, StatePlace] = {}
    for path, place in named.items():
        if not _inside(path, nested_roots) and not _inside(path, named, strictly=True):
            states[path] = place
    for tag in tags:
        holder = _holder(tag, states, nested_roots)
        tags[tag] = holder
        if holder not in states and holder not in nested_roots and not (holder == "" and root_is_state):
            states[tag] = StatePlace(tag, "tag", step_of(tag.rpartition("/")[2]), tag[len(holder) :].lstrip("/"))
    owner = _owners(directories, {"", *states, *nested_roots})
    adapters = {
        path: owner[directory.parent]
        for path, directory in directories.items()
        if path and path not in states and path not in nested_roots and directory.kinds & ADAPTER_KINDS
    }
    nested = tuple(NestedRun(path, _kind(directories[path], directories, named, tags)) for path in sorted(nested_roots))
    ordered = tuple(
        sorted(states.values(), key=lambda place: (place.step is None, place.step or 0, natural(place.path)))
    )
    return Layout(_kind(root, directories, named, tags), ordered, tags, adapters, nested, owner, directories)


def step_of(name: str) -> int | None:
    """The step a directory's name gives: the number in `checkpoint-500`, `global_step500`, `tmp-checkpoint-500`."""
    match = re.fullmatch(
        r"(?:tmp-)?checkpoint-(\d{1,18})(?:\D.*)?|global_step(\d{1,18})(?:_universal)?|step[-_=]?(\d{1,18})", name
    )
    return int(next(group for group in match.groups() if group)) if match else None


def natural(path: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key in which `step10` follows `step9`."""
    return tuple(
        (0, int(part)) if part.isdigit() and len(part) < 19 else (1, part) for part in re.split(r"(\d+)", path) if part
    )


def sorted_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Tag directories in natural order, so that `global_step10` is the last after `global_step9`."""
    return tuple(sorted(tags, key=natural))


def _state_place(directory: Directory, directories: Mapping[str, Directory]) -> StatePlace | None:
    role = directory_role(directory.name)
    if role not in ("checkpoint", "tmp_checkpoint", "renamed_checkpoint", "named_checkpoint"):
        return None
    if directory.kinds & SHARD_KINDS:  # a DeepSpeed tag may have any name
        return None
    row = next(row for id_, _, row in directory_roles() if id_ == role)
    if row.get("needs_state") and not (_is_state(directory) or _holds_shards(directory, directories)):
        return None
    return StatePlace(directory.path, role, step_of(directory.name))  # type: ignore[arg-type]  # narrowed above


def _is_state(directory: Directory) -> bool:
    return bool(directory.kinds & _STATE_KINDS)


def _holds_shards(directory: Directory, directories: Mapping[str, Directory]) -> bool:
    # A tag may have slashes ("epoch0/s4"): a directory above one is a state only if DeepSpeed's `latest` lies there.
    wanted = DCP_KINDS | SHARD_KINDS if "latest" in directory.kinds else DCP_KINDS
    return any(directories[child].kinds & wanted for child in directory.children)


def _child_states(directory: Directory, named: Mapping[str, StatePlace], tags: Mapping[str, str]) -> bool:
    if "latest" in directory.kinds or "latest_universal" in directory.kinds:
        return True
    return any(child in named or child in tags for child in directory.children)


def _is_saved_state(
    directory: Directory, directories: Mapping[str, Directory], named: Mapping[str, StatePlace], tags: Mapping[str, str]
) -> bool:
    """Whether the directory itself is one checkpoint (and not a run that holds some)."""
    if directory.kinds & SHARD_KINDS:
        return False
    if any(child in named for child in directory.children):
        return False
    role = directory_role(directory.name)
    if role in ("checkpoint", "tmp_checkpoint", "renamed_checkpoint"):
        return True
    if role == "named_checkpoint" and (_is_state(directory) or _holds_shards(directory, directories)):
        return True
    if directory.kinds & DCP_KINDS or directory.kinds & RESUME_KINDS:
        return True
    return any(directories[child].kinds & DCP_KINDS for child in directory.children)


def _kind(
    directory: Directory, directories: Mapping[str, Directory], named: Mapping[str, StatePlace], tags: Mapping[str, str]
) -> RunKind:
    present = directory.kinds
    below = f"{directory.path}/" if directory.path else ""
    if present & SHARD_KINDS:
        return "zero"
    if _is_saved_state(directory, directories, named, tags):
        return "checkpoint"
    if any(path.startswith(below) for path in named) or present & RUN_KINDS:
        return "run"
    if _child_states(directory, named, tags):
        return "zero"
    if directory_role(directory.name) == "universal_parameters" and any(
        artifact.kind == "universal_parameter" for child in directory.children for artifact in directories[child].files
    ):
        return "zero"
    if present & ADAPTER_KINDS:
        return "adapter"
    if _is_state(directory) or "tokenizer_config" in present or "tokenizer_json" in present:
        return "model"
    return "run"


def _nested_roots(
    directories: Mapping[str, Directory],
    named: Mapping[str, StatePlace],
    tags: Mapping[str, str],
    *,
    collection: bool,
) -> set[str]:
    """Directories that are runs of their own: they hold a run's records, or checkpoints of a collection's member."""
    found: set[str] = set()
    for path, directory in directories.items():  # parents come before children
        if (
            not path
            or path in named
            or path in tags
            or _inside(path, named, strictly=True)
            or _inside(path, found, strictly=True)
        ):
            continue
        role = directory_role(directory.name)
        if role == "hpo_trial" and not collection:
            continue
        if collection:
            # the outermost directory with any state is a member
            if _is_state(directory) or _child_states(directory, named, tags) or _holds_shards(directory, directories):
                found.add(path)
        elif directory.kinds & RUN_KINDS and role is None:
            found.add(path)
    return found


def _inside(path: str, places: Mapping[str, object] | set[str], *, strictly: bool = False) -> bool:
    if not strictly and path in places:
        return True
    while path:
        path = path.rpartition("/")[0]
        if path and path in places:
            return True
    return False


def _holder(tag: str, states: Mapping[str, StatePlace], nested: set[str]) -> str:
    path = tag
    while path:
        path = path.rpartition("/")[0]
        if path in states or path in nested:
            return path
    return ""


def _owners(directories: Mapping[str, Directory], states: set[str]) -> dict[str, str]:
    owner: dict[str, str] = {}
    for path in directories:  # parents come before children in a sorted listing
        owner[path] = path if path in states else owner[path.rpartition("/")[0]]
    return owner
