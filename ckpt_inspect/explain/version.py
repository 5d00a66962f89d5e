"""Which transformers release wrote a run: exactly where a file says so, else an interval from the fields it uses.

Evidence in order of trust: `transformers_version` of the model's config.json (written by the release that saved it),
of generation_config.json and tokenizer_config.json, the framework versions in the model card, then the fields of
trainer_state.json and training_args.bin (``knowledge/trainer_state_eras.toml``, ``transformers_eras.toml``) and the
shape of the logged numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_inspect.knowledge import load

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.training_args import TrainingArgs
    from ckpt_inspect.run import Run

Release = tuple[int, int, int]

OLDEST: Release = (0, 0, 0)
NEWEST: Release = (9999, 0, 0)
ROUNDED_DECIMALS = 4  # Trainer up to 4.57: round(loss, 4)

_NUMBER = re.compile(r"^\s*v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?")


def parse_release(text: object) -> Release | None:
    """`"4.46.0.dev0"` as (4, 46, 0); None for what is no version."""
    if not isinstance(text, str):
        return None
    match = _NUMBER.match(text)
    if match is None:
        return None
    return int(match[1]), int(match[2]), int(match[3] or 0)


def release_text(release: Release) -> str:
    """(4, 46, 0) as "4.46.0"."""
    return ".".join(str(part) for part in release)


@dataclass(frozen=True, slots=True)
class VersionEvidence:
    """The releases that fit: from `low` (inclusive) to `high` (exclusive), and by what we know."""

    low: Release
    high: Release
    exact: Release | None
    source: str

    @property
    def text(self) -> str:
        """The version as a person would say it."""
        if self.exact is not None:
            return release_text(self.exact)
        if self.low == OLDEST and self.high == NEWEST:
            return "unknown"
        if self.high == NEWEST:
            return f"{release_text(self.low)} or later"
        if self.low == OLDEST:
            return f"before {release_text(self.high)}"
        return f"{release_text(self.low)} or later, before {release_text(self.high)}"

    def has(self, behaviour: str) -> bool | None:
        """Whether the release behaves as ``[behaviour.<name>]`` of the eras table says; None when both are possible."""
        row = load("transformers_eras")["behaviour"][behaviour]
        since, before = parse_release(row["since"]) or OLDEST, parse_release(row["before"]) or OLDEST
        if self.low >= since:
            return True
        if self.exact is not None:
            return None if self.exact > before else False
        return False if self.high <= _after(before) else None

    def overlaps(self, first: Release, last: Release) -> bool:
        """Whether a release between `first` and `last` (both inclusive) fits."""
        return self.low <= last and first < self.high


UNKNOWN = VersionEvidence(OLDEST, NEWEST, None, "nothing in the directory tells the transformers version")


def _after(release: Release) -> Release:
    return release[0], release[1], release[2] + 1


def exact_version(release: Release, source: str) -> VersionEvidence:
    """One release, as a file states it."""
    return VersionEvidence(release, _after(release), release, source)


def from_fields(
    state_keys: Iterable[str] | None,
    argument_names: Iterable[str] | None,
    losses: Sequence[float] = (),
) -> VersionEvidence:
    """The interval that fields and number shapes allow.

    `state_keys`, `argument_names`: the keys found, None where the file is missing (a missing field then says
    nothing). `losses`: logged losses as written.
    """
    low, high = OLDEST, NEWEST
    reasons: list[str] = []
    table = load("transformers_eras")
    for place, found, rows in (
        ("trainer_state.json", state_keys, state_fields()),
        ("training_args.bin", argument_names, table["argument_field"]),
    ):
        names = frozenset(found) if found is not None else frozenset()
        if not names:
            continue
        for row in rows:
            present = row["name"] in names
            since, gone = parse_release(row.get("since")), parse_release(row.get("gone"))
            if since is not None:
                if present and since > low:
                    low = since
                    reasons.append(f"{place} has {row['name']} (from {row['since']})")
                elif not present and since < high:
                    high = since
                    reasons.append(f"{place} lacks {row['name']} (from {row['since']})")
            if gone is not None:
                if present and gone < high:
                    high = gone
                    reasons.append(f"{place} has {row['name']} (until {row['gone']})")
                elif not present and gone > low:
                    low = gone
                    reasons.append(f"{place} lacks {row['name']} (gone in {row['gone']})")
    unrounded = parse_release(table["behaviour"]["loss_unrounded"]["since"]) or OLDEST
    telling = {value for value in losses if value == value and abs(value) not in (0.0, math.inf)}
    if telling:
        has_digits = any(_decimals(value) > ROUNDED_DECIMALS for value in telling)
        if has_digits and unrounded > low:
            low = unrounded
            reasons.append("the logged losses are not rounded (from 5.0.0)")
        elif not has_digits and len(telling) >= 3 and unrounded < high and low < unrounded:
            high = unrounded
            reasons.append("the logged losses are rounded to 4 decimals (until 4.57)")
    if low >= high:  # a third-party trainer or a mixed directory: contradicting evidence is no evidence
        return VersionEvidence(OLDEST, NEWEST, None, "the files contradict one another: " + "; ".join(reasons[-4:]))
    if not reasons:
        return UNKNOWN
    return VersionEvidence(low, high, None, "; ".join(reasons[-3:]))


def state_fields() -> list[dict[str, str]]:
    """One telling key of trainer_state.json for each release that added some: a file may have lost the others."""
    telling: dict[str, dict[str, str]] = {}
    for name, row in load("trainer_state_eras").items():
        if "since" in row:
            telling.setdefault(row["since"], {"name": name, **row})
    return list(telling.values())


def _decimals(value: float) -> int:
    """Decimals of a number as JSON writes it; a small number in exponent form has more than any rounding leaves."""
    text = repr(float(value))
    if "e" in text:
        return ROUNDED_DECIMALS + 1 if "e-" in text else 0
    return len(text.partition(".")[2])


def narrow(stated: VersionEvidence, fields: VersionEvidence) -> VersionEvidence:
    """What a file states, unless its fields make that impossible: then the fields count.

    A directory can hold the config of another release than the one that trained (resaved, converted, copied from the
    base model), whereas the fields of trainer_state.json are those of the trainer.
    """
    if stated.exact is None:
        return fields
    if fields.low <= stated.exact < fields.high:
        return stated
    return VersionEvidence(
        fields.low, fields.high, None, f"{fields.source}; {stated.source} says {stated.text}, which does not fit"
    )


_CARD_LINE = re.compile(r"^\s*[-*]?\s*Transformers:?\s+v?(\d+\.\d+(?:\.\d+)?\S*)\s*$", re.MULTILINE)


def card_version(text: str) -> Release | None:
    """The transformers release in the "Framework versions" of a model card."""
    match = _CARD_LINE.search(text)
    return parse_release(match[1]) if match else None


def stated_version(statements: Iterable[tuple[str, object]]) -> VersionEvidence:
    """The first of (place, version text) that is a version."""
    for place, text in statements:
        release = parse_release(text)
        if release is not None:
            return exact_version(release, place)
    return UNKNOWN


def run_version(run: Run) -> VersionEvidence:
    """The transformers release that trained a run, from everything its directory holds."""
    if _MEMO not in run.memo:
        run.memo[_MEMO] = _work_out(run)
    found: VersionEvidence = run.memo[_MEMO]
    return found


_MEMO = "transformers version evidence"


def _work_out(run: Run) -> VersionEvidence:
    newest = run.newest_trainer_state
    state = newest[0] if newest is not None else None
    arguments = newest_training_args(run)
    fields = from_fields(
        state.values.keys() if state is not None else None,
        arguments.arguments.keys() if arguments is not None and _is_of_the_trainer(arguments) else None,
        tuple(point.value for point in state.losses) if state is not None else (),
    )
    stated = next((item for item in run.producers if item.name == "transformers" and item.version), None)
    if stated is None:
        return fields
    release = parse_release(stated.version)
    return fields if release is None else narrow(exact_version(release, stated.evidence), fields)


def _is_of_the_trainer(arguments: TrainingArgs) -> bool:
    """Whether the arguments are transformers' or a subclass: of somebody's own namespace a missing field tells nothing."""
    return {"output_dir", "save_steps", "max_grad_norm", "learning_rate"} <= arguments.arguments.keys()


def newest_training_args(run: Run) -> TrainingArgs | None:
    """The training arguments of the last session: the root's, else those of the highest checkpoint that has any.

    Sets of arguments without any value (a damaged file) are passed over.
    """
    for state in (run, *reversed(run.checkpoints)):
        found = state.training_args
        if found is not None and found.arguments:
            return found
    return None
