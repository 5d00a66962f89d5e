"""What each byte of a run is for, what may go, and what that would cost. Nothing is deleted here.

What a later use needs: inference reads weights, configuration and tokenizer; resuming reads everything a checkpoint
holds (transformers 5.23 `Trainer._load_from_checkpoint`, `_load_optimizer_and_scheduler`); `consolidate` reads shards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_inspect.errors import CkptInspectError
from ckpt_inspect.explain.answer import Evidence
from ckpt_inspect.explain.numbers import counted
from ckpt_inspect.printable import printable
from ckpt_inspect.run import groups

if TYPE_CHECKING:
    from ckpt_inspect.run import Artifact, Checkpoint, Run
    from ckpt_inspect.storage import LocalTree

SMALLEST_DUPLICATE = 64 << 10
_SAMPLE = 64 << 10


@dataclass(frozen=True, slots=True)
class Share:
    """Bytes and files of one purpose."""

    purpose: str
    bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Files of equal content; `bytes` is what all but one of them take. `certain` when every byte was compared."""

    paths: tuple[str, ...]
    bytes: int
    certain: bool


@dataclass(frozen=True, slots=True)
class Proposal:
    """Something that may go: the paths, what is gained, what is lost."""

    what: str
    paths: tuple[str, ...]
    bytes: int
    cost: str


@dataclass(frozen=True, slots=True)
class SpaceAnswer:
    """The ledger of a run in bytes, worst first."""

    total: int
    purposes: tuple[Share, ...]
    checkpoints: tuple[Share, ...]
    duplicates: tuple[Duplicate, ...]
    proposals: tuple[Proposal, ...]
    protected: tuple[str, ...]
    explanation: str
    arithmetic: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    @property
    def paragraph(self) -> str:
        """The answer in words."""
        return self.explanation


def explain_space(run: Run, *, deep: bool = False) -> SpaceAnswer | None:
    """Account for every byte of a run; None for an empty directory.

    Args:
        deep: compare whole files when looking for duplicates; otherwise 192 KiB of each.
    """
    artifacts = run.all_artifacts
    total = sum(artifact.bytes for artifact in artifacts)
    if not total:
        return None
    purposes = _purposes(artifacts)
    checkpoints = tuple(Share(item.path or ".", item.bytes, len(item.artifacts)) for item in run.checkpoints)
    duplicates = find_duplicates(run.tree, artifacts, deep=deep)
    protected = _protected(run)
    proposals = propose(run, protected)
    return SpaceAnswer(
        total=total,
        purposes=purposes,
        checkpoints=checkpoints,
        duplicates=duplicates,
        proposals=proposals,
        protected=tuple(protected.values()),
        explanation=_explain(total, purposes, proposals, duplicates),
        arithmetic=_arithmetic(total, purposes, checkpoints, proposals, duplicates),
    )


def deletion_script(run: Run, answer: SpaceAnswer) -> str:
    """A shell script with the proposals, every removal commented out, for a person to read, edit and run."""
    import shlex

    root = shlex.quote(str(run.tree.root.resolve()))
    lines = [
        "#!/bin/sh",
        "# What may be deleted from this run, written by ckpt-inspect. Nothing below is active:",
        "# read it, remove the leading '# ' of what should go, and run it.",
        "set -eu",
        f"cd {root}",
        *(f"# kept: {printable(reason, 200)}" for reason in answer.protected),
    ]
    for proposal in answer.proposals:
        lines += ["", f"# {printable(proposal.what, 200)}: {size(proposal.bytes)}. {proposal.cost}"]
        lines += [_removal(path) for path in proposal.paths]
    return "\n".join(lines) + "\n"


def _removal(path: str) -> str:
    """One commented-out removal. A line break in a name would end the comment and be run, so such names are left out."""
    import shlex

    if not path.isprintable():
        return f"# left out, its name has characters a terminal hides: {printable(path, 200)}"
    return f"# rm -r -- {shlex.quote('./' + path)}"


def propose(run: Run, protected: Mapping[str, str]) -> tuple[Proposal, ...]:
    """What may go, the largest gain first: whole checkpoints nobody needs, then the resume-only parts of the others."""
    proposals: list[Proposal] = []
    newest = run.checkpoints[-1] if run.checkpoints else None
    for checkpoint in run.checkpoints:
        if not checkpoint.path:
            continue
        if checkpoint.form == "tmp_checkpoint":
            proposals.append(
                Proposal(
                    f"cut-off save {checkpoint.path}",
                    (checkpoint.path,),
                    checkpoint.bytes,
                    "It cannot be loaded or resumed.",
                )
            )
            continue
        if checkpoint.path not in protected and checkpoint is not newest:
            cost = f"You can no longer resume from or use step {checkpoint.step}."
            proposals.append(
                Proposal(f"older checkpoint {checkpoint.path}", (checkpoint.path,), checkpoint.bytes, cost)
            )
            continue
        resume_only = _resume_only(checkpoint.artifacts)
        gain = sum(artifact.bytes for artifact in resume_only)
        if gain and _usable_without(checkpoint):
            paths = tuple(sorted(artifact.path for artifact in resume_only))
            cost = f"You can no longer resume from step {checkpoint.step}; its weights stay."
            proposals.append(Proposal(f"optimizer and other resume-only state of {checkpoint.path}", paths, gain, cost))
    leftovers = [artifact for artifact in run.all_artifacts if artifact.group == "leftover" and artifact.bytes]
    if leftovers:
        gain = sum(artifact.bytes for artifact in leftovers)
        paths = tuple(artifact.path for artifact in leftovers)
        proposals.append(Proposal("unfinished downloads and temporary files", paths, gain, "Nothing reads them."))
    return tuple(sorted(proposals, key=lambda proposal: -proposal.bytes))


