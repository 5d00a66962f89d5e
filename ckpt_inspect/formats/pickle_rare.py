"""The opcodes that are rare in real files, one function each; the common ones are inline in `pickle_machine`.

A function gets the machine, the stack above the last mark and the position behind the opcode, and returns the position
behind its argument. Those in `MARKED` get the items above the mark as well. An `IndexError` from the stack means that the
program takes more than it put there.
"""

from __future__ import annotations

from collections.abc import Callable

from ckpt_inspect.formats.pickle_constants import CONSTANTS, Rare, note_difference
from ckpt_inspect.formats.pickle_nodes import (
    Build,
    Call,
    Global,
    MethodCall,
    Node,
    Opaque,
    Pairs,
    PersistentId,
    SetNode,
)
from ckpt_inspect.formats.pickle_state import Machine

Marked = Callable[[Machine, list[Node], list[Node], int], None]


def _global_lines(m: Machine, pos: int, here: int) -> tuple[Node, int]:
    module, pos = m.line(pos)
    name, pos = m.line(pos)
    if module is None or name is None:
        m.fault("pickle-limit", "the name of a global is longer than a line may be", here)
        found: Node = Global("(too long)", "(too long)", here)
        m.events.append(found)
        return found, pos
    if not (module.isascii() and name.isascii()):
        note_difference(m, "a name beyond ASCII", here)
    found = m.resolve(module.decode("utf-8", "replace"), name.decode("utf-8", "replace"), here)
    return found, pos


