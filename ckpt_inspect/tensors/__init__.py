"""Every tensor of a weight or optimizer file or directory, by headers alone, and statistics of their values on request.

::

    listing = list_tensors(["output/checkpoint-500"])
    for row in listing.rows:
        print(row.name, row.dtype, row.shape, row.file, row.offset)

The package is also the verb: ``ckpt_inspect.tensors(path)`` calls :func:`ckpt_inspect.api.tensors`.
"""

from __future__ import annotations

from ckpt_inspect.tensors.listing import SORT_KEYS, FileProblem, ListedFile, SortKey, TensorListing, list_tensors
from ckpt_inspect.tensors.rows import Chunk, TensorRow
from ckpt_inspect.verb_package import is_a_verb

is_a_verb(__name__)

__all__ = [
    "SORT_KEYS",
    "Chunk",
    "FileProblem",
    "ListedFile",
    "SortKey",
    "TensorListing",
    "TensorRow",
    "list_tensors",
]
