"""From a plan to an output: names as loaders want them, tied weights once, adapters in PEFT's grammar, the files beside.

Pure but for reading the small files of the checkpoint; no weight is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ckpt_inspect.consolidate.cast import target_dtype
from ckpt_inspect.consolidate.output import OutputFile, OutputLayout, lay_out
from ckpt_inspect.consolidate.peft_names import (
    VALUE_HEAD_PREFIX,
    adapter_tensors,
    belongs_in_file,
    is_peft_name,
    unwrapped,
)
from ckpt_inspect.consolidate.plan import Plan, PlannedTensor, Range, SourceFile
from ckpt_inspect.consolidate.sidecars import (
    Sidecar,
    Surroundings,
    adapter_config,
    find_sidecars,
    lost_names,
    model_config,
    saved_names,
)
from ckpt_inspect.consolidate.ties import resolve_ties
from ckpt_inspect.errors import CkptInspectError, OutputError
from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.formats.json_document import JsonDocument
from ckpt_inspect.formats.safetensors_header import read_safetensors_header
from ckpt_inspect.printable import printable

MODEL, ADAPTER, VALUE_HEAD = "model", "adapter_model", "value_head"
TORCH_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True)
class Composition:
    """Everything an output will hold.

    `sources` extends the plan's; `documents` are small files by name, `copies` files taken over as they are;
    `stored_once` maps names that are not written to the name that holds their values.
    """

    kind: str
    layouts: tuple[OutputLayout, ...]
    sources: tuple[SourceFile, ...]
    documents: Mapping[str, bytes]
    copies: tuple[Sidecar, ...]
    stored_once: Mapping[str, str]
    warnings: tuple[str, ...]

    @property
    def files(self) -> tuple[OutputFile, ...]:
        """The weight files."""
        return tuple(file for layout in self.layouts for file in layout.files)

    @property
    def tensors(self) -> tuple[PlannedTensor, ...]:
        """What is written, in file order."""
        return tuple(placed.tensor for file in self.files for placed in file.tensors)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        small = sum(len(data) for data in self.documents.values()) + sum(copy.size for copy in self.copies)
        return sum(layout.size for layout in self.layouts) + small


def compose(
    plan: Plan, around: Surroundings, *, dtype: str | None, max_shard_size: int | None, narrowed: bool = False
) -> Composition:
    """Lay out the output of `plan`.

    Args:
        plan: what to write.
        around: the checkpoint directory and its run.
        dtype: "F32", "BF16" or "F16", which floating tensors are cast to; None keeps the types of the shards.
        max_shard_size: bytes a weight file may hold; None for one file.
        narrowed: only some tensors were asked for: nothing is added, no missing name is reported.

    Raises:
        OutputError: a tensor cannot be stored in safetensors.
    """
    tensors = [replace(tensor, dtype=target_dtype(tensor.source_dtype, dtype)) for tensor in plan.tensors]
    if not tensors:
        raise OutputError("there is nothing to write: the checkpoint holds no tensor", where=plan.checkpoint)
    adapter = around.document("adapter_config.json")
    peft = (plan.adapter_only or adapter is not None) and any(is_peft_name(tensor.name) for tensor in tensors)
    heads, tensors = _value_head(tensors)
    if peft:
        composition = _adapter(plan, around, adapter, tensors, dtype, max_shard_size, narrowed)
    else:
        composition = _model(plan, around, tensors, dtype, max_shard_size, narrowed)
    if heads:
        extra = lay_out(heads, stem=VALUE_HEAD, max_shard_size=None)
        composition = replace(composition, layouts=(*composition.layouts, extra))
    return composition


def _model(
    plan: Plan,
    around: Surroundings,
    tensors: Sequence[PlannedTensor],
    dtype: str | None,
    max_shard_size: int | None,
    narrowed: bool,
) -> Composition:
    document = around.document("config.json")
    config = document.mapping if document is not None else None
    saved = saved_names(around.checkpoint, MODEL)
    ties = resolve_ties(tensors, plan.aliases, config, saved)
    warnings = list(ties.warnings)
    bare = {} if config is not None else ties.stored_once  # transformers ties by class, plain torch needs to be told
    layout = lay_out(ties.tensors, stem=MODEL, max_shard_size=max_shard_size, aliases=bare)
    documents = dict(_index(layout))
    copies = find_sidecars(around, adapter=False)
    if document is None:
        warnings.append("no config.json is in the checkpoint or its run: from_pretrained needs one beside the weights")
    else:
        written, said = model_config(document, floating_type(ties.tensors), ties.flag)
        copies = _replace_copy(copies, documents, "config.json", written)
        warnings += said
    if not narrowed:
        lost = lost_names(frozenset(tensor.name for tensor in ties.tensors), saved, ties.stored_once)
        warnings += [lost] if lost else []
    return Composition(
        "model", (layout,), plan.sources, documents, tuple(copies), dict(ties.stored_once), tuple(warnings)
    )


def _adapter(
    plan: Plan,
    around: Surroundings,
    document: JsonDocument | None,
    tensors: Sequence[PlannedTensor],
    dtype: str | None,
    max_shard_size: int | None,
    narrowed: bool,
) -> Composition:
    warnings: list[str] = []
    by_name = {tensor.name: tensor for tensor in tensors}
    shared = [  # PEFT looks for every wrapped module under its own name
        replace(by_name[owner], name=alias)
        for alias, owner in plan.aliases.items()
        if owner in by_name and is_peft_name(alias)
    ]
    config = document.mapping if document is not None else {}
    bias = config.get("bias")
    found = adapter_tensors([*tensors, *shared], bias=bias if isinstance(bias, str) else "none")
    if found.others:
        names = ", ".join(printable(name, 40) for name in found.others[:4])
        warnings.append(
            f"the checkpoint holds several adapters: {printable(found.adapter, 40)} was written, not {names}"
        )
    kept, sources = list(found.tensors), plan.sources
    if not narrowed:
        added, sources = _from_saved_adapter(plan, around, {tensor.name for tensor in kept}, dtype)
        if added:
            warnings.append(
                f"{len(added)} tensors that were not trained come from adapter_model.safetensors beside the shards "
                f"(first: {printable(added[0].name)})"
            )
            kept += added
    layout = lay_out(kept, stem=ADAPTER, max_shard_size=None)
    del max_shard_size  # PEFT reads one file
    documents = dict(_index(layout))
    copies = find_sidecars(around, adapter=True)
    if document is None:
        warnings.append("no adapter_config.json is in the checkpoint or its run: PeftModel.from_pretrained needs one")
    else:
        written, said = adapter_config(document)
        copies = _replace_copy(copies, documents, "adapter_config.json", written)
        warnings += said
    return Composition("adapter", (layout,), sources, documents, tuple(copies), {}, tuple(warnings))


def floating_type(tensors: Iterable[PlannedTensor]) -> str:
    """Torch's name of the floating type most bytes are written in, as a config states it; "float32" without any."""
    held: dict[str, int] = {}
    for tensor in tensors:
        kind = BY_NAME[tensor.dtype]
        if kind.floating and kind.torch is not None:
            held[kind.torch] = held.get(kind.torch, 0) + tensor.nbytes
    return max(held, key=lambda name: held[name], default="float32")


