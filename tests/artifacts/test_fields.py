from __future__ import annotations

import math

import pytest
from builders.documents import json_source

from ckpt_inspect.artifacts.fields import Fields, json_kind, read_object
from ckpt_inspect.formats.fault_log import FaultLog


def fields(**values: object) -> tuple[Fields, FaultLog]:
    log = FaultLog()
    return Fields(values, log, "file:"), log


@pytest.mark.parametrize(
    ("method", "value", "expected"),
    [
        ("integer", 4, 4),
        ("integer", 4.0, 4),
        ("integer", None, None),
        ("number", 4, 4),
        ("number", 0.5, 0.5),
        ("text", "a", "a"),
        ("flag", False, False),
        ("mapping", {"a": 1}, {"a": 1}),
        ("sequence", [1], [1]),
        ("texts", ["a", "b"], ("a", "b")),
        ("integers", [1, 2], (1, 2)),
        ("integers", 3, (3,)),
        ("integers", None, None),
    ],
)
def test_a_value_of_the_right_type_is_given(method: str, value: object, expected: object) -> None:
    reader, log = fields(key=value)
    assert getattr(reader, method)("key") == expected
    assert not log


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("integer", True),
        ("integer", "4"),
        ("integer", 4.5),
        ("integer", math.nan),
        ("integer", math.inf),
        ("number", True),
        ("number", "0.5"),
        ("text", 5),
        ("flag", 1),
        ("flag", "true"),
        ("mapping", []),
        ("sequence", {}),
        ("sequence", "abc"),
        ("integers", "3"),
        ("integers", True),
    ],
)
def test_a_value_of_another_type_is_a_fault_and_counts_as_absent(method: str, value: object) -> None:
    reader, log = fields(key=value)
    assert getattr(reader, method)("key") is None
    assert [(fault.kind, fault.place) for fault in log.sealed()] == [("field-type", "file:key")]


def test_elements_of_another_type_are_left_out() -> None:
    reader, log = fields(key=["a", 5, "b"])
    assert reader.texts("key") == ("a", "b")
    assert [fault.place for fault in log.sealed()] == ["file:key[1]"]


def test_a_missing_key_is_no_fault() -> None:
    reader, log = fields()
    assert (reader.integer("x"), reader.texts("x"), reader.fields("x")) == (None, None, None)
    assert not log


def test_nested_objects_name_their_whole_place() -> None:
    reader, log = fields(outer={"inner": "x"})
    nested = reader.fields("outer")
    assert nested is not None
    assert nested.integer("inner") is None
    assert [fault.place for fault in log.sealed()] == ["file:outer.inner"]


def test_nan_is_a_number() -> None:
    reader, _ = fields(key=math.nan)
    assert math.isnan(reader.number("key") or 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "a boolean"),
        (1, "a whole number"),
        (1.5, "a number"),
        ("a", "a string"),
        ([], "a list"),
        ({}, "an object"),
    ],
)
def test_json_types_have_names_people_use(value: object, text: str) -> None:
    assert json_kind(value) == text


def test_a_file_that_holds_no_object_reads_as_an_empty_one_with_a_fault() -> None:
    log = FaultLog()
    assert read_object(json_source([1]), log) == ({}, True)
    assert [fault.kind for fault in log.sealed()] == ["json-not-object"]
