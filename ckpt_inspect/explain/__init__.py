"""Facts to answers: every answer carries the arithmetic and the evidence it rests on.

The package is also the verb: ``ckpt_inspect.explain(path, "loss")`` calls :func:`ckpt_inspect.api.explain`.
"""

from __future__ import annotations

from ckpt_inspect.verb_package import is_a_verb

is_a_verb(__name__)