def find_duplicates(tree: LocalTree, artifacts: Sequence[Artifact], *, deep: bool) -> tuple[Duplicate, ...]:
    """Files of 64 KiB and more with equal content, by size, then by their beginning, middle and end (all of it if `deep`)."""
    by_size: dict[int, list[Artifact]] = defaultdict(list)
    for artifact in artifacts:
        if artifact.bytes >= SMALLEST_DUPLICATE:
            by_size[artifact.bytes].append(artifact)
    found: list[Duplicate] = []
    for length, same in by_size.items():
        if len(same) < 2:
            continue
        by_content: dict[bytes, list[str]] = defaultdict(list)
        for artifact in same:
            digest = _digest(tree, artifact.path, deep=deep)
            if digest is not None:
                by_content[digest].append(artifact.path)
        found.extend(
            Duplicate(tuple(sorted(paths)), length * (len(paths) - 1), deep or length <= 3 * _SAMPLE)
            for paths in by_content.values()
            if len(paths) > 1
        )
    return tuple(sorted(found, key=lambda duplicate: -duplicate.bytes))


def size(count: float) -> str:
    """Bytes for a person: decimal units, as `ls --si` and model hubs use."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB" if count < 1000 else f"{count:.0f} TB"


def _digest(tree: LocalTree, path: str, *, deep: bool) -> bytes | None:
    import hashlib

    try:
        with tree.open(path) as source:
            digest = hashlib.sha256()
            if not deep and source.size > 3 * _SAMPLE:
                for offset in (0, source.size // 2, source.size - _SAMPLE):
                    digest.update(source.read_at(offset, _SAMPLE))
                return digest.digest()
            for offset in range(0, source.size, 1 << 20):
                digest.update(source.read_at(offset, 1 << 20))
            return digest.digest()
    except CkptInspectError:
        return None


def _purposes(artifacts: Iterable[Artifact]) -> tuple[Share, ...]:
    titles = dict(groups())
    shares: dict[str, tuple[int, int]] = {}
    for artifact in artifacts:
        held, files = shares.get(artifact.group, (0, 0))
        shares[artifact.group] = (held + artifact.bytes, files + 1)
    rows = (Share(titles.get(group, group), held, files) for group, (held, files) in shares.items())
    return tuple(sorted(rows, key=lambda share: -share.bytes))


def _protected(run: Run) -> dict[str, str]:
    """Checkpoints that are never proposed as a whole, with the reason."""
    kept: dict[str, str] = {}
    state, _ = run.newest_trainer_state or (None, "")
    if state is not None and state.best_model_checkpoint:
        name = state.best_model_checkpoint.replace("\\", "/").rstrip("/").rpartition("/")[2]
        for checkpoint in run.checkpoints:
            if checkpoint.name == name:
                kept[checkpoint.path] = f"{checkpoint.path} (best by {state.best_metric})"
    if run.checkpoints and run.checkpoints[-1].path:
        newest = run.checkpoints[-1].path
        kept.setdefault(newest, f"{newest} (the newest)")
    return kept


def _resume_only(artifacts: Iterable[Artifact]) -> list[Artifact]:
    return [
        artifact
        for artifact in artifacts
        if artifact.needed_for and set(artifact.needed_for) <= {"resume", "consolidate"}
    ]


def _usable_without(checkpoint: Checkpoint) -> bool:
    """Whether weights remain when the resume-only files are gone."""
    return checkpoint.weights is not None or checkpoint.adapter_weights is not None


def _explain(
    total: int, purposes: Sequence[Share], proposals: Sequence[Proposal], duplicates: Sequence[Duplicate]
) -> str:
    largest = purposes[0]
    text = f"{size(total)} in all; {largest.purpose.lower()}: {size(largest.bytes)} ({largest.bytes / total:.0%})."
    gain = sum(proposal.bytes for proposal in proposals)
    if gain:
        text += f" Up to {size(gain)} may go ({counted(len(proposals), 'proposal')} below), at the cost each one names."
    else:
        text += " Nothing stands out that could go."
    if duplicates:
        text += f" {size(sum(duplicate.bytes for duplicate in duplicates))} are copies of other files here."
    return text


def _arithmetic(
    total: int,
    purposes: Sequence[Share],
    checkpoints: Sequence[Share],
    proposals: Sequence[Proposal],
    duplicates: Sequence[Duplicate],
) -> tuple[str, ...]:
    lines = [
        f"{share.purpose}: {size(share.bytes)} in {counted(share.files, 'file')} ({share.bytes / total:.1%})"
        for share in purposes
    ]
    lines += [f"{printable(share.purpose, 60)}: {size(share.bytes)}" for share in checkpoints]
    lines += [
        f"may go: {printable(proposal.what, 80)}, {size(proposal.bytes)}. {proposal.cost}" for proposal in proposals
    ]
    for duplicate in duplicates[:10]:
        how = "same content" if duplicate.certain else "same size, beginning, middle and end"
        lines.append(f"{how}: {', '.join(printable(path, 60) for path in duplicate.paths)}")
    return tuple(lines)
