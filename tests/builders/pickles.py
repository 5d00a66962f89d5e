"""Pickle streams that name any global and make any call, written opcode for opcode as `pickle.Pickler` writes them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(eq=False)
class Name:
    """A global: GLOBAL below protocol 4, STACK_GLOBAL from it."""

    module: str
    name: str


@dataclass(eq=False)
class Called:
    """`callee(*args)` by REDUCE, then APPENDS of `items`, SETITEMS of `pairs`, BUILD of `state`."""

    callee: Any
    args: tuple[Any, ...] = ()
    state: Any = None
    items: Iterable[Any] | None = None
    pairs: Iterable[tuple[Any, Any]] | None = None


@dataclass(eq=False)
class Instance:
    """`cls.__new__(cls, *args)` by NEWOBJ, then BUILD of `state`."""

    cls: Name
    state: Any = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None


@dataclass(eq=False)
class Persistent:
    """A persistent id."""

    pid: Any


@dataclass(eq=False)
class Shared:
    """The same object each time it is met: `Shared(x)` twice is one memo entry."""

    value: Any = field(default=None)


class Writer(pickle._Pickler):  # type: ignore[name-defined,misc]
    """The pure Python pickler, taught the classes above; `resolve` may turn further objects into them."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, file: Any, protocol: int, resolve: Callable[[Any], Any] | None = None) -> None:
        super().__init__(file, protocol)
        self._resolve = resolve
        self._kept: list[Any] = []  # an id in the memo must not be reused
        self._resolved: dict[int, Any] = {}

    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, Persistent) else None

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if self._resolve is not None and type(obj) not in self.dispatch:
            known = self._resolved.get(id(obj))
            if known is None:
                known = self._resolve(obj)
                self._kept.append((obj, known))
                self._resolved[id(obj)] = known
            obj = known
        self._kept.append(obj)
        super().save(obj, save_persistent_id)

    def save_name(self, obj: Name) -> None:
        if self.proto >= 4:
            self.save(obj.module)
            self.save(obj.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + obj.module.encode() + b"\n" + obj.name.encode() + b"\n")
        self.memoize(obj)

    def save_called(self, obj: Called) -> None:
        self.save(obj.callee)
        self.save(obj.args)
        self.write(pickle.REDUCE)
        self._finish(obj, obj.items, obj.pairs, obj.state)

    def save_instance(self, obj: Instance) -> None:
        self.save(obj.cls)
        self.save(obj.args)
        if obj.kwargs is not None:
            self.save(obj.kwargs)
            self.write(pickle.NEWOBJ_EX)
        else:
            self.write(pickle.NEWOBJ)
        self._finish(obj, None, None, obj.state)

    def save_shared(self, obj: Shared) -> None:
        self.save(obj.value)

    def _finish(self, obj: Any, items: Any, pairs: Any, state: Any) -> None:
        if id(obj) in self.memo:  # a cycle through its own arguments
            self.write(pickle.POP + self.get(self.memo[id(obj)][0]))
        else:
            self.memoize(obj)
        if items is not None:
            self._batch_appends(iter(items))
        if pairs is not None:
            self._batch_setitems(iter(pairs))
        if state is not None:
            self.save(state)
            self.write(pickle.BUILD)

    dispatch[Name] = save_name
    dispatch[Called] = save_called
    dispatch[Instance] = save_instance
    dispatch[Shared] = save_shared


def dump(value: Any, protocol: int = 2, resolve: Callable[[Any], Any] | None = None) -> bytes:
    """The pickle of `value`."""
    buffer = io.BytesIO()
    Writer(buffer, protocol, resolve).dump(value)
    return buffer.getvalue()
