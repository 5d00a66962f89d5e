"""``args.json``: the arguments a training program was started with, as it wrote them down itself.

Format: ms-swift ``swift/llm/argument/base_args/base_args.py:save_args`` (every argument, `hub_token` in clear; older releases:
``sft_args.json``); many research scripts write the same name. A flat JSON object.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ckpt_inspect.artifacts.fields import Fields, read_object
from ckpt_inspect.artifacts.secrets import without_secrets
from ckpt_inspect.formats.fault_log import FaultLog

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

# Arguments no other program has; ms-swift 2 (sft_type), 3 (train_type) and 4 (tuner_type).
_SWIFT = ("swift_version", "sft_type", "train_type", "tuner_type", "rlhf_type", "model_revision", "template_type")


@dataclass(frozen=True, slots=True)
class LaunchArgs:
    """Arguments by name, secrets masked.

    Attributes:
        producer: "ms-swift" where the names are its own, else None.
        version: of the producer, where the file says it.
        model: what was trained, under whichever name the program gives it.
        secrets: places of values that were masked.
    """

    producer: Literal["ms-swift"] | None
    version: str | None
    model: str | None
    model_type: str | None
    template: str | None
    method: str | None
    arguments: dict[str, Any] = field(repr=False)
    secrets: tuple[str, ...]
    complete: bool
    faults: tuple[Fault, ...]


def read_launch_args(source: ByteSource) -> LaunchArgs:
    """Read the arguments. Never raises for content."""
    faults = FaultLog()
    values, complete = read_object(source, faults)
    secrets: list[str] = []
    shown = {name: without_secrets(name, value, name, secrets) for name, value in values.items()}
    fields = Fields(shown, faults)
    swift = sum(name in values for name in _SWIFT) >= 2 or "swift_version" in values
    return LaunchArgs(
        producer="ms-swift" if swift else None,
        version=fields.text("swift_version"),
        model=_first_text(shown, "model", "model_id_or_path", "model_name_or_path", "base_model"),
        model_type=_first_text(shown, "model_type"),
        template=_first_text(shown, "template", "template_type"),
        method=_first_text(shown, "rlhf_type", "tuner_type", "train_type", "sft_type", "finetuning_type"),
        arguments=shown,
        secrets=tuple(secrets),
        complete=complete,
        faults=faults.sealed(),
    )


def _first_text(values: dict[str, Any], *names: str) -> str | None:
    return next((values[name] for name in names if isinstance(values.get(name), str) and values[name]), None)
