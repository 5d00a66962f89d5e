"""How deep and how large a value tree is for a walker that forgets sharing, found in one pass over its containers."""

from __future__ import annotations

from dataclasses import dataclass

from ckpt_inspect.formats.pickle_nodes import CONTAINERS, Call, MethodCall, Node, Pairs, PersistentId, SetNode

_UNHASHABLE = frozenset({list, Pairs})
_RECURSION = 150  # levels handled by calls; deeper trees take the slower way


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
    try:
        return _Quick(size_limit).measure(roots)
    except _TooDeepError:
        return _measure_deep(roots, size_limit)


class _TooDeepError(Exception):
    """Recursion has gone far enough."""


class _Quick:
    """The recursive way: twice as fast, for trees of ordinary depth."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.known: dict[int, tuple[int, int]] = {}  # id -> (size, depth); size 0 while on the path from the root
        self.cyclic = False
        self.unhashable = False

    def measure(self, roots: list[Node]) -> Measure:
        size, depth = self._visit(roots, 0)
        return Measure(depth - 1, size, self.cyclic, self.unhashable)

    def _visit(self, node: Node, level: int) -> tuple[int, int]:
        kind = type(node)
        if (kind is tuple or kind is list) and CONTAINERS.isdisjoint(map(type, node)):
            return 1 + len(node), 1
        if level > _RECURSION:
            raise _TooDeepError
        known = self.known
        key = id(node)
        known[key] = (0, 0)
        if kind is Pairs and not self.unhashable:
            self.unhashable = _unhashable_key(node)
        held = _held(node, kind)
        if kind is SetNode and not self.unhashable:
            self.unhashable = not _UNHASHABLE.isdisjoint(map(type, held))
        size = 1 + len(held)
        depth = 0
        for part in held:
            if type(part) in CONTAINERS:
                found = known.get(id(part))
                if found is None:
                    found = known[id(part)] = self._visit(part, level + 1)
                elif not found[0]:
                    self.cyclic = True
                    continue
                size += found[0] - 1
                if found[1] > depth:
                    depth = found[1]
        return min(size, self.limit), depth + 1


def _measure_deep(roots: list[Node], size_limit: int) -> Measure:
    """The way without recursion: every container is met twice, before and after what it holds."""
    sizes: dict[int, int] = {}  # -1 while on the path from the root
    depths: dict[int, int] = {}
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
        held = _held(node, kind)
        inner = [part for part in held if type(part) in CONTAINERS]
        if inner and known is None:
            if kind is Pairs and not unhashable:
                unhashable = _unhashable_key(node)
            elif kind is SetNode and not unhashable:
                unhashable = not _UNHASHABLE.isdisjoint(map(type, held))
            sizes[key] = -1
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
            below = sizes.get(id(part), -1)
            if below > 0:
                size += below - 1
                if depths[id(part)] > depth:
                    depth = depths[id(part)]
        sizes[key] = min(size, size_limit)
        depths[key] = depth + 1
        stack.pop()
    return Measure(depths[id(roots)] - 1, sizes[id(roots)], cyclic, unhashable)


def _unhashable_key(node: Pairs) -> bool:
    return any(type(key) in _UNHASHABLE or (type(key) is SetNode and not key.frozen) for key, _ in node.items)


def _held(node: Node, kind: type) -> list[Node] | tuple[Node, ...]:
    """What a container holds directly."""
    if kind is tuple or kind is list:
        sequence: list[Node] | tuple[Node, ...] = node
        return sequence
    if kind is Call:
        held = [node.callee, node.args]
        if node.kwargs is not None:
            held.append(node.kwargs)
        if node.state is not None:
            held.append(node.state)
        if node.items:
            held.extend(node.items)
        for pair in node.pairs:
            held.extend(pair)
        return held
    if kind is PersistentId:
        return (node.pid,)
    if kind is Pairs:
        return [part for pair in node.items for part in pair]
    if kind is SetNode:
        members: list[Node] = node.items
        return members
    if kind is MethodCall:
        return (node.target,)
    return (node.target, node.state)
