"""Finding one's way in an inert tree."""

from __future__ import annotations

import _compat_pickle
import pickle
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import pytest
from builders.pickles import Called, Instance, Name, dump

from ckpt_inspect.formats.pickle_machine import (
    Pairs,
    as_mapping,
    entries,
    get_path,
    instance_state,
    run_pickle,
    walk,
)
from ckpt_inspect.formats.pickle_renames import MODULES, NAMES, python3_name
from ckpt_inspect.storage import BytesSource


def tree(value: Any, protocol: int = 4) -> Any:
    return run_pickle(BytesSource(pickle.dumps(value, protocol))).value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value", [{"a": 1, "b": 2}, OrderedDict(a=1, b=2), defaultdict(int, a=1, b=2), Counter(a=1, b=2)]
)
def test_entries_of_anything_like_a_dictionary(value: Any, protocol: int) -> None:
    assert list(entries(tree(value, protocol))) == [("a", 1), ("b", 2)]
    assert as_mapping(tree(value, protocol)) == {"a": 1, "b": 2}


def test_entries_of_anything_else_are_none() -> None:
    assert list(entries(tree([1, 2]))) == []
    assert list(entries(run_pickle(BytesSource(dump(Called(Name("os", "environ"), ()), 2))).value)) == []


def test_a_path_leads_through_dictionaries_and_sequences() -> None:
    root = tree({"a": [{"b": (10, 20)}, OrderedDict(c="d")], 1: "int"})
    assert get_path(root, "a", 0, "b", 1) == 20
    assert get_path(root, "a", 1, "c") == "d"
    assert get_path(root, "a", 7) is None
    assert get_path(root, "a", "b") is None
    assert get_path(root, "x") is None
    assert get_path(root, 1) == "int"
    assert get_path(root, True) is None


def test_a_path_takes_the_last_of_repeated_keys() -> None:
    assert get_path(Pairs([("k", 1), ("k", 2)]), "k") == 2


def test_the_state_of_an_instance_is_its_dictionary() -> None:
    made = run_pickle(BytesSource(dump(Instance(Name("m", "C"), {"x": 1}), 2))).value
    assert as_mapping(instance_state(made)) == {"x": 1}
    slotted = run_pickle(BytesSource(dump(Instance(Name("m", "C"), (None, {"y": 2})), 2))).value
    assert as_mapping(instance_state(slotted)) == {"y": 2}
    both = run_pickle(BytesSource(dump(Instance(Name("m", "C"), ({"x": 1}, {"y": 2})), 2))).value
    assert as_mapping(instance_state(both)) == {"x": 1}
    assert instance_state(run_pickle(BytesSource(dump(Instance(Name("m", "C")), 2))).value) is None
    assert instance_state({"x": 1}) is None


def test_a_walk_meets_every_scalar_in_order_and_every_container_once() -> None:
    shared = [1, 2]
    root = tree({"a": shared, "b": shared, "c": "x"})
    assert [node for node in walk(root) if type(node) in (int, str)] == ["a", 1, 2, "b", "c", "x"]


def test_a_walk_ends_in_a_cycle() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert len(list(walk(tree(value)))) == 2


def test_showing_a_node_shows_nothing_of_its_content() -> None:
    root = run_pickle(BytesSource(dump([Called(Name("\x1b[31m", "x"), ("secret",)), {"secret": 1}], 2))).value
    assert "secret" not in repr(root)
    assert "\x1b" not in repr(root)


def test_names_of_python_2_are_those_of_the_standard_library() -> None:
    for module, renamed in _compat_pickle.IMPORT_MAPPING.items():
        assert MODULES[module] == renamed
    for pair, renamed_pair in _compat_pickle.NAME_MAPPING.items():
        assert NAMES[pair] == renamed_pair
        assert python3_name(*pair) == renamed_pair
    assert python3_name("torch", "x") == ("torch", "x")
