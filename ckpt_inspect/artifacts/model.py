"""``config.json`` and ``generation_config.json``: what a model is, wherever its class keeps it.

Format: transformers ``configuration_utils.py`` and ``generation/configuration_utils.py`` (values equal to a class's
default may be left out). Names of nested configurations and of the same quantity in different classes:
``knowledge/model_configs.toml``; what an absent key means: ``knowledge/model_defaults.toml``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckpt_inspect.artifacts.fields import Fields, read_object
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.knowledge import load

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource


@dataclass(frozen=True, slots=True)
class Quantization:
    """`quantization_config`: the method ("bitsandbytes", "gptq", "awq", ...), bits per weight where it says."""

    method: str | None
    bits: int | None
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model's configuration, the text model's numbers resolved.

    Attributes:
        vocab_size: rows of the embedding the configuration asks for, of the text model inside a composite one.
        vocab_sizes: every `vocab_size` in the file by its place ("" is the top): more than one value means a resize
            changed only part of the configuration.
        tie_word_embeddings: whether input and output embedding are one matrix, None where the type is unknown.
        defaulted: names of the attributes above that the file leaves out and the class's default supplies.
        text_place: where the text model's configuration stands ("text_config", ...), "" for the top.
        dtype: without the prefix "torch.".
        name_or_path: `_name_or_path`, what the weights were loaded from (written up to transformers 4.50).
    """

    architectures: tuple[str, ...]
    model_type: str | None
    vocab_size: int | None
    vocab_sizes: dict[str, int]
    hidden_size: int | None
    num_layers: int | None
    max_positions: int | None
    tie_word_embeddings: bool | None
    defaulted: frozenset[str]
    dtype: str | None
    transformers_version: str | None
    quantization: Quantization | None
    eos_token_ids: tuple[int, ...]
    bos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    name_or_path: str | None
    remote_code: dict[str, Any]
    text_place: str
    values: dict[str, Any] = field(repr=False)
    complete: bool
    faults: tuple[Fault, ...]

    @property
    def text_config(self) -> bool:
        """Whether the text model's configuration is nested in a composite one."""
        return bool(self.text_place)


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How the model generates unless told otherwise; None where the file leaves a value to the library's default."""

    eos_token_ids: tuple[int, ...]
    bos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    decoder_start_token_ids: tuple[int, ...]
    max_length: int | None
    max_new_tokens: int | None
    do_sample: bool | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    repetition_penalty: float | None
    transformers_version: str | None
    from_model_config: bool
    values: dict[str, Any] = field(repr=False)
    complete: bool
    faults: tuple[Fault, ...]


def read_model_config(source: ByteSource) -> ModelConfig:
    """Read ``config.json``. Never raises for content."""
    faults = FaultLog()
    values, complete = read_object(source, faults)
    top = Fields(values, faults)
    place, text_values = text_section(values)
    text = Fields(text_values, faults, f"{place}." if place else "")
    resolver = _Resolver(top, text, place)
    version = top.text("transformers_version")
    vocab_size = resolver.number("vocab_size")
    hidden_size, num_layers = resolver.number("hidden_size"), resolver.number("num_layers")
    tied = resolver.tied(version)
    return ModelConfig(
        architectures=top.texts("architectures") or (),
        model_type=top.text("model_type"),
        vocab_size=vocab_size,
        vocab_sizes=_vocab_sizes(values),
        hidden_size=hidden_size,
        num_layers=num_layers,
        max_positions=resolver.number("max_positions"),
        tie_word_embeddings=tied,
        defaulted=frozenset(resolver.defaulted),
        dtype=_dtype(top) or (_dtype(text) if place else None),
        transformers_version=version,
        quantization=_quantization(top),
        eos_token_ids=_ids(resolver, "eos_token_id"),
        bos_token_ids=_ids(resolver, "bos_token_id"),
        pad_token_id=next(iter(_ids(resolver, "pad_token_id")), None),
        name_or_path=top.text("_name_or_path") or None,
        remote_code=top.mapping("auto_map") or {},
        text_place=place,
        values=values,
        complete=complete,
        faults=faults.sealed(),
    )