def _value_head(tensors: Sequence[PlannedTensor]) -> tuple[list[PlannedTensor], list[PlannedTensor]]:
    """The head of a reward or PPO model apart: it has a file of its own, and the model loses its wrapper's prefix.

    As LLaMA-Factory 0.9.5 ``train/callbacks.py`` `fix_valuehead_checkpoint` does.
    """
    heads = [tensor for tensor in tensors if tensor.name.startswith(VALUE_HEAD_PREFIX)]
    if not heads:
        return [], list(tensors)
    rest = [tensor for tensor in tensors if not tensor.name.startswith(VALUE_HEAD_PREFIX)]
    return heads, [replace(tensor, name=unwrapped(tensor.name)) for tensor in rest]


def _from_saved_adapter(
    plan: Plan, around: Surroundings, have: set[str], dtype: str | None
) -> tuple[list[PlannedTensor], tuple[SourceFile, ...]]:
    """What PEFT saved besides the trained parameters: embeddings of a resized vocabulary, frozen projections."""
    entry = around.checkpoint.get(f"{ADAPTER}.safetensors")
    if entry is None or entry.kind != "file":
        return [], plan.sources
    try:
        with around.checkpoint.open(entry.path) as file:
            header = read_safetensors_header(file)
            identity = file.identity
    except CkptInspectError:
        return [], plan.sources
    if not header.loadable:
        return [], plan.sources
    path = os.path.relpath(around.checkpoint.root.resolve() / entry.path, plan.root)
    source = SourceFile(Path(path).as_posix(), identity.size, identity.mtime_ns)
    index = len(plan.sources)
    added = [
        PlannedTensor(
            tensor.name, tensor.shape, tensor.dtype, target_dtype(tensor.dtype, dtype),
            (Range(index, tensor.file_offset, tensor.nbytes),), "module",
        )
        for tensor in header.tensors
        if tensor.name not in have and tensor.nbytes and belongs_in_file(tensor.name) and _loads_into(tensor.name, have)
    ]  # fmt: skip
    return added, (*plan.sources, source) if added else plan.sources


def _loads_into(name: str, have: Iterable[str]) -> bool:
    """Not a stale copy of a module that was trained: X.weight beside X.token_adapter..., which PEFT recreates."""
    module = name.rpartition(".")[0]
    return not any(other.startswith(f"{module}.token_adapter.") for other in have)


def _index(layout: OutputLayout) -> list[tuple[str, bytes]]:
    return [(layout.index_name, layout.index)] if layout.index_name and layout.index is not None else []


def _replace_copy(
    copies: Sequence[Sidecar], documents: dict[str, bytes], name: str, content: bytes | None
) -> list[Sidecar]:
    """Write `content` in place of the copy of `name`, where there is any."""
    if content is None:
        return list(copies)
    documents[name] = content
    return [copy for copy in copies if copy.name != name]
