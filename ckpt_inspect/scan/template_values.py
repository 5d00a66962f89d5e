"""What the expressions of a chat template are as far as their constants show: texts put together, and the least of their sizes.

Jinja folds constants when it compiles (``jinja2.optimizer``); here nothing is computed that is longer than a short text.
Every node is looked at once, with an explicit stack: an expression may be a chain of any length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jinja2 import nodes

_LONGEST_TEXT = 256
_MOST_TEXTS = 64
_HUGE = 1e300
_UNCHANGED = frozenset(
    {"list", "string", "trim", "strip", "first", "last", "sort", "unique", "safe", "escape", "tojson"}
)


@dataclass(frozen=True, slots=True)
class Value:
    """`size` is at least the length of a text or list, the amount of a number; 0 where nothing is known.

    `texts` are what a text may be (more than one where a name is set twice), or the texts in a list.
    """

    kind: Literal["", "number", "text", "list"] = ""
    size: float = 0.0
    texts: tuple[str, ...] = ()


UNKNOWN = Value()


def descend(node: nodes.Node) -> Iterator[nodes.Node]:
    """The nodes below `node`, without recursion."""
    pending = list(node.iter_child_nodes())
    while pending:
        found = pending.pop()
        yield found
        pending.extend(found.iter_child_nodes())


def path_of(node: nodes.Node) -> str | None:
    """The name that is assigned or read, "a" or "ns.a"; None for anything else."""
    from jinja2 import nodes

    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.NSRef):
        return f"{node.name}.{node.attr}"
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return f"{node.node.name}.{node.attr}"
    return None


class Values:
    """The values of all expressions of one template."""

    def __init__(self, tree: nodes.Template) -> None:
        self._values: dict[int, Value] = {}
        self._names: dict[str, Value] = {}
        self._evaluate(tree)

    def of(self, node: nodes.Node | None) -> Value:
        """What is known of an expression."""
        return self._values.get(id(node), UNKNOWN)

    def _evaluate(self, tree: nodes.Template) -> None:
        """Children before parents, in the order in which they would be rendered."""
        from jinja2 import nodes

        pending: list[tuple[nodes.Node, str]] = [(tree, "enter")]
        while pending:
            node, step = pending.pop()
            if step == "leave":
                self._leave(node)
            elif step == "bind":
                self._bind(node)
            elif isinstance(node, nodes.For):
                inside = [(child, "enter") for child in node.iter_child_nodes(exclude=("iter",))]
                pending.extend([*reversed(inside), (node, "bind"), (node.iter, "enter")])
            else:
                pending.append((node, "leave"))
                pending.extend((child, "enter") for child in reversed(list(node.iter_child_nodes())))

    def _bind(self, loop: nodes.Node) -> None:
        target = path_of(loop.target)  # type: ignore[attr-defined]  # only a For is bound
        if target is not None:
            items = self.of(loop.iter)  # type: ignore[attr-defined]
            self._names[target] = Value("text", 0, items.texts) if items.texts else UNKNOWN

    def _leave(self, node: nodes.Node) -> None:
        from jinja2 import nodes

        if isinstance(node, nodes.Assign):
            self._assign(node)
        elif isinstance(node, nodes.Name | nodes.Getattr):
            path = path_of(node)
            if path in self._names:
                self._values[id(node)] = self._names[path]
        else:
            value = self._value(node)
            if value is not UNKNOWN:
                self._values[id(node)] = value

    def _assign(self, node: nodes.Assign) -> None:
        from jinja2 import nodes

        target = path_of(node.target)
        if target is None:
            return
        value = self.of(node.node)
        known = self._names.get(target, UNKNOWN)
        texts = tuple(dict.fromkeys((*known.texts, *value.texts)))[:_MOST_TEXTS]
        self._names[target] = Value(value.kind or known.kind, value.size, texts)
        if isinstance(node.node, nodes.Call) and isinstance(node.node.node, nodes.Name):
            for keyword in node.node.kwargs:  # namespace(a=...)
                self._names[f"{target}.{keyword.key}"] = self.of(keyword.value)

    def _value(self, node: nodes.Node) -> Value:
        from jinja2 import nodes

        if isinstance(node, nodes.Const):
            return _constant(node.value)
        if isinstance(node, nodes.List | nodes.Tuple):
            texts = [text for item in node.items[:_MOST_TEXTS] for text in self.of(item).texts[:1]]
            return Value("list", len(node.items), tuple(texts))
        if isinstance(node, nodes.Dict):
            keys = [text for pair in node.items[:_MOST_TEXTS] for text in self.of(pair.key).texts[:1]]
            return Value("list", len(node.items), tuple(keys))
        if isinstance(node, nodes.Concat):
            value = Value("text", 0, ("",))
            for part in node.nodes:
                value = _added(value, self.of(part))
            return value
        if isinstance(node, nodes.Add):
            return _added(self.of(node.left), self.of(node.right))
        if isinstance(node, nodes.Mul):
            return _multiplied(self.of(node.left), self.of(node.right))
        if isinstance(node, nodes.Pow):
            return _power(self.of(node.left), self.of(node.right))
        if isinstance(node, nodes.Mod):
            return self._formatted(node.left, [node.right])
        if isinstance(node, nodes.CondExpr):
            one, other = self.of(node.expr1), self.of(node.expr2)
            return Value(one.kind, min(one.size, other.size), (*one.texts, *other.texts)[:_MOST_TEXTS])
        if isinstance(node, nodes.Filter) and node.node is not None:
            return self._method(node.name, node.node, node.args)
        if isinstance(node, nodes.Call):
            return self._call(node)
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            value = self.of(node.node)
            backward = isinstance(node.arg.step, nodes.Neg)
            return Value(value.kind, 0, tuple(text[::-1] for text in value.texts)) if backward else UNKNOWN
        return UNKNOWN

    def _call(self, node: nodes.Call) -> Value:
        from jinja2 import nodes

        callee = node.node
        if isinstance(callee, nodes.Getattr):
            return self._method(callee.attr, callee.node, node.args, method=True)
        if isinstance(callee, nodes.Name) and callee.name == "range":
            return Value("list", max((self.of(argument).size for argument in node.args), default=0.0))
        if isinstance(callee, nodes.Name) and callee.name == "dict":
            return Value("list", len(node.kwargs), tuple(keyword.key for keyword in node.kwargs[:_MOST_TEXTS]))
        return UNKNOWN

    def _method(self, name: str, of: nodes.Node, args: list[nodes.Expr], *, method: bool = False) -> Value:
        """A filter, or a method of the same name; `join` has its separator on the other side."""
        value = self.of(of)
        if name == "join":
            separator, items = (of, args[0]) if method and args else (args[0] if args else None, of)
            return _joined(self.of(separator) if separator is not None else Value("text", 0, ("",)), self.of(items))
        if name == "format":
            return self._formatted(of, list(args)) if not method else UNKNOWN
        if name == "replace" and len(args) >= 2:
            return _replaced(value, self.of(args[0]), self.of(args[1]))
        if name in ("lower", "upper", "capitalize", "title"):
            return Value(value.kind, value.size, tuple(getattr(text, name)() for text in value.texts))
        if name == "reverse":
            return Value(value.kind, value.size, tuple(text[::-1] for text in value.texts))
        return value if name in _UNCHANGED else UNKNOWN

    def _formatted(self, pattern: nodes.Node, args: list[nodes.Expr] | list[nodes.Node]) -> Value:
        """``'%c%s' % (95, 'x')``: only the plain conversions, by hand, so that no width is ever filled."""
        from jinja2 import nodes

        values = [
            item for argument in args for item in (argument.items if isinstance(argument, nodes.Tuple) else [argument])
        ]
        texts = []
        for text in self.of(pattern).texts:
            for value in values:
                at = text.find("%")
                letter = text[at + 1 : at + 2]
                if at < 0 or letter not in ("c", "s"):
                    break
                if (
                    letter == "c"
                    and isinstance(value, nodes.Const)
                    and type(value.value) is int
                    and value.value < 0x110000
                ):
                    text = f"{text[:at]}{chr(max(0, value.value))}{text[at + 2 :]}"
                elif self.of(value).texts:
                    text = text[:at] + self.of(value).texts[0] + text[at + 2 :]
            texts.append(text[:_LONGEST_TEXT])
        return Value("text", 0, tuple(texts))


def _constant(value: object) -> Value:
    if isinstance(value, str):
        return Value("text", len(value), (value,) if len(value) <= _LONGEST_TEXT else ())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return UNKNOWN
    return Value("number", abs(float(value)) if abs(value) < _HUGE else _HUGE)


def _added(one: Value, other: Value) -> Value:
    kind = "number" if one.kind == other.kind == "number" else one.kind if one.kind != "number" else other.kind
    if kind == "list":
        return Value("list", one.size + other.size, (*one.texts, *other.texts)[:_MOST_TEXTS])
    texts = [first + second for first in one.texts[:8] for second in other.texts[:8]]
    return Value(kind, min(_HUGE, one.size + other.size), tuple(text for text in texts if len(text) <= _LONGEST_TEXT))


def _multiplied(one: Value, other: Value) -> Value:
    size = min(_HUGE, max(1.0, one.size) * max(1.0, other.size))
    if one.kind in ("", "number") and other.kind in ("", "number"):
        return Value("number", size) if one.kind and other.kind else UNKNOWN
    sequence, times = (one, other) if one.kind in ("text", "list") else (other, one)
    texts = tuple(text * int(times.size) for text in sequence.texts) if size <= _LONGEST_TEXT else ()
    return Value(sequence.kind, size, texts)


def _power(base: Value, power: Value) -> Value:
    if base.size <= 1 or power.size <= 0:
        return Value("number", 1.0)
    return Value("number", _HUGE if power.size * log10(base.size) > 299 else base.size**power.size)


def _joined(separator: Value, items: Value) -> Value:
    size = max(0.0, separator.size) * max(0.0, items.size - 1)
    between = separator.texts[0] if separator.texts else ""
    whole = between.join(items.texts) if items.kind == "list" else ""
    return Value("text", min(_HUGE, size), (whole,) if whole and len(whole) <= _LONGEST_TEXT else ())


def _replaced(value: Value, old: Value, new: Value) -> Value:
    grown = (value.size + 1) * new.size if old.kind == "text" and old.size == 0 else 0.0
    texts: tuple[str, ...] = ()
    if old.texts and new.texts and old.texts[0]:
        texts = tuple(text.replace(old.texts[0], new.texts[0])[:_LONGEST_TEXT] for text in value.texts)
    return Value("text", min(_HUGE, grown), texts)
