"""Names of the files in a DeepSpeed tag directory: which rank wrote what (``knowledge/deepspeed_eras.toml``, `files`).

"pp" in `zero_pp_rank` is partition-parallel: the rank in the data-parallel (times sequence-parallel) group, never
zero-padded. `mp_rank` counts tensor- and pipeline-parallel ranks. Source: deepspeed 0.19.8 ``runtime/engine.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from ckpt_inspect.knowledge import load
from ckpt_inspect.storage import Entry


@dataclass(frozen=True, slots=True)
class ZeroFile:
    """A file of a tag directory whose name DeepSpeed gave it.

    `kind` is a key of the table; `rank` the data-parallel rank (None where the name has none), `mp_rank` the
    model-parallel rank, `prefix` "", "bf16_" or "fp16_", `size` bytes, `layer` and `expert` their numbers.
    """

    kind: str
    path: str
    size: int
    mtime_ns: int
    rank: int | None = None
    mp_rank: int = 0
    prefix: str = ""
    layer: int | None = None
    expert: int | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((kind, re.compile(row["pattern"])) for kind, row in load("deepspeed_eras")["files"].items())


def classify(entry: Entry) -> ZeroFile | None:
    """What a directory entry is by its name, None when DeepSpeed gives no file such a name."""
    name = entry.name
    if "states" not in name or ".pt" not in name or len(name) > 255:
        return None
    for kind, pattern in _patterns():
        match = pattern.fullmatch(name)
        if match is None:
            continue
        parts = match.groupdict()

        def number(key: str, parts: dict[str, str | None] = parts) -> int | None:
            text = parts.get(key)
            return int(text) if text is not None and len(text) < 10 else None

        return ZeroFile(
            kind=kind,
            path=entry.path,
            size=entry.size,
            mtime_ns=entry.mtime_ns,
            rank=number("rank"),
            mp_rank=number("mp") or 0,
            prefix=parts.get("prefix") or "",
            layer=number("layer"),
            expert=number("expert"),
        )
    return None


@dataclass(frozen=True, slots=True)
class TagFiles:
    """The files of one tag directory by kind, each in natural order of (prefix, mp_rank, rank, layer, expert)."""

    model: tuple[ZeroFile, ...]
    optimizer: tuple[ZeroFile, ...]
    experts: tuple[ZeroFile, ...]
    expert_optimizer: tuple[ZeroFile, ...]
    layers: tuple[ZeroFile, ...]
    parts: tuple[ZeroFile, ...]

    @property
    def all(self) -> tuple[ZeroFile, ...]:
        """Every file, kind by kind."""
        return self.model + self.optimizer + self.experts + self.expert_optimizer + self.layers + self.parts

    @property
    def partitioned_model(self) -> bool:
        """Whether every rank has its own model file, as under stage 3."""
        return any(file.kind == "model_partition" for file in self.model)

    @property
    def mp_ranks(self) -> tuple[int, ...]:
        """Model-parallel ranks named by model and optimizer files."""
        return tuple(sorted({file.mp_rank for file in self.model + self.optimizer}))


_KIND_FIELD = {
    "model": "model",
    "model_partition": "model",
    "optimizer": "optimizer",
    "expert": "experts",
    "expert_optimizer": "expert_optimizer",
    "layer": "layers",
    "part": "parts",
}


def group_files(entries: Iterable[Entry]) -> TagFiles:
    """The DeepSpeed files among the entries of one directory (its own files: pass no deeper ones)."""
    grouped: dict[str, list[ZeroFile]] = {name: [] for name in _KIND_FIELD.values()}
    for entry in entries:
        if entry.kind != "file":
            continue
        file = classify(entry)
        if file is not None:
            grouped[_KIND_FIELD[file.kind]].append(file)
    for files in grouped.values():
        files.sort(key=_natural_order)
    return TagFiles(**{name: tuple(files) for name, files in grouped.items()})


def _natural_order(file: ZeroFile) -> tuple[str, int, int, int, int, str]:
    def known(number: int | None) -> int:
        return -1 if number is None else number

    return (file.prefix, file.mp_rank, known(file.rank), known(file.layer), known(file.expert), file.path)


def is_tag_directory(files: TagFiles) -> bool:
    """Whether the files make the directory a DeepSpeed tag (of any stage, pipeline or experts included)."""
    return bool(files.model or files.optimizer or files.layers or files.parts)
