"""Answers as the `explain` document: the objects of `show` under the same keys, with paragraph, arithmetic and evidence.

A topic that does not apply to a directory is null. Topics without an object in `show` (resume, space) stand under their
own names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckpt_inspect.explain.answer import plain

if TYPE_CHECKING:
    from ckpt_inspect.run import Run

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic: its name on the command line, its key in documents, its function, and which options that takes."""

    name: str
    key: str
    title: str
    module: str
    function: str
    options: tuple[str, ...] = ()


TOPICS = (
    Topic("loss", "loss", "Loss", "loss", "explain_loss"),
    Topic("schedule", "learning_rate", "Learning rate", "schedule", "explain_schedule"),
    Topic("batches", "batches", "Batches", "batches", "explain_batches"),
    Topic("evaluation", "evaluation", "Evaluation", "evaluation", "explain_evaluation"),
    Topic("tokens", "new_tokens", "New tokens", "new_tokens", "explain_tokens", ("base", "deep")),
    Topic("adapter", "adapter", "Adapter", "adapter_size", "explain_adapter", ("base", "deep")),
    Topic("resume", "resume", "Resume", "resume", "explain_resume"),
    Topic("space", "space", "Space", "space", "explain_space", ("deep",)),
)
NAMES = tuple(topic.name for topic in TOPICS)


@dataclass(frozen=True, slots=True)
class Explained:
    """One topic's answer: the object itself, None where the topic does not apply."""

    topic: Topic
    answer: Any

    @property
    def paragraph(self) -> str:
        """The answer in words."""
        return str(self.answer.paragraph) if self.answer is not None else ""

    @property
    def arithmetic(self) -> tuple[str, ...]:
        """The lines of arithmetic beneath it."""
        return tuple(self.answer.arithmetic) if self.answer is not None else ()


def explain_topics(
    run: Run, names: Sequence[str] = (), *, base: Path | None = None, deep: bool = False
) -> tuple[Explained, ...]:
    """The answers to the topics named (all where none is), in the order of :data:`TOPICS`.

    Args:
        run: the directory.
        names: topics by their command-line names.
        base: the base model's directory, where the run does not lead to it.
        deep: read weights, or whole files, where a topic can tell more from them.
    """
    found: list[Explained] = []
    given = {"base": base, "deep": deep}
    for topic in TOPICS:
        if (names and topic.name not in names) or find_spec(f"ckpt_inspect.explain.{topic.module}") is None:
            continue
        function = getattr(import_module(f"ckpt_inspect.explain.{topic.module}"), topic.function)
        accepted = function.__kwdefaults__ or {}
        options = {name: given[name] for name in topic.options if name in accepted}
        found.append(Explained(topic, function(run, **options)))
    return tuple(found)


def explain_document(run: Run, explained: Sequence[Explained]) -> Json:
    """The document of `explain --json`."""
    from ckpt_inspect.report.show_document import header

    document = header("explain", run)
    for item in explained:
        document[item.topic.key] = answer_object(item)
    return document


def answer_object(item: Explained) -> Json | None:
    """An answer as JSON data, with its paragraph, which some answers work out on demand."""
    if item.answer is None:
        return None
    values = plain(item.answer)
    if not isinstance(values, dict):
        return None
    return {**values, "paragraph": item.paragraph, "arithmetic": list(item.arithmetic)}
