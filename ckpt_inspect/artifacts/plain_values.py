"""The plain data in a pickled configuration: attributes of instances, values of enums, names of types.

Turns the nodes of a pickle program into dicts, lists and scalars for people and rules. Nothing is called; an object is
shown by what the file says would be given to it.
"""

from __future__ import annotations

from typing import Any

from ckpt_inspect.formats.pickle_nodes import (
    Blob,
    Call,
    Global,
    Node,
    Opaque,
    Pairs,
    PersistentId,
    SetNode,
    entries,
    instance_state,
)

MAX_DEPTH = 24
MAX_VALUES = 100_000

# Enums whose values are their names as they are; of all others the value is the name in lower case (Python 3.11 could
# pickle members by name: getattr(cls, "STEPS")).
_UPPER_CASE_ENUMS = frozenset({"DistributedType", "ParallelMode", "FP8BackendType"})
_MAPPINGS = frozenset({"collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict"})


def plain_value(node: Node) -> Any:
    """`node` as dicts, lists and scalars; what has no plain form becomes a short text in angle brackets."""
    return _Converter().convert(node, 0)


class _Converter:
    """One conversion: bounds its depth and size, and stops at cycles."""

    def __init__(self) -> None:
        self._left = MAX_VALUES
        self._open: set[int] = set()

    def convert(self, node: Node, depth: int) -> Any:
        if node is None or isinstance(node, bool | int | float | str):
            return node
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            return "<too large to show>"
        if id(node) in self._open:
            return "<refers to itself>"
        self._open.add(id(node))
        try:
            return self._container(node, depth + 1)
        finally:
            self._open.discard(id(node))

    def _container(self, node: Node, depth: int) -> Any:
        if isinstance(node, list | tuple):
            return [self.convert(item, depth) for item in node]
        if isinstance(node, SetNode):
            return sorted((self.convert(item, depth) for item in node), key=str)
        if isinstance(node, Pairs):
            return self._mapping(node.items, depth)
        if isinstance(node, Global):
            return node.dotted
        if isinstance(node, Call):
            return self._call(node, depth)
        if isinstance(node, bytes):
            return f"<{len(node)} bytes>"
        if isinstance(node, Blob):
            return f"<{node.length} bytes>"
        if isinstance(node, Opaque):
            return f"<{node.reason}>"
        return "<storage>" if isinstance(node, PersistentId) else f"<{type(node).__name__}>"

    def _mapping(self, pairs: Any, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            name = key if isinstance(key, str) else str(self.convert(key, depth))
            result[name] = self.convert(value, depth)
        return result

    def _call(self, node: Call, depth: int) -> Any:
        target = node.target
        args = node.args if isinstance(node.args, tuple | list) else ()
        if target in _MAPPINGS:
            return self._mapping(entries(node), depth)
        if target in ("builtins.set", "builtins.frozenset", "builtins.list", "builtins.tuple") and len(args) == 1:
            return self.convert(args[0], depth)
        if target == "builtins.getattr" and len(args) == 2 and isinstance(args[0], Global) and isinstance(args[1], str):
            return args[1] if args[0].name in _UPPER_CASE_ENUMS else args[1].lower()
        if target == "torch.device":
            return ":".join(str(part) for part in args if isinstance(part, str | int))
        if target is not None and target.startswith("pathlib."):
            return "/".join(part for part in args if isinstance(part, str)).replace("//", "/")
        state = instance_state(node)
        if isinstance(state, Pairs):
            return {"class": class_of(node), **self._mapping(state.items, depth)}
        if len(args) == 1 and isinstance(args[0], str | int | float) and node.how == "REDUCE":
            return args[0]  # an enum member, by its value
        if target is None:
            return "<object>"
        return f"<{target}({', '.join(str(self.convert(part, depth)) for part in args)})>" if args else f"<{target}>"


def class_of(node: Node) -> str | None:
    """The class of a pickled instance: the callee of NEWOBJ and OBJ, the first argument of `copyreg._reconstructor`."""
    if not isinstance(node, Call):
        return None
    if node.target in ("copyreg._reconstructor", "copyreg.__newobj__"):
        args = node.args
        return args[0].dotted if isinstance(args, tuple | list) and args and isinstance(args[0], Global) else None
    return node.target