def _global(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    found, pos = _global_lines(m, pos, here)
    stack.append(found)
    return pos


def _stack_global(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    name = stack.pop()
    module = stack.pop()
    if type(name) is str and type(module) is str:
        stack.append(m.resolve(module, name, here))
        return pos
    m.fault("pickle-type", "STACK_GLOBAL on values that are not both text", here)
    found = Global(_name(module), _name(name), here)
    m.events.append(found)
    stack.append(found)
    return pos


def _name(node: Node) -> str:
    return node if type(node) is str else "(computed)"


def _newobj(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    args = stack.pop()
    cls = stack.pop()
    _call(m, stack, Call("NEWOBJ", cls, args, here), here)
    return pos


def _newobj_ex(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    kwargs = stack.pop()
    args = stack.pop()
    cls = stack.pop()
    _call(m, stack, Call("NEWOBJ_EX", cls, args, here, kwargs), here)
    return pos


def _call(m: Machine, stack: list[Node], call: Call, here: int) -> None:
    if type(call.args) is not tuple and type(call.args) is not Call:
        m.fault("pickle-type", f"{call.how} with arguments that are not a tuple", here)
    m.made += 2
    m.events.append(call)
    stack.append(call)


def _build(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    state = stack.pop()
    target = stack[-1]
    m.events.append(Build(target, state, here))
    if type(target) is Call:
        target.state = state
    elif type(target) is not Global and type(target) is not PersistentId:
        m.fault("pickle-type", "BUILD on a value that has no attributes", here)
    return pos


def _extension(width: int) -> Rare:
    def run(m: Machine, stack: list[Node], pos: int, here: int) -> int:
        raw, pos = m.take(pos, width)
        code = int.from_bytes(raw, "little", signed=width == 4)
        node = Opaque(f"extension code {code}", here)
        m.fault("pickle-extension", f"extension code {code}: what it names is known only to the loader", here)
        if code <= 0:
            m.fault("pickle-value", "an extension code that is not positive", here)
        m.events.append(node)
        stack.append(node)
        return pos

    return run


def _next_buffer(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    node = Opaque("out-of-band buffer", here)
    m.fault("pickle-buffer", "an out-of-band buffer, which no file holds", here)
    m.events.append(node)
    stack.append(node)
    return pos


def _append(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    value = stack.pop()
    extend(m, stack[-1], [value], here, "APPEND")
    return pos


def _setitem(m: Machine, stack: list[Node], pos: int, here: int) -> int:
    value = stack.pop()
    key = stack.pop()
    set_items(m, stack[-1], [key, value], here, "SETITEM")
    return pos


def extend(m: Machine, target: Node, items: list[Node], here: int, opcode: str) -> None:
    """APPEND and APPENDS: what a loader does with `items` and the value below them."""
    kind = type(target)
    if kind is list:
        target.extend(items)
    elif kind is Call:
        add_to_call(target, items)
    else:
        _method(m, target, items, here, opcode, "append")


def add_to_call(call: Call, items: list[Node]) -> None:
    """Elements a loader adds to what `call` returned."""
    if type(call.items) is list:
        call.items.extend(items)
    else:
        call.items = list(items)


def set_items(m: Machine, target: Node, items: list[Node], here: int, opcode: str) -> None:
    """SETITEM and SETITEMS: what a loader does with alternating keys and values and the value below them."""
    if len(items) % 2:
        m.fault("pickle-value", "SETITEMS with a key that has no value", here)
        items = items[:-1]
    pairs = zip(items[::2], items[1::2], strict=True)
    kind = type(target)
    if kind is Pairs:
        target.items.extend(pairs)
    elif kind is Call:
        if type(target.pairs) is list:
            target.pairs.extend(pairs)
        else:
            target.pairs = list(pairs)
    else:
        _method(m, target, items, here, opcode, "__setitem__")


def _method(m: Machine, target: Node, items: list[Node], here: int, opcode: str, method: str) -> None:
    m.fault("pickle-type", f"{opcode} on a value that is no container", here)
    m.events.append(MethodCall(opcode, method, target, here))
    m.thrown.append(items)


def _tuple(m: Machine, stack: list[Node], items: list[Node], here: int) -> None:
    m.made += 2
    stack.append(tuple(items))


def _list(m: Machine, stack: list[Node], items: list[Node], here: int) -> None:
    m.made += 2
    stack.append(items)


def _dict(m: Machine, stack: list[Node], items: list[Node], here: int) -> None:
    made = Pairs()
    set_items(m, made, items, here, "DICT")
    m.made += 3
    stack.append(made)


def _frozenset(m: Machine, stack: list[Node], items: list[Node], here: int) -> None:
    m.made += 2
    stack.append(SetNode(items, frozen=True))


def _additems(m: Machine, stack: list[Node], items: list[Node], here: int) -> None:
    target = stack[-1]
    if type(target) is SetNode and not target.frozen:
        target.items.extend(items)
    elif type(target) is Call:
        add_to_call(target, items)
    else:
        _method(m, target, items, here, "ADDITEMS", "add")


def _pop_mark(m: Machine, stack: list[Node], items: list[Node], here: int) -> None:
    if items:
        m.thrown.append(items)


def _obj(m: Machine, stack: list[Node], items: list[Node], here: int) -> None:
    cls = items.pop(0)
    _call(m, stack, Call("OBJ", cls, tuple(items), here), here)


def appends(m: Machine, stack: list[Node], items: list[Node], here: int) -> None:
    """APPENDS."""
    extend(m, stack[-1], items, here, "APPENDS")


def setitems(m: Machine, stack: list[Node], items: list[Node], here: int) -> None:
    """SETITEMS."""
    set_items(m, stack[-1], items, here, "SETITEMS")


def inst(m: Machine, stack: list[Node], items: list[Node], pos: int, here: int) -> int:
    """INST: the class is an argument, what lies above the mark are the arguments of the call."""
    cls, pos = _global_lines(m, pos, here)
    _call(m, stack, Call("INST", cls, tuple(items), here), here)
    return pos


RARE: dict[int, Rare] = {
    **CONSTANTS,
    0x61: _append,
    0x62: _build,
    0x63: _global,
    0x73: _setitem,
    0x81: _newobj,
    0x82: _extension(1),
    0x83: _extension(2),
    0x84: _extension(4),
    0x92: _newobj_ex,
    0x93: _stack_global,
    0x97: _next_buffer,
}

MARKED: dict[int, Marked] = {
    0x31: _pop_mark,
    0x64: _dict,
    0x65: appends,
    0x6C: _list,
    0x6F: _obj,
    0x74: _tuple,
    0x75: setitems,
    0x90: _additems,
    0x91: _frozenset,
}
