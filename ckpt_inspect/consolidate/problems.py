"""One thing the planner or the proof found wrong, as data, and the exception it becomes.

The ids (Z01 ... Z50) name the checks. A problem of level "error" refuses the
consolidation; `forceable` says whether ``--force`` may turn it into a recorded warning, because the bytes that would
be written exist and are only in doubt. A problem of level "note" is kept among the plan's facts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ckpt_inspect.errors import (
    ConsolidationError,
    IncompleteCheckpointError,
    ProofFailedError,
    UnsupportedLayoutError,
)
from ckpt_inspect.printable import printable

Level = Literal["error", "warning", "note"]


class Refusal(ConsolidationError):  # noqa: N818 - it names what it is: every error of this module is one
    """An error that came of a check: `problem` is the check's outcome as data."""

    problem: Problem | None = None


class NoTagError(Refusal, IncompleteCheckpointError):
    """Z01: nothing here is a DeepSpeed tag directory, or several are and none is named."""


class EmptyLatestError(Refusal, IncompleteCheckpointError):
    """Z02: `latest` exists and holds nothing."""


class MissingTagError(Refusal, IncompleteCheckpointError):
    """Z03: `latest`, or the tag asked for, names a directory that is not there."""


class UnsafeTagError(Refusal, IncompleteCheckpointError):
    """Z05: the tag leads out of the checkpoint directory."""


class MissingRankError(Refusal, IncompleteCheckpointError):
    """Z10, Z17: files of some ranks are not there."""


class ExtraRankError(Refusal, IncompleteCheckpointError):
    """Z11: there are files of more ranks than took part."""


class MixedWorldError(Refusal, IncompleteCheckpointError):
    """Z12, Z13, Z14: files of jobs with different world sizes or element types lie in one directory."""


class UnreadableShardError(Refusal, IncompleteCheckpointError):
    """Z20, Z22, Z23: a shard is not a torch file, or is damaged."""


class TruncatedShardError(UnreadableShardError):
    """Z21: the end of a shard is missing."""


class MissingKeyError(Refusal, IncompleteCheckpointError):
    """A shard lacks what every version of DeepSpeed wrote there."""


class MixedFilesError(Refusal, ProofFailedError):
    """Z27, Z28, Z30, Z33: shards of different runs or stages."""


class SumError(Refusal, ProofFailedError):
    """Z31, Z32, Z35: what the ranks saved does not add up to the parameters."""


class SliceMappingError(Refusal, ProofFailedError):
    """Z34: the recorded slice addresses contradict the order of shapes, and nothing settles who is right."""


class ModuleMismatchError(Refusal, ProofFailedError):
    """Z38: the master weights are not those the 16-bit module was rounded from."""


class StepMismatchError(Refusal, ProofFailedError):
    """Z39: ranks saved their optimizer at different steps."""


class CoverageError(Refusal, ProofFailedError):
    """The plan itself is wrong: an element would be written twice, never, or from outside its file."""


class ModelParallelError(Refusal, UnsupportedLayoutError):
    """Z15: tensor or pipeline parallel."""


class ExpertsError(Refusal, UnsupportedLayoutError):
    """Z16: experts, native or AutoEP."""


class OldLayoutError(Refusal, UnsupportedLayoutError):
    """A layout no current tool reads: sub-partitions of early ZeRO-1, files in parts."""


class StrangePickleError(Refusal, UnsupportedLayoutError):
    """Z44: a pickle names what its writer does not put there."""


class UnfinishedSaveError(Refusal, IncompleteCheckpointError):
    """Z48: a distributed checkpoint whose save did not come to its end."""


class TilingMismatchError(Refusal, ProofFailedError):
    """Z49: the chunks of a distributed checkpoint do not make up its tensors, or lie in files of another save."""


class OptimizerOnlyError(Refusal, UnsupportedLayoutError):
    """Shards of an optimizer, without weights."""


class MegatronError(Refusal, UnsupportedLayoutError):
    """A Megatron torch_dist checkpoint."""


class ConversionError(Refusal, IncompleteCheckpointError):
    """Z50: a universal checkpoint is not whole."""


