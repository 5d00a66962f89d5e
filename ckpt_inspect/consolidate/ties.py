"""Tied weights: under which of its names a shared tensor is written, and whether more than once.

transformers stores a shared tensor once, under the name its model class calls the source, and ties the others when it
loads (5.23 ``modeling_utils.py`` `_tied_weights_keys`, `tie_weights`). Which name that is, the 16-bit save beside the
shards shows; without one the first name in module order is kept, which is the input embedding in every class.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ckpt_inspect.artifacts.embedding_names import embedding_side
from ckpt_inspect.consolidate.plan import PlannedTensor
from ckpt_inspect.printable import printable

FLAG = "tie_word_embeddings"


@dataclass(frozen=True, slots=True)
class Ties:
    """What to write: `tensors`; `stored_once` (name left out -> name kept); `flag`, what the config must say or None."""

    tensors: tuple[PlannedTensor, ...]
    stored_once: Mapping[str, str]
    flag: bool | None
    warnings: tuple[str, ...]


def resolve_ties(
    tensors: Collection[PlannedTensor],
    aliases: Mapping[str, str],
    config: Mapping[str, Any] | None,
    saved_names: Collection[str] | None,
) -> Ties:
    """Decide for every alias.

    Args:
        tensors: the plan's tensors; aliases are not among them.
        aliases: name -> name of the tensor that holds its values.
        config: the model's config.json, None where there is none.
        saved_names: tensor names in the weights transformers saved beside the shards, None where there are none.
    """
    written = {tensor.name: tensor for tensor in tensors}
    order = list(written)
    once: dict[str, str] = {}
    warnings: list[str] = []
    for alias, owner in aliases.items():
        if owner not in written:
            continue
        in_file = saved_names is not None and alias in saved_names
        owner_in_file = saved_names is not None and owner in saved_names
        if in_file and not owner_in_file and alias not in written:
            written[alias] = replace(written.pop(owner), name=alias)
            order[order.index(owner)] = alias
            once = {name: alias if kept == owner else kept for name, kept in once.items()}
            once[owner] = alias
        elif (in_file and owner_in_file) or (saved_names is None and _must_be_both(alias, owner, config)):
            written[alias] = replace(written[owner], name=alias)
            order.append(alias)
            warnings.append(
                f"{printable(alias)} shares its values with {printable(owner)}, but the config does not tie them: "
                "both are written"
            )
        else:
            once[alias] = owner
    flag, said = _flag(written, once, config)
    return Ties(tuple(written[name] for name in order), once, flag, (*warnings, *said))


def _must_be_both(alias: str, owner: str, config: Mapping[str, Any] | None) -> bool:
    """Whether a loader that follows the config would look for the alias itself."""
    return config is not None and tied(config) is False and {embedding(alias), embedding(owner)} == {"input", "output"}


def _flag(
    written: Mapping[str, PlannedTensor], once: Mapping[str, str], config: Mapping[str, Any] | None
) -> tuple[bool | None, list[str]]:
    if config is None:
        return None, []
    inputs = [name for name in written if embedding(name) == "input" and name.endswith(".weight")]
    outputs = [name for name in written if embedding(name) == "output" and name.endswith(".weight")]
    if tied(config) and len(inputs) == 1 and len(outputs) == 1:
        first, second = written[inputs[0]], written[outputs[0]]
        if first.shape == second.shape and first.ranges != second.ranges:
            return False, [
                f"the config ties the embeddings, the checkpoint holds {printable(inputs[0])} and "
                f"{printable(outputs[0])} separately: {FLAG} is set to false"
            ]
    if tied(config) is False and any(
        {embedding(alias), embedding(owner)} == {"input", "output"} for alias, owner in once.items()
    ):
        return True, [f"the embeddings are one tensor: {FLAG} is set to true"]
    return None, []


def tied(config: Mapping[str, Any]) -> bool | None:
    """What a config says about tied embeddings, at the top or in its text model; None where it is silent."""
    for part in (config, config.get("text_config"), config.get("llm_config"), config.get("language_config")):
        if isinstance(part, Mapping) and isinstance(part.get(FLAG), bool):
            return bool(part[FLAG])
    return None


def embedding(name: str) -> str | None:
    """ "input" or "output" when a tensor is an embedding matrix by its name (``knowledge/embedding_names.toml``)."""
    return embedding_side(name.removesuffix(".weight"))
