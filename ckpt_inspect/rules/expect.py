"""The comparison language of ``check --expect``: one path of the ``show --json`` document against one value.

::

    expectation = path [ operator value ]
    path        = name { "." name | "[" integer "]" }       checkpoints[-1].step
    operator    = "<" | "<=" | ">" | ">=" | "==" | "!=" | "in" | "not in"
    value       = number | "true" | "false" | "null" | word | 'text' | "text" | "[" value { "," value } "]"

A bare path holds when its value is neither null, false, zero nor empty. Lists compare with numbers by their length,
``{step, value}`` objects by their value, and ``evaluation.NAME`` finds ``evaluation.metrics.NAME``. No text is run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from operator import ge, gt, le, lt
from typing import Any

from ckpt_inspect.errors import UsageError
from ckpt_inspect.printable import printable

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?%?)(?![\w.])
    |(?P<text>'[^']*'|"[^"]*")
    |(?P<operator><=|>=|==|!=|<|>|=)
    |(?P<punctuation>[\[\],.])
    |(?P<word>[A-Za-z_][\w/\-]*))""",
    re.VERBOSE,
)
_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "null": None, "none": None, "nan": math.nan}
_ORDER: dict[str, Callable[[Any, Any], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge}
_SPECIAL_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True)
class Expectation:
    """A parsed expectation: `steps` through the document, `operator` and `value` absent for a bare path."""

    text: str
    steps: tuple[str | int, ...]
    operator: str | None
    value: Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether an expectation holds, the value met, and the sentence to print."""

    expectation: Expectation
    met: bool
    actual: Any
    message: str


def parse_expectation(text: str) -> Expectation:
    """Parse one expectation.

    Raises:
        UsageError: it does not follow the grammar; the message shows where it stops making sense.
    """
    tokens = _tokens(text)
    steps, position = _path(text, tokens)
    if position == len(tokens):
        return Expectation(text, steps, None, None)
    operator, position = _operator(text, tokens, position)
    value, position = _value(text, tokens, position)
    if position != len(tokens):
        raise _bad(text, f"nothing may follow the value, but {tokens[position][1]!r} does")
    if operator in ("in", "not in") and not isinstance(value, list):
        raise _bad(text, f"`{operator}` needs a list such as [trained, partly_trained]")
    return Expectation(text, steps, operator, value)


def evaluate(expectation: Expectation, document: Mapping[str, Any]) -> Outcome:
    """Hold `document` (the ``show --json`` object) to the expectation.

    Raises:
        UsageError: the path names a key the document can never have; the message suggests the nearest ones.
    """
    actual, missing = _resolve(expectation, document)
    path = _spell(expectation.steps)
    if missing is not None:
        return Outcome(expectation, False, None, f"expected {expectation.text}, but {missing}")
    if expectation.operator is None:
        met = bool(actual) and not (isinstance(actual, float) and math.isnan(actual))
        return Outcome(expectation, met, actual, f"expected {path}, it is {_shown(actual)}")
    met = _compare(expectation, actual)
    return Outcome(expectation, met, actual, f"expected {expectation.text}, it is {_shown(actual)}")


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position = 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None or match.lastgroup is None:
            raise _bad(text, f"cannot read {printable(stripped[position:], 20)!r}")
        tokens.append((match.lastgroup, match.group(match.lastgroup)))
        position = match.end()
    if not tokens:
        raise _bad(text, "it is empty")
    return tokens


def _path(text: str, tokens: list[tuple[str, str]]) -> tuple[tuple[str | int, ...], int]:
    if tokens[0][0] not in ("word", "text"):
        raise _bad(text, "it must begin with a path such as loss.final")
    steps: list[str | int] = [tokens[0][1].strip("'\"")]
    position = 1
    while position < len(tokens):
        kind, value = tokens[position]
        following = tokens[position + 1] if position + 1 < len(tokens) else ("", "")
        if value == "." and following[0] in ("word", "text"):
            steps.append(following[1].strip("'\""))
            position += 2
        elif (
            value == "[" and following[0] == "number" and tokens[position + 2 : position + 3] == [("punctuation", "]")]
        ):
            steps.append(int(following[1]))
            position += 3
        elif kind == "punctuation":
            raise _bad(text, f"a name or an index must stand at {value!r}")
        else:
            break
    return tuple(steps), position


def _operator(text: str, tokens: list[tuple[str, str]], position: int) -> tuple[str, int]:
    kind, value = tokens[position]
    if kind == "operator":
        return ("==" if value == "=" else value), position + 1
    if value == "in":
        return "in", position + 1
    if value == "not" and tokens[position + 1 : position + 2] == [("word", "in")]:
        return "not in", position + 2
    raise _bad(text, f"{value!r} is not one of < <= > >= == != in, not in")


def _value(text: str, tokens: list[tuple[str, str]], position: int) -> tuple[Any, int]:
    if position >= len(tokens):
        raise _bad(text, "a value must follow the operator")
    kind, value = tokens[position]
    if kind == "number":
        percent = value.endswith("%")
        number = float(value.rstrip("%")) / (100 if percent else 1)
        return (int(number) if number.is_integer() and not percent else number), position + 1
    if kind == "text":
        return value[1:-1], position + 1
    if kind == "word":
        return _CONSTANTS.get(value.lower(), value), position + 1
    if value == "[":
        items: list[Any] = []
        position += 1
        while position < len(tokens) and tokens[position][1] != "]":
            if tokens[position][1] == "[":
                raise _bad(text, "lists do not nest")
            item, position = _value(text, tokens, position)
            items.append(item)
            if tokens[position : position + 1] == [("punctuation", ",")]:
                position += 1
        if position >= len(tokens):
            raise _bad(text, "the list is not closed")
        return items, position + 1
    raise _bad(text, f"{value!r} is not a value")


def _resolve(expectation: Expectation, document: Mapping[str, Any]) -> tuple[Any, str | None]:
    value: Any = document
    for index, step in enumerate(expectation.steps):
        walked = _spell(expectation.steps[:index])
        if value is None:
            return None, f"{walked} is not known for this run"
        if isinstance(step, int):
            if not isinstance(value, list):
                raise _bad(expectation.text, f"{walked} is not a list")
            if not -len(value) <= step < len(value):
                return None, f"{walked} has {len(value)} entries"
            value = value[step]
        elif isinstance(value, Mapping):
            if step not in value and isinstance(value.get("metrics"), Mapping):
                value = value["metrics"]
                if step not in value:
                    return None, f"{walked} records no {printable(step)} (it has {_listed(value)})"
            if step not in value:
                near = get_close_matches(step, [str(key) for key in value], 3, 0.5)
                hint = f"did you mean {' or '.join(near)}?" if near else f"it has {_listed(value)}"
                raise _bad(expectation.text, f"{walked or 'the document'} has no key {printable(step)!r}; {hint}")
            value = value[step]
        else:
            raise _bad(expectation.text, f"{walked} is {_shown(value)}, nothing lies below it")
    return (
        (None, f"{_spell(expectation.steps)} is not known for this run")
        if value is None and not _asks_null(expectation)
        else (value, None)
    )


def _asks_null(expectation: Expectation) -> bool:
    return expectation.operator in ("==", "!=") and expectation.value is None


def _compare(expectation: Expectation, actual: Any) -> bool:
    operator, wanted = expectation.operator, expectation.value
    left = _plain(actual, wanted)
    if operator == "in":
        return left in wanted
    if operator == "not in":
        return left not in wanted
    if operator == "==":
        return _equal(left, wanted)
    if operator == "!=":
        return not _equal(left, wanted)
    if not _is_number(left) or not _is_number(wanted):
        if isinstance(left, str) and isinstance(wanted, str):
            raise _bad(expectation.text, "texts have no order; use == or in")
        raise _bad(expectation.text, f"{_spell(expectation.steps)} is {_shown(actual)}, not a number")
    return _ORDER[str(operator)](left, wanted)


def _plain(actual: Any, wanted: Any) -> Any:
    if isinstance(actual, Mapping) and set(actual) >= {"step", "value"}:
        actual = actual["value"]
    if isinstance(actual, str) and actual in _SPECIAL_NUMBERS and _is_number(wanted):
        return _SPECIAL_NUMBERS[actual]
    if isinstance(actual, list) and _is_number(wanted):
        return len(actual)
    return actual


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right):
        return True
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    return bool(left == right)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _spell(steps: tuple[str | int, ...]) -> str:
    spelled = "".join(f"[{step}]" if isinstance(step, int) else f".{printable(step)}" for step in steps)
    return spelled.removeprefix(".")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and set(value) >= {"step", "value"}:
        return f"{_shown(value['value'])} (step {value['step']})"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"an object with {_listed(value)}"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.6g}" if isinstance(value, float) else printable(value)


def _listed(value: Mapping[str, Any]) -> str:
    names = [printable(key, 40) for key in value]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "nothing"


def _bad(text: str, why: str) -> UsageError:
    return UsageError(f"expectation {printable(text)!r}: {why}")
