"""Chat templates: where a directory keeps them, which one a loader takes, and where two copies differ.

Places (transformers 5.23 ``tokenization_utils_base.py:_from_pretrained``, ``processing_utils.py``): ``chat_template.jinja`` and
``additional_chat_templates/<name>.jinja``, written by default since 4.52, win over `chat_template` in tokenizer_config.json (a
text, or a list of ``{name, template}``); processors also had ``chat_template.json``. Nothing is rendered or compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ckpt_inspect.artifacts.fields import json_kind, read_object
from ckpt_inspect.artifacts.template_syntax import MAX_TEMPLATE, TemplateFacts, template_facts
from ckpt_inspect.formats.fault_log import FaultLog

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import LocalTree

DEFAULT = "default"

_FOLDER = "additional_chat_templates"
# JSON files that may hold a template inline, in the order of preference after the .jinja files.
_INLINE = ("tokenizer_config.json", "chat_template.json", "processor_config.json")


@dataclass(frozen=True)
class ChatTemplate:
    """One template: its name ("default" for the one used unless another is asked for), its text and its place.

    `place` is the file, with ``:chat_template`` or ``:chat_template[n]`` where it stands inside a JSON file.
    """

    name: str
    text: str
    place: str

    @cached_property
    def facts(self) -> TemplateFacts:
        """Its syntax; parsed on first use (which imports jinja2)."""
        return template_facts(self.text)

    @property
    def inline(self) -> bool:
        """Whether it stands inside a JSON file."""
        return ":" in self.place


@dataclass(frozen=True, slots=True)
class ChatTemplates:
    """Every template found, the ones a loader takes first."""

    templates: tuple[ChatTemplate, ...]
    faults: tuple[Fault, ...]

    @property
    def effective(self) -> dict[str, ChatTemplate]:
        """The template a loader takes for each name."""
        taken: dict[str, ChatTemplate] = {}
        for template in self.templates:
            taken.setdefault(template.name, template)
        return taken

    @property
    def default(self) -> ChatTemplate | None:
        """The template used unless another is asked for."""
        return self.effective.get(DEFAULT)

    @property
    def conflicts(self) -> tuple[tuple[ChatTemplate, ChatTemplate], ...]:
        """(taken, other) of templates under one name whose texts differ."""
        taken = self.effective
        pairs = ((taken[other.name], other) for other in self.templates)
        return tuple((first, other) for first, other in pairs if first.text.rstrip("\n") != other.text.rstrip("\n"))


def read_chat_templates(tree: LocalTree, directory: str = "") -> ChatTemplates | None:
    """Read every chat template in a directory of `tree`; None where there is none. Never raises for content."""
    faults = FaultLog()
    prefix = f"{directory}/" if directory else ""
    found = [*_files(tree, prefix, faults)]
    for name in _INLINE:
        found.extend(_inline(tree, prefix, name, faults))
    return ChatTemplates(tuple(found), faults.sealed()) if found or faults else None


def _files(tree: LocalTree, prefix: str, faults: FaultLog) -> Iterator[ChatTemplate]:
    names = {DEFAULT: f"{prefix}chat_template.jinja"}
    folder = f"{prefix}{_FOLDER}"
    names |= {
        entry.name.removesuffix(".jinja"): entry.path
        for entry in tree.entries()
        if entry.parent == folder and entry.name.endswith(".jinja")
    }
    for name, path in names.items():
        entry = tree.get(path)
        if entry is None or entry.kind != "file":
            continue
        place = path.removeprefix(prefix)
        with tree.open(path) as source:
            data = source.read_at(0, MAX_TEMPLATE + 1)
        if len(data) > MAX_TEMPLATE:
            faults.add("template-too-large", f"{entry.size:,} bytes; at most {MAX_TEMPLATE:,} are read", place=place)
            continue
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            faults.add("template-not-text", f"is not UTF-8: {error.reason}", offset=error.start, place=place)
            text = data.decode("utf-8", "replace")
        yield ChatTemplate(name, text, place)


def _inline(tree: LocalTree, prefix: str, name: str, faults: FaultLog) -> Iterator[ChatTemplate]:
    entry = tree.get(prefix + name)
    if entry is None or entry.kind != "file":
        return
    with tree.open(entry.path) as source:
        values, _ = read_object(source, FaultLog())  # the file's own reader says what is wrong with it
    value = values.get("chat_template")
    if isinstance(value, str):
        yield from _checked(DEFAULT, value, f"{name}:chat_template", faults)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            place = f"{name}:chat_template[{index}]"
            if _is_named(item):
                yield from _checked(item["name"], item["template"], place, faults)
            else:
                faults.add("template-entry", f"is {json_kind(item)}, not a name with a template", place=place)
    elif isinstance(value, dict):  # older transformers wrote the mapping as it was
        for key, text in value.items():
            if isinstance(text, str):
                yield from _checked(str(key), text, f"{name}:chat_template.{key}", faults)
    elif value is not None:
        faults.add("template-entry", f"is {json_kind(value)}, not a template", place=f"{name}:chat_template")


def _is_named(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("name"), str) and isinstance(item.get("template"), str)


def _checked(name: str, text: str, place: str, faults: FaultLog) -> Iterator[ChatTemplate]:
    if len(text) > MAX_TEMPLATE:
        faults.add("template-too-large", f"{len(text):,} characters", place=place)
        return
    yield ChatTemplate(name, text, place)
