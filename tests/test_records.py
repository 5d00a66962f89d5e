"""The cheap `dataclass` behaves as the standard one."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass, replace
from dataclasses import dataclass as standard
from typing import ClassVar

import pytest

from ckpt_inspect.records import dataclass, field


@dataclass(frozen=True, slots=True)
class Point:
    """A point."""

    x: int
    y: int = 2
    tags: tuple[str, ...] = field(default_factory=tuple)
    count: ClassVar[int] = 7

    @property
    def total(self) -> int:
        return self.x + self.y


@dataclass(frozen=True, slots=True)
class Labelled(Point):
    label: str = ""


@dataclass(frozen=True, slots=True)
class OwnEquality:
    x: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnEquality)

    def __hash__(self) -> int:
        return 1


@dataclass(frozen=True, slots=True)
class Checked:
    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("negative")


@standard(frozen=True)
class Child(Point):
    z: int = 0


class Plain(Point):
    def __init__(self, x: int) -> None:
        super().__init__(x, 5)


def test_instances_are_made_compared_and_shown_as_usual() -> None:
    one = Point(1)
    assert (one.x, one.y, one.tags, one.total, Point.count) == (1, 2, (), 3, 7)
    assert one == Point(1, 2)
    assert one != Point(2)
    assert hash(one) == hash(Point(1))
    assert repr(one) == "Point(x=1, y=2, tags=())"
    assert Point(x=3, y=4) == Point(3, 4)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        Point()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Point(1, 2, (), 4)  # type: ignore[call-arg]


def test_instances_are_frozen_and_have_no_dictionary() -> None:
    one = Point(1)
    with pytest.raises(FrozenInstanceError):
        one.x = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del one.x
    assert not hasattr(one, "__dict__")


def test_the_fields_are_there_before_the_first_instance() -> None:
    @dataclass(frozen=True, slots=True)
    class Fresh:
        a: int
        b: str = "b"

    assert is_dataclass(Fresh)
    assert [item.name for item in fields(Fresh)] == ["a", "b"]
    assert Fresh(1).b == "b"


def test_replace_asdict_copy_and_pickle_work() -> None:
    one = Point(1, tags=("a",))
    assert replace(one, y=9) == Point(1, 9, ("a",))
    assert asdict(one) == {"x": 1, "y": 2, "tags": ("a",)}
    assert copy.deepcopy(one) == one
    assert pickle.loads(pickle.dumps(one)) == one


def test_inheritance_works_in_every_direction() -> None:
    assert Labelled(1, label="l") == Labelled(1, 2, (), "l")
    assert [item.name for item in fields(Labelled)] == ["x", "y", "tags", "label"]
    assert Child(1, z=3).z == 3
    assert Plain(4).y == 5
    assert Point(1) != Labelled(1)


def test_methods_of_the_class_win() -> None:
    assert OwnEquality(1) == OwnEquality(2)
    with pytest.raises(ValueError, match="negative"):
        Checked(-1)


def test_patterns_match_by_position() -> None:
    match Point(5, 6):
        case Point(x, y):
            assert (x, y) == (5, 6)


def test_other_options_are_those_of_the_standard_decorator() -> None:
    @dataclass(eq=False)
    class Open:
        x: int = 0

    Open().x = 3
    assert Open() != Open()
