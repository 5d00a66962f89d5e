"""Plain values out of the pickle nodes DeepSpeed writes: shapes, numbers, `ZeroStageEnum`, `fragment_address`.

Classes are matched by name, not by module: DeepSpeed moved them between versions (``fragment_address`` from
``runtime/bf16_optimizer.py`` to ``utils/tensor_fragment.py`` in 0.7.4).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ckpt_inspect.formats.pickle_machine import Call, Global, Node, Pairs, entries, instance_state

Shape = tuple[int, ...]
NamedShapes = tuple[tuple[str, Shape], ...]

_MAX_PLAIN_DEPTH = 12
_MAX_PLAIN_ITEMS = 20_000


def class_name(node: Node) -> str | None:
    """The last part of the name of the class or function a node calls."""
    if isinstance(node, Call) and node.target is not None:
        return node.target.rpartition(".")[2]
    return None


def integer(node: Node) -> int | None:
    """An int; also the value of an enum member built by calling its class (`ZeroStageEnum(2)`). Not a bool."""
    if isinstance(node, bool):
        return None
    if isinstance(node, int):
        return node
    if isinstance(node, Call) and isinstance(node.args, tuple | list) and len(node.args) == 1:
        value = node.args[0]
        if isinstance(value, int) and not isinstance(value, bool) and (class_name(node) or "").endswith("Enum"):
            return value
    return None


def integers(node: Node) -> tuple[int, ...] | None:
    """A list or tuple of ints."""
    items = sequence(node)
    if items is None:
        return None
    out = tuple(item for item in items if isinstance(item, int) and not isinstance(item, bool))
    return out if len(out) == len(items) else None


def text(node: Node) -> str | None:
    """A str."""
    return node if isinstance(node, str) else None


def sequence(node: Node) -> list[Node] | None:
    """The items of a list or tuple."""
    if isinstance(node, list | tuple):
        return list(node)
    if isinstance(node, Call) and node.items and not node.pairs:  # a list subclass
        return list(node.items)
    return None


def mapping(node: Node) -> list[tuple[Node, Node]] | None:
    """The entries of a dict or OrderedDict, None for anything else."""
    if isinstance(node, Pairs) or (
        isinstance(node, Call) and class_name(node) in {"OrderedDict", "dict", "defaultdict", "Counter"}
    ):
        return list(entries(node))
    return None


def shape(node: Node) -> Shape | None:
    """A `torch.Size` or a plain tuple or list of non-negative ints."""
    if isinstance(node, Call) and class_name(node) == "Size" and isinstance(node.args, tuple | list):
        node = node.args[0] if node.args else ()
    sizes = integers(node)
    return sizes if sizes is not None and all(size >= 0 for size in sizes) else None


def named_shapes(node: Node) -> NamedShapes | None:
    """A mapping name -> shape, in order; None when it is no mapping or holds anything else."""
    pairs = mapping(node)
    if pairs is None:
        return None
    out: list[tuple[str, Shape]] = []
    for key, value in pairs:
        sizes = shape(value)
        if not isinstance(key, str) or sizes is None:
            return None
        out.append((key, sizes))
    return tuple(out)


def shape_groups(node: Node) -> tuple[NamedShapes, ...] | None:
    """`param_shapes`: a list of mappings, one per group; a single mapping (before 0.5.4) counts as one group."""
    single = named_shapes(node)
    if single is not None:
        return (single,)
    items = sequence(node)
    if items is None:
        return None
    groups = [named_shapes(item) for item in items]
    return tuple(group for group in groups if group is not None) if all(g is not None for g in groups) else None


def fragment(node: Node) -> tuple[int, int] | None:
    """A `fragment_address` as (start, numel)."""
    if class_name(node) != "fragment_address":
        name = node.callee.name if isinstance(node, Call) and isinstance(node.callee, Global) else None
        if name not in {"fragment_address", "_reconstructor", "__newobj__"}:
            return None
    state = instance_state(node)
    values: dict[Node, Node] = {}
    if state is not None:
        values = {key: value for key, value in entries(state) if isinstance(key, str)}
    elif isinstance(node, Call) and isinstance(node.args, tuple | list) and len(node.args) == 2:
        values = {"numel": node.args[0], "start": node.args[1]}
    start, numel = values.get("start"), values.get("numel")
    if isinstance(start, int) and isinstance(numel, int):
        return start, numel
    return None


def plain(node: Node, *, depth: int = 0) -> Any:
    """JSON-like content (a DeepSpeed configuration) as plain Python; what is not JSON-like becomes None."""
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if depth > _MAX_PLAIN_DEPTH:
        return None
    pairs = mapping(node)
    if pairs is not None:
        return {key: plain(value, depth=depth + 1) for key, value in pairs[:_MAX_PLAIN_ITEMS] if isinstance(key, str)}
    items = sequence(node)
    if items is not None:
        return [plain(item, depth=depth + 1) for item in items[:_MAX_PLAIN_ITEMS]]
    return integer(node)


def walk(value: Any, *keys: str) -> Any:
    """`value[keys[0]][keys[1]]...` of nested plain dicts, None where a step is missing."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def string_items(node: Node) -> Iterator[str]:
    """The strings of a list, tuple or set-like node."""
    for item in sequence(node) or ():
        if isinstance(item, str):
            yield item
