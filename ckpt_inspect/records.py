"""`dataclass` that costs little to define: its methods are compiled when the first instance is made.

`dataclasses.dataclass(frozen=True, slots=True)` compiles six methods for every class while its module is imported. A
command line that states facts in a hundred classes and meets instances of thirty pays for all of them: a third of the
time of a small ``show``. Here a class is given its slots at once and the rest, made by :mod:`dataclasses` itself, on
first use. Type checkers see the standard decorator; any other combination of options is passed on to it.
"""

from __future__ import annotations

import dataclasses
import inspect
import threading
from dataclasses import FrozenInstanceError, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass", "field", "fields", "is_dataclass", "replace"]

_COPIED = ("__init__", "__repr__", "__eq__", "__hash__", "__dataclass_params__", "__dataclass_fields__")
_LOCK = threading.RLock()

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        """As `dataclasses.dataclass`; with exactly ``frozen=True, slots=True`` the methods are made on first use."""
        if cls is not None or options != {"frozen": True, "slots": True}:
            return dataclasses.dataclass(cls, **options)
        return _deferred


class _Fields:
    """Stands for ``__dataclass_fields__`` until somebody asks for it."""

    def __init__(self, complete: Any) -> None:
        self._complete = complete

    def __get__(self, instance: object, owner: type) -> Any:
        self._complete()
        return getattr(owner, "__dataclass_fields__")  # noqa: B009  # there now; a type has no such attribute


def _deferred(plain: type) -> type:
    annotations = inspect.get_annotations(plain)
    names = [name for name, hint in annotations.items() if "ClassVar" not in str(hint)]
    namespace = {key: value for key, value in plain.__dict__.items() if key not in ("__dict__", "__weakref__")}
    for name in names:
        namespace.pop(name, None)  # a default in the class would stand where the slot goes
    inherited = {slot for base in plain.__mro__[1:-1] for slot in getattr(base, "__slots__", ())}

    def complete() -> None:
        with _LOCK:
            if isinstance(cls.__dict__["__dataclass_fields__"], _Fields):
                made: Any = dataclasses.dataclass(frozen=True)(plain)
                for key in _COPIED:
                    setattr(cls, key, made.__dict__[key])

    def first_init(self: Any, *args: Any, **kwargs: Any) -> None:
        complete()
        cls.__init__(self, *args, **kwargs)  # type: ignore[misc]  # the compiled one now

    namespace.update(
        __slots__=tuple(name for name in names if name not in inherited),
        __match_args__=tuple(names),
        __setattr__=_refuse_set,
        __delattr__=_refuse_delete,
        __getstate__=_get_state,
        __setstate__=_set_state,
        __dataclass_fields__=_Fields(complete),
        __init__=first_init,
    )
    cls = type(plain)(plain.__name__, plain.__bases__, namespace)
    cls.__qualname__ = plain.__qualname__
    return cls


def _refuse_set(self: object, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_delete(self: object, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _get_state(self: Any) -> list[Any]:
    return [getattr(self, item.name) for item in fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for item, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, item.name, value)
