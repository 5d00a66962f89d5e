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
    from ckpt_inspect.consolidate.api import (
        ConsolidationResult,
        consolidate,
        iter_tensors,
        plan_consolidation,
        verify_consolidation,
    )
    from ckpt_inspect.errors import CkptInspectError
    from ckpt_inspect.run import Artifact, Checkpoint, Producer, Run, StateDirectory, open_run
    from ckpt_inspect.tensors import list_tensors

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
    "ConsolidationResult": "ckpt_inspect.consolidate.api",
    "plan_consolidation": "ckpt_inspect.consolidate.api",
    "iter_tensors": "ckpt_inspect.consolidate.api",
    "verify_consolidation": "ckpt_inspect.consolidate.api",
    "CkptInspectError": "ckpt_inspect.errors",
    "list_tensors": "ckpt_inspect.tensors",
}
# packages that are a verb themselves: they can be called
_VERBS = frozenset({"consolidate"})

__all__ = [
    "Artifact",
    "Checkpoint",
    "CkptInspectError",
    "ConsolidationResult",
    "Producer",
    "Run",
    "StateDirectory",
    "__version__",
    "args",
    "consolidate",
    "iter_tensors",
    "list_tensors",
    "open_run",
    "plan_consolidation",
    "show",
    "verify_consolidation",
]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
