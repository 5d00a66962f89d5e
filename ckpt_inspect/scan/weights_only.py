"""Whether ``torch.load(weights_only=True)`` reads a file, decided without torch.

``torch/_weights_only_unpickler.py`` of 2.13 accepts 34 opcodes and a list of names (``knowledge/weights_only.toml``), calls
only those, sets state only on them, and resolves only storages; ``torch/serialization.py`` refuses TorchScript archives
and tars before that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from ckpt_inspect import knowledge
from ckpt_inspect.formats.pickle_nodes import Build, Call, Global, MethodCall, PersistentId
from ckpt_inspect.formats.pickle_opcodes import NAMES, first_outside
from ckpt_inspect.formats.pickle_program import PickleProgram
from ckpt_inspect.formats.torch_opened import TorchArchive
from ckpt_inspect.printable import printable
from ckpt_inspect.storage import ByteSource

_MAPPINGS = frozenset({"collections.OrderedDict", "collections.Counter"})


@dataclass(frozen=True, slots=True)
class WeightsOnly:
    """The answer, and for a no the first thing torch stops at: `reason`, with `offset` in the pickle where it has one."""

    loads: bool | None
    reason: str | None = None
    offset: int | None = None


@cache
def _table() -> tuple[
    frozenset[int], frozenset[str], frozenset[str], dict[str, str], dict[tuple[str, str], tuple[str, str]]
]:
    table: dict[str, Any] = knowledge.load("weights_only")
    codes = {name: code for code, name in NAMES.items()}
    names = {_pair(key): _pair(value) for key, value in table["names"].items()}
    return (
        frozenset(codes[name] for name in table["opcodes"]),
        frozenset(table["globals"]),
        frozenset(table["blocked"]),
        table["modules"],
        names,
    )


def _pair(text: str) -> tuple[str, str]:
    module, _, name = text.partition(":")
    return module, name


def weights_only(archive: TorchArchive, content: ByteSource | None) -> WeightsOnly:
    """The answer for an opened file; `content` holds the bytes of its pickles (of ``data.pkl`` for a zip)."""
    if archive.era == "torchscript":
        return WeightsOnly(False, "it is a TorchScript archive")
    if archive.era == "tar":
        return WeightsOnly(False, "it is a tar of torch 0.1")
    if archive.era == "bare-pickle":
        return WeightsOnly(False, "it is a pickle without torch's header")
    if archive.era not in ("zip", "legacy") or content is None:
        return WeightsOnly(None)
    programs = archive.programs[:1] if archive.era == "zip" else archive.programs
    for program in programs:
        refused = _refusal(program, content)
        if refused is not None:
            return refused
    if archive.era == "legacy" and len(programs) < 5:
        return WeightsOnly(False, "the stream ends before its storages")
    problem = _damage(archive)
    return WeightsOnly(False, problem) if problem is not None else WeightsOnly(True)


def _refusal(program: PickleProgram, content: ByteSource) -> WeightsOnly | None:
    codes, allowed, _, _, _ = _table()
    first: tuple[int, str] | None = None
    outside = first_outside(content, program.start, program.end, codes)
    if outside is not None:
        offset, code = outside
        first = (offset, f"opcode {NAMES.get(code, f'0x{code:02x}')} is not one that it reads")
    for event in program.events:
        if first is not None and event.offset >= first[0]:
            break
        problem = _event_problem(event, allowed)
        if problem is not None:
            first = (event.offset, problem)
            break
    if first is not None:
        return WeightsOnly(False, f"{first[1]} (byte {first[0]})", first[0])
    if program.coverage != "complete":
        what = program.faults[0].message if program.faults else "the pickle is broken"
        return WeightsOnly(False if program.coverage == "malformed" else None, what, program.end)
    return None


def _event_problem(event: object, allowed: frozenset[str]) -> str | None:
    if type(event) is Global:
        return _name_problem(event, allowed)
    if type(event) is Call:
        if type(event.callee) is not Global or _torch_name(event.callee) not in allowed:
            return "it calls something that is not on torch's list"
        if event.items:
            return f"it appends to the result of {printable(event.callee.dotted)}"
        if event.pairs and event.callee.dotted not in _MAPPINGS:
            return f"it sets items of the result of {printable(event.callee.dotted)}"
    elif type(event) is Build:
        if type(event.target) is not Call:
            return "it sets the state of something that is not on torch's list"
    elif type(event) is MethodCall:
        return "it appends to, or sets items of, a value that is no container"
    elif type(event) is PersistentId:
        pid = event.pid
        if type(pid) is not tuple or not pid or pid[0] not in ("storage", b"storage"):
            return "it asks for something that is no storage"
    return None


def _name_problem(found: Global, allowed: frozenset[str]) -> str | None:
    blocked = _table()[2]
    name = _torch_name(found)
    if name in allowed and name.rpartition(".")[0] not in blocked:
        return None
    return f"{printable(name)} is not on torch's list"


def _torch_name(found: Global) -> str:
    """The name as torch translates it: its own, shorter list of Python 2 names, at every protocol."""
    _, _, _, modules, names = _table()
    pair = (found.raw_module, found.raw_name)
    if pair in names:
        return ".".join(names[pair])
    return f"{modules.get(found.raw_module, found.raw_module)}.{found.raw_name}"


_FATAL = (
    "torch-root",
    "torch-version",
    "torch-byteorder",
    "torch-storage-missing",
    "torch-storage-size",
    "torch-view-bounds",
    "torch-truncated",
    "torch-legacy-header",
    "torch-overflow",
    "torch-device",
    "zip-truncated",
    "zip-prefix",
    "zip-encrypted",
    "zip-method",
)


def _damage(archive: TorchArchive) -> str | None:
    """What makes torch stop after the names were accepted."""
    for fault in archive.faults:
        if fault.kind in _FATAL:
            return fault.message
    return None
