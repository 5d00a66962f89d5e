"""Scans what is data by nature: JSON, safetensors, GGUF, text. It may still hold templates, secrets and pointers to code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ckpt_inspect.formats.json_document import read_json
from ckpt_inspect.formats.pickle_nodes import Pairs, walk
from ckpt_inspect.formats.pickle_program import PickleProgram
from ckpt_inspect.formats.safetensors_header import read_safetensors_header
from ckpt_inspect.formats.shard_index import read_shard_index
from ckpt_inspect.scan.collector import Collector
from ckpt_inspect.scan.gguf import read_gguf_strings
from ckpt_inspect.scan.python_code import scan_python
from ckpt_inspect.scan.secrets import Secret, find_named, find_secrets
from ckpt_inspect.scan.templates import judge_template
from ckpt_inspect.storage import ByteSource, SliceSource

_CHUNK = 8 << 20
_OVERLAP = 4096
_ATTENTION_KEYS = frozenset({"attn_implementation", "_attn_implementation", "_attn_implementation_internal"})
_CUSTOM_MODULE = re.compile(r"(?!sentence_transformers\.|torch\.nn\.)[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\.[A-Z]\w*")
_TEMPLATE_KEYS = frozenset({"chat_template", "chat_templates", "additional_chat_templates", "default_chat_template"})
_LARGE_JSON = 64 << 20
_MOST_NODES = 3_000_000
_KERAS_KEYS = frozenset({"keras_version", "registered_name", "build_config", "compile_config", "layers"})
_LAMBDA_LAYER = re.compile(rb'"class_name"\s*:\s*"Lambda"')
_MOST_BINARY = 8 << 20  # bytes of a file without structure that is no text
_MOST_NAMED = 20
_MOST_OPCODES = 300_000  # beyond it a pickle holds tensors, not settings
_PYTHON = re.compile(rb"(?m)^(?:from [\w.]+ import |import [\w.]+|def \w+\(|class \w+[(:]|#!/usr/bin/env python)")
_KNOWN_PARENTS = re.compile(
    r"(?:transformers|diffusers|peft|trl|timm|torchvision|sentence_transformers|optimum|torch|auto_gptq|gptqmodel|awq|open_clip)"
    r"(?:[./].*)?\Z"
)


def scan_json(source: ByteSource, collector: Collector, place: str, name: str) -> None:
    """A JSON file: its faults, templates, remote code, shard names and secrets."""
    document = read_json(source, max_bytes=_LARGE_JSON)
    for fault in document.faults:
        collector.note_fault(fault, place)
    mapping = document.mapping
    if isinstance(mapping.get("weight_map"), dict):
        for fault in read_shard_index(source).faults:
            if fault.kind.startswith("index-"):
                collector.note_fault(fault, place)
    _scan_configuration(mapping, collector, place)
    named = named_code = 0
    for key, value in _pairs(document.value):
        if key in _TEMPLATE_KEYS:
            for label, template in _templates(value):
                judge_template(template, collector, _inside(place, f"{key}{label}"))
        found = find_named(key, value)
        if found is not None and named < _MOST_NAMED:
            named += 1
            _note_secret(found, collector, _inside(place, key))
        code = _code_named(key, value)
        if code is not None and named_code < _MOST_NAMED:
            named_code += 1
            collector.note("scan-remote-code", "known", code, place=_inside(place, key))
        if key == "class_name" and value == "Lambda" and not _KERAS_KEYS.isdisjoint(mapping):
            collector.note("scan-lambda-layer", "suspicious", "a Keras Lambda layer", place=place)
    scan_bytes(source, collector, place)


def _scan_configuration(mapping: dict[str, Any], collector: Collector, place: str) -> None:
    """Fields of the outermost object by which libraries find code: PEFT's `auto_mapping`, custom pipelines."""
    pipelines = mapping.get("custom_pipelines")
    if isinstance(pipelines, dict) and pipelines:
        collector.note("scan-remote-code", "known", "custom_pipelines names Python code", place=place)
    mapping_of_base = mapping.get("auto_mapping")
    if isinstance(mapping_of_base, dict):
        parent = mapping_of_base.get("parent_library")
        if (
            isinstance(parent, str)
            and not _KNOWN_PARENTS.match(parent)
            and not parent.startswith("transformers_modules")
        ):
            collector.note(
                "scan-remote-code",
                "known",
                f"auto_mapping has PEFT import {parent}",
                place=_inside(place, "auto_mapping"),
                severity="warning",
            )


def _code_named(key: str, value: Any) -> str | None:
    """What a field at any depth says about code that is fetched: `auto_map` of transformers, attention kernels of the Hub
    (``transformers/integrations/hub_kernels.py``), the `type` of a module of sentence-transformers."""
    if key == "auto_map" and isinstance(value, dict) and value:
        first = next(iter(value.values()))
        return f"auto_map names Python code: {first[0] if isinstance(first, list) and first else first}"
    if key in _ATTENTION_KEYS and isinstance(value, str) and "/" in value:
        return f"the attention is a kernel fetched from the Hub: {value}"
    if key == "type" and isinstance(value, str) and _CUSTOM_MODULE.fullmatch(value):
        return f"a module of its own code: {value}"
    return None


