"""Judges chat templates from their syntax tree. A template is parsed and never compiled: compiling folds constants, and
``'A' * 10**9`` is one. Parsing is jinja2's own (3.1), after a pass that bounds length and nesting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from ckpt_inspect.scan.collector import Collector

if TYPE_CHECKING:
    from jinja2 import Environment, nodes

_LONGEST = 1 << 20
_DEEPEST_BRACKETS = 60
_DEEPEST_BLOCKS = 60
_LARGE_NUMBER = 100_000
_LARGE_TEXT = 100_000
_SPLITTER = re.compile(r"\{%-?\+?\s*(end)?(\w+)|([(\[{])|([)\]}])")
_BLOCKS = frozenset({"if", "for", "macro", "call", "filter", "block", "set", "with", "autoescape", "generation"})
_INTERNALS = frozenset(
    {
        "mro", "gi_frame", "gi_code", "gi_yieldfrom", "cr_frame", "cr_code", "ag_frame", "ag_code", "f_globals",
        "f_locals", "f_builtins", "f_back", "f_code", "tb_frame", "tb_next", "func_globals", "func_code", "im_func",
        "im_self", "co_code", "co_consts", "popen", "subclasses", "import_string",
    }
)  # fmt: skip
_HELPERS = frozenset({"lipsum", "cycler", "joiner", "self", "config", "request", "url_for", "get_flashed_messages"})
_HELPER_METHODS = frozenset({"next", "reset", "current"})
_WIDE = re.compile(r"%[-+ #0]*\d{6,}|%[^%a-zA-Z]*\.\d{6,}|\{[^{}]*:[^{}]*\d{6,}[^{}]*\}")
_REACHING = re.compile(r"\{[^{}]*(?:\._|\[|__)[^{}]*\}")
_BY_ATTRIBUTE = frozenset({"selectattr", "rejectattr", "groupby", "sum"})
"""Filters whose first argument is the name of an attribute."""
_PADDING = frozenset({"center", "ljust", "rjust", "zfill", "indent"})


def judge_template(text: str, collector: Collector, place: str) -> None:
    """Add what is wrong with a template: code, loading of other files, endless work, syntax."""
    if len(text) > _LONGEST:
        collector.note("template-endless", "suspicious", f"a template of {len(text)} characters", place=place)
        collector.cover("partial")
        return
    if "{%" not in text and "{{" not in text:
        return
    deep = _nesting(text)
    if deep is not None:
        collector.note("template-endless", "suspicious", deep, place=place)
        return
    tree = _parse(text, collector, place)
    if tree is not None:
        for kind, message in dict.fromkeys(_problems(tree)):
            verdict = "dangerous" if kind in ("template-code", "template-loads") else "suspicious"
            collector.note(kind, verdict, message, place=place)  # type: ignore[arg-type]


def _nesting(text: str) -> str | None:
    """Whether brackets or blocks are nested so deep that the recursive parser would fail, counted without it."""
    brackets = blocks = deepest_brackets = deepest_blocks = 0
    for match in _SPLITTER.finditer(text):
        end, word, opening, closing = match.groups()
        if opening:
            brackets += 1
            deepest_brackets = max(deepest_brackets, brackets)
        elif closing:
            brackets = max(0, brackets - 1)
        elif word and (end or word.startswith("end")):
            blocks = max(0, blocks - 1)
        elif word in _BLOCKS:
            blocks += word != "set"
            deepest_blocks = max(deepest_blocks, blocks)
    if deepest_brackets > _DEEPEST_BRACKETS or deepest_blocks > _DEEPEST_BLOCKS:
        return f"nested {max(deepest_blocks, deepest_brackets)} deep"
    return None


def _parse(text: str, collector: Collector, place: str) -> nodes.Template | None:
    from jinja2 import TemplateSyntaxError
    from jinja2.parser import Parser

    try:
        # Not Environment.parse: on a syntax error it compiles and executes a fake frame for a prettier traceback.
        return Parser(_environment(), text).parse()
    except TemplateSyntaxError as error:
        message = f"line {error.lineno}: {error.message}"
        collector.note("template-syntax", "known", message, place=place, severity="warning")
    except (RecursionError, MemoryError):
        collector.note("template-endless", "suspicious", "nested too deep to be parsed", place=place)
    except (ValueError, OverflowError) as error:
        collector.note("template-syntax", "known", f"not a template: {error}", place=place, severity="warning")
    return None


@cache
def _environment() -> Environment:
    """The syntax transformers accepts: loop controls and its `generation` block, which only marks what is trained on."""
    from jinja2 import Environment
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  # jinja2 declares it as an instance attribute

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Environment(  # noqa: S701  # nothing is ever rendered
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", Generation],
    )


def _problems(tree: nodes.Template) -> Iterator[tuple[str, str]]:
    """Everything wrong, node by node, with an explicit stack."""
    from jinja2 import nodes

    pending: list[tuple[nodes.Node, int, str]] = [(tree, 0, "")]  # node, loops around it, macro around it
    while pending:
        node, loops, macro = pending.pop()
        yield from _node_problems(node, loops, macro)
        inner_loops = loops + (isinstance(node, nodes.For) and _is_range(node.iter))
        inner_macro = node.name if isinstance(node, nodes.Macro) else macro
        if isinstance(node, nodes.If | nodes.CondExpr):
            inner_macro = ""  # a call of itself under a condition can end
        for child in node.iter_child_nodes():
            pending.append((child, inner_loops, inner_macro))


def _node_problems(node: nodes.Node, loops: int, macro: str) -> Iterator[tuple[str, str]]:
    from jinja2 import nodes

    if isinstance(node, nodes.Include | nodes.Import | nodes.FromImport | nodes.Extends):
        yield "template-loads", f"line {node.lineno}: loads another file ({type(node).__name__.lower()})"
    elif isinstance(node, nodes.Getattr):
        yield from _attribute(node.attr, node, node.node)
    elif isinstance(node, nodes.Getitem):
        yield from _item(node)
    elif isinstance(node, nodes.Const):
        yield from _constant(node)
    elif isinstance(node, nodes.TemplateData):
        return
    elif isinstance(node, nodes.Filter | nodes.Test):
        yield from _filter(node)
    elif isinstance(node, nodes.Call):
        yield from _call(node, macro)
    elif isinstance(node, nodes.Pow):
        yield from _power(node)
    elif isinstance(node, nodes.Mul):
        yield from _product(node)
    elif isinstance(node, nodes.Mod):
        yield from _modulo(node)
    elif isinstance(node, nodes.For):
        yield from _loop(node, loops)
    elif isinstance(node, nodes.Name) and node.name in _HELPERS and node.ctx == "load":
        yield "template-odd", f"line {node.lineno}: uses {node.name}, through which Python's internals are reached"


def _attribute(name: str, node: nodes.Node, of: nodes.Node | None = None) -> Iterator[tuple[str, str]]:
    from jinja2 import nodes

    if name.startswith("_") or name in _INTERNALS:
        yield "template-code", f"line {node.lineno}: reaches for {name}"
    elif isinstance(of, nodes.Name) and of.name in _HELPERS and name not in _HELPER_METHODS:
        yield "template-code", f"line {node.lineno}: reaches into {of.name}"


def _item(node: nodes.Getitem) -> Iterator[tuple[str, str]]:
    from jinja2 import nodes

    argument = node.arg
    if isinstance(argument, nodes.Const) and isinstance(argument.value, str):
        if argument.value.startswith("__") or argument.value in _INTERNALS:
            yield "template-code", f"line {node.lineno}: reaches for {argument.value}"
    elif isinstance(argument, nodes.Concat | nodes.Add) and any(
        isinstance(part, nodes.Const) and isinstance(part.value, str) and "_" in part.value
        for part in argument.find_all(nodes.Const)
    ):
        yield "template-code", f"line {node.lineno}: puts the name of an attribute together"


def _constant(node: nodes.Const) -> Iterator[tuple[str, str]]:
    value = node.value
    if isinstance(value, str) and re.search(
        r"__(?:class|mro|bases?|subclasses|globals|builtins|import|init|getattribute)__", value
    ):
        yield "template-code", f"line {node.lineno}: holds the name of a Python internal"
    elif isinstance(value, int) and value.bit_length() > 4096:
        yield "template-endless", f"line {node.lineno}: a number of {value.bit_length()} bits"


def _filter(node: nodes.Filter | nodes.Test) -> Iterator[tuple[str, str]]:
    from jinja2 import nodes

    if node.name == "attr":
        yield "template-code", f"line {node.lineno}: fetches attributes by computed name (attr)"
    named = [pair.value for pair in node.kwargs if pair.key == "attribute"]
    if node.name in _BY_ATTRIBUTE and node.args:
        named.append(node.args[0])
    for argument in named:
        if isinstance(argument, nodes.Const) and isinstance(argument.value, str):
            for part in argument.value.split("."):
                yield from _attribute(part, node)
    if node.name in _PADDING and any(_size(argument) > _LARGE_TEXT for argument in node.args):
        yield "template-endless", f"line {node.lineno}: pads to an enormous width"
    if node.name == "format" and isinstance(node, nodes.Filter):
        yield from _format(node.node, node, percent=True)
    if node.name == "join" and isinstance(node, nodes.Filter) and node.node is not None:
        yield from _join(node.args[0] if node.args else None, node.node, node)


def _call(node: nodes.Call, macro: str) -> Iterator[tuple[str, str]]:
    from jinja2 import nodes

    callee = node.node
    if isinstance(callee, nodes.Name):
        if callee.name == "range" and any(_size(argument) > _LARGE_NUMBER for argument in node.args):
            yield "template-endless", f"line {node.lineno}: counts to an enormous number"
        elif macro and callee.name == macro:
            yield "template-endless", f"line {node.lineno}: the macro {macro} calls itself without end"
    elif isinstance(callee, nodes.Getattr):
        if callee.attr in ("format", "format_map"):
            yield from _format(callee.node, node, percent=False)
        elif callee.attr == "join" and node.args:
            yield from _join(callee.node, node.args[0], node)
        elif callee.attr in _PADDING and node.args and _size(node.args[0]) > _LARGE_TEXT:
            yield "template-endless", f"line {node.lineno}: pads to an enormous width"


def _format(pattern: nodes.Node | None, node: nodes.Node, *, percent: bool) -> Iterator[tuple[str, str]]:
    from jinja2 import nodes

    if isinstance(pattern, nodes.Const) and isinstance(pattern.value, str):
        if not percent and _REACHING.search(pattern.value):
            yield "template-code", f"line {node.lineno}: formats with a field that reaches into its arguments"
        elif _WIDE.search(pattern.value):
            yield "template-endless", f"line {node.lineno}: formats to an enormous width"
    elif not percent:
        yield "template-odd", f"line {node.lineno}: formats with a pattern that is computed"


def _join(separator: nodes.Node | None, items: nodes.Node, node: nodes.Node) -> Iterator[tuple[str, str]]:
    if separator is not None and _size(separator) * max(1, _size(items)) > _LARGE_NUMBER * 100:
        yield "template-endless", f"line {node.lineno}: joins to an enormous text"


def _power(node: nodes.Pow) -> Iterator[tuple[str, str]]:
    from jinja2 import nodes

    power = node.right.value if isinstance(node.right, nodes.Const) else None
    if not isinstance(power, int | float) or power > 64 or _size(node) > _LARGE_NUMBER**4:
        yield "template-endless", f"line {node.lineno}: raises to a large or computed power"


def _product(node: nodes.Mul) -> Iterator[tuple[str, str]]:
    if _size(node) > _LARGE_TEXT * 10 and any(_is_sequence(part) for part in (node.left, node.right)):
        yield "template-endless", f"line {node.lineno}: repeats a text or list enormously often"


def _modulo(node: nodes.Mod) -> Iterator[tuple[str, str]]:
    from jinja2 import nodes

    if isinstance(node.left, nodes.Const) and isinstance(node.left.value, str):
        yield from _format(node.left, node, percent=True)


def _loop(node: nodes.For, loops: int) -> Iterator[tuple[str, str]]:
    from jinja2 import nodes

    if loops >= 2 and _is_range(node.iter):
        yield "template-endless", f"line {node.lineno}: counts in loops within loops"
    for assign in node.find_all(nodes.Assign):
        if _doubles(assign):
            yield "template-endless", f"line {assign.lineno}: doubles a value in a loop"


def _doubles(assign: nodes.Assign) -> bool:
    """``x = x ~ x``, ``x + x``, ``x * 2`` and the like: what is assigned holds its own target twice."""
    from jinja2 import nodes

    target = _path(assign.target)
    if target is None or not isinstance(assign.node, nodes.Concat | nodes.Add | nodes.Mul | nodes.List):
        return False
    uses = sum(1 for part in assign.node.find_all((nodes.Name, nodes.Getattr, nodes.NSRef)) if _path(part) == target)
    if isinstance(assign.node, nodes.Mul):
        return (
            uses >= 1
            and any(isinstance(part, nodes.Const) for part in (assign.node.left, assign.node.right))
            and _starts_as_text(assign.node)
        )
    return uses >= 2


def _starts_as_text(node: nodes.Mul) -> bool:
    return _size(node) > 1


def _path(node: nodes.Node) -> str | None:
    from jinja2 import nodes

    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.NSRef):
        return f"{node.name}.{node.attr}"
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return f"{node.node.name}.{node.attr}"
    return None


def _is_range(node: nodes.Node) -> bool:
    from jinja2 import nodes

    return isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name == "range"


def _is_sequence(node: nodes.Node) -> bool:
    from jinja2 import nodes

    if isinstance(node, nodes.Const):
        return isinstance(node.value, str)
    return isinstance(node, nodes.List | nodes.Tuple | nodes.TemplateData | nodes.Concat) or (
        isinstance(node, nodes.Mul) and (_is_sequence(node.left) or _is_sequence(node.right))
    )


def _size(node: nodes.Node, depth: int = 0) -> float:
    """A lower bound of a constant's value or length, as far as arithmetic shows it; 0 where it does not."""
    from jinja2 import nodes

    if depth > 20:
        return 0
    if isinstance(node, nodes.Const):
        if isinstance(node.value, bool) or node.value is None:
            return 0
        if isinstance(node.value, int | float):
            return abs(float(node.value)) if abs(node.value) < 1e300 else 1e300
        return float(len(node.value)) if isinstance(node.value, str) else 0
    if isinstance(node, nodes.List | nodes.Tuple):
        return float(len(node.items))
    if isinstance(node, nodes.Mul):
        return min(1e300, max(1.0, _size(node.left, depth + 1)) * max(1.0, _size(node.right, depth + 1)))
    if isinstance(node, nodes.Add):
        return _size(node.left, depth + 1) + _size(node.right, depth + 1)
    if isinstance(node, nodes.Pow):
        base, power = _size(node.left, depth + 1), _size(node.right, depth + 1)
        if base <= 1 or power <= 0:
            return 1.0
        return 1e300 if power * math.log10(base) > 299 else base**power
    if isinstance(node, nodes.Call) and _is_range(node):
        return max((_size(argument, depth + 1) for argument in node.args), default=0.0)
    return 0
