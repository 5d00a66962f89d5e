"""Judges chat templates from their syntax tree. A template is parsed and never compiled: compiling folds constants, and
``'A' * 10**9`` is one. Parsing is jinja2's own (3.1), after a pass that bounds length and nesting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from ckpt_inspect.scan.collector import Collector
from ckpt_inspect.scan.template_values import Values, descend, path_of

if TYPE_CHECKING:
    from jinja2 import Environment, nodes

_LONGEST = 128 << 10  # the longest published ones have 30 kB
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
_INTERNAL_NAME = re.compile(
    r"__(?:class|mro|bases?|subclasses|globals|builtins|import|init|getattribute|dict|self|code)__"
)
_WIDE = re.compile(r"%[-+ #0]*(?:\d{6,}|\*)|%[^%a-zA-Z]*\.\*|%[^%a-zA-Z]*\.\d{6,}|\{[^{}]*:[^{}]*\d{6,}[^{}]*\}")
_REACHING = re.compile(r"\{[^{}]*(?:\._|\[|__)[^{}]*\}")
_BY_ATTRIBUTE = frozenset({"selectattr", "rejectattr", "groupby", "sum"})
"""Filters whose first argument is the name of an attribute."""
_PADDING = frozenset({"center", "ljust", "rjust", "zfill", "indent", "batch", "slice"})
_MOST_ROUNDS = 100_000_000  # of loops within loops


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

    values = Values(tree)
    pending: list[tuple[nodes.Node, int, float, str]] = [(tree, 0, 1.0, "")]  # node; ranges, rounds, macro around it
    calls: dict[str, set[str]] = {}  # what each macro calls under no condition
    while pending:
        node, ranges, rounds, macro = pending.pop()
        yield from _node_problems(node, values)
        if isinstance(node, nodes.For):
            ranges += _is_range(node.iter)
            rounds *= max(1.0, values.of(node.iter).size)
            yield from _loop(node, ranges, rounds, values)
        elif isinstance(node, nodes.Macro):
            macro = node.name
        elif isinstance(node, nodes.If | nodes.CondExpr):
            macro = ""  # a call of itself under a condition can end
        elif isinstance(node, nodes.Call) and macro and isinstance(node.node, nodes.Name):
            calls.setdefault(macro, set()).add(node.node.name)
        for child in node.iter_child_nodes():
            pending.append((child, ranges, rounds, macro))
    for macro in calls:
        if _reaches_itself(macro, calls):
            yield "template-endless", f"the macro {macro} calls itself without end"


def _reaches_itself(macro: str, calls: dict[str, set[str]]) -> bool:
    reached: set[str] = set()
    pending = [macro]
    while pending:
        for name in calls.get(pending.pop(), ()):
            if name == macro:
                return True
            if name not in reached:
                reached.add(name)
                pending.append(name)
    return False


def _is_range(node: nodes.Node) -> bool:
    from jinja2 import nodes

    return isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name == "range"


def _node_problems(node: nodes.Node, values: Values) -> Iterator[tuple[str, str]]:
    from jinja2 import nodes

    if isinstance(node, nodes.Include | nodes.Import | nodes.FromImport | nodes.Extends):
        yield "template-loads", f"line {node.lineno}: loads another file ({type(node).__name__.lower()})"
    elif isinstance(node, nodes.Getattr):
        yield from _attribute(node.attr, node, node.node)
    elif isinstance(node, nodes.Getitem):
        yield from _item(node)
    elif isinstance(node, nodes.Const):
        yield from _constant(node)
    elif isinstance(node, nodes.Keyword):
        if node.key.startswith("__"):
            yield "template-code", f"line {node.lineno}: gives an argument called {node.key}"
    elif isinstance(node, nodes.Filter | nodes.Test):
        yield from _filter(node, values)
    elif isinstance(node, nodes.Call):
        yield from _call(node, values)
    elif isinstance(node, nodes.Pow):
        yield from _power(node, values)
    elif isinstance(node, nodes.Mod):
        yield from _modulo(node)
    elif isinstance(node, nodes.Name) and node.name in _HELPERS and node.ctx == "load":
        yield "template-odd", f"line {node.lineno}: uses {node.name}, through which Python's internals are reached"
    if not isinstance(node, nodes.Const):
        value = values.of(node)
        if any(_INTERNAL_NAME.search(text) for text in value.texts):
            yield "template-code", f"line {node.lineno}: puts the name of a Python internal together"
        if value.kind in ("text", "list") and value.size > _LARGE_TEXT * 10 and not _is_range(node):
            yield "template-endless", f"line {node.lineno}: makes an enormous text or list"


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
        for part in descend(argument)
    ):
        yield "template-code", f"line {node.lineno}: puts the name of an attribute together"


def _constant(node: nodes.Const) -> Iterator[tuple[str, str]]:
    value = node.value
    if isinstance(value, str) and _INTERNAL_NAME.search(value):
        yield "template-code", f"line {node.lineno}: holds the name of a Python internal"
    elif isinstance(value, int) and value.bit_length() > 4096:
        yield "template-endless", f"line {node.lineno}: a number of {value.bit_length()} bits"


def _filter(node: nodes.Filter | nodes.Test, values: Values) -> Iterator[tuple[str, str]]:
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
    if node.name in _PADDING and any(values.of(argument).size > _LARGE_TEXT for argument in node.args):
        yield "template-endless", f"line {node.lineno}: pads to an enormous width"
    if node.name == "format" and isinstance(node, nodes.Filter):
        yield from _format(node.node, node, percent=True)


def _call(node: nodes.Call, values: Values) -> Iterator[tuple[str, str]]:
    from jinja2 import nodes

    callee = node.node
    if _is_range(node):
        if values.of(node).size > _LARGE_NUMBER:
            yield "template-endless", f"line {node.lineno}: counts to an enormous number"
    elif isinstance(callee, nodes.Getattr):
        if callee.attr in ("format", "format_map"):
            yield from _format(callee.node, node, percent=False)
        elif callee.attr in _PADDING and node.args and values.of(node.args[0]).size > _LARGE_TEXT:
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


def _power(node: nodes.Pow, values: Values) -> Iterator[tuple[str, str]]:
    from jinja2 import nodes

    power = node.right.value if isinstance(node.right, nodes.Const) else None
    if not isinstance(power, int | float) or power > 64 or values.of(node).size > _LARGE_NUMBER**4:
        yield "template-endless", f"line {node.lineno}: raises to a large or computed power"


def _modulo(node: nodes.Mod) -> Iterator[tuple[str, str]]:
    from jinja2 import nodes

    if isinstance(node.left, nodes.Const) and isinstance(node.left.value, str):
        yield from _format(node.left, node, percent=True)


def _loop(node: nodes.For, ranges: int, rounds: float, values: Values) -> Iterator[tuple[str, str]]:
    from jinja2 import nodes

    if ranges > 2 or rounds > _MOST_ROUNDS:
        yield "template-endless", f"line {node.lineno}: counts in loops within loops"
    for assign in descend(node):
        if isinstance(assign, nodes.Assign) and _doubles(assign, values):
            yield "template-endless", f"line {assign.lineno}: doubles a value in a loop"


def _doubles(assign: nodes.Assign, values: Values) -> bool:
    """``x = x ~ x``, ``x + x``, ``x * 2`` and the like: what is assigned holds its own target twice."""
    from jinja2 import nodes

    target = path_of(assign.target)
    if target is None or not isinstance(assign.node, nodes.Concat | nodes.Add | nodes.Mul | nodes.List):
        return False
    uses = sum(path_of(part) == target for part in descend(assign.node) if not isinstance(part, nodes.Const))
    if isinstance(assign.node, nodes.Mul):
        by_constant = any(
            values.of(part).kind == "number" and values.of(part).size > 1 for part in descend(assign.node)
        )
        return uses >= 1 and by_constant
    return uses >= 2
