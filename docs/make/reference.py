"""The page of the Python API, from the docstrings of what ``ckpt_inspect`` exports: Google style, as the project writes them."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

import ckpt_inspect
from make.tables import NOTICE

GROUPS = {
    "Look": ("open_run", "show", "explain", "check", "args", "tensors", "scan"),
    "Draw": ("plot_loss", "series"),
    "Join shards": ("consolidate", "plan_consolidation", "iter_tensors", "verify_consolidation"),
    "Runs": ("Run", "Checkpoint", "StateDirectory", "Artifact", "Producer"),
    "Results": (
        "Answer",
        "CheckedRun",
        "Finding",
        "TensorListing",
        "TensorRow",
        "ScanReport",
        "ScannedFile",
        "ScannedGlobal",
        "ScanFinding",
        "Curve",
        "Series",
        "Plan",
        "ConsolidationResult",
        "Verification",
        "Progress",
    ),
    "Errors": ("CkptInspectError", "UsageError", "UnreadableError", "ConsolidationError", "VerificationError"),
}
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$", re.MULTILINE)
_TITLES = {
    "Args": "Arguments",
    "Attributes": "Attributes",
    "Raises": "Raises",
    "Returns": "Returns",
    "Yields": "Yields",
}
_ITEM = re.compile(r"^    (\S[^:]*): ", re.MULTILINE)
_ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`")


def page() -> str:
    """The part of ``api.md`` below its introduction."""
    parts = [NOTICE.strip()]
    for title, names in GROUPS.items():
        parts.append(f"## {title}")
        for name in names:
            parts += _entry(name, getattr(import_module(ckpt_inspect.PUBLIC[name]), name))
    return "\n\n".join(parts)


def _entry(name: str, thing: Any) -> Iterator[str]:
    yield f"### {name}"
    if inspect.isfunction(thing):
        yield f"```python\n{signature(name, thing)}\n```"
        yield from document(inspect.getdoc(thing) or "")
        return
    yield f"*{_kind(thing)}*"
    text = inspect.cleandoc(thing.__dict__.get("__doc__") or "")
    yield from document(text)
    members = list(_members(thing, text))
    if members:
        yield "\n".join(members)


def _kind(thing: type) -> str:
    if issubclass(thing, BaseException):
        base = thing.__bases__[0].__name__
        return f"error, a kind of {base}" if base in ckpt_inspect.PUBLIC else "error"
    base = next((one.__name__ for one in thing.__mro__[1:] if one.__name__ in ckpt_inspect.PUBLIC), None)
    return f"class, a kind of {base}" if base else "class"


def signature(name: str, function: Any) -> str:
    """The call as it is written, one parameter a line where it is long."""
    found = inspect.signature(function)
    parameters: list[str] = []
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not any(item.startswith("*") for item in parameters):
            parameters.append("*")
        parameters.append(_parameter(parameter))
    one = f"{name}({', '.join(parameters)}) -> {found.return_annotation}"
    if len(one) <= 100:
        return one
    return f"{name}(\n" + "".join(f"    {item},\n" for item in parameters) + f") -> {found.return_annotation}"


def _parameter(parameter: inspect.Parameter) -> str:
    star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    note = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
    return f"{star}{parameter.name}{note}{default}"


def document(text: str) -> Iterator[str]:
    """A docstring as Markdown paragraphs, its sections as lists."""
    marks = list(_SECTION.finditer(text))
    yield from _prose(text[: marks[0].start()] if marks else text)
    for index, mark in enumerate(marks):
        body = text[mark.end() : marks[index + 1].start() if index + 1 < len(marks) else None]
        yield f"**{_TITLES[mark[1]]}**"
        yield "\n".join(_items(body))


def _prose(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = paragraph.splitlines()
        if all(line.startswith("    ") for line in lines if line):
            yield f"```python\n{textwrap.dedent(paragraph)}\n```"
        elif paragraph:
            flat = _inline(" ".join(paragraph.split()))
            if flat != "::":
                yield re.sub(r"::$", ":", flat)


def _items(body: str) -> Iterator[str]:
    found = list(_ITEM.finditer(body))
    for index, item in enumerate(found):
        text = body[item.end() : found[index + 1].start() if index + 1 < len(found) else None]
        yield f"* `{item[1]}`: {_inline(' '.join(text.split()))}"


def _inline(text: str) -> str:
    text = _ROLE.sub(r"`\1`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def _members(thing: type, text: str) -> Iterator[str]:
    """Fields, properties and methods of its own that the text does not tell, each with its type or first sentence."""
    told = set(_ITEM.findall(text.partition("Attributes:")[2]))
    if is_dataclass(thing):
        for field in fields(thing):
            is_own = field.name in inspect.get_annotations(thing)
            if is_own and field.repr and field.name not in told:
                yield f"* `{field.name}`: `{field.type}`"
    for name, member in vars(thing).items():
        if name.startswith("_"):
            continue
        if inspect.isfunction(member):
            yield f"* `{signature(name, member).replace('(self, ', '(').replace('(self)', '()')}`: {_first(member)}"
        elif isinstance(member, property) or type(member).__name__ == "fact":
            yield f"* `{name}`: {_first(member)}"


def _first(member: Any) -> str:
    note = member.__doc__ or ""  # inspect.getdoc has no eye for the descriptors of `ckpt_inspect.run`
    return _inline(" ".join(note.partition("\n\n")[0].split()))
