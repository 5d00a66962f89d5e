"""``adapter_config.json``: what an adapter says it is, and the scaling its modules get.

Format: peft ``config.py:PeftConfigMixin.save_pretrained`` (every field of the type's dataclass, sets as lists, keys
sorted). Types, their keys and their scaling: ``knowledge/peft_types.toml``; which release wrote which key:
``knowledge/peft_eras.toml``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckpt_inspect.artifacts.adapter_targets import pattern_key
from ckpt_inspect.artifacts.fields import Fields, read_object
from ckpt_inspect.artifacts.patterns import PatternError, compiled
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.knowledge import load

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

TASK_TYPES = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """An adapter's configuration; a field is None when the file lacks it, has null, or has the wrong type (a fault).

    Attributes:
        peft_type: as written; not necessarily a type any release knows.
        rank, alpha: under whatever key the type keeps them (`init_r` for AdaLoRA, `randlora_alpha`, ...).
        target_modules: names, or one regular expression, or None.
        init_weights: the value of `init_lora_weights` or of the type's own key.
        unknown_keys: keys PEFT would drop on load with a warning.
        prompt: whether it learns virtual tokens instead of changing modules.
    """

    peft_type: str | None
    base_model: str | None
    revision: str | None
    task_type: str | None
    r: int | None
    alpha: float | None
    use_rslora: bool
    use_dora: bool
    target_modules: tuple[str, ...] | str | None
    exclude_modules: tuple[str, ...] | str | None
    modules_to_save: tuple[str, ...] | None
    trainable_token_indices: list[Any] | dict[str, Any] | None
    rank_pattern: dict[str, Any]
    alpha_pattern: dict[str, Any]
    init_weights: bool | str | None
    layers_to_transform: tuple[int, ...] | None
    layers_pattern: tuple[str, ...] | None
    target_parameters: tuple[str, ...] | None
    ensure_weight_tying: bool
    peft_version: str | None
    inference_mode: bool | None
    bias: str | None
    prompt: bool
    values: dict[str, Any] = field(repr=False)
    unknown_keys: tuple[str, ...]
    complete: bool
    faults: tuple[Fault, ...]

    @property
    def init_lora_weights(self) -> bool | str | None:
        """The same as `init_weights`, under LoRA's name for it."""
        return self.init_weights

    def scaling(self, module: str = "") -> float | None:
        """The factor on a module's update, as PEFT computes it when it loads the adapter; None where there is none.

        Args:
            module: the module's path in the base model, matched against `rank_pattern` and `alpha_pattern`; the path
                of the parameter for one of `target_parameters`.
        """
        return _scaling(self, module)

    def rank_of(self, module: str) -> int | None:
        """The rank a module is configured to have: by `rank_pattern`, else `r`."""
        rank = None if self.peft_type == "ADALORA" else _of_pattern(self.rank_pattern, module)
        return rank if type(rank) is int else self.r


def read_adapter_config(source: ByteSource) -> AdapterConfig:
    """Read a configuration. Never raises for content."""
    faults = FaultLog()
    values, complete = read_object(source, faults)
    fields = Fields(values, faults)
    table = load("peft_types")
    peft_type = _peft_type(fields, table, faults, complete=complete)
    row = table["type"].get(peft_type, {})
    indices = values.get("trainable_token_indices")
    if indices is not None and not isinstance(indices, list | dict):
        fields.wrong("trainable_token_indices", "a list or an object")
        indices = None
    config = AdapterConfig(
        peft_type=peft_type,
        base_model=fields.text("base_model_name_or_path"),
        revision=fields.text("revision"),
        task_type=_task_type(fields, faults),
        r=fields.integer(row["rank"]) if "rank" in row else fields.integer("r"),
        alpha=fields.number(row.get("alpha", "lora_alpha")),
        use_rslora=fields.flag("use_rslora") or False,
        use_dora=fields.flag("use_dora") or False,
        target_modules=_names(fields, "target_modules"),
        exclude_modules=_names(fields, "exclude_modules"),
        modules_to_save=_tuple(_names(fields, "modules_to_save")),
        trainable_token_indices=indices,
        rank_pattern=fields.mapping("rank_pattern") or {},
        alpha_pattern=fields.mapping("alpha_pattern") or {},
        init_weights=_init(fields),
        layers_to_transform=fields.integers("layers_to_transform"),
        layers_pattern=_tuple(_names(fields, "layers_pattern")),
        target_parameters=fields.texts("target_parameters"),
        ensure_weight_tying=fields.flag("ensure_weight_tying") or False,
        peft_version=fields.text("peft_version"),
        inference_mode=fields.flag("inference_mode"),
        bias=fields.text("bias") if not isinstance(values.get("bias"), bool) else None,
        prompt=row.get("prompt", False),
        values=values,
        unknown_keys=_unknown(values, row, table["common"]),
        complete=complete,
        faults=(),
    )
    _check(config, faults)
    return _with_faults(config, faults)


