"""Walks the value of a pickle and names every tensor in it: `module.transformer.h.0.attn.weight`.

Iterative and bounded: values share nodes (a bomb shares them 2**60 times) and may contain themselves. Subtrees without
tensors are found once and never walked again.
"""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_inspect.formats.pickle_nodes import (
    Call,
    Node,
    Pairs,
    PersistentId,
    SetNode,
    children,
    entries,
    instance_state,
)
from ckpt_inspect.formats.torch_tensors import BUILDERS

MAX_PATHS = 500_000
MAX_DEPTH = 500
_CONTAINERS = frozenset({list, tuple, Pairs, SetNode, Call})


def tensor_paths(root: Node) -> Iterator[tuple[str, Call]]:
    """(dotted path, tensor-building call) in file order, each tensor once for every path that leads to it."""
    holding = _holding_tensors(root)
    if id(root) not in holding:
        return
    if _is_tensor(root):
        yield "", root
        return
    met = 0
    on_path = {id(root)}
    stack: list[tuple[int, str, Iterator[tuple[str, Node]]]] = [(id(root), "", _named_children(root))]
    while stack:
        identity, prefix, rest = stack[-1]
        for name, node in rest:
            if id(node) not in holding or id(node) in on_path or type(node) not in _CONTAINERS:
                continue
            path = f"{prefix}.{name}" if prefix and name else prefix or name
            if _is_tensor(node):
                met += 1
                if met > MAX_PATHS:
                    return
                yield path, node
            elif len(stack) < MAX_DEPTH:
                on_path.add(id(node))
                stack.append((id(node), path, _named_children(node)))
                break
        else:
            on_path.discard(identity)
            stack.pop()


def _is_tensor(node: Node) -> bool:
    return type(node) is Call and node.target in BUILDERS


def _named_children(node: Node) -> Iterator[tuple[str, Node]]:
    kind = type(node)
    if kind is Pairs:
        for key, value in node.items:
            yield _key_name(key), value
    elif kind is Call:
        yield from _call_children(node)
    elif kind is SetNode:
        yield from ((str(index), value) for index, value in enumerate(node.items))
    else:
        yield from ((str(index), value) for index, value in enumerate(node))


def _call_children(node: Call) -> Iterator[tuple[str, Node]]:
    """A dictionary-like call has entries; any other shows its attributes, then list items, then arguments."""
    mapping = False
    for key, value in entries(node):
        mapping = True
        yield _key_name(key), value
    state = instance_state(node)
    if state is not None:
        yield "", state
    for index, value in enumerate(node.items):
        yield str(index), value
    if not mapping:
        for key, value in node.pairs:
            yield _key_name(key), value
        if type(node.args) is tuple:
            yield from ((f"args.{index}", value) for index, value in enumerate(node.args))


def _key_name(key: Node) -> str:
    if type(key) is str:
        return key
    if type(key) in (int, float, bool) or key is None:
        return str(key)
    if type(key) is bytes:
        return key.decode("latin-1")
    return f"<{type(key).__name__.lower()}>"


def _holding_tensors(root: Node) -> set[int]:
    """The identities of every node from which a tensor can be reached, tensors included. Linear in real nodes."""
    holding: set[int] = set()
    seen: set[int] = {id(root)}
    waiting: dict[int, list[int]] = {}  # who has to be told when a node, still without tensors, turns out to hold some
    stack: list[tuple[Node, Iterator[Node]]] = [(root, _below(root))]
    if _is_tensor(root):
        holding.add(id(root))
    while stack:
        node, rest = stack[-1]
        for child in rest:
            if type(child) not in _CONTAINERS:
                continue
            if id(child) in seen:
                if id(child) in holding:
                    holding.add(id(node))
                else:
                    waiting.setdefault(id(child), []).append(id(node))
                continue
            seen.add(id(child))
            if _is_tensor(child):
                holding.add(id(child))
                holding.add(id(node))
                continue
            stack.append((child, _below(child)))
            break
        else:
            stack.pop()
            if not stack:
                break
            if id(node) in holding:
                holding.add(id(stack[-1][0]))
            else:  # it may yet turn out to lead to a tensor, through a cycle
                waiting.setdefault(id(node), []).append(id(stack[-1][0]))
    _tell(holding, waiting)
    return holding


def _tell(holding: set[int], waiting: dict[int, list[int]]) -> None:
    """Pass on the news to those that met a holder before it was known to be one."""
    pending = [identity for identity in waiting if identity in holding]
    while pending:
        for told in waiting.get(pending.pop(), ()):
            if told not in holding:
                holding.add(told)
                pending.append(told)


def _below(node: Node) -> Iterator[Node]:
    return iter(()) if type(node) is PersistentId else children(node)
