"""States of numpy's dtypes that lie: flags by which bytes of the file would be taken for pointers to objects.

``numpy/_core/src/multiarray/descriptor.c``, `arraydescr_setstate`: the flags are taken from the pickle as they are, and
`array_setstate` asks only them (NPY_LIST_PICKLE) whether the data are a list of objects or raw bytes.
"""

from __future__ import annotations

from ckpt_inspect.formats.pickle_nodes import Build, Call, Node, entries

_HAS_OBJECT = 0x01
_FLAGS = 7  # of (version, order, subarray, names, fields, size, alignment, flags[, metadata])
_DEEPEST = 8


def hides_objects(build: Build) -> bool:
    """Whether a state given to a dtype with objects in it says that there are none."""
    target, state = build.target, build.state
    if type(target) is not Call or target.target != "numpy.dtype" or type(state) is not tuple or len(state) <= _FLAGS:
        return False
    flags = state[_FLAGS]
    return type(flags) is int and not flags & _HAS_OBJECT and _holds_objects(target, state, _DEEPEST)


def _holds_objects(dtype: Node, state: Node, depth: int) -> bool:
    if type(dtype) is not Call or dtype.target != "numpy.dtype" or depth == 0:
        return False
    name = dtype.args[0] if type(dtype.args) is tuple and dtype.args else None
    if (type(name) is str and name.lstrip("|<>=")[:1] == "O") or name == "object":
        return True
    if type(state) is not tuple or len(state) <= _FLAGS:
        return False
    parts = [part[0] for part in (state[2],) if type(part) is tuple and part]
    parts += [value[0] for _, value in entries(state[4]) if type(value) is tuple and value]
    return any(_holds_objects(part, part.state if type(part) is Call else None, depth - 1) for part in parts)
