"""The index of sharded weights against the files beside it."""

from __future__ import annotations

from typing import Any

import pytest
from builders.documents import json_source, kinds
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.formats.shard_index import check_shards, path_problem, read_shard_index

A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
MAP = {"a": A, "b": B, "c": B}
PRESENT = {A: 100, B: 100, "config.json": 5}


def index(weight_map: Any = None, present: dict[str, int] | None = None, **metadata: Any) -> Any:
    value = {"metadata": metadata, "weight_map": MAP if weight_map is None else weight_map}
    return read_shard_index(json_source(value), present)


def test_a_right_index_has_no_fault() -> None:
    found = index(present=PRESENT, total_size=48)
    assert (found.weight_map, found.shards, found.total_size, found.faults) == (MAP, (A, B), 48, ())


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "a/../../b",
        "..",
        "/etc/passwd",
        "/dev/zero",
        "\\\\host\\share\\x",
        "//host/share/x",
        "C:\\x.safetensors",
        "c:x",
        "\\x",
        "..\\x",
        "~/x",
        "file:///etc/passwd",
        "https://example.org/x",
    ],
)
def test_a_name_that_leads_out_of_the_directory_is_refused(name: str) -> None:
    found = index({"a": name}, {name: 1})
    assert (kinds(found), found.shards) == (["index-traversal"], ())
    assert found.faults[0].place == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "./x.safetensors",
        "a//b",
        "a/",
        ".",
        "sub\\x",
        "nul",
        "COM1.safetensors",
        "x\n",
        "x\u202e",
        "a/con.bin",
        "xy:z",
    ],
)
def test_a_name_systems_read_differently_is_refused(name: str) -> None:
    found = index({"a": name}, {name: 1})
    assert (kinds(found), found.shards) == (["index-path"], ())


@pytest.mark.parametrize("name", ["x.safetensors", "sub/x.safetensors", "a..b", "console.bin", "weights é.bin", ".x"])
def test_a_plain_or_normal_relative_name_is_allowed(name: str) -> None:
    assert index({"a": name}, {name: 1}).faults == ()


@given(st.text(max_size=30))
def test_an_allowed_name_stays_inside(name: str) -> None:
    if path_problem(name) is None:
        parts = name.replace("\\", "/").split("/")
        assert ".." not in parts
        assert "" not in parts
        assert ":" not in name


def test_missing_empty_and_left_over_shards_are_told_apart() -> None:
    present = {A: 0, "model-00001-of-00005.safetensors": 7, "other-00001-of-00002.safetensors": 7}
    found = index(present=present)
    told = [(fault.kind, fault.place) for fault in found.faults]
    assert told == [
        ("index-missing-shard", A),
        ("index-missing-shard", B),
        ("index-extra-shard", "model-00001-of-00005.safetensors"),
    ]
    assert "empty" in found.faults[0].message


def test_names_that_count_differently_than_the_map_are_a_fault() -> None:
    assert kinds(index({"a": A})) == ["index-numbering"]
    assert kinds(index({"a": A, "b": "model-00002-of-00003.safetensors"})) == ["index-numbering"]


@pytest.mark.parametrize("weight_map", [[], {}, "x", None])
def test_an_index_without_a_map_says_so(weight_map: Any) -> None:
    found = read_shard_index(json_source({"metadata": {}, "weight_map": weight_map}))
    assert kinds(found) == ["index-no-map"]


@pytest.mark.parametrize("shard", [1, None, ["a"], {"a": "b"}, True])
def test_a_file_name_that_is_no_string_is_a_fault(shard: Any) -> None:
    found = index({"a": shard, "b": "x.safetensors"})
    assert (kinds(found), found.weight_map) == (["index-type"], {"b": "x.safetensors"})


def test_a_total_size_as_a_float_is_read_and_nonsense_is_a_fault() -> None:
    assert index(total_size=48.0).total_size == 48
    for size in (-1, "48", True, 1.5):
        found = index(total_size=size)
        assert (found.total_size, kinds(found)) == (None, ["index-type"])


def test_hostile_tensor_names_are_named() -> None:
    assert kinds(index({"a\x1b[2J": "x.safetensors"})) == ["index-name"]


def test_a_tensor_given_twice_is_a_duplicate_key() -> None:
    found = read_shard_index(json_source({}).__class__(b'{"weight_map": {"a": "x.bin", "a": "y.bin"}}'))
    assert kinds(found) == ["json-duplicate-key"]


def test_what_is_no_index_is_described_as_json() -> None:
    assert kinds(read_shard_index(json_source([]))) == ["json-not-object"]


def test_a_hundred_thousand_missing_shards_are_summed_up() -> None:
    found = index({f"t{number}": f"s-{number}.bin" for number in range(100_000)}, {})
    assert len(found.shards) == 100_000
    assert len(found.faults) < 30


# ------------------------------------------------------------------------ against the tensors of the shards


def check(shards: dict[str, list[tuple[str, int]]], **metadata: Any) -> list[tuple[str, str | None]]:
    return [(fault.kind, fault.place) for fault in check_shards(index(**metadata), shards)]


def test_shards_that_hold_what_the_index_says_have_no_fault() -> None:
    assert check({A: [("a", 16)], B: [("b", 16), ("c", 16)]}, total_size=48) == []


def test_a_sum_that_differs_is_a_fault_only_when_every_shard_is_known() -> None:
    assert check({A: [("a", 16)], B: [("b", 16), ("c", 8)]}, total_size=48) == [
        ("index-total-size", "metadata.total_size")
    ]
    assert check({A: [("a", 1)]}, total_size=48) == []


def test_each_way_index_and_shards_can_disagree_is_named() -> None:
    found = check({A: [("a", 1), ("b", 1), ("x", 1)], B: [("b", 1), ("a", 1)]})
    assert found == [
        ("index-wrong-shard", "b"),
        ("index-unlisted-tensor", "x"),
        ("index-duplicate-tensor", "b"),
        ("index-duplicate-tensor", "a"),
        ("index-absent-tensor", "c"),
    ]
