"""Matches the regular expressions an adapter's configuration holds, in time linear in the text.

PEFT hands `target_modules` and the keys of `rank_pattern` to `re` (peft 0.21.2 ``utils/other.py:get_pattern_key`` and
``match_target_against_key``). A pattern out of a file may be built to backtrack for ever, so it is parsed with the
stdlib's parser and simulated as a set of states; look-around and back references are refused, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

MAX_STATES = 20_000
_MAX_PATTERN = 10_000
_MAX_REPEAT = 1_000
_QUANTIFIED = re.compile(r"[*+?{}()\[\]|\\]")

_Test = Callable[[str], bool]


class PatternError(ValueError):
    """The pattern is not a regular expression, or needs more than a regular language."""


@lru_cache(maxsize=512)
def compiled(pattern: str) -> Pattern:
    """The pattern, parsed once.

    Raises:
        PatternError: invalid, too large, or uses look-around, back references or conditions.
    """
    return Pattern(pattern)


@lru_cache(maxsize=512)
def path_end(pattern: str, then: str = "") -> Callable[[str], bool]:
    r"""A test whether a module's path ends in `pattern`, at a dot: ``re.match(rf"(.*\.)?({pattern})$", path)``.

    Args:
        then: a pattern without alternatives for what may follow.

    Raises:
        PatternError: as `compiled`.
    """
    if not _QUANTIFIED.search(pattern):  # nothing to backtrack over: the stdlib's matcher is linear too, and faster
        try:
            plain = re.compile(rf"(?:.*\.)?(?:{pattern}){then}$")
        except re.error as error:
            raise PatternError(str(error)) from None
        return lambda path: plain.match(path) is not None
    return compiled(rf"(.*\.)?({pattern}){then}$").fullmatch


class Pattern:
    """A non-deterministic automaton: each state is a character test with a successor, or a fork without one."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > _MAX_PATTERN:
            raise PatternError(f"a pattern of {len(pattern):,} characters")
        parser: Any = re._parser  # type: ignore[attr-defined]
        try:
            tree = parser.parse(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise PatternError(str(error)) from None
        self._ignore_case = bool(tree.state.flags & re.IGNORECASE)
        self._dot_all = bool(tree.state.flags & re.DOTALL)
        self._tests: list[_Test | None] = []
        self._next: list[tuple[int, ...]] = []
        self._anchors: dict[int, str] = {}
        self._final = self._state(None)
        self._start = self._sequence(tree, self._final)

    def fullmatch(self, text: str) -> bool:
        """Whether the whole of `text` matches."""
        current = self._closure({self._start}, text, 0)
        for position, character in enumerate(text):
            after: set[int] = set()
            for state in current:
                test = self._tests[state]
                if test is not None and test(character):
                    after.update(self._next[state])
            if not after:
                return False
            current = self._closure(after, text, position + 1)
        return self._final in current

    def _closure(self, states: set[int], text: str, position: int) -> set[int]:
        pending = list(states)
        reached = set(states)
        while pending:
            state = pending.pop()
            if self._tests[state] is not None or not self._holds(state, text, position):
                continue
            for successor in self._next[state]:
                if successor not in reached:
                    reached.add(successor)
                    pending.append(successor)
        return reached

    def _holds(self, state: int, text: str, position: int) -> bool:
        anchor = self._anchors.get(state)
        if anchor is None:
            return True
        if anchor in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
            return position == 0
        if anchor == "AT_END_STRING":
            return position == len(text)
        if anchor == "AT_END":
            return position == len(text) or text[position:] == "\n"
        before = position > 0 and _is_word(text[position - 1])
        after = position < len(text) and _is_word(text[position])
        return (before != after) == (anchor == "AT_BOUNDARY")

    def _state(self, test: _Test | None, *successors: int) -> int:
        if len(self._tests) >= MAX_STATES:
            raise PatternError(f"needs more than {MAX_STATES:,} states")
        self._tests.append(test)
        self._next.append(successors)
        return len(self._tests) - 1

    def _sequence(self, items: Iterable[tuple[Any, Any]], then: int) -> int:
        for operation, argument in reversed(list(items)):
            then = self._item(str(operation), argument, then)
        return then

    def _item(self, operation: str, argument: Any, then: int) -> int:
        if operation in ("LITERAL", "NOT_LITERAL", "ANY", "IN", "CATEGORY"):
            return self._state(self._test(operation, argument), then)
        if operation == "AT":
            state = self._state(None, then)
            self._anchors[state] = str(argument)
            return state
        if operation == "BRANCH":
            return self._state(None, *(self._sequence(branch, then) for branch in argument[1]))
        if operation == "SUBPATTERN":
            _, add, remove, body = argument
            if add or remove:
                raise PatternError("flags inside the pattern")
            return self._sequence(body, then)
        if operation in ("MAX_REPEAT", "MIN_REPEAT"):
            return self._repeat(argument, then)
        raise PatternError(f"uses {operation.lower().replace('_', ' ')}")

    def _repeat(self, argument: Any, then: int) -> int:
        low, high, body = argument
        if str(high) == "MAXREPEAT":
            loop = self._state(None)
            entry = self._sequence(body, loop)
            self._next[loop] = (entry, then)
            then = loop
        else:
            if high > _MAX_REPEAT:
                raise PatternError(f"repeats {high:,} times")
            after = then
            for _ in range(high - low):
                then = self._state(None, self._sequence(body, then), after)
        if low > _MAX_REPEAT:
            raise PatternError(f"repeats {low:,} times")
        for _ in range(low):
            then = self._sequence(body, then)
        return then

    def _test(self, operation: str, argument: Any) -> _Test:
        if operation == "ANY":
            return (lambda _: True) if self._dot_all else (lambda character: character != "\n")
        if operation in ("LITERAL", "NOT_LITERAL"):
            wanted = chr(argument)
            if self._ignore_case:
                folded = wanted.lower()
                equal: _Test = lambda character: character.lower() == folded  # noqa: E731
            else:
                equal = wanted.__eq__
            return equal if operation == "LITERAL" else (lambda character: not equal(character))
        if operation == "CATEGORY":
            return _category(str(argument))
        negated = bool(argument) and str(argument[0][0]) == "NEGATE"
        tests = [self._member(str(kind), value) for kind, value in argument[1 if negated else 0 :]]
        return lambda character: any(test(character) for test in tests) is not negated

    def _member(self, kind: str, value: Any) -> _Test:
        if kind == "RANGE":
            low, high = chr(value[0]), chr(value[1])
            if self._ignore_case:
                return lambda character: low <= character.lower() <= high or low <= character.upper() <= high
            return lambda character: low <= character <= high
        return self._test(kind, value)


def _category(name: str) -> _Test:
    kinds: dict[str, _Test] = {"DIGIT": str.isdigit, "SPACE": str.isspace, "WORD": _is_word}
    negated = "_NOT_" in name
    test = kinds[name.rpartition("_")[2]]
    return (lambda character: not test(character)) if negated else test


def _is_word(character: str) -> bool:
    return character == "_" or character.isalnum()