def version_bracket(config: AdapterConfig) -> tuple[str | None, str | None]:
    """(at least, before): the PEFT releases between which the writer lies, by the keys present.

    (None, None) for types other than LoRA; before is None for the newest release known, and where the keys
    contradict one another (a development build, or a file written by hand).
    """
    table = load("peft_eras").get(config.peft_type or "", {})
    if not table:
        return None, None
    present = [row["since"] for key, row in table.items() if key in config.values]
    absent = [row["since"] for key, row in table.items() if key not in config.values]
    at_least = max(present, key=_release, default=None)
    before = min(absent, key=_release, default=None)
    if at_least and before and _release(before) <= _release(at_least):
        before = None
    return at_least, before


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _peft_type(fields: Fields, table: Mapping[str, Any], faults: FaultLog, *, complete: bool) -> str | None:
    value = fields.text("peft_type")
    if value is None:
        if complete and fields.values:
            faults.add("adapter-type-missing", f"no `peft_type`{_other_library(fields.values)}", place="peft_type")
        return None
    row = table["type"].get(value)
    if row is None:
        faults.add("adapter-type-unknown", "no PEFT release known here has this type", place="peft_type")
    elif "until" in row:
        faults.add("adapter-type-removed", f"PEFT removed this type after {row['until']}", place="peft_type")
    return value


def _other_library(values: Mapping[str, Any]) -> str:
    if "lora_parameters" in values and "fine_tune_type" in values:
        return "; the keys are those of mlx-lm"
    if isinstance(values.get("config"), dict) and "model_class" in values:
        return "; the keys are those of AdapterHub's `adapters`"
    return ""


def _task_type(fields: Fields, faults: FaultLog) -> str | None:
    value = fields.text("task_type")
    if value is not None and value not in TASK_TYPES:
        faults.add("adapter-task-unknown", "PEFT refuses to load a task type it does not know", place="task_type")
    return value


def _names(fields: Fields, key: str) -> tuple[str, ...] | str | None:
    value = fields.values.get(key)
    if isinstance(value, str):
        return value
    return fields.texts(key)


def _tuple(value: tuple[str, ...] | str | None) -> tuple[str, ...] | None:
    return (value,) if isinstance(value, str) else value


def _init(fields: Fields) -> bool | str | None:
    for key in ("init_lora_weights", "init_ia3_weights", "init_weights"):
        value = fields.values.get(key)
        if isinstance(value, bool | str):
            return value
    return None


def _unknown(values: Mapping[str, Any], row: Mapping[str, Any], common: Mapping[str, Any]) -> tuple[str, ...]:
    if not row:
        return ()
    known = {*row["fields"], *common["fields"], *common["legacy"]["fields"]}
    return tuple(key for key in values if key not in known)


def _check(config: AdapterConfig, faults: FaultLog) -> None:
    if config.peft_type in ("LORA", "ADALORA") and config.r is not None and config.r <= 0:
        faults.add("adapter-rank", f"is {config.r}; PEFT refuses anything below 1", place="r")
    patterns: list[tuple[str, str]] = []
    for key in ("rank_pattern", "alpha_pattern"):
        patterns.extend((key, name) for name in getattr(config, key))
    patterns.extend(
        (key, value) for key in ("target_modules", "exclude_modules") if isinstance(value := getattr(config, key), str)
    )
    for key, pattern in patterns:
        try:
            compiled(pattern)
        except PatternError as error:
            faults.add("adapter-pattern", f"cannot be matched here: {error}", place=key)
    for key in ("rank_pattern", "alpha_pattern"):
        _check_pattern_values(config, key, faults)


def _check_pattern_values(config: AdapterConfig, key: str, faults: FaultLog) -> None:
    if config.peft_type == "ADALORA":
        return  # there the values are masks, one boolean per rank
    for name, value in getattr(config, key).items():
        if type(value) not in (int, float):
            faults.add("field-type", "is not a number", place=f"{key}.{name}")


def _with_faults(config: AdapterConfig, faults: FaultLog) -> AdapterConfig:
    from dataclasses import replace

    return replace(config, faults=faults.sealed())


def _scaling(config: AdapterConfig, module: str) -> float | None:
    formula = load("peft_types")["type"].get(config.peft_type or "", {}).get("scaling")
    if formula is None:
        return None
    if formula == "scaling":
        value = config.values.get("scaling")
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    rank = config.rank_of(module)
    alpha = _of_pattern(config.alpha_pattern, module)
    alpha = alpha if alpha is not None else config.alpha
    if alpha is None and formula == "alpha/r" and config.peft_type == "DEFT":
        return 1.0  # peft 0.21.2 deft/layer.py: no alpha, no scaling
    if formula == "alpha/(r+hybrid_r)" and rank is not None:
        hybrid = config.values.get("hybrid_r")
        rank += hybrid if type(hybrid) is int else 0
    if rank is None or alpha is None or rank <= 0:
        return None
    return alpha / math.sqrt(rank) if config.use_rslora and config.peft_type == "LORA" else alpha / rank


def _of_pattern(patterns: Mapping[str, Any], module: str) -> int | float | None:
    key = pattern_key(patterns, module)
    value = patterns.get(key) if key is not None else None
    return value if type(value) in (int, float) else None


def named_ids(value: Iterable[Any] | Mapping[str, Any] | None) -> dict[str, tuple[int, ...]]:
    """`trainable_token_indices` as embedding name -> ids; the list form stands for the input embedding ("")."""
    if isinstance(value, Mapping):
        return {str(name): _ids(ids) for name, ids in value.items()}
    return {"": _ids(value)} if value is not None else {}


def _ids(value: object) -> tuple[int, ...]:
    return tuple(item for item in value if type(item) is int) if isinstance(value, list | tuple) else ()
