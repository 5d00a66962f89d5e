"""``scheduler.pt``: the state of the learning-rate scheduler, plain data with at most numpy scalars.

Written by ``Trainer._save_optimizer_and_scheduler`` as ``torch.save(self.lr_scheduler.state_dict())``: a LambdaLR
(`base_lrs`, `last_epoch`, `_last_lr`, `lr_lambdas`), ReduceLROnPlateau, GreedyLR, or a DeepSpeed scheduler
(`last_batch_iteration`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ckpt_inspect.artifacts.plain_values import plain_value
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.pickle_nodes import as_mapping
from ckpt_inspect.formats.torch_archive import open_torch

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

SchedulerKind = Literal["lambda", "plateau", "greedy", "deepspeed", "sequential", "other", "unreadable"]


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """The state.

    Attributes:
        kind_hint: what kind of scheduler wrote it, by its keys.
        base_lrs: learning rate of each parameter group before the schedule's factor.
        last_epoch: how often the scheduler was stepped (its name says epoch; with the Trainer it counts updates).
        last_lr: learning rate of each group after the last step.
        step_count: torch's own counter, one more than `last_epoch`.
        values: everything in the file as plain data.
    """

    kind_hint: SchedulerKind
    base_lrs: tuple[float, ...]
    last_epoch: int | None
    last_lr: tuple[float, ...]
    step_count: int | None
    values: Mapping[str, Any]
    faults: tuple[Fault, ...]
    globals: tuple[str, ...] = ()


def read_scheduler(source: ByteSource) -> SchedulerState:
    """Read the state. Never raises for content."""
    archive = open_torch(source)
    faults = FaultLog()
    faults.extend(archive.faults)
    values = {key: plain_value(value) for key, value in as_mapping(archive.value).items()}
    if not values and not faults:
        faults.add("scheduler-not-a-state", "holds no dictionary of scheduler values")
    last_epoch = _whole(values.get("last_epoch"))
    iteration = _whole(values.get("last_batch_iteration"))
    if last_epoch is None and iteration is not None:
        last_epoch = iteration + 1  # DeepSpeed counts from -1
    return SchedulerState(
        kind_hint=_kind(values),
        base_lrs=_numbers(values.get("base_lrs", values.get("_init_lrs"))),
        last_epoch=last_epoch,
        last_lr=_numbers(values.get("_last_lr")),
        step_count=_whole(values.get("_step_count")),
        values=values,
        faults=faults.sealed(),
        globals=tuple(sorted({name.dotted for program in archive.programs for name in program.globals})),
    )


def _kind(values: Mapping[str, Any]) -> SchedulerKind:
    if not values:
        return "unreadable"
    if "last_batch_iteration" in values:
        return "deepspeed"
    if "lr_lambdas" in values:
        return "lambda"
    if "num_good_epochs" in values:
        return "greedy"
    if "num_bad_epochs" in values:
        return "plateau"
    if "_schedulers" in values:
        return "sequential"
    return "other"


def _numbers(value: object) -> tuple[float, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(item for item in value if isinstance(item, int | float) and not isinstance(item, bool))


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
