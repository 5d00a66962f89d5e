"""``generated_predictions.jsonl`` in numbers: what a model answered, compared with what it should have.

Format: LLaMA-Factory ``train/sft/trainer.py:save_predictions`` (`prompt` decoded with special tokens, `predict` and `label`
without) and ``train/rm/trainer.py`` (`chosen`, `rejected`, scores); the example scripts of transformers write
``generated_predictions.txt``, one answer per line. Counted in windows, so memory does not grow with the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ckpt_inspect.artifacts.fields import json_kind
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.json_document import read_json_lines
from ckpt_inspect.storage import SliceSource

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

MAX_BYTES = 256 << 20
_WINDOW = 8 << 20
_KEPT = 20

_CONTROL = re.compile(
    r"<\|[^<>|\s]{1,64}\|>|<\uff5c[^<>\uff5c\s]{1,64}\uff5c>|<(?:start|end)_of_turn>|</?s>|\[/?INST\]|<</?SYS>>|<eos>|<bos>"
)
_ROLE_FIRST = re.compile(
    r"\s*(?:assistant|user|system|human|model|ASSISTANT|USER|Assistant|### ?Response)\s*(?:[:\uff1a]|\n)"
)
_ECHO_LENGTH = 200
_ECHO_LEAST = 16


@dataclass(frozen=True, slots=True)
class Predictions:
    """Counts over the lines of the file.

    Attributes:
        kind: "generated" has `predict`; "scores" has `chosen` and `rejected`; "other" neither.
        lines: predictions counted.
        labels: lines with a `label`; a text file has none.
        empty: predictions without text; `empty_labels` labels without.
        exact: predictions equal to their label, blanks at the ends aside.
        template_leftovers: predictions that hold a control token, or begin with the name of a role.
        echoes: predictions that begin with their own prompt.
        preferred: "scores" only: lines where `chosen` scores higher.
        longest, characters: of predictions, in characters.
        repeated: predictions equal to the one before.
        leftover_lines, echo_lines, empty_lines: the first line numbers of each.
        complete: False when the file is cut, or longer than `MAX_BYTES`.
    """

    kind: Literal["generated", "scores", "other"]
    lines: int
    labels: int
    empty: int
    empty_labels: int
    exact: int
    template_leftovers: int
    echoes: int
    preferred: int
    repeated: int
    longest: int
    characters: int
    empty_lines: tuple[int, ...]
    leftover_lines: tuple[int, ...]
    echo_lines: tuple[int, ...]
    complete: bool
    faults: tuple[Fault, ...]


def read_predictions(source: ByteSource) -> Predictions:
    """Count a predictions file. Never raises for content."""
    counter = _Counter()
    if source.name.endswith(".txt"):
        for number, line in _text_lines(source):
            counter.generated(number, {"predict": line})
        return counter.result(complete=source.size <= MAX_BYTES)
    complete = True
    lines_before = 0
    for window, newlines in _windows(source):
        read = read_json_lines(window)
        counter.faults.extend(read.faults)
        complete = complete and read.complete
        for number, value in read.rows:
            counter.row(lines_before + number, value)
        lines_before += newlines
    if source.size > MAX_BYTES:
        counter.faults.add("json-too-large", f"{source.size:,} bytes; the first {MAX_BYTES:,} were counted")
        complete = False
    return counter.result(complete=complete)


def has_template_leftovers(text: str) -> bool:
    """Whether an answer holds control tokens of a chat template, or begins with the name of a role."""
    return _CONTROL.search(text) is not None or _ROLE_FIRST.match(text) is not None


def _windows(source: ByteSource) -> Iterator[tuple[ByteSource, int]]:
    """Windows of whole lines, with the number of line ends in each."""
    start, end = 0, min(source.size, MAX_BYTES)
    while start < end:
        data = source.read_at(start, min(_WINDOW, end - start))
        length = len(data)
        if start + length < end:
            length = data.rfind(b"\n") + 1 or length
        if not length:
            return
        yield SliceSource(source, start, length), data.count(b"\n", 0, length)
        start += length


def _text_lines(source: ByteSource) -> Iterator[tuple[int, str]]:
    number = 0
    for window, _ in _windows(source):
        for line in window.read_at(0, window.size).decode("utf-8", "replace").splitlines():
            number += 1
            yield number, line


@dataclass
class _Counter:
    faults: FaultLog = field(default_factory=FaultLog)
    lines: int = 0
    scores: int = 0
    answers: int = 0
    labels: int = 0
    empty: int = 0
    empty_labels: int = 0
    exact: int = 0
    leftovers: int = 0
    echoes: int = 0
    preferred: int = 0
    repeated: int = 0
    longest: int = 0
    characters: int = 0
    previous: str | None = None
    empty_lines: list[int] = field(default_factory=list)
    leftover_lines: list[int] = field(default_factory=list)
    echo_lines: list[int] = field(default_factory=list)

    def row(self, number: int, value: Any) -> None:
        if not isinstance(value, dict):
            self.faults.add("log-entry-not-object", f"is {json_kind(value)}", place=f"line {number}")
            return
        if isinstance(value.get("predict"), str):
            self.generated(number, value)
            return
        self.lines += 1
        chosen, rejected = value.get("chosen"), value.get("rejected")
        if isinstance(chosen, int | float) and isinstance(rejected, int | float):
            self.scores += 1
            self.preferred += chosen > rejected
        elif "predict" in value:
            kind = json_kind(value["predict"])
            self.faults.add("field-type", f"is {kind}, not a string", place=f"line {number}: predict")

    def generated(self, number: int, value: dict[str, Any]) -> None:
        answer = value["predict"]
        self.lines += 1
        self.answers += 1
        self.longest = max(self.longest, len(answer))
        self.characters += len(answer)
        bare = answer.strip()
        if not bare:
            self.empty += 1
            _note(self.empty_lines, number)
        elif answer == self.previous:
            self.repeated += 1
        self.previous = answer
        label = value.get("label")
        if isinstance(label, str):
            self.labels += 1
            self.empty_labels += not label.strip()
            self.exact += bool(bare) and bare == label.strip()
        if has_template_leftovers(answer):
            self.leftovers += 1
            _note(self.leftover_lines, number)
        if _echoes(answer, value.get("prompt")):
            self.echoes += 1
            _note(self.echo_lines, number)

    def result(self, *, complete: bool) -> Predictions:
        return Predictions(
            kind="generated" if self.answers else "scores" if self.scores else "other",
            lines=self.lines,
            labels=self.labels,
            empty=self.empty,
            empty_labels=self.empty_labels,
            exact=self.exact,
            template_leftovers=self.leftovers,
            echoes=self.echoes,
            preferred=self.preferred,
            repeated=self.repeated,
            longest=self.longest,
            characters=self.characters,
            empty_lines=tuple(self.empty_lines),
            leftover_lines=tuple(self.leftover_lines),
            echo_lines=tuple(self.echo_lines),
            complete=complete,
            faults=self.faults.sealed(),
        )


def _note(lines: list[int], number: int) -> None:
    if len(lines) < _KEPT:
        lines.append(number)


def _echoes(answer: str, prompt: object) -> bool:
    """Whether an answer begins as its prompt does, control tokens and blanks aside."""
    if not isinstance(prompt, str):
        return False
    start = _plain(prompt[: 4 * _ECHO_LENGTH])[:_ECHO_LENGTH]
    return len(start) >= _ECHO_LEAST and _plain(answer[: 8 * _ECHO_LENGTH]).startswith(start)


def _plain(text: str) -> str:
    return "".join(_CONTROL.sub("", text).split())
