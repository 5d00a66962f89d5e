"""Which tensors of a distributed checkpoint are the model's, and the names a loader looks for.

A state dict is saved flattened, and ``planner_data`` keeps the path of every name through it (torch 2.13
``distributed/checkpoint/_nested_dict.py``). accelerate saves ``{"model": ...}`` (1.15 ``utils/fsdp_utils.py``
`save_fsdp_model`, merged by taking the only key), Lightning ``{"model": ..., "optimizer_0": ...}``, torchtitan the model's
names beside ``optimizer``, the torch tutorial ``{"app": {"model": ..., "optim": ...}}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ckpt_inspect.formats.dcp_types import DcpMetadata

_Path = tuple[str | int, ...]

_MODEL_KEYS = frozenset(
    {"model", "module", "state_dict", "model_state_dict", "model_state", "net", "network", "weights"}
)
_OTHER_KEYS = re.compile(
    r"optim|optimizers?(?:_\d+|_state|_states|_state_dict)?|optim_state(?:_dict)?|(?:lr_)?schedulers?(?:_state(?:_dict)?)?"
    r"|lr_schedule|train_state|trainer_state|dataloader(?:_\d+)?|data_loader|rng(?:_states?)?|(?:grad_)?scaler|ema(?:_model)?"
    r"|loops|callbacks|hyper_parameters|extra_state|rerun_state_machine|args|iteration|step|epoch|num_steps"
)
_WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")
_DISTRIBUTED = "module."


@dataclass(frozen=True, slots=True)
class ModelNames:
    """`tensors`: name to write -> name in the checkpoint; `items` of the model that are no tensors, `others` by container."""

    tensors: Mapping[str, str]
    items: tuple[str, ...]
    others: Mapping[str, int]

    @property
    def optimizer_only(self) -> bool:
        """Whether nothing but an optimizer is there."""
        return not self.tensors and any("optim" in name for name in self.others)


def model_names(metadata: DcpMetadata) -> ModelNames:
    """The model's tensors of a checkpoint under the names of the model that was trained."""
    paths = {name: _path(metadata, name) for name in (*metadata.tensors, *metadata.items)}
    chosen, others = _model_part(paths)
    renamed = _unwrapped({name: ".".join(map(str, path)) for name, path in chosen.items()})
    tensors = {renamed[name]: name for name in chosen if name in metadata.tensors}
    items = tuple(renamed[name] for name in chosen if name in metadata.items)
    return ModelNames(tensors, items, others)


def _path(metadata: DcpMetadata, name: str) -> _Path:
    """Where a name stood in the state dict; the name alone where the planner did not flatten."""
    path = metadata.planner_paths.get(name)
    return path if path else (name,)


def _model_part(paths: Mapping[str, _Path]) -> tuple[dict[str, _Path], dict[str, int]]:
    """The entries of the model with their paths inside it, and how many others there are in which container."""
    others: dict[str, int] = {}
    here = dict(paths)
    while here:
        heads: dict[str, list[str]] = {}
        for name, path in here.items():
            heads.setdefault(str(path[0]), []).append(name)
        nested = {head for head, names in heads.items() if all(len(here[name]) > 1 for name in names)}
        models = [head for head in heads if head in _MODEL_KEYS and head in nested]
        only = next(iter(heads)) if len(heads) == 1 else None
        if models:
            chosen = models[0]
        elif only is not None and only in nested and not _OTHER_KEYS.fullmatch(only) and _is_container(here):
            chosen = only
        else:
            break
        _count(others, {head: names for head, names in heads.items() if head != chosen})
        inside = {name: here[name][1:] for name in heads[chosen]}
        if chosen in _MODEL_KEYS:
            return inside, others
        here = inside
    heads = {}
    for name, path in here.items():
        heads.setdefault(str(path[0]), []).append(name)
    away = {head: names for head, names in heads.items() if _OTHER_KEYS.fullmatch(head)}
    _count(others, away)
    gone = {name for names in away.values() for name in names}
    return {name: path for name, path in here.items() if name not in gone}, others


def _is_container(paths: Mapping[str, _Path]) -> bool:
    """Whether what one key holds is a flat state dict, or knows a model or an optimizer by its key."""
    inner = {str(path[1]) for path in paths.values()}
    flat = all(len(path) == 2 for path in paths.values())
    return flat or bool(inner & _MODEL_KEYS) or any(_OTHER_KEYS.fullmatch(key) for key in inner)


def _count(others: dict[str, int], heads: Mapping[str, Iterable[str]]) -> None:
    for head, names in heads.items():
        others[head] = others.get(head, 0) + len(list(names))


def _unwrapped(names: Mapping[str, str]) -> dict[str, str]:
    """Names without what FSDP, torch.compile, activation checkpointing and DDP put into them, unless two become one."""
    bare = {}
    for name, path in names.items():
        text = path
        for wrapper in _WRAPPERS:
            text = text.replace(wrapper, "")
        bare[name] = text
    if bare and all(text.startswith(_DISTRIBUTED) for text in bare.values()):
        bare = {name: text[len(_DISTRIBUTED) :] for name, text in bare.items()}
    return bare if len(set(bare.values())) == len(bare) else dict(names)
