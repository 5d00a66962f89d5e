"""Shards to one set of weights: a pure plan, a gather that copies ranges, one atomic commit.

The package is also the verb: ``ckpt_inspect.consolidate(path, output)`` calls :func:`ckpt_inspect.consolidate.api.consolidate`.
"""

from __future__ import annotations

from ckpt_inspect.verb_package import is_a_verb

is_a_verb(__name__)
