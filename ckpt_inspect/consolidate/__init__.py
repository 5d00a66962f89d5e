"""Shards to one set of weights: a pure plan, a gather that copies ranges, one atomic commit.

The package is also the verb: ``ckpt_inspect.consolidate(path, output)`` calls :func:`ckpt_inspect.consolidate.api.consolidate`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckpt_inspect.consolidate.api import ConsolidationResult


class _Verb(ModuleType):
    """A module that can be called, because the package and the public function have the same name."""

    def __call__(self, *arguments: Any, **options: Any) -> ConsolidationResult:
        """See :func:`ckpt_inspect.consolidate.api.consolidate`."""
        from ckpt_inspect.consolidate.api import consolidate

        return consolidate(*arguments, **options)


sys.modules[__name__].__class__ = _Verb
