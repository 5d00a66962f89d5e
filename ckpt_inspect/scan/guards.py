"""What the arguments of an allowed function must look like. An allowed name with other arguments is an attack.

A guard gets the call and a way to judge other names, and returns what is wrong, or None. Guards are named in
``knowledge/pickle_globals.toml``; they look at the inert tree only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ckpt_inspect.formats.pickle_nodes import Blob, Call, Global, Node, Opaque, Pairs, PersistentId, SetNode, entries
from ckpt_inspect.scan.tiers import Standing
from ckpt_inspect.scan.verdicts import Verdict

Judge = Callable[[Global], Standing]


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why a call is not what it should be, and what that makes of the file."""

    verdict: Verdict
    message: str


Guard = Callable[[Call, Judge], Complaint | None]

_MAX_ALLOCATION = 1 << 20
_TYPES_OF_TENSORS = frozenset({"tensor", "quantised", "sharded"})
_LATIN1 = frozenset({"latin1", "latin-1", "latin_1", "iso-8859-1", "iso8859-1", "iso_8859_1"})
_PLAIN = frozenset({type(None), bool, int, float, str, bytes, Blob, Opaque})
_ARRAY_TYPES = frozenset({"numpy.ndarray", "numpy.matrix", "numpy.recarray", "numpy.memmap"})
_UNBOUNDED = frozenset({"builtins.range"})
_TYPE_MAKERS = frozenset({"operator.getitem", "_operator.getitem", "types.GenericAlias"})
_HUGE_EXPONENT = re.compile(r"[eE][+-]?\d{5,}")
_BIT_GENERATORS = frozenset({"MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64", "RandomState", "Generator"})
_DUNDER_DATA = frozenset(
    {"__doc__", "__module__", "__orig_class__", "__qualname__", "__name__", "__annotations__"}
    | {"__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__", "__fields_set__"}
    | {"__private_attribute_values__"}
)


def _args(call: Call) -> tuple[Node, ...] | None:
    return call.args if type(call.args) is tuple else None


def dunder_keys(state: Node, depth: int = 3) -> list[str]:
    """The names in a BUILD state that replace special methods: both of ``(__dict__, slots)``, whatever holds them.

    Pydantic keeps its own state under such names, the instance's under `__dict__`, which is looked into.
    """
    found: list[str] = []
    parts = state if type(state) is tuple and len(state) == 2 else (state,)
    for part in parts:
        for key, value in entries(part):
            if type(key) is not str or len(key) < 5 or not (key.startswith("__") and key.endswith("__")):
                continue
            if key == "__dict__" and depth > 0:
                found.extend(dunder_keys(value, depth - 1))
            elif key not in _DUNDER_DATA:
                found.append(key)
    return found


def _plain_state(call: Call, judge: Judge) -> Complaint | None:
    """No argument sets special methods."""
    for argument in _args(call) or ():
        keys = dunder_keys(argument)
        if keys:
            return Complaint("dangerous", f"sets {keys[0]}")
    return None


def _storage_tensor(call: Call, judge: Judge) -> Complaint | None:
    args = _args(call)
    if args is None or len(args) < 4:
        return Complaint("suspicious", "is not given a storage, an offset, a size and a stride")
    if type(args[0]) is not PersistentId and type(args[0]) is not Call:
        return Complaint("suspicious", "is given something else than a storage")
    for hooks in args[5:6]:
        for _, value in entries(hooks):
            if type(value) is not tuple or value:
                return Complaint("suspicious", "brings hooks that run in the backward pass")
    return None


def _typed_tensor(call: Call, judge: Judge) -> Complaint | None:
    args = _args(call)
    if args is None or len(args) < 3:
        return Complaint("suspicious", "is not given a function, a type and arguments")
    function, kind = args[0], args[1]
    if type(function) is not Global or type(kind) is not Global:
        return Complaint("dangerous", "is given a function or type that the stream computes")
    standing = judge(function)
    rebuilds = function.module in ("torch._utils", "torch._tensor") and function.name.startswith("_rebuild")
    if standing.tier != "T0" or not rebuilds:
        return Complaint("dangerous", f"would call {function.dotted} by itself")
    if judge(kind).family not in _TYPES_OF_TENSORS:
        return Complaint(
            "unknown" if judge(kind).tier == "T2" else "dangerous",
            f"makes a {kind.dotted}, not known to be a tensor type",
        )
    if standing.guard == "typed_tensor":
        return Complaint("dangerous", "calls itself")
    inner = Call("REDUCE", function, args[2], call.offset)
    check = GUARDS.get(standing.guard or "")
    complaint = check(inner, judge) if check is not None else None
    return complaint or _plain_state(call, judge)


def _tensor_subclass(call: Call, judge: Judge) -> Complaint | None:
    args = _args(call)
    if not args or type(args[0]) is not Global:
        return Complaint("dangerous", "is given a type that the stream computes")
    standing = judge(args[0])
    if standing.family in _TYPES_OF_TENSORS:
        return _plain_state(call, judge)
    return Complaint(
        "unknown" if standing.tier == "T2" else "dangerous", f"makes a {args[0].dotted}, not known to be a tensor type"
    )


