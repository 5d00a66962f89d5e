"""ckpt-inspect: the truth about a fine-tuning run's output directory, without executing a byte of it.

::

    import ckpt_inspect as ci

    run = ci.open_run("out/")  # names only; each artifact is read on first use
    run.trainer_state.final_loss
    run.checkpoints[-1].zero.world_size
    ci.check(run).findings
    ci.consolidate(run, "merged/")

Everything public is here and is imported when it is used.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = (
    False  # what type checkers take for typing.TYPE_CHECKING; importing typing is all this import would cost
)
if TYPE_CHECKING:
    from typing import Any

    from ckpt_inspect.api import args, check, explain, scan, show, tensors
    from ckpt_inspect.consolidate.api import (
        ConsolidationResult,
        consolidate,
        iter_tensors,
        plan_consolidation,
        verify_consolidation,
    )
    from ckpt_inspect.consolidate.plan import Plan
    from ckpt_inspect.consolidate.verify import Verification
    from ckpt_inspect.errors import CkptInspectError, ConsolidationError, UnreadableError, UsageError, VerificationError
    from ckpt_inspect.explain.answer import Answer
    from ckpt_inspect.plot.api import plot_loss
    from ckpt_inspect.plot.series import Curve, Series, series
    from ckpt_inspect.progress import Progress
    from ckpt_inspect.rules.checked import CheckedRun
    from ckpt_inspect.rules.finding import Finding
    from ckpt_inspect.run import Artifact, Checkpoint, Producer, Run, StateDirectory, open_run
    from ckpt_inspect.scan import ScanFinding, ScannedFile, ScannedGlobal, ScanReport
    from ckpt_inspect.tensors import TensorListing, TensorRow

# name -> module that defines it
PUBLIC = {
    "open_run": "ckpt_inspect.run",
    "show": "ckpt_inspect.api",
    "explain": "ckpt_inspect.api",
    "check": "ckpt_inspect.api",
    "args": "ckpt_inspect.api",
    "tensors": "ckpt_inspect.api",
    "scan": "ckpt_inspect.api",
    "plot_loss": "ckpt_inspect.plot.api",
    "series": "ckpt_inspect.plot.series",
    "consolidate": "ckpt_inspect.consolidate.api",
    "plan_consolidation": "ckpt_inspect.consolidate.api",
    "iter_tensors": "ckpt_inspect.consolidate.api",
    "verify_consolidation": "ckpt_inspect.consolidate.api",
    "Run": "ckpt_inspect.run",
    "Checkpoint": "ckpt_inspect.run",
    "StateDirectory": "ckpt_inspect.run",
    "Artifact": "ckpt_inspect.run",
    "Producer": "ckpt_inspect.run",
    "Answer": "ckpt_inspect.explain.answer",
    "CheckedRun": "ckpt_inspect.rules.checked",
    "Finding": "ckpt_inspect.rules.finding",
    "TensorListing": "ckpt_inspect.tensors",
    "TensorRow": "ckpt_inspect.tensors",
    "ScanReport": "ckpt_inspect.scan",
    "ScannedFile": "ckpt_inspect.scan",
    "ScannedGlobal": "ckpt_inspect.scan",
    "ScanFinding": "ckpt_inspect.scan",
    "Curve": "ckpt_inspect.plot.series",
    "Series": "ckpt_inspect.plot.series",
    "Plan": "ckpt_inspect.consolidate.plan",
    "ConsolidationResult": "ckpt_inspect.consolidate.api",
    "Verification": "ckpt_inspect.consolidate.verify",
    "Progress": "ckpt_inspect.progress",
    "CkptInspectError": "ckpt_inspect.errors",
    "UsageError": "ckpt_inspect.errors",
    "UnreadableError": "ckpt_inspect.errors",
    "ConsolidationError": "ckpt_inspect.errors",
    "VerificationError": "ckpt_inspect.errors",
}
_VERB_PACKAGES = frozenset({"consolidate", "explain", "scan", "tensors"})  # see ckpt_inspect.verb_package

__all__ = [
    "Answer",
    "Artifact",
    "CheckedRun",
    "Checkpoint",
    "CkptInspectError",
    "ConsolidationError",
    "ConsolidationResult",
    "Curve",
    "Finding",
    "Plan",
    "Producer",
    "Progress",
    "Run",
    "ScanFinding",
    "ScanReport",
    "ScannedFile",
    "ScannedGlobal",
    "Series",
    "StateDirectory",
    "TensorListing",
    "TensorRow",
    "UnreadableError",
    "UsageError",
    "Verification",
    "VerificationError",
    "__version__",
    "args",
    "check",
    "consolidate",
    "explain",
    "iter_tensors",
    "open_run",
    "plan_consolidation",
    "plot_loss",
    "scan",
    "series",
    "show",
    "tensors",
    "verify_consolidation",
]


def __getattr__(name: str) -> Any:
    module = PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name in _VERB_PACKAGES:
        return import_module(f"{__name__}.{name}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
