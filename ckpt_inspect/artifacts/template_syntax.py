"""The syntax of a chat template: whether it parses, and what it refers to. Nothing of it is ever run.

Parsed with the extensions transformers compiles templates with (5.23 ``utils/chat_template_utils.py``: trim_blocks,
lstrip_blocks, loop controls, the ``generation`` tag). Only jinja2's parser is used: its compiler and `jinja2.meta` fold
constants, which for ``9**9**9`` does not end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment, nodes

MAX_TEMPLATE = 1 << 20
_MAX_LITERAL = 1 << 16

# What apply_chat_template puts into the context, and the names jinja2 itself defines.
CONTEXT = frozenset(
    {
        *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
        *("raise_exception", "strftime_now", "dict", "namespace", "range", "lipsum", "cycler", "joiner"),
        *("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"),
        *("loop", "self", "super", "varargs", "kwargs", "caller", "true", "false", "none", "True", "False", "None"),
    }
)
_EXTRA_FILTERS = frozenset({"tojson"})
# Texts that are one token wherever they are used: <|im_end|>, DeepSeek's full-width form, <start_of_turn>, </s>.
_CONTROL = re.compile(
    r"<\|[^<>|\s]{1,64}\|>|<\uff5c[^<>\uff5c\s]{1,64}\uff5c>|<(?:start|end)_of_(?:turn|image)>|</?s>|<(?:bos|eos|pad)>"
)
# Texts that mark structure and may be one token or several: [INST], <<SYS>>, <think>, <tool_call>.
_TAG = re.compile(r"<</?SYS>>|\[/?[A-Z][A-Z_]{2,30}\]|</?[A-Za-z_][\w:-]{0,40}>")


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What a template says about itself.

    Attributes:
        error: why it does not parse, None where it does; `line` is where, from 1.
        variables: names it reads and never assigns, those every template may read included.
        unknown_variables: those of them that `apply_chat_template` does not provide by itself.
        unknown_filters, unknown_tests: names jinja2 does not know; rendering stops at them.
        generation_prompt: whether it looks at `add_generation_prompt`.
        generation_blocks: whether it marks assistant text with ``{% generation %}``.
        control_strings: texts in it that have the form of control tokens, in order of first appearance.
        tags: other texts in it that mark structure and may be tokens (``[INST]``, ``<think>``).
    """

    error: str | None
    line: int | None
    variables: frozenset[str] = frozenset()
    unknown_variables: frozenset[str] = frozenset()
    unknown_filters: frozenset[str] = frozenset()
    unknown_tests: frozenset[str] = frozenset()
    generation_prompt: bool = False
    generation_blocks: bool = False
    control_strings: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def template_facts(text: str) -> TemplateFacts:
    """Parse a template and collect what it refers to. Never raises, never evaluates."""
    tree, error, line = parse_template(text)
    if tree is None:
        return TemplateFacts(error, line)
    from jinja2 import nodes
    from jinja2.filters import FILTERS
    from jinja2.tests import TESTS

    read: set[str] = set()
    assigned: set[str] = set()
    filters: set[str] = set()
    tests: set[str] = set()
    literals: list[str] = []
    generation = False
    for node in walk(tree):
        if isinstance(node, nodes.Name):
            (read if node.ctx == "load" else assigned).add(node.name)
        elif isinstance(node, nodes.Macro):
            assigned.add(node.name)
        elif isinstance(node, nodes.Filter):
            filters.add(node.name)
        elif isinstance(node, nodes.Test):
            tests.add(node.name)
        elif isinstance(node, nodes.TemplateData):
            literals.append(node.data[:_MAX_LITERAL])
        elif isinstance(node, nodes.Const) and isinstance(node.value, str):
            literals.append(node.value[:_MAX_LITERAL])
        elif isinstance(node, nodes.Scope) and getattr(node, "generation", False):
            generation = True
    variables = frozenset(read - assigned)
    controls = dict.fromkeys(match[0] for literal in literals for match in _CONTROL.finditer(literal))
    tags = dict.fromkeys(match[0] for literal in literals for match in _TAG.finditer(literal))
    return TemplateFacts(
        error=None,
        line=None,
        variables=variables,
        unknown_variables=frozenset(name for name in variables if name not in CONTEXT and not name.endswith("_token")),
        unknown_filters=frozenset(filters - FILTERS.keys() - _EXTRA_FILTERS),
        unknown_tests=frozenset(tests - TESTS.keys()),
        generation_prompt="add_generation_prompt" in variables,
        generation_blocks=generation,
        control_strings=tuple(controls),
        tags=tuple(tag for tag in tags if tag not in controls),
    )


def parse_template(text: str) -> tuple[nodes.Template | None, str | None, int | None]:
    """(syntax tree, None, None), or (None, what is wrong, the line)."""
    if len(text) > MAX_TEMPLATE:
        return None, f"{len(text):,} characters; at most {MAX_TEMPLATE:,} are parsed", None
    from jinja2 import TemplateSyntaxError

    try:
        return _environment().parse(text), None, None
    except TemplateSyntaxError as error:
        return None, error.message or "a syntax error", error.lineno
    except RecursionError:
        return None, "nested too deep to be parsed", None
    except (ValueError, OverflowError, AssertionError) as error:  # numbers of 5,000 digits, odd token streams
        return None, str(error) or type(error).__name__, None


def walk(tree: nodes.Node) -> list[nodes.Node]:
    """Every node of a tree, parents first, without recursion."""
    found: list[nodes.Node] = []
    pending = [tree]
    while pending:
        node = pending.pop()
        found.append(node)
        pending.extend(reversed(list(node.iter_child_nodes())))
    return found


_parsers: list[Environment] = []


def _environment() -> Environment:
    if not _parsers:
        from jinja2 import Environment, nodes
        from jinja2.ext import Extension

        class GenerationTag(Extension):
            """``{% generation %} ... {% endgeneration %}``, kept as a marked scope."""

            tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

            def parse(self, parser: Any) -> Any:
                line = next(parser.stream).lineno
                scope = nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)
                scope.generation = True  # type: ignore[attr-defined]
                return scope

        extensions: list[str | type[Extension]] = [GenerationTag, "jinja2.ext.loopcontrols"]
        _parsers.append(
            Environment(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=extensions)  # noqa: S701
        )
    return _parsers[0]
