"""YAML of unknown origin as plain data: safe types only, and bounded in size, depth and expansion.

`yaml.safe_load` builds no objects, but aliases let a kilobyte stand for gigabytes, and deep nesting ends in
`RecursionError`; a pass over the parser's events bounds both before anything is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckpt_inspect.formats.fault_log import FaultLog

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_NODES = 200_000


class YamlError(Exception):
    """Why a text was not read; `kind` is the fault's."""

    def __init__(self, kind: str, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.line = line


def read_yaml_mapping(source: ByteSource) -> tuple[dict[str, Any], tuple[Fault, ...]]:
    """The mapping a YAML file holds, keys as text; empty, with a fault, where it holds nothing of the kind."""
    faults = FaultLog()
    if source.size > MAX_BYTES:
        faults.add("yaml-too-large", f"{source.size:,} bytes; at most {MAX_BYTES:,} are read")
        return {}, faults.sealed()
    text = source.read_at(0, source.size).decode("utf-8", "replace")
    return parse_mapping(text, faults), faults.sealed()


def parse_mapping(text: str, faults: FaultLog) -> dict[str, Any]:
    """The mapping in `text`; faults say what kept it from being read."""
    try:
        value = parse_yaml(text)
    except YamlError as error:
        faults.add(error.kind, str(error), place=f"line {error.line}" if error.line is not None else None)
        return {}
    if value is None:
        return {}
    if not isinstance(value, dict):
        faults.add("yaml-not-mapping", "holds something other than `key: value` lines")
        return {}
    return {str(key): item for key, item in value.items()}


def parse_yaml(text: str) -> Any:
    """One YAML document as dicts, lists and scalars (dates as `datetime` objects, as YAML 1.1 has it).

    Raises:
        YamlError: not YAML, not safe, or larger than the limits.
    """
    import yaml

    safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _bound(yaml.parse(text, Loader=safe), yaml)
        loader = safe(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or type(error).__name__
        unsafe = isinstance(error, yaml.constructor.ConstructorError)
        raise YamlError("yaml-unsafe" if unsafe else "yaml-syntax", problem, mark.line + 1 if mark else None) from None
    except (
        ValueError,
        RecursionError,
        OverflowError,
        TypeError,
    ) as error:  # dates like 2024-13-45, keys that are lists
        raise YamlError("yaml-syntax", str(error)) from None


def _bound(events: Any, yaml: Any) -> None:
    """Count the nodes the document expands to, aliases included."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            total += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
            if len(open_nodes) > MAX_DEPTH:
                raise YamlError("yaml-too-large", f"nested deeper than {MAX_DEPTH} levels", event.start_mark.line + 1)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before
        if total > MAX_NODES:
            raise YamlError("yaml-too-large", f"expands to more than {MAX_NODES:,} values")
