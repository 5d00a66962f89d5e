"""How many processes trained a run, and by which file we know: the evidence in order of trust.

training_args.bin holds accelerate's PartialState (exact); then the number of rng_state files, DeepSpeed's partition count,
FSDP shards; old releases tell a single process by local_rank -1; the speeds of the summary tell the global batch and so
the processes last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.training_args import TrainingArgs
    from ckpt_inspect.run import Run, StateDirectory


@dataclass(frozen=True, slots=True)
class WorldEvidence:
    """A number of processes and where it comes from; `exact` is False where files of other nodes may be missing."""

    processes: int
    file: str
    key: str
    exact: bool


def world_evidence(run: Run, arguments: TrainingArgs | None) -> tuple[WorldEvidence, ...]:
    """Everything that tells the number of processes, the most trustworthy first."""
    return tuple(_evidence(run, arguments))


def _evidence(run: Run, arguments: TrainingArgs | None) -> Iterator[WorldEvidence]:
    if arguments is not None and arguments.world_size is not None and arguments.world_size >= 1:
        yield WorldEvidence(arguments.world_size, "training_args.bin", "distributed_state.num_processes", True)
    states = (run, *reversed(run.checkpoints))
    for state in states:
        files = _rng_files(state)
        if files:
            yield WorldEvidence(files, state.path or ".", "rng_state files", False)
            break
    if arguments is None or arguments.world_size is None:
        yield from _shards(states)
    if (
        arguments is not None
        and arguments.world_size is None
        and "distributed_state" not in arguments.runtime
        and arguments.number("local_rank") == -1
    ):
        yield WorldEvidence(1, "training_args.bin", "local_rank -1", True)


def _rng_files(state: StateDirectory) -> int:
    """1 for rng_state.pth, the number of rng_state_{rank}.pth otherwise, 0 without."""
    ranks = len(state.own.get("rng_state_rank", ()))
    return ranks or (1 if state.own.get("rng_state") else 0)


def _shards(states: tuple[StateDirectory, ...]) -> Iterator[WorldEvidence]:
    for state in states:
        if state.tags and state.zero is not None and state.zero.world_size:
            tensor = state.zero.model_parallel or 1
            yield WorldEvidence(state.zero.world_size * tensor, state.zero.tag, "ZeRO partitions", True)
            return
