"""``scaler.pt``: torch's GradScaler, written for fp16 training only; `{}` when scaling was disabled.

(``torch/amp/grad_scaler.py:state_dict``; transformers writes it up to 4.20 and again from 4.49.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckpt_inspect.artifacts.plain_values import plain_value
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.pickle_nodes import as_mapping
from ckpt_inspect.formats.torch_archive import open_torch

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

_FIELDS = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")


@dataclass(frozen=True, slots=True)
class ScalerState:
    """The loss scale when the checkpoint was written, and how it moves; None where the file does not say."""

    scale: float | None
    growth_factor: float | None
    backoff_factor: float | None
    growth_interval: int | None
    growth_tracker: int | None
    enabled: bool
    faults: tuple[Fault, ...]


def read_scaler(source: ByteSource) -> ScalerState:
    """Read the state. Never raises for content."""
    archive = open_torch(source)
    faults = FaultLog()
    faults.extend(archive.faults)
    values = {key: plain_value(value) for key, value in as_mapping(archive.value).items()}

    def number(key: str) -> Any:
        value = values.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    found = [number(key) for key in _FIELDS]
    if values and all(value is None for value in found):
        faults.add("scaler-not-a-state", "holds no value of a gradient scaler")
    scale, growth, backoff, interval, tracker = found
    return ScalerState(scale, growth, backoff, interval, tracker, bool(values), faults.sealed())
