"""Every tensor of a weight or optimizer file or directory, by headers alone, and statistics of their values on request.

::

    listing = list_tensors(["output/checkpoint-500"])
    for row in listing.rows:
        print(row.name, row.dtype, row.shape, row.file, row.offset)
"""

from __future__ import annotations

from ckpt_inspect.tensors.listing import SORT_KEYS, FileProblem, ListedFile, SortKey, TensorListing, list_tensors
from ckpt_inspect.tensors.rows import Chunk, TensorRow

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
