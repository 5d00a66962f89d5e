"""What goes with the weights: configuration, tokenizer, templates, processors. Never a pickle, never code unasked.

Which files: ``knowledge/artifacts.toml``, the kinds of `SIDECAR_KINDS`. They are taken from the checkpoint, and what it
lacks from the run it lies in. Only ``config.json`` and ``adapter_config.json`` are changed, where they would be wrong
about what was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ckpt_inspect.consolidate.ties import FLAG
from ckpt_inspect.errors import CkptInspectError
from ckpt_inspect.formats.json_document import JsonDocument, read_json
from ckpt_inspect.formats.safetensors_header import read_safetensors_header
from ckpt_inspect.formats.shard_index import read_shard_index
from ckpt_inspect.knowledge import load
from ckpt_inspect.printable import printable
from ckpt_inspect.storage import LocalTree

MODEL_KINDS = frozenset({"model_config", "generation_config", "sentence_transformers_config", "quantization_config"})
ADAPTER_KINDS = frozenset({"adapter_config"})
SHARED_KINDS = frozenset(
    {
        "preprocessor_config", "processor_config", "video_preprocessor_config", "audio_tokenizer_config",
        "tokenizer_json", "tokenizer_config", "special_tokens_map", "added_tokens", "vocab", "merges", "tokenizer_model",
        "tokenizer_extra", "chat_template", "additional_chat_template",
    }
)  # fmt: skip
CODE_KIND = "model_code"
LARGEST = 1 << 30
_CHECKPOINT_IN_RUN = re.compile(r"(?:tmp-)?(?:checkpoint|ckpt|epoch|step|global_step|iter)[-_]?\d+.*")
_DTYPE_KEYS = ("dtype", "torch_dtype")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A file to copy: its name in the output, the tree and path it comes from, its size."""

    name: str
    tree: LocalTree
    path: str
    size: int

    def read(self) -> bytes:
        """Its content."""
        with self.tree.open(self.path) as file:
            return file.read_at(0, file.size)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The checkpoint directory and the run it is in, as far as the output needs them."""

    checkpoint: LocalTree
    run: LocalTree | None

    @property
    def trees(self) -> tuple[LocalTree, ...]:
        """Where files are looked for, best first."""
        return (self.checkpoint,) if self.run is None else (self.checkpoint, self.run)

    def document(self, name: str) -> JsonDocument | None:
        """A JSON file of the checkpoint, else of the run; None where neither has it."""
        for tree in self.trees:
            entry = tree.get(name)
            if entry is not None and entry.kind == "file":
                with tree.open(name) as file:
                    return read_json(file, want_object=True)
        return None


def is_checkpoint_name(name: str) -> bool:
    """Whether a directory's name says that it is one checkpoint of a run."""
    return _CHECKPOINT_IN_RUN.fullmatch(name) is not None


def look_around(checkpoint: Path) -> Surroundings:
    """The checkpoint directory, and its run where the directory's name says that it lies in one."""
    tree = LocalTree(checkpoint)
    parent = Path(checkpoint).absolute().parent
    run = None
    if is_checkpoint_name(Path(checkpoint).absolute().name):
        try:
            run = LocalTree(parent)
        except CkptInspectError:  # not readable: the checkpoint alone has to do
            run = None
    return Surroundings(tree, run)


def find_sidecars(around: Surroundings, *, adapter: bool) -> list[Sidecar]:
    """The files to copy beside the weights of a model, or of an adapter."""
    wanted = SHARED_KINDS | (ADAPTER_KINDS if adapter else MODEL_KINDS)
    found: dict[str, Sidecar] = {}
    for tree in around.trees:
        names = {entry.path for entry in tree.entries() if entry.kind == "file"}
        code = _code_named_by(tree, names)
        for entry in tree.entries():
            if entry.kind != "file" or entry.size > LARGEST:
                continue
            kind = _kind(entry.path)
            if (kind in wanted or entry.path in code) and entry.path not in found:
                found[entry.path] = Sidecar(entry.path, tree, entry.path, entry.size)
    return list(found.values())


def saved_names(tree: LocalTree, stem: str) -> frozenset[str] | None:
    """Tensor names of the weights saved as `stem` in a checkpoint ("model", "adapter_model"); None without any."""
    name = f"{stem}.safetensors"
    try:
        entry = tree.get(name)
        if entry is not None and entry.kind == "file":
            with tree.open(name) as file:
                header = read_safetensors_header(file)
            return frozenset(header.by_name) if header.loadable else None
        entry = tree.get(f"{name}.index.json")
        if entry is not None and entry.kind == "file":
            with tree.open(entry.path) as file:
                index = read_shard_index(file, None)
            return frozenset(index.weight_map) or None
    except CkptInspectError:
        return None
    return None


