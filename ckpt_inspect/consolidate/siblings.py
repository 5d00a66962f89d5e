"""The weights the trainer saved beside the shards: under stage 3 the only 16-bit copy to compare the masters with.

The Trainer gathers and saves the module into the checkpoint directory before DeepSpeed saves its shards
(transformers 5.23 ``trainer.py`` `_save_checkpoint`), so both are of one step, and shards that disagree with it are of
another save or another rank. Nothing keeps a person from replacing that file, so the remedy says that too.
"""

from __future__ import annotations

from collections.abc import Sequence

from ckpt_inspect.artifacts.weights import read_weights
from ckpt_inspect.artifacts.zero_states import OptimizerState
from ckpt_inspect.consolidate.agreement import Agreement, Copy, Depth, compare, judge
from ckpt_inspect.consolidate.parts import Trainable
from ckpt_inspect.consolidate.peft_names import adapter_of, file_name
from ckpt_inspect.consolidate.plan import SourceFile
from ckpt_inspect.consolidate.problems import Problem
from ckpt_inspect.consolidate.reading import OpenFiles
from ckpt_inspect.errors import UnsupportedLayoutError
from ckpt_inspect.printable import printable
from ckpt_inspect.storage import LocalTree


def compare_with_saved(
    tree: LocalTree,
    home: str,
    trainables: Sequence[Trainable],
    states: Sequence[OptimizerState],
    sources: Sequence[SourceFile],
    depth: Depth,
) -> tuple[Agreement | None, list[Problem]]:
    """Compare with the weights in the checkpoint directory `home`; nothing when there are none to compare with."""
    weights = read_weights(tree, home)
    if weights is None or weights.kind != "safetensors" or depth == "none":
        return None, []
    files = list(sources)
    numbers: dict[str, int] = {}
    for path in weights.files:
        entry = tree.get(path)
        if entry is not None:
            numbers[path] = len(files)
            files.append(SourceFile(entry.path, entry.size, entry.mtime_ns))
    saved = {
        tensor.name: Copy(numbers[tensor.file], tensor.offset, tensor.dtype, tensor.shape)
        for tensor in weights.tensors
        if tensor.offset is not None and tensor.file in numbers
    }
    copies: dict[str, Copy] = {}
    for trainable in trainables:
        copy = saved.get(trainable.name) or saved.get(_in_file(trainable.name))
        if copy is not None:
            copies[trainable.name] = copy
    with OpenFiles(tree, files) as opened:
        agreement = compare(trainables, copies, opened, depth)
    if not agreement.elements:
        return None, []
    path = weights.files[0]
    remedy = (
        f"{printable(path)} and the shards are not of one save, or the files of two ranks were exchanged: use another "
        f"checkpoint; if {printable(path)} was replaced, move it away; or --force to write the shards' values"
    )
    places = {number: state.path for number, state in enumerate(states)}
    return agreement, judge(agreement, path, places, depth, remedy=remedy)


def _in_file(name: str) -> str:
    """The name an adapter parameter has in ``adapter_model.safetensors``."""
    adapter = adapter_of(name)
    if adapter is None:
        return name
    try:
        return file_name(name, adapter)
    except UnsupportedLayoutError:  # it is computed, not stored: nothing to compare with
        return name
