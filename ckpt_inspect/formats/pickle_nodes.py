"""The inert values a pickle program describes. Nothing here imports, calls, hashes or compares what a file names.

Scalars are themselves (`None`, `bool`, `int`, `float`, `str`, `bytes`), sequences are plain lists and tuples; a
dictionary is a list of pairs, because hashing a key from a file is already work done for an attacker. A tree may
share nodes and may contain cycles: walk it with :func:`walk`, never by recursion.

Values follow CPython's ``Modules/_pickle.c``; see :mod:`ckpt_inspect.formats.pickle_machine`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

Node: TypeAlias = Any
"""None | bool | int | float | str | bytes | list | tuple | Pairs | SetNode | Global | Call | PersistentId | Blob | Opaque."""

How: TypeAlias = Literal["REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"]

_NOTHING: tuple[Any, ...] = ()
_MAPPING_TYPES = frozenset(
    {"collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict"}
)


class Pairs:
    """A dictionary as the list of its `(key, value)` pairs in file order; a repeated key is there twice."""

    __slots__ = ("items",)

    def __init__(self, items: list[tuple[Node, Node]] | None = None) -> None:
        self.items: list[tuple[Node, Node]] = [] if items is None else items

    def get(self, key: str | int, default: Node = None) -> Node:
        """The value of the last pair whose key is exactly `key` (same type, so `True` is not `1`)."""
        kind = type(key)
        for candidate, value in reversed(self.items):
            if type(candidate) is kind and candidate == key:
                return value
        return default

    def keys(self) -> list[Node]:
        """Every key, in file order, repetitions kept."""
        return [key for key, _ in self.items]

    def __iter__(self) -> Iterator[tuple[Node, Node]]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"<Pairs of {len(self.items)}>"


class SetNode:
    """A set or frozenset as the list of its members in file order."""

    __slots__ = ("frozen", "items")

    def __init__(self, items: list[Node] | None = None, *, frozen: bool = False) -> None:
        self.items: list[Node] = [] if items is None else items
        self.frozen = frozen

    def __iter__(self) -> Iterator[Node]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"<SetNode of {len(self.items)}>"


class Global:
    """A name a loader would import. `module` and `name` are what Python 3 resolves, `raw_*` what the file says.

    They differ below protocol 3, where unpicklers translate the names of Python 2 (``fix_imports``).
    """

    __slots__ = ("module", "name", "offset", "raw_module", "raw_name")

    def __init__(
        self, module: str, name: str, offset: int, raw_module: str | None = None, raw_name: str | None = None
    ) -> None:
        self.module = module
        self.name = name
        self.offset = offset
        self.raw_module = module if raw_module is None else raw_module
        self.raw_name = name if raw_name is None else raw_name

    @property
    def dotted(self) -> str:
        """`module.name`."""
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"<Global at {self.offset}>"


class Call:
    """A call a loader would make, and what it would then do to the result.

    `state` is the argument of the last BUILD, `items` what APPEND, APPENDS and ADDITEMS would add, `pairs` what SETITEM
    and SETITEMS would set. `offset` is the byte of the opcode.
    """

    __slots__ = ("args", "callee", "how", "items", "kwargs", "offset", "pairs", "state")

    def __init__(self, how: How, callee: Node, args: Node, offset: int, kwargs: Node = None) -> None:
        self.how = how
        self.callee = callee
        self.args = args
        self.offset = offset
        self.kwargs = kwargs
        self.state: Node = None
        self.items: list[Node] | tuple[Node, ...] = _NOTHING
        self.pairs: list[tuple[Node, Node]] | tuple[tuple[Node, Node], ...] = _NOTHING

    @property
    def target(self) -> str | None:
        """`module.name` of what is called, None when the callee is itself computed."""
        callee = self.callee
        return f"{callee.module}.{callee.name}" if type(callee) is Global else None

    def __repr__(self) -> str:
        return f"<Call {self.how} at {self.offset}>"


class PersistentId:
    """A reference that only the loader can resolve: in torch files, a tuple that names a storage."""

    __slots__ = ("offset", "pid")

    def __init__(self, pid: Node, offset: int) -> None:
        self.pid = pid
        self.offset = offset

    def __repr__(self) -> str:
        return f"<PersistentId at {self.offset}>"


class Blob:
    """A constant left in the file because it is long: `length` bytes at `offset` (`text`: they encode a string)."""

    __slots__ = ("length", "offset", "text")

    def __init__(self, offset: int, length: int, *, text: bool = False) -> None:
        self.offset = offset
        self.length = length
        self.text = text

    def __repr__(self) -> str:
        return f"<Blob of {self.length} at {self.offset}>"


class Opaque:
    """A value that is not known here: an extension code, a huge integer, an out-of-band buffer, a broken constant."""

    __slots__ = ("offset", "reason")

    def __init__(self, reason: str, offset: int) -> None:
        self.reason = reason
        self.offset = offset

    def __repr__(self) -> str:
        return f"<Opaque at {self.offset}>"


class Build:
    """A BUILD a loader would do: `state` given to `target` (`__setstate__`, or its attributes set)."""

    __slots__ = ("offset", "state", "target")

    def __init__(self, target: Node, state: Node, offset: int) -> None:
        self.target = target
        self.state = state
        self.offset = offset

    def __repr__(self) -> str:
        return f"<Build at {self.offset}>"


class MethodCall:
    """A method a loader would look up on a value that is no container: `append`, `extend`, `add`, `__setitem__`."""

    __slots__ = ("method", "offset", "opcode", "target")

    def __init__(self, opcode: str, method: str, target: Node, offset: int) -> None:
        self.opcode = opcode
        self.method = method
        self.target = target
        self.offset = offset

    def __repr__(self) -> str:
        return f"<MethodCall {self.opcode} at {self.offset}>"


CONTAINERS = frozenset({list, tuple, Pairs, SetNode, Call, PersistentId, Build, MethodCall})
"""The types of nodes that hold nodes."""


def children(node: Node) -> Iterator[Node]:
    """What a node holds directly, in file order; nothing for a scalar."""
    kind = type(node)
    if kind is list or kind is tuple:
        yield from node
    elif kind is Pairs:
        for key, value in node.items:
            yield key
            yield value
    elif kind is SetNode:
        yield from node.items
    elif kind is Call:
        yield node.callee
        yield node.args
        yield node.kwargs
        yield node.state
        yield from node.items
        for key, value in node.pairs:
            yield key
            yield value
    elif kind is PersistentId:
        yield node.pid
    elif kind is Build:
        yield node.target
        yield node.state
    elif kind is MethodCall:
        yield node.target


def walk(*roots: Node) -> Iterator[Node]:
    """Every node reachable from `roots`, depth first in file order, each container once; cycles are safe."""
    seen: set[int] = set()
    stack: list[Iterator[Node]] = [iter(roots)]
    while stack:
        for node in stack[-1]:
            kind = type(node)
            if kind in CONTAINERS:
                if id(node) in seen:
                    continue
                seen.add(id(node))
                yield node
                stack.append(children(node))
                break
            yield node
        else:
            stack.pop()


def entries(node: Node) -> Iterator[tuple[Node, Node]]:
    """The pairs of anything dictionary-like: Pairs, or a Call of OrderedDict, defaultdict, Counter or dict.

    Pairs given to the constructor come first, then those set afterwards. Nothing for any other node.
    """
    if type(node) is Pairs:
        yield from node.items
    elif type(node) is Call and node.target in _MAPPING_TYPES:
        for argument in node.args if type(node.args) is tuple else ():
            if type(argument) is Pairs:
                yield from argument.items
            elif type(argument) is list or type(argument) is tuple:
                for pair in argument:
                    if (type(pair) is tuple or type(pair) is list) and len(pair) == 2:
                        yield pair[0], pair[1]
        yield from node.pairs


def as_mapping(node: Node) -> dict[str, Node]:
    """The entries of `node` whose keys are strings, as a dictionary; a repeated key keeps its last value."""
    return {key: value for key, value in entries(node) if type(key) is str}


def get_path(node: Node, *keys: str | int) -> Node | None:
    """Follow `keys` through dictionary-like nodes (by exact key) and sequences (by index); None where it ends."""
    for key in keys:
        if type(node) is list or type(node) is tuple:
            if type(key) is not int or not -len(node) <= key < len(node):
                return None
            node = node[key]
            continue
        found: Node = None
        for candidate, value in entries(node):
            if type(candidate) is type(key) and candidate == key:
                found = value
        if found is None:
            return None
        node = found
    return node


def instance_state(node: Node) -> Node | None:
    """The attributes of an instance: the state BUILD gives to an object made by NEWOBJ, REDUCE, OBJ or INST.

    ``object.__reduce_ex__`` writes either the `__dict__` or a pair `(__dict__, slots)`; of a pair the `__dict__` is
    returned, or the slots where it is None. None where there is no BUILD.
    """
    if type(node) is not Call:
        return None
    state = node.state
    if type(state) is tuple and len(state) == 2 and (state[0] is None or type(state[0]) is Pairs):
        return state[1] if state[0] is None else state[0]
    return state