def scan_safetensors(source: ByteSource, collector: Collector, place: str) -> None:
    """A safetensors header: its faults, and secrets in its metadata. The data are numbers."""
    header = read_safetensors_header(source)
    for fault in header.faults:
        collector.note_fault(fault, place)
    for key, value in header.metadata.items():
        found = find_named(key, value)
        if found is not None:
            _note_secret(found, collector, _inside(place, "__metadata__"))
    text = "\n".join(f"{key}={value}" for key, value in header.metadata.items()).encode("utf-8", "replace")
    for hit in find_secrets(text):
        _note_secret(hit, collector, _inside(place, "__metadata__"))


def scan_gguf(source: ByteSource, collector: Collector, place: str) -> None:
    """The strings of a GGUF file; its chat template is rendered by programs without a sandbox (CVE-2024-34359)."""
    strings, complete = read_gguf_strings(source)
    if not complete:
        collector.cover("partial")
    for key, value in strings:
        if key.startswith("tokenizer.chat_template"):
            judge_template(value, collector, _inside(place, key))
        found = find_named(key, value)
        if found is not None:
            _note_secret(found, collector, _inside(place, key))
    for hit in find_secrets("\n".join(value for _, value in strings).encode("utf-8", "replace")):
        _note_secret(hit, collector, place)


def scan_hdf5(source: ByteSource, collector: Collector, place: str) -> None:
    """The configuration a Keras model keeps as JSON text in its HDF5 file."""
    for position in range(0, min(source.size, collector.text_left), _CHUNK):
        if _LAMBDA_LAYER.search(source.read_at(position, _CHUNK + _OVERLAP)):
            collector.note("scan-lambda-layer", "suspicious", "a Keras Lambda layer", place=place)
            return


def scan_template(source: ByteSource, collector: Collector, place: str) -> None:
    """A file that is a chat template by its name; only parsed, never compiled or rendered."""
    text = source.read_at(0, (1 << 20) + 1).decode("utf-8", "replace")
    judge_template(text, collector, place)
    scan_bytes(source, collector, place)


def scan_text(source: ByteSource, collector: Collector, place: str, name: str = "") -> None:
    """Text or anything else without structure: Python code is looked at, the rest searched for secrets."""
    if name.endswith(".py") or (name.rpartition("/")[2].count(".") == 0 and _PYTHON.match(source.read_at(0, 512))):
        scan_python(source, collector, place, name)
    binary = b"\x00" in source.read_at(0, 4096)
    scan_bytes(SliceSource(source, 0, _MOST_BINARY) if binary else source, collector, place)


def scan_bytes(source: ByteSource, collector: Collector, place: str) -> None:
    """Search the bytes of a part for keys, passwords and places, within the file's budget."""
    position = 0
    size = min(source.size, collector.text_left)
    told: set[tuple[str, str]] = set()
    while position < size:
        data = source.read_at(position, min(_CHUNK, size - position) + _OVERLAP)
        if not data:
            break
        for hit in find_secrets(data):
            if (hit.rule, hit.hint) not in told:
                told.add((hit.rule, hit.hint))
                _note_secret(hit, collector, place, position)
        position += _CHUNK
    collector.text_left -= size


def scan_program_text(program: PickleProgram, source: ByteSource, collector: Collector, place: str) -> None:
    """Search a pickle for keys and passwords: its bytes by shape, its dictionaries by the name a value stands under."""
    scan_bytes(SliceSource(source, program.start, program.end - program.start), collector, place)
    if program.opcodes > _MOST_OPCODES:
        return
    for node in walk(program.value, program.discarded):
        if type(node) is Pairs:
            for key, value in node.items:
                if type(key) is str and type(value) is str:
                    found = find_named(key, value)
                    if found is not None:
                        _note_secret(found, collector, _inside(place, key))


def _note_secret(hit: Secret, collector: Collector, place: str, base: int = 0) -> None:
    message = f"{hit.what} ({hit.rule}; {hit.hint})"
    kind = "secret" if hit.grave else "privacy"
    severity = "error" if hit.grave else "note"
    collector.note(kind, "clean", message, place=place, offset=base + hit.offset, severity=severity)  # type: ignore[arg-type]


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, depth first, without recursion; cut after a few million."""
    pending: list[Any] = [value]
    met = 0
    while pending and met < _MOST_NODES:
        node = pending.pop()
        if isinstance(node, dict):
            for key, inner in node.items():
                met += 1
                yield key, inner
                if isinstance(inner, dict | list):
                    pending.append(inner)
        elif isinstance(node, list):
            met += len(node)
            pending.extend(inner for inner in node if isinstance(inner, dict | list))


def _templates(value: Any) -> Iterator[tuple[str, str]]:
    """The templates under a key: a text, a list of `{name, template}`, an object of texts, or any of these deeper."""
    if isinstance(value, str):
        yield "", value
    elif isinstance(value, list | dict):
        name = value.get("name") if isinstance(value, dict) and isinstance(value.get("name"), str) else None
        for key, item in _pairs(value):
            if isinstance(item, str) and "{" in item:
                yield f"[{name or key}]", item


def _inside(place: str, part: str) -> str:
    return f"{place}!{part}" if place else part
