"""Any plain value, pickled by any protocol, comes back from the inert tree as it was."""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.formats.pickle_machine import Blob, Call, Pairs, PickleLimits, SetNode, run_pickle
from ckpt_inspect.storage import BytesSource

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**2000), 2**2000)
    | st.floats()
    | st.text()
    | st.text(alphabet=st.characters())  # surrogates included
    | st.binary()
    | st.complex_numbers()
    | st.builds(bytearray, st.binary())
)
keys = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5) | st.tuples(st.integers())
)
values = st.recursive(
    scalars | st.sets(keys) | st.frozensets(keys),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.tuples(inner)
        | st.tuples(inner, inner)
        | st.lists(inner, max_size=6).map(tuple)
        | st.dictionaries(keys, inner, max_size=6)
        | st.dictionaries(keys, inner, max_size=4).map(OrderedDict)
    ),
    max_leaves=40,
)


def rebuilt(node: Any) -> Any:
    """The Python value of a tree that holds plain data only."""
    kind = type(node)
    if kind is list:
        return [rebuilt(part) for part in node]
    if kind is tuple:
        return tuple(rebuilt(part) for part in node)
    if kind is Pairs:
        return {rebuilt(key): rebuilt(value) for key, value in node.items}
    if kind is SetNode:
        return (frozenset if node.frozen else set)(rebuilt(part) for part in node.items)
    if kind is Call:
        return CALLS[node.target](node)
    assert kind in (type(None), bool, int, float, str, bytes), node
    return node


def _bytearray(node: Call) -> bytearray:
    args = rebuilt(node.args)
    return bytearray(*args) if not args or isinstance(args[0], bytes) else bytearray(args[0], args[1])


CALLS: dict[str | None, Any] = {
    "_codecs.encode": lambda node: node.args[0].encode(node.args[1]),
    "builtins.bytes": lambda node: bytes(*rebuilt(node.args)),
    "builtins.bytearray": _bytearray,
    "builtins.set": lambda node: set(*rebuilt(node.args)),
    "builtins.frozenset": lambda node: frozenset(*rebuilt(node.args)),
    "builtins.complex": lambda node: complex(*rebuilt(node.args)),
    "collections.OrderedDict": lambda node: OrderedDict(
        [*(rebuilt(node.args[0]) if node.args else []), *((rebuilt(key), rebuilt(value)) for key, value in node.pairs)]
    ),
}


def same(one: Any, other: Any) -> bool:
    """Equality with NaN equal to itself, types included (a bytearray of protocol 5 comes back as bytes)."""
    if isinstance(one, bytearray) or isinstance(other, bytearray):
        return bytes(one) == bytes(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(a, c) and same(b, d) for (a, b), (c, d) in zip(one.items(), other.items(), strict=True)
        )
    return bool(one == other)


@given(values, st.integers(0, 5))
def test_the_tree_of_a_plain_value_is_the_value(value: Any, protocol: int) -> None:
    program = run_pickle(BytesSource(pickle.dumps(value, protocol)))
    assert program.coverage == "complete"
    assert program.faults == ()
    assert same(rebuilt(program.value), value)


@given(values, st.integers(0, 5))
def test_the_python_pickler_which_frames_differently_gives_the_same_tree(value: Any, protocol: int) -> None:
    program = run_pickle(BytesSource(pickle._dumps(value, protocol)))  # type: ignore[attr-defined]
    assert (program.coverage, program.faults) == ("complete", ())
    assert same(rebuilt(program.value), value)


@given(values, st.integers(0, 5), st.binary(max_size=40), st.binary(max_size=40))
def test_a_pickle_is_found_between_other_bytes_by_its_offsets(
    value: Any, protocol: int, before: bytes, after: bytes
) -> None:
    stream = pickle.dumps(value, protocol)
    program = run_pickle(BytesSource(before + stream + after), len(before))
    assert (program.start, program.end) == (len(before), len(before) + len(stream))
    assert same(rebuilt(program.value), value)


@given(st.binary(min_size=1, max_size=5000), st.integers(0, 4000), st.integers(3, 5))
def test_a_constant_beyond_the_limit_is_left_where_it_lies(raw: bytes, limit: int, protocol: int) -> None:
    stream = pickle.dumps([raw], protocol)
    (found,) = run_pickle(BytesSource(stream), limits=PickleLimits(binary=limit)).value
    if len(raw) <= limit:
        assert found == raw
    else:
        assert isinstance(found, Blob)
        assert stream[found.offset : found.offset + found.length] == raw
