"""How deep and how large a value tree is for a walker that forgets sharing, found without recursion."""

from __future__ import annotations

from dataclasses import dataclass

from ckpt_inspect.formats.pickle_nodes import Build, Call, MethodCall, Node, Pairs, PersistentId, SetNode

_CONTAINERS = frozenset({list, tuple, Pairs, SetNode, Call, PersistentId, Build, MethodCall})
_UNHASHABLE = frozenset({list, Pairs})


@dataclass(frozen=True, slots=True)
class Measure:
    """`depth` in nested containers, `size` in nodes counted at every place they appear (cut at the limit given),
    whether a container contains itself, and whether a list, dictionary or set is used as a key or member.
    """

    depth: int
    size: int
    cyclic: bool
    unhashable: bool


def measure(roots: list[Node], size_limit: int) -> Measure:
    """Measure everything reachable from `roots`."""
    sizes: dict[int, int] = {}
    depths: dict[int, int] = {}
    containers = _CONTAINERS
    cyclic = False
    unhashable = False
    stack: list[Node] = [roots]
    while stack:
        node = stack[-1]
        key = id(node)
        known = sizes.get(key)
        if known is not None and known >= 0:
            stack.pop()
            continue
        kind = type(node)
        if kind is list or kind is tuple:
            held: list[Node] | tuple[Node, ...] = node
        elif kind is Pairs:
            held = [part for pair in node.items for part in pair]
            if known is None and not unhashable:
                unhashable = any(
                    type(name) in _UNHASHABLE or (type(name) is SetNode and not name.frozen) for name, _ in node.items
                )
        elif kind is Call:
            held = [node.callee, node.args, node.kwargs, node.state, *node.items]
            for pair in node.pairs:
                held.extend(pair)
        elif kind is SetNode:
            held = node.items
            if known is None and not unhashable:
                unhashable = any(type(member) in _UNHASHABLE for member in held)
        elif kind is PersistentId:
            held = (node.pid,)
        elif kind is MethodCall:
            held = (node.target,)
        else:
            held = (node.target, node.state)
        inner = [part for part in held if type(part) in containers]
        if inner and known is None:
            sizes[key] = -1  # on the path from the root
            for part in inner:
                seen = sizes.get(id(part))
                if seen is None:
                    stack.append(part)
                elif seen < 0:
                    cyclic = True
            continue
        size = 1 + len(held)
        depth = 0
        for part in inner:
            below = sizes.get(id(part), 0)
            if below > 0:
                size += below - 1
                if depths[id(part)] > depth:
                    depth = depths[id(part)]
        sizes[key] = size if size < size_limit else size_limit
        depths[key] = depth + 1
        stack.pop()
    return Measure(depths[id(roots)] - 1, sizes[id(roots)], cyclic, unhashable)