def _no_arguments(call: Call, judge: Judge) -> Complaint | None:
    if call.args == () or (type(call.args) is tuple and not call.args):
        return None
    # An object below protocol 2 or with __getnewargs__ may hold plain values; NEWOBJ does not run a constructor.
    if call.how in ("NEWOBJ", "NEWOBJ_EX") and all(type(argument) in _PLAIN for argument in _args(call) or (call,)):
        return None
    return Complaint("suspicious", "is given arguments, so that its constructor would run")


def _nothing(call: Call, judge: Judge) -> Complaint | None:
    if type(call.args) is tuple and not call.args:
        return None
    return Complaint("suspicious", "is given arguments, which may make it allocate any amount")


def _scalars(call: Call, judge: Judge) -> Complaint | None:
    for argument in _args(call) or ():
        if type(argument) is str and _HUGE_EXPONENT.search(argument):
            return Complaint("suspicious", "is given a number with an enormous exponent")
    if all(_is_plain(argument, 2) for argument in _args(call) or ()):
        return None
    return Complaint("suspicious", "is given more than plain values")


def _plain_arguments(call: Call, judge: Judge) -> Complaint | None:
    for argument in _args(call) or ():
        if type(argument) is Global:
            return Complaint("suspicious", f"is given {argument.dotted} as an argument")
        if type(argument) is Call and argument.target in _UNBOUNDED:
            return Complaint("suspicious", "is given a range of numbers, which may fill any amount of memory")
    return None


def _sizes(call: Call, judge: Judge) -> Complaint | None:
    for argument in _args(call) or ():
        if type(argument) in (list, tuple) and all(type(part) in (int, bool) for part in argument):
            continue
        if type(argument) is not int:
            return Complaint("suspicious", "is given something else than lengths")
    return None


def _device(call: Call, judge: Judge) -> Complaint | None:
    if all(type(argument) in (str, int) for argument in _args(call) or ()):
        return None
    return Complaint("suspicious", "is given something else than a device name")


def _text_arguments(call: Call, judge: Judge) -> Complaint | None:
    if all(type(argument) is str for argument in _args(call) or ()):
        return None
    return Complaint("suspicious", "is given something else than text")


def _latin1(call: Call, judge: Judge) -> Complaint | None:
    args = _args(call)
    if args is not None and len(args) == 2 and type(args[1]) is str and args[1].lower() in _LATIN1:
        if type(args[0]) is str or type(args[0]) is Blob:
            return None
        return Complaint("suspicious", "is given something else than text")
    return Complaint("dangerous", "is asked for another codec than latin-1, which may run or expand data")


def _bytes_argument(call: Call, judge: Judge) -> Complaint | None:
    args = _args(call) or ()
    if args and type(args[0]) is int and args[0] > _MAX_ALLOCATION:
        return Complaint("suspicious", f"would allocate {args[0]} bytes")
    first = args[0] if args else b""
    if type(first) in (bytes, Blob, int, str, list) or (type(first) is Call and first.target == "_codecs.encode"):
        return None
    return Complaint("suspicious", "is given something else than bytes")


def _default_factory(call: Call, judge: Judge) -> Complaint | None:
    args = _args(call)
    if not args or args[0] is None:
        return None
    if type(args[0]) is not Global:
        return Complaint("dangerous", "calls something the stream computes for every missing key")
    standing = judge(args[0])
    if standing.tier in ("T0", "T1") and standing.family in ("plain", "optimizer"):
        return None
    verdict: Verdict = "unknown" if standing.tier == "T2" else "dangerous" if standing.tier == "T3" else "suspicious"
    return Complaint(verdict, f"calls {args[0].dotted} for every missing key")


def _reconstructor(call: Call, judge: Judge) -> Complaint | None:
    args = _args(call)
    if args is None or len(args) != 3 or type(args[0]) is not Global or type(args[1]) is not Global:
        return Complaint("dangerous", "is given a class that the stream computes")
    standing = judge(args[0])
    if args[1].module != "builtins" or judge(args[1]).tier != "T0":
        return Complaint("dangerous", f"would call {args[1].dotted}")
    if standing.tier == "T0" or "instance" in standing.use:
        return None
    if standing.tier == "T2":
        return Complaint("unknown", f"makes an object of {args[0].dotted}")
    return Complaint("dangerous", f"makes an object of {args[0].dotted}")


def _partial(call: Call, judge: Judge) -> Complaint | None:
    args = _args(call)
    if not args or type(args[0]) is not Global:
        return Complaint("dangerous", "fixes arguments of something the stream computes")
    standing = judge(args[0])
    if standing.tier in ("T0", "T1"):
        return None
    return Complaint("unknown" if standing.tier == "T2" else "dangerous", f"fixes arguments of {args[0].dotted}")


