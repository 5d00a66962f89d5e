"""ckpt-inspect: the truth about a fine-tuning run's output directory, without executing a byte of it.

The public verbs are here and import what they need when they are used::

    from ckpt_inspect import open_run, show

    run = open_run("output")  # names only; artifacts are read on first use
    run.trainer_state.final_loss
    show("output")["checkpoints"]  # the same data as `ckpt-inspect show --json`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ckpt_inspect.api import args, show
    from ckpt_inspect.errors import CkptInspectError
    from ckpt_inspect.run import Artifact, Checkpoint, Producer, Run, StateDirectory, open_run

# name -> module that defines it
_PUBLIC = {
    "open_run": "ckpt_inspect.run",
    "Run": "ckpt_inspect.run",
    "Checkpoint": "ckpt_inspect.run",
    "StateDirectory": "ckpt_inspect.run",
    "Artifact": "ckpt_inspect.run",
    "Producer": "ckpt_inspect.run",
    "show": "ckpt_inspect.api",
    "args": "ckpt_inspect.api",
    "CkptInspectError": "ckpt_inspect.errors",
}

__all__ = [
    "Artifact",
    "Checkpoint",
    "CkptInspectError",
    "Producer",
    "Run",
    "StateDirectory",
    "__version__",
    "args",
    "open_run",
    "show",
]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
