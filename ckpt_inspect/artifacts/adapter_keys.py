"""The grammar of tensor names in an adapter file: module path, what follows it, and what the tensor is.

Names are made by peft 0.21.2 ``utils/save_and_load.py:get_peft_model_state_dict``: ``base_model.model.`` + the path in the
base model + the parameter of the adapter, the adapter's own name taken out. The parameters of every type:
``knowledge/peft_types.toml`` (markers).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from ckpt_inspect.knowledge import load

Role = Literal[
    "lora_A",
    "lora_B",
    "lora_E",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_bias",
    "magnitude",
    "adapter",
    "prompt",
    "token_delta",
    "projection",
    "indices",
    "frozen",
    "base_layer",
    "original_module",
    "modules_to_save",
    "saved_module",
    "embedding_copy",
    "tied_copy",
    "bias",
    "unknown",
]

WRAPPERS = ("_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module", "module")
_PREFIX = ("base_model", "model")
_COPIES: dict[str, Role] = {"modules_to_save": "modules_to_save", "original_module": "original_module"}


@dataclass(frozen=True, slots=True)
class Marker:
    """A parameter an adapter type adds to a module: its role, the axis that is the rank, whether it is trained."""

    name: str
    type: str
    role: Role
    rank: int | None
    trained: bool
    untrained: frozenset[str]


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """A tensor name taken apart.

    `module` is the path in the base model; `suffix` what follows it; `adapter` the adapter's name where it was left
    in; `wrappers` the names of training wrappers left in the path; `prefixed` whether ``base_model.model.`` stood in
    front. `role` is None for a bare parameter of a module: the configuration decides what that is.
    """

    module: str
    suffix: str
    adapter: str | None
    marker: Marker | None
    role: Role | None
    wrappers: tuple[str, ...]
    prefixed: bool


@cache
def markers() -> dict[str, Marker]:
    """Every marker by name."""
    return {
        name: Marker(
            name,
            row["type"],
            row["role"],
            row.get("rank"),
            row.get("trained", True),
            frozenset(row.get("untrained", ())),
        )
        for name, row in load("peft_types")["marker"].items()
    }


def parse_key(name: str) -> ParsedKey:
    """Take one tensor name apart."""
    parts = name.split(".")
    wrappers = _leading_wrappers(parts)
    prefixed = tuple(parts[:2]) == _PREFIX
    if prefixed:
        del parts[:2]
    elif parts[:1] == ["base_model"]:
        del parts[:1]  # parameters shared by the whole model: base_model.vera_A
    wrappers += _inner_wrappers(parts)
    known = markers()
    for index, part in enumerate(parts):
        marker = known.get(part)
        if marker is not None:
            return _marked(parts, index, marker, wrappers, prefixed)
    return _unmarked(parts, wrappers, prefixed)


def _marked(parts: list[str], index: int, marker: Marker, wrappers: tuple[str, ...], prefixed: bool) -> ParsedKey:
    module, tail = parts[:index], parts[index:]
    while module and module[-1] in ("token_adapter", "base_layer"):  # parameters of experts nest through base_layer
        tail.insert(0, module.pop())
    after = parts[index + 1 :]
    adapter = None
    if after and after[0] not in ("weight", "bias") and not after[0].isdigit() and _is_adapter_name(marker, after):
        adapter = after[0]
        tail.remove(adapter)
        after = after[1:]
    role = marker.role
    if role in ("lora_A", "lora_B") and after == ["bias"]:
        role = "lora_bias"
    elif after and after[-1] in marker.untrained:
        role = "frozen"
    return ParsedKey(".".join(module), ".".join(tail), adapter, marker, role, wrappers, prefixed)


def _is_adapter_name(marker: Marker, after: list[str]) -> bool:
    """Whether what follows a marker is an adapter's name and not a parameter of the marker itself (``oft_R.weight``)."""
    if marker.name.startswith("shadow_"):
        return True  # SHADOW keeps the name
    if after[0] == "default":
        return True
    return marker.name.startswith("lora_") and marker.role != "adapter" and (len(after) == 1 or after[1:] == ["weight"])


def _unmarked(parts: list[str], wrappers: tuple[str, ...], prefixed: bool) -> ParsedKey:
    for index, part in enumerate(parts):
        if part in _COPIES:
            tail = parts[index:]
            adapter = tail[1] if part == "modules_to_save" and len(tail) > 2 else None
            if adapter is not None:
                del tail[1]
            return ParsedKey(".".join(parts[:index]), ".".join(tail), adapter, None, _COPIES[part], wrappers, prefixed)
        if part == "base_layer" or (part == "token_adapter" and "base_layer" in parts[index:]):
            module, suffix = ".".join(parts[:index]), ".".join(parts[index:])
            return ParsedKey(module, suffix, None, None, "base_layer", wrappers, prefixed)
    cut = len(parts) - 1
    return ParsedKey(".".join(parts[:cut]), ".".join(parts[cut:]), None, None, None, wrappers, prefixed)


def _leading_wrappers(parts: list[str]) -> tuple[str, ...]:
    found: list[str] = []
    while len(parts) > 1 and parts[0] in WRAPPERS:
        found.append(parts.pop(0))
    return tuple(found)


def _inner_wrappers(parts: list[str]) -> tuple[str, ...]:
    """Take wrappers out of the middle of a path; a plain ``module`` there may be the model's own name and stays."""
    found = [part for part in parts if part in WRAPPERS and part != "module"]
    if found:
        parts[:] = [part for part in parts if part not in found]
    return tuple(found)