def _numpy_array(call: Call, judge: Judge) -> Complaint | None:
    args = _args(call)
    if args is None or len(args) != 3 or type(args[0]) is not Global or args[0].dotted not in _ARRAY_TYPES:
        return Complaint("dangerous", "is given another type than numpy.ndarray")
    shape = args[1]
    if type(shape) is not tuple or any(type(length) is not int for length in shape):
        return Complaint("suspicious", "is given something else than a shape")
    elements = 1
    for length in shape:
        elements *= length
    if elements > _MAX_ALLOCATION:
        return Complaint("suspicious", f"would allocate {elements} elements")
    return None


def _numpy_scalar(call: Call, judge: Judge) -> Complaint | None:
    args = _args(call)
    if args is None or len(args) not in (1, 2):
        return Complaint("suspicious", "is not given a type and bytes")
    return None


def _numpy_dtype(call: Call, judge: Judge) -> Complaint | None:
    args = _args(call) or ()
    if args and (type(args[0]) in (str, bytes) or (type(args[0]) is Global and judge(args[0]).family == "numpy")):
        return None
    if args and _is_plain(args[0], 4):
        return None
    return Complaint("suspicious", "is given something else than the name of a type")


def _masked_array(call: Call, judge: Judge) -> Complaint | None:
    for argument in _args(call) or ():
        if type(argument) is Global and judge(argument).family != "numpy":
            return Complaint("dangerous", f"would make a {argument.dotted}")
    return None


def _bit_generator(call: Call, judge: Judge) -> Complaint | None:
    for argument in _args(call) or ():
        named = type(argument) is str and argument in _BIT_GENERATORS
        judged = type(argument) is Global and judge(argument).family == "numpy"
        built = type(argument) is Call
        if not (named or judged or built):
            return Complaint("suspicious", "is given something else than the name of a generator")
    return None


def _enum_member(call: Call, judge: Judge) -> Complaint | None:
    args = _args(call)
    if args is not None and len(args) == 2 and type(args[0]) is Global and type(args[1]) is str:
        standing = judge(args[0])
        is_enum = standing.tier in ("T0", "T1") and standing.guard == "scalars"
        if is_enum and args[1].isidentifier() and not args[1].startswith("_"):
            return None
    return Complaint("dangerous", "fetches an attribute by name, which reaches anything")


def _type_arguments(call: Call, judge: Judge) -> Complaint | None:
    """A type with its parameters, such as ``Optional[int]``: names of types and nothing else."""
    pending: list[Node] = list(_args(call) or ())
    for part in pending:
        if type(part) in (tuple, list):
            pending.extend(part)
        elif type(part) is Global:
            if judge(part).tier not in ("T0", "T1"):
                return Complaint("dangerous", f"is given {part.dotted}")
        elif type(part) is Call:
            if part.target not in _TYPE_MAKERS:
                return Complaint("dangerous", "is given something that the stream computes")
        elif type(part) not in _PLAIN:
            return Complaint("dangerous", "is given something else than types")
    first = (_args(call) or (None,))[0]
    if type(first) is Global and (first.module == "typing" or judge(first).tier == "T0"):
        return None
    return Complaint("dangerous", "fetches an item of something that is no type")


def _nested_pickle(call: Call, judge: Judge) -> Complaint | None:
    args = _args(call)
    if args is not None and len(args) == 1 and type(args[0]) in (bytes, Blob):
        return None  # what it holds is scanned like a file
    if args is not None and len(args) == 1 and type(args[0]) is Call and args[0].target == "_codecs.encode":
        return None
    return Complaint("dangerous", "loads a pickle that the stream computes")


def _is_plain(node: Node, depth: int) -> bool:
    if type(node) in _PLAIN:
        return True
    if type(node) in (tuple, list) and depth > 0:
        return all(_is_plain(part, depth - 1) for part in node)
    if type(node) is SetNode and depth > 0:
        return all(_is_plain(part, depth - 1) for part in node.items)
    if type(node) is Pairs and depth > 0:
        return all(_is_plain(key, 0) and _is_plain(value, depth - 1) for key, value in node.items)
    return type(node) is Call and node.target == "_codecs.encode"


GUARDS: dict[str, Any] = {
    "bit_generator": _bit_generator,
    "bytes_argument": _bytes_argument,
    "default_factory": _default_factory,
    "device": _device,
    "enum_member": _enum_member,
    "latin1": _latin1,
    "masked_array": _masked_array,
    "nested_pickle": _nested_pickle,
    "no_arguments": _no_arguments,
    "nothing": _nothing,
    "numpy_array": _numpy_array,
    "numpy_dtype": _numpy_dtype,
    "numpy_scalar": _numpy_scalar,
    "partial": _partial,
    "plain_arguments": _plain_arguments,
    "plain_state": _plain_state,
    "reconstructor": _reconstructor,
    "scalars": _scalars,
    "sizes": _sizes,
    "storage_tensor": _storage_tensor,
    "tensor_subclass": _tensor_subclass,
    "text_arguments": _text_arguments,
    "type_arguments": _type_arguments,
    "typed_tensor": _typed_tensor,
}
