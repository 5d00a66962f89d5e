"""A directory as a Run: what every file in it is, where its saved states are, and what wrote it.

Nothing is read until it is asked for: :func:`open_run` lists names and looks at the first bytes of a few small files;
a state's artifacts are read on first use (:mod:`ckpt_inspect.run.state`).
"""

from __future__ import annotations

from ckpt_inspect.run.classify import Artifact, Kind, groups, kinds
from ckpt_inspect.run.layout import NestedRun, RunKind
from ckpt_inspect.run.opening import Checkpoint, Run, open_run
from ckpt_inspect.run.producers import Producer
from ckpt_inspect.run.state import StateDirectory

__all__ = [
    "Artifact",
    "Checkpoint",
    "Kind",
    "NestedRun",
    "Producer",
    "Run",
    "RunKind",
    "StateDirectory",
    "groups",
    "kinds",
    "open_run",
]
