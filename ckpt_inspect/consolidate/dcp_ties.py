"""Tied weights of a distributed checkpoint: it holds a shared tensor under each of its names, as if there were several.

Only where the model's config ties its embeddings are they compared, byte by byte; equal ones are one tensor again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from ckpt_inspect.consolidate.filling import Filler
from ckpt_inspect.consolidate.plan import PlannedTensor, SourceFile
from ckpt_inspect.consolidate.sidecars import look_around
from ckpt_inspect.consolidate.sources import SourceFiles
from ckpt_inspect.consolidate.ties import embedding, tied
from ckpt_inspect.storage import LocalTree

_BLOCK = 1 << 20


def tied_names(
    tensors: Sequence[PlannedTensor], sources: Sequence[SourceFile], tree: LocalTree, checkpoint: Path
) -> dict[str, str]:
    """Name -> the name whose values it repeats, for the embeddings of a model whose config ties them."""
    document = look_around(checkpoint).document("config.json")
    if document is None or not tied(document.mapping):
        return {}
    weights = [tensor for tensor in tensors if embedding(tensor.name) and tensor.name.endswith(".weight")]
    inputs = [tensor for tensor in weights if embedding(tensor.name) == "input"]
    outputs = [tensor for tensor in weights if embedding(tensor.name) == "output"]
    if len(inputs) != 1:
        return {}
    owner = inputs[0]
    with closing(SourceFiles(tree.root.resolve(), sources)) as files:
        return {other.name: owner.name for other in outputs if _equal(owner, other, files)}


def _equal(one: PlannedTensor, other: PlannedTensor, files: SourceFiles) -> bool:
    if (one.shape, one.source_dtype) != (other.shape, other.source_dtype):
        return False
    first, second = (Filler(b"", (replace(each, dtype=each.source_dtype),), files) for each in (one, other))
    here, there = bytearray(_BLOCK), bytearray(_BLOCK)
    while (count := first.fill(memoryview(here))) > 0:
        if second.fill(memoryview(there)) != count or here[:count] != there[:count]:
            return False
    return True