def model_config(document: JsonDocument, dtype: str, flag: bool | None) -> tuple[bytes | None, list[str]]:
    """``config.json`` as it has to be beside weights of `dtype` ("bfloat16"); None where it cannot be changed safely.

    The key is `dtype` since transformers 4.56, `torch_dtype` before; sub-configs that state a type are changed too.
    """
    config = document.value
    if not isinstance(config, dict) or not document.complete:
        return None, ["config.json is not whole: it was copied as it is"]
    changed = json.loads(json.dumps(config))
    if not _state_dtype(changed, dtype):
        changed["dtype" if _since_4_56(changed.get("transformers_version")) else "torch_dtype"] = dtype
    if flag is not None:
        _state_tie(changed, flag)
    return (json.dumps(changed, indent=2) + "\n").encode(), []


def adapter_config(document: JsonDocument) -> tuple[bytes | None, list[str]]:
    """``adapter_config.json`` for loading: `inference_mode` true, as PEFT writes it when it saves.

    AdaLoRA's `rank_pattern` is dropped: the shards hold tensors before pruning, whose pruned directions are zero.
    """
    config = document.value
    if not isinstance(config, dict) or not document.complete:
        return None, ["adapter_config.json is not whole: it was copied as it is"]
    changed = dict(config)
    warnings = []
    if "inference_mode" in changed:
        changed["inference_mode"] = True
    if changed.get("peft_type") == "ADALORA" and changed.get("rank_pattern"):
        changed["rank_pattern"] = None
        warnings.append("AdaLoRA's rank_pattern was dropped: the tensors are written at their full rank")
    return json.dumps(changed, indent=2, sort_keys=True).encode(), warnings


def _state_dtype(config: dict[str, Any], dtype: str) -> bool:
    """Set every dtype the config and its sub-configs state; whether the top level states one."""
    stated = False
    for key in _DTYPE_KEYS:
        if key in config:
            config[key] = dtype
            stated = True
    for key, value in config.items():
        if key.endswith("_config") and key != "quantization_config" and isinstance(value, dict):
            _state_dtype(value, dtype)
    return stated


def _state_tie(config: dict[str, Any], flag: bool) -> None:
    config[FLAG] = flag
    for value in config.values():
        if isinstance(value, dict) and isinstance(value.get(FLAG), bool):
            value[FLAG] = flag


def _since_4_56(version: Any) -> bool:
    match = re.match(r"(\d+)\.(\d+)", version) if isinstance(version, str) else None
    return match is not None and (int(match[1]), int(match[2])) >= (4, 56)


def _code_named_by(tree: LocalTree, names: set[str]) -> set[str]:
    """Python files an `auto_map` names (``config.AutoModel: "modeling_x.Model"``), and what they import beside them."""
    pending = [module for document in ("config.json", "tokenizer_config.json", "preprocessor_config.json",
               "processor_config.json") if document in names for module in _auto_map(tree, document)]  # fmt: skip
    code: set[str] = set()
    while pending:
        path = f"{pending.pop()}.py"
        if path in code or path not in names:
            continue
        code.add(path)
        with tree.open(path) as file:
            text = file.read_at(0, 4 << 20).decode("utf-8", "replace")
        pending += re.findall(r"^\s*from\s+\.(\w+)\s+import", text, re.MULTILINE)
    return code


def _auto_map(tree: LocalTree, document: str) -> Iterator[str]:
    with tree.open(document) as file:
        value = read_json(file, want_object=True).mapping.get("auto_map")
    for row in value.values() if isinstance(value, Mapping) else ():
        for reference in row if isinstance(row, list) else (row,):
            if isinstance(reference, str) and "--" not in reference:
                yield reference.partition(".")[0]


def _kind(path: str) -> str | None:
    directory, _, name = path.rpartition("/")
    for kind, names, pattern, within in _rows():
        if (within.search(f"{directory}/") if within else not directory) and (
            name in names or (pattern is not None and pattern.fullmatch(name))
        ):
            return kind
    return None


@cache
def _rows() -> tuple[tuple[str, frozenset[str], re.Pattern[str] | None, re.Pattern[str] | None], ...]:
    rows = []
    for kind, row in load("artifacts")["kind"].items():
        if kind in MODEL_KINDS | ADAPTER_KINDS | SHARED_KINDS:
            patterns = row.get("patterns")
            pattern = re.compile("|".join(f"(?:{one})" for one in patterns)) if patterns else None
            within = re.compile(f"^{row['within'].removeprefix('(^|/)')}") if row.get("within") else None
            rows.append((kind, frozenset(row.get("names", ())), pattern, within))
    return tuple(rows)


def lost_names(written: frozenset[str], saved: frozenset[str] | None, once: Mapping[str, str]) -> str | None:
    """A warning when the saved weights hold everything that was written and more; None otherwise."""
    if saved is None or not written or not written < saved | set(once):
        return None
    lost = sorted(saved - written - set(once))
    if not lost:
        return None
    return f"{len(lost)} tensors of the saved model are not in the shards (first: {printable(lost[0])})"