def read_generation_config(source: ByteSource) -> GenerationConfig:
    """Read ``generation_config.json``. Never raises for content."""
    faults = FaultLog()
    values, complete = read_object(source, faults)
    fields = Fields(values, faults)
    return GenerationConfig(
        eos_token_ids=fields.integers("eos_token_id") or (),
        bos_token_ids=fields.integers("bos_token_id") or (),
        pad_token_id=next(iter(fields.integers("pad_token_id") or ()), None),
        decoder_start_token_ids=fields.integers("decoder_start_token_id") or (),
        max_length=fields.integer("max_length"),
        max_new_tokens=fields.integer("max_new_tokens"),
        do_sample=fields.flag("do_sample"),
        temperature=fields.number("temperature"),
        top_p=fields.number("top_p"),
        top_k=fields.integer("top_k"),
        repetition_penalty=fields.number("repetition_penalty"),
        transformers_version=fields.text("transformers_version"),
        from_model_config=fields.flag("_from_model_config") or False,
        values=values,
        complete=complete,
        faults=faults.sealed(),
    )


def text_section(values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Where the text model's configuration stands and what it holds; ("", all of it) when it is the whole file."""
    for path in load("model_configs")["text_config"]["keys"]:
        found: Any = values
        for key in path.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, dict) and found:
            return path, found
    return "", values


class _Resolver:
    """Looks a quantity up under its names: in the text model's section, then at the top, then the class's default."""

    def __init__(self, top: Fields, text: Fields, place: str) -> None:
        self.top = top
        self.text = text
        self.place = place
        self.defaulted: set[str] = set()
        self._alias: Mapping[str, list[str]] = load("model_configs")["alias"]

    def number(self, name: str) -> int | None:
        for fields in (self.text, self.top) if self.place else (self.text,):
            for key in self._alias[name]:
                value = fields.integer(key)
                if value is not None:
                    return value
        return self._default(name)

    def tied(self, version: str | None) -> bool | None:
        release = re.match(r"(\d+)\.", version or "")
        modern = release is not None and int(release[1]) >= 5
        # 4.x ties by the text model's flag, 5.x by that of the whole model (modeling_utils.py:tie_weights).
        order = (self.top, self.text) if modern else (self.text, self.top)
        for fields in order if self.place else order[:1]:
            value = fields.flag("tie_word_embeddings")
            if value is not None:
                return value
        if not modern:
            if version is not None:
                self.defaulted.add("tie_word_embeddings")
            return True if version is not None else None
        table = load("model_defaults")["tied"]
        for model_type in (self.top.values.get("model_type"), self.text.values.get("model_type")):
            if model_type in table["yes"] or model_type in table["no"]:
                self.defaulted.add("tie_word_embeddings")
                return model_type in table["yes"]
        return None

    def _default(self, name: str) -> int | None:
        model_type = self.text.values.get("model_type")
        if name not in ("vocab_size", "hidden_size", "num_layers") or not isinstance(model_type, str):
            return None
        row = load("model_defaults")["size"].get(model_type)
        value = row[("vocab_size", "hidden_size", "num_layers").index(name)] if isinstance(row, list) else 0
        if value:
            self.defaulted.add(name)
        return value or None


def _ids(resolver: _Resolver, key: str) -> tuple[int, ...]:
    for fields in (resolver.top, resolver.text) if resolver.place else (resolver.top,):
        ids = fields.integers(key)
        if ids:
            return ids
    return ()


def _vocab_sizes(values: Mapping[str, Any], place: str = "", depth: int = 0) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, value in values.items():
        if key == "vocab_size" and type(value) is int:
            found[place] = value
        elif isinstance(value, dict) and depth < 4:
            found.update(_vocab_sizes(value, f"{place}.{key}".lstrip("."), depth + 1))
    return found


def _dtype(fields: Fields) -> str | None:
    """`dtype` since transformers 4.56, `torch_dtype` before."""
    value = fields.text("dtype") or fields.text("torch_dtype")
    return value.removeprefix("torch.") if value else None


def _quantization(fields: Fields) -> Quantization | None:
    values = fields.mapping("quantization_config")
    if values is None:
        return None
    bits = values.get("bits")
    if type(bits) is not int:
        bits = 4 if values.get("load_in_4bit") is True else 8 if values.get("load_in_8bit") is True else None
    method = values.get("quant_method")
    if not isinstance(method, str):
        method = "bitsandbytes" if "load_in_4bit" in values or "load_in_8bit" in values else None
    return Quantization(method, bits, values)
