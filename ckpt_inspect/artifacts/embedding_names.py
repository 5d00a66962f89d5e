"""Which modules of a model are its input and output embeddings, by their paths (``knowledge/embedding_names.toml``)."""

from __future__ import annotations

from functools import cache
from typing import Literal

from ckpt_inspect.knowledge import load

Side = Literal["input", "output"]


def embedding_side(module: str) -> Side | None:
    """Which embedding a module's path ends in; None for every other module."""
    for start in _tails(module):
        side = _sides().get(start)
        if side is not None:
            return side
    return None


def is_called(module: str) -> bool:
    """Whether a forward pass goes through an embedding module; one that only lends its parameter cannot be wrapped."""
    names = load("embedding_names")["input"]
    return all(names.get(tail, {}).get("called", True) for tail in _tails(module))


def is_silent(task_type: str | None, classes: tuple[str, ...]) -> bool:
    """Whether a model writes no tokens, by the task of an adapter or the class names of its model."""
    table = load("embedding_names")["silent"]
    return task_type in table["task_types"] or any(name.endswith(tuple(table["classes"])) for name in classes)


def _tails(module: str) -> tuple[str, ...]:
    """The ends of a path the table can name: the whole path anchored, its last two components, its last."""
    parts = module.split(".")
    return (f"^{module}", ".".join(parts[-2:]), parts[-1])


@cache
def _sides() -> dict[str, Side]:
    table = load("embedding_names")
    return {**dict.fromkeys(table["input"], "input"), **dict.fromkeys(table["output"], "output")}
