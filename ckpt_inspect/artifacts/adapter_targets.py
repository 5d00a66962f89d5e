"""Which modules an adapter's configuration means, by the rules PEFT applies when it loads the adapter.

Source: peft 0.21.2 ``utils/other.py:get_pattern_key`` and ``_set_trainable``, ``tuners/tuners_utils.py:
check_target_module_exists``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ckpt_inspect.artifacts.embedding_names import embedding_side
from ckpt_inspect.artifacts.patterns import PatternError, compiled, path_end

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.adapter import AdapterConfig

_FIRST_INDEX = re.compile(r".*?\.[^.]*\.(?P<index>\d+)\.")


def pattern_key(patterns: Iterable[str], module: str) -> str | None:
    """The first key of a `rank_pattern` or `alpha_pattern` that matches the end of a module's path; None if none."""
    for pattern in patterns:
        try:
            if path_end(pattern)(module):
                return pattern
        except PatternError:
            continue
    return None


def is_target(config: AdapterConfig, module: str) -> bool | None:
    """Whether PEFT would put an adapter on a module; None when the configuration does not decide it.

    Args:
        module: the module's path in the base model, without ``base_model.model.``.
    """
    if config.target_modules is None:
        return False if config.target_parameters else None
    try:
        if config.exclude_modules and _matches(config.exclude_modules, module):
            return False
        if any(path_end(name, r"(?:\..*)?")(module) for name in config.modules_to_save or ()):
            return False
        if not _named(config, module):
            return False
    except PatternError:
        return None
    if isinstance(config.target_modules, str) or not config.layers_to_transform:
        return True
    index = _layer_index(module, config.layers_pattern)
    return index is not None and index in config.layers_to_transform


def is_saved_module(config: AdapterConfig, module: str) -> bool:
    """Whether `modules_to_save` names a module: PEFT asks only how the path ends."""
    return any(module.endswith(name) for name in config.modules_to_save or ())


def _named(config: AdapterConfig, module: str) -> bool:
    """Whether `target_modules` means a module, directly or through the tie of its embeddings."""
    targets = config.target_modules or ()
    if isinstance(targets, str) and config.peft_type == "ADAPTION_PROMPT":
        targets = (targets,)  # a name there, no expression (tuners/adaption_prompt/model.py)
    if _matches(targets, module):
        return True
    # `ensure_weight_tying` targets the output embedding where the input is (tuners/lora/model.py:_add_targets_to_tie).
    return (
        config.ensure_weight_tying
        and embedding_side(module) == "output"
        and not isinstance(targets, str)
        and any(embedding_side(name) == "input" for name in targets)
    )


def _matches(names: tuple[str, ...] | str, module: str) -> bool:
    if isinstance(names, str):
        return names == "all-linear" or compiled(names).fullmatch(module)
    return module in names or any(module.endswith(f".{name}") for name in names)


def _layer_index(module: str, patterns: tuple[str, ...] | None) -> int | None:
    if not patterns:
        match = _FIRST_INDEX.match(module)
        return int(match["index"]) if match else None
    for pattern in patterns:
        match = re.match(rf"(?:^|.*?\.){re.escape(pattern)}\.(?P<index>\d+)\.", module)
        if match:
            return int(match["index"])
    return None
