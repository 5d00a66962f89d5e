"""What a name in a pickle means: builds data (T0), known class (T1), unknown (T2), runs code or has no place there (T3).

The table is ``knowledge/pickle_globals.toml``. Only exact pairs of module and name are allowed; a prefix can only deny.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

from ckpt_inspect import knowledge

Tier: TypeAlias = Literal["T0", "T1", "T2", "T3"]
Use: TypeAlias = Literal["reference", "call", "instance", "state"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a name stands. `reason` is a clause for a person; `guard` names the check its arguments must pass.

    `use` is what may be done with it beyond naming it; `family` groups names by who writes them ("tensor", "dcp").
    """

    tier: Tier
    reason: str
    family: str = ""
    use: frozenset[str] = frozenset()
    guard: str | None = None


@dataclass(frozen=True, slots=True)
class Expectation:
    """What an artifact should hold: families of names, and the words for them."""

    title: str
    families: frozenset[str]
    holds: str


_SCRIPT = Standing("T2", "a class of the training script itself; what it does is not known", "script")
_MODEL_LIBRARIES = frozenset({"transformers", "peft"})
_MODEL_CLASS = Standing("T1", "a part of a model", "modules", frozenset({"instance", "state"}), "no_arguments")
_TORCHSCRIPT = Standing(
    "T1", "a class compiled into the TorchScript archive", "torchscript", frozenset({"call", "instance", "state"})
)


@cache
def _allowed() -> Mapping[tuple[str, str], Standing]:
    found: dict[tuple[str, str], Standing] = {}
    for row in knowledge.load("pickle_globals")["allow"]:
        standing = Standing(
            row["tier"],
            row.get("purpose", "part of a known library"),
            row["family"],
            frozenset(row["use"]),
            row.get("guard"),
        )
        for module in row["modules"]:
            for name in row["names"]:
                found.setdefault((module, name), standing)
    return found


@cache
def _model_classes() -> Mapping[str, frozenset[str]]:
    """The classes a whole pickled model names, by module: ten thousand names, read only when one is met."""
    found: dict[str, frozenset[str]] = {}
    for line in knowledge.text("model_classes.txt").splitlines():
        module, separator, names = line.partition(": ")
        if separator and not line.startswith("#"):
            found[module] = frozenset(names.split())
    return found


@cache
def _denied() -> tuple[frozenset[str], Mapping[str, tuple[tuple[frozenset[str] | None, str], ...]]]:
    """The modules of the standard library; by module, names (None: all, and all below) with what they do."""
    table: Mapping[str, Any] = knowledge.load("pickle_globals")["deny"]
    gadgets: dict[str, list[tuple[frozenset[str] | None, str]]] = {}
    for row in table["gadget"]:
        names = frozenset(row["names"]) if "names" in row else None
        gadgets.setdefault(row["module"], []).append((names, row["reason"]))
    return frozenset(table["standard_library"]), {module: tuple(rows) for module, rows in gadgets.items()}


@cache
def _expectations() -> Mapping[str, Expectation]:
    return {
        kind: Expectation(row["title"], frozenset(row["families"]), row["holds"])
        for row in knowledge.load("pickle_globals")["expect"]
        for kind in row["kinds"]
    }


def expectation(kind: str | None) -> Expectation | None:
    """What an artifact of `kind` (``knowledge/artifacts.toml``) should hold, None where that is not laid down."""
    return _expectations().get(kind) if kind is not None else None


def standing_of(module: str, name: str, *, torchscript: bool = False) -> Standing:
    """Judge one name; `torchscript` says that it stands in an archive that brings its own classes."""
    known = _allowed().get((module, name))
    if known is not None:
        return known
    top = module.partition(".")[0]
    if top == "__torch__" and torchscript:
        return _TORCHSCRIPT
    if not _is_name(module) or not _is_name(name):
        return Standing("T3", "not a name that any module can have")
    if "." in name:
        return Standing("T3", "reaches through the attributes of a module, past every list of names")
    if top == "__main__":
        return _SCRIPT
    standard_library, gadgets = _denied()
    denied = _gadget(module, name, gadgets)
    if denied is not None:
        return Standing("T3", denied)
    if top in standard_library:
        return Standing("T3", "in the standard library, which weights and training state do not need")
    if top.startswith("_"):
        return Standing("T3", "in a private module")
    if name.startswith("__"):
        return Standing("T3", "a special attribute, not a class")
    if top in _MODEL_LIBRARIES and name in _model_classes().get(module, ()):
        return _MODEL_CLASS
    return Standing("T2", "not a name of any library known to write training artifacts")


def _gadget(module: str, name: str, gadgets: Mapping[str, tuple[tuple[frozenset[str] | None, str], ...]]) -> str | None:
    prefix = module
    while prefix:
        for names, reason in gadgets.get(prefix, ()):
            if names is None or (name in names and prefix == module) or _first_part(module, prefix) in names:
                return reason
        prefix = prefix.rpartition(".")[0]
    return None


def _first_part(module: str, prefix: str) -> str:
    """The part of `module` right below `prefix`: "hub" of "torch.hub" below "torch"; '' for the module itself."""
    return module[len(prefix) + 1 :].partition(".")[0]


def _is_name(dotted: str) -> bool:
    return bool(dotted) and len(dotted) <= 400 and all(part.isidentifier() for part in dotted.split("."))
