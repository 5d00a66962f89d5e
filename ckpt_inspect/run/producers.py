"""What wrote a directory: the signs of ``knowledge/producers.toml``, weighed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from ckpt_inspect import knowledge

if TYPE_CHECKING:
    from ckpt_inspect.run.opening import Run
    from ckpt_inspect.run.state import StateDirectory

_MAX_PATHS = 20_000
_MAX_CARD = 1 << 18  # axolotl puts its whole configuration before the versions


@dataclass(frozen=True, slots=True)
class Producer:
    """A library that wrote part of the directory; `version` as a file states it; `evidence` in words."""

    name: str
    version: str | None
    evidence: str


@dataclass(slots=True)
class _Case:
    weight: int = 0
    versions: list[tuple[str, str]] = field(default_factory=list)
    evidence: list[tuple[int, str]] = field(default_factory=list)


def find_producers(run: Run) -> tuple[Producer, ...]:
    """Every library whose signs weigh enough, frameworks before the libraries they use."""
    table = knowledge.load("producers")
    traces = _Traces(run)
    cases: dict[str, _Case] = {}
    for sign in table["sign"]:
        for version in traces.fires(sign):
            case = cases.setdefault(sign["producer"], _Case())
            case.weight += sign["weight"]
            case.evidence.append((sign["weight"], sign["evidence"]))
            if version and sign.get("version"):
                case.versions.append((version, sign["evidence"]))
            break
    order = {name: index for index, name in enumerate(table["order"])}
    named = sorted((name for name in cases if cases[name].weight >= table["threshold"]), key=lambda name: order[name])
    return tuple(_producer(name, cases[name]) for name in named)


def _producer(name: str, case: _Case) -> Producer:
    if case.versions:
        version, where = case.versions[0]
        return Producer(name, version, f"{where} says {version}")
    best = sorted(case.evidence, key=lambda item: -item[0])[:2]
    return Producer(name, None, " and ".join(text for _, text in best))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


class _Traces:
    """What the signs ask about, each looked up once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._kinds = {artifact.kind for artifact in run.all_artifacts}
        # what was written last tells most: the root, then the newest checkpoint
        self._states: tuple[StateDirectory, ...] = (run, *reversed(run.checkpoints[-1:]))
        self._json: dict[str, tuple[Mapping[str, Any], ...]] = {}
        self._cards: tuple[str, ...] | None = None

    def fires(self, sign: Mapping[str, Any]) -> Iterator[str | None]:
        """One item for each time the sign fires: the version it gives, or None."""
        method = getattr(self, f"_by_{sign['where']}")
        yield from method(sign)

    def _by_artifact(self, sign: Mapping[str, Any]) -> Iterator[str | None]:
        if sign["match"] in self._kinds:
            yield None

    def _by_directory(self, sign: Mapping[str, Any]) -> Iterator[str | None]:
        if sign["match"] in self._run.roles:
            yield None

    def _by_path(self, sign: Mapping[str, Any]) -> Iterator[str | None]:
        pattern = _compiled(sign["match"])
        root = self._run.tree.root.resolve().name
        if any(pattern.search(f"{root}/{artifact.path}") for artifact in self._run.all_artifacts[:_MAX_PATHS]):
            yield None

    def _by_args(self, sign: Mapping[str, Any]) -> Iterator[str | None]:
        for state in self._states:
            facts = state.training_args
            if facts is not None and facts.class_name and _compiled(sign["match"]).search(facts.class_name):
                yield None

    def _by_zero(self, sign: Mapping[str, Any]) -> Iterator[str | None]:
        del sign
        for state in reversed(self._states):
            if state.zero is not None and (state.zero.model_files or state.zero.optim_files):
                yield state.zero.ds_version

    def _by_log(self, sign: Mapping[str, Any]) -> Iterator[str | None]:
        newest = self._run.newest_trainer_state
        if newest is None:
            return
        pattern = _compiled(sign["match"])
        for entry in newest[0].log_history[:3]:
            if any(pattern.search(key) for key in entry.values):
                yield None

    def _by_card(self, sign: Mapping[str, Any]) -> Iterator[str | None]:
        for text in self._card_texts():
            match = _compiled(sign["match"]).search(text)
            if match:
                yield match.group(1) if match.groups() and sign.get("version") else None

    def _card_texts(self) -> tuple[str, ...]:
        if self._cards is None:
            texts = (state.text_of("model_card", _MAX_CARD) for state in self._states)
            self._cards = tuple(text for text in texts if text)
        return self._cards

    def _json_of(self, kind: str) -> tuple[Mapping[str, Any], ...]:
        if kind not in self._json:
            values = (state.json_of(kind) for state in self._states)
            self._json[kind] = tuple(value for value in values if isinstance(value, dict))
        return self._json[kind]

    @staticmethod
    def _json_value(document: Mapping[str, Any], key: str) -> Any:
        value: Any = document
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def _by_json(self, sign: Mapping[str, Any]) -> Iterator[str | None]:
        for document in self._json_of(sign["kind"]):
            value = self._json_value(document, sign["key"])
            if value is None:
                continue
            if "match" in sign and not (isinstance(value, str) and _compiled(sign["match"]).search(value)):
                continue
            yield value if isinstance(value, str) and len(value) < 64 else None
