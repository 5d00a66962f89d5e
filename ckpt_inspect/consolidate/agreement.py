"""Z38: master weights against the 16-bit module of the same save, tensor by tensor and rank by rank.

After every step DeepSpeed rounds the masters into the module (``runtime/zero/stage_1_and_2.py`` `step`), so the two
agree bit for bit in a checkpoint. They do not when files of two steps were mixed, or when the layout was misread:
this is the arbiter of both, and no other tool has it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ckpt_inspect.artifacts.zero_states import ModelState
from ckpt_inspect.consolidate.addresses import item_size, must_swap
from ckpt_inspect.consolidate.parts import Trainable
from ckpt_inspect.consolidate.plan import SourceFile
from ckpt_inspect.consolidate.problems import Problem, note, refuse, warn
from ckpt_inspect.consolidate.reading import OpenFiles
from ckpt_inspect.consolidate.rounding import Mode, comparable, count_differences, count_differences_fast
from ckpt_inspect.printable import printable

Depth = Literal["none", "sample", "complete"]

_WINDOW = 32  # elements per sampled window
_CHUNK = 1 << 20  # elements per step of a complete comparison
_MIXED_STEPS = (
    "the optimizer shards and the module are not of one save, or the files of two ranks were exchanged: "
    "use another checkpoint, or --force to write the optimizer's values"
)
_TOLERATED = 0.01  # share of differing elements of one fragment that is only a warning


@dataclass(frozen=True, slots=True)
class Fragment:
    """How one range of one parameter compared: `differing` of `compared` elements."""

    name: str
    rank: int
    compared: int
    differing: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """The outcome: `skipped` parameters have no comparable copy in the module."""

    tensors: int
    elements: int
    skipped: int
    truncated: bool
    differing: tuple[Fragment, ...]

    @property
    def passed(self) -> bool:
        """Something was compared and nothing differed."""
        return self.elements > 0 and not self.differing


@dataclass(frozen=True, slots=True)
class Copy:
    """A whole copy of a parameter: row-major elements of `dtype` at byte `offset` of a numbered file."""

    source: int
    offset: int
    dtype: str
    shape: tuple[int, ...]
    swap: bool = False


def copies_in_module(model: ModelState, sources: Sequence[SourceFile]) -> dict[str, Copy]:
    """The parameters a model file holds whole; none under stage 3, whose module holds placeholders."""
    index = {file.path: number for number, file in enumerate(sources)}.get(model.path)
    out: dict[str, Copy] = {}
    for name, tensor in (model.module or {}).items():
        if index is None or tensor.kind != "dense" or tensor.problem or tensor.file_offset is None:
            continue
        if tensor.contiguous and tensor.file_offset + tensor.nbytes <= sources[index].size:
            swap = must_swap(tensor.dtype, model.big_endian)
            out[name] = Copy(index, tensor.file_offset, tensor.dtype, tensor.shape, swap)
    return out


def compare(
    trainables: Sequence[Trainable], copies: Mapping[str, Copy], files: OpenFiles, depth: Depth = "sample"
) -> Agreement:
    """Compare windows of every range (`sample`) or every element (`complete`) with the copies."""
    if depth == "none":
        return Agreement(0, 0, len(trainables), False, ())
    outcome = {mode: _Tally() for mode in ("nearest", "truncate")}
    tensors = skipped = 0
    for trainable in trainables:
        copy = copies.get(trainable.name)
        if not trainable.ranges:
            continue
        if copy is None or copy.shape != trainable.shape or not comparable(trainable.dtype, copy.dtype):
            skipped += 1
            continue
        tensors += 1
        _compare(trainable, copy, files, depth, outcome)
    nearest, truncate = outcome["nearest"], outcome["truncate"]
    chopped = bool(nearest.differing) and not truncate.differing
    best = truncate if chopped else nearest
    return Agreement(tensors, best.elements, skipped, chopped, tuple(best.differing))


class _Tally:
    def __init__(self) -> None:
        self.elements = 0
        self.differing: list[Fragment] = []


def _compare(
    trainable: Trainable,
    copy: Copy,
    files: OpenFiles,
    depth: Depth,
    outcome: Mapping[str, _Tally],
) -> None:
    wide, narrow = item_size(trainable.dtype), item_size(copy.dtype)
    types = (trainable.dtype, copy.dtype)
    done = 0  # elements of the tensor before this range
    for part, piece in zip(trainable.ranges, trainable.pieces, strict=True):
        compared, differing = 0, {"nearest": 0, "truncate": 0}
        for start, count in _windows(piece.elements, depth, trainable.name):
            master = files.read(part.source, part.offset + start * wide, count * wide)
            base = copy.offset + (done + start) * narrow
            module = files.read(copy.source, base, count * narrow)
            compared += count
            if len(master) != count * wide or len(module) != count * narrow:
                differing = {mode: total + count for mode, total in differing.items()}
                continue
            swaps = (part.swap, copy.swap)
            wrong = _count(master, module, types, swaps, "nearest", depth)
            differing["nearest"] += wrong
            if wrong and types[0] != types[1]:
                wrong = _count(master, module, types, swaps, "truncate", depth)
            differing["truncate"] += wrong
        done += piece.elements
        for mode, tally in outcome.items():
            tally.elements += compared
            if differing[mode]:
                tally.differing.append(Fragment(trainable.name, piece.rank, compared, differing[mode]))


def _count(
    master: bytes, module: bytes, types: tuple[str, str], swaps: tuple[bool, bool], mode: Mode, depth: Depth
) -> int:
    counter = count_differences_fast if depth == "complete" else count_differences
    return counter(master, module, types, swaps, mode)


def _windows(count: int, depth: Depth, name: str) -> Iterator[tuple[int, int]]:
    """(start, elements) to compare of a range: all of it in chunks, or its head, its tail and a place in between."""
    if depth == "complete":
        for start in range(0, count, _CHUNK):
            yield start, min(_CHUNK, count - start)
    elif count <= 3 * _WINDOW:
        yield 0, count
    else:
        yield 0, _WINDOW
        yield _WINDOW + zlib.crc32(name.encode("utf-8", "surrogatepass")) % (count - 3 * _WINDOW), _WINDOW
        yield count - _WINDOW, _WINDOW


def judge(
    agreement: Agreement,
    path: str,
    paths: Mapping[int, str],
    depth: Depth,
    *,
    remedy: str = _MIXED_STEPS,
    hint: str = "",
    ranked: bool = True,
) -> list[Problem]:
    """The problems an outcome amounts to.

    `path` is the file the copies are in, `paths` the optimizer file of each rank; `remedy` is for a disagreement and
    `hint` adds to its message; not `ranked`: there are no ranks to name.
    """
    if depth == "none":
        return []
    how = "sampled " if depth == "sample" else ""
    if not agreement.elements:
        return [note("Z38", "there is no 16-bit copy of the parameters to compare the master weights with")]
    if not agreement.differing:
        cut = ", truncated" if agreement.truncated else ""
        text = f"{agreement.elements} {how}elements of {agreement.tensors} parameters equal the 16-bit copy{cut}"
        return [note("Z38", text, file=path)]
    first, message = describe_difference(agreement, how, ranked=ranked)
    message += hint
    place = paths.get(first.rank)
    if not _serious(agreement):
        return [warn("Z38", message, file=place, rank=first.rank, tensor=first.name)]
    return [refuse("Z38", message, file=place, rank=first.rank, tensor=first.name, remedy=remedy, forceable=True)]


def _serious(agreement: Agreement) -> list[Fragment]:
    return [part for part in agreement.differing if part.differing > _TOLERATED * part.compared]


def describe_difference(agreement: Agreement, how: str, *, ranked: bool) -> tuple[Fragment, str]:
    """The fragment to name first, and a clause that says how much differs, where."""
    named = _serious(agreement) or list(agreement.differing)
    ranks = sorted({part.rank for part in named})
    first = named[0]
    names = len({part.name for part in agreement.differing})
    shown = f"{', '.join(str(rank) for rank in ranks[:8])}{' ...' if len(ranks) > 8 else ''}"
    where = f", on rank{'s' if len(ranks) > 1 else ''} {shown}" if ranked else ""
    return first, (
        f"{first.differing} of {first.compared} {how}elements of {printable(first.name)}"
        f"{f' on rank {first.rank}' if ranked else ''} are not what the 16-bit copy holds "
        f"({names} of {agreement.tensors} parameters differ{where})"
    )