_ERRORS: dict[str, type[Refusal]] = {
    "Z01": NoTagError,
    "Z02": EmptyLatestError,
    "Z03": MissingTagError,
    "Z05": UnsafeTagError,
    "Z10": MissingRankError,
    "Z11": ExtraRankError,
    "Z12": MixedWorldError,
    "Z13": MixedWorldError,
    "Z14": MixedWorldError,
    "Z15": ModelParallelError,
    "Z16": ExpertsError,
    "Z17": MissingRankError,
    "Z20": UnreadableShardError,
    "Z21": TruncatedShardError,
    "Z22": UnreadableShardError,
    "Z23": UnreadableShardError,
    "Z24": UnreadableShardError,
    "Z27": MixedFilesError,
    "Z28": MixedFilesError,
    "Z30": MixedFilesError,
    "Z31": SumError,
    "Z32": SumError,
    "Z33": MixedFilesError,
    "Z34": SliceMappingError,
    "Z35": SumError,
    "Z37": MixedFilesError,
    "Z38": ModuleMismatchError,
    "Z39": StepMismatchError,
    "Z44": StrangePickleError,
    "Z48": UnfinishedSaveError,
    "Z49": TilingMismatchError,
    "Z50": ConversionError,
    "optimizer": OptimizerOnlyError,
    "megatron": MegatronError,
    "key": MissingKeyError,
    "coverage": CoverageError,
    "layout": OldLayoutError,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One check that did not pass.

    `message` is a clause for a person, already printable; `file` is relative to the tree; `rank` the data-parallel
    rank; `tensor` a raw name (pass it through `printable`).
    """

    check: str
    level: Level
    message: str
    file: str | None = None
    rank: int | None = None
    tensor: str | None = None
    remedy: str | None = None
    forceable: bool = False

    def sentence(self) -> str:
        """The problem as one line for a warning list."""
        place = f"{printable(self.file)}: " if self.file else ""
        advice = f"; {self.remedy}" if self.remedy else ""
        return f"{self.check} {place}{self.message}{advice}"

    def exception(self, where: str) -> Refusal:
        """The error of this check; `where` is the directory that `file` is relative to."""
        place = f"{where}/{printable(self.file)}" if self.file else where
        error = _ERRORS[self.check]
        made = error(f"{self.message} [{self.check}]", where=place, remedy=self.remedy)
        made.problem = self
        return made


def refuse(
    check: str,
    message: str,
    *,
    file: str | None = None,
    rank: int | None = None,
    tensor: str | None = None,
    remedy: str | None = None,
    forceable: bool = False,
) -> Problem:
    """A problem that refuses the consolidation."""
    return Problem(check, "error", message, file, rank, tensor, remedy, forceable)


def warn(
    check: str,
    message: str,
    *,
    file: str | None = None,
    rank: int | None = None,
    tensor: str | None = None,
    remedy: str | None = None,
) -> Problem:
    """A problem to tell and go on."""
    return Problem(check, "warning", message, file, rank, tensor, remedy)


def note(check: str, message: str, *, file: str | None = None, rank: int | None = None) -> Problem:
    """Something that explains the plan."""
    return Problem(check, "note", message, file, rank)


def refused(problems: Iterable[Problem]) -> bool:
    """Whether any problem refuses and cannot be forced."""
    return any(problem.level == "error" and not problem.forceable for problem in problems)


def settle(problems: Iterable[Problem], where: str, *, force: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Raise the first refusing problem; otherwise the warnings and the notes as sentences, in order, each once.

    With `force`, problems that allow it become warnings that begin with "forced:".
    """
    warnings: dict[str, None] = {}
    notes: dict[str, None] = {}
    for problem in problems:
        if problem.level == "error":
            if not (force and problem.forceable):
                raise problem.exception(where)
            warnings[f"forced: {problem.sentence()}"] = None
        elif problem.level == "warning":
            warnings[problem.sentence()] = None
        else:
            notes[problem.sentence()] = None
    return tuple(warnings), tuple(notes)
