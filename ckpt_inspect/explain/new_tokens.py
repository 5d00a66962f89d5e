"""New tokens: where each one lives, whether its rows are in the saved files, and whether they were trained.

The rules are those of transformers `resize_token_embeddings`, and of PEFT's `save_embedding_layers="auto"` (peft
0.21.2, utils/save_and_load.py `get_peft_model_state_dict`), `modules_to_save` and `trainable_token_indices`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from ckpt_inspect.explain.answer import Evidence
from ckpt_inspect.explain.base_model import BaseFacts, find_base
from ckpt_inspect.explain.embedding_state import (
    ABSENT,
    Embedding,
    Side,
    State,
    adapter_embeddings,
    model_embeddings,
)
from ckpt_inspect.explain.new_token_rows import RowEvidence
from ckpt_inspect.explain.new_token_words import describe
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from pathlib import Path

    from ckpt_inspect.artifacts.tokenizer_types import Tokenizer
    from ckpt_inspect.run import StateDirectory

Place = Literal["needs_row", "padding_row", "out_of_range", "existing"]
Verdict = Literal[
    "none",
    "trained",
    "partly_trained",
    "saved_but_frozen",
    "in_padding_rows_untrained",
    "lost",
    "out_of_range",
    "unknown",
]


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token the base tokenizer did not have, and where its row is."""

    id: int
    token: str
    place: Place


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything the verdict rests on; `None` is "not known".

    `certain` is False where the new tokens were guessed from the tokenizer alone (plain tokens at its end).
    """

    tokens: tuple[tuple[int, str], ...]
    certain: bool
    tokenizer_length: int
    max_token_id: int
    base: BaseFacts | None
    input: Embedding
    output: Embedding
    tied: bool | None
    full_model: bool
    trained_ids: tuple[int, ...] | None = None

    @property
    def saved_rows(self) -> int | None:
        """Rows of the saved input embedding, else of the output one."""
        return self.input.rows if self.input.rows is not None else self.output.rows

    @property
    def base_rows(self) -> int | None:
        """Embedding rows of the base model."""
        return self.base.rows if self.base else None


@dataclass(frozen=True, slots=True)
class NewTokensAnswer:
    """The `new_tokens` object of DESIGN's contract, with its paragraph, arithmetic and evidence."""

    count: int
    tokens: tuple[NewToken, ...]
    tokenizer_length: int
    max_token_id: int
    base_rows: int | None
    saved_rows: int | None
    input_embedding: State
    output_embedding: State
    tied: bool | None
    verdict: Verdict
    explanation: str
    remedy: str | None = None
    base_tokens: int | None = None
    base_source: str | None = None
    arithmetic: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = field(default=())
    rows: tuple[RowEvidence, ...] = ()

    @property
    def paragraph(self) -> str:
        """The answer in words."""
        return f"{self.explanation} {self.remedy}" if self.remedy else self.explanation


def explain_tokens(
    directory: StateDirectory, *, base: Path | None = None, deep: bool = False
) -> NewTokensAnswer | None:
    """Where the new tokens of a run are and whether they were trained; None where there is no tokenizer to ask.

    Args:
        directory: a run, a checkpoint, an adapter or a model directory.
        base: the base model's directory, where the run does not lead to it.
        deep: read the rows of the new tokens and say whether they moved.
    """
    tokenizer = directory.tokenizer
    if tokenizer is None or not tokenizer.length or tokenizer.max_id is None:
        return None
    facts = find_base(directory, base)
    situation = _situation(directory, tokenizer, tokenizer.length, facts)
    found = answer(situation, _evidence(directory, situation))
    return _with_rows(found, directory, facts) if deep and found.tokens else found


def _with_rows(found: NewTokensAnswer, directory: StateDirectory, base: BaseFacts | None) -> NewTokensAnswer:
    from ckpt_inspect.explain.new_token_rows import examine_rows

    rows = examine_rows(directory, [token.id for token in found.tokens], found.tokenizer_length, base)
    said = " ".join(f"{item.statement[:1].upper()}{item.statement[1:]}." for item in rows)
    lines = tuple(f"rows, {item.statement}" for item in rows)
    return replace(
        found,
        rows=rows,
        explanation=f"{found.explanation} {said}".strip(),
        arithmetic=(*found.arithmetic, *lines),
    )


def answer(situation: Situation, evidence: tuple[Evidence, ...] = ()) -> NewTokensAnswer:
    """The verdict on a situation; pure, so that every case can be written down in a test."""
    tokens = tuple(NewToken(number, text, place(situation, number)) for number, text in situation.tokens)
    verdict = judge(situation, tokens)
    explanation, remedy = describe(situation, tokens, verdict)
    return NewTokensAnswer(
        count=len(tokens),
        tokens=tokens,
        tokenizer_length=situation.tokenizer_length,
        max_token_id=situation.max_token_id,
        base_rows=situation.base_rows,
        saved_rows=situation.saved_rows,
        input_embedding=situation.input.state,
        output_embedding=situation.output.state,
        tied=situation.tied,
        verdict=verdict,
        explanation=explanation,
        remedy=remedy,
        base_tokens=situation.base.tokens if situation.base else None,
        base_source=situation.base.source if situation.base else None,
        arithmetic=_arithmetic(situation, tokens),
        evidence=evidence,
    )


def place(situation: Situation, token: int) -> Place:
    """Where one token id lives: in a row the base has to spare, in a row it needs, or beyond every row there is."""
    base_rows, saved_rows = situation.base_rows, situation.saved_rows
    if situation.base and situation.base.tokens is not None and token < situation.base.tokens:
        return "existing"
    if saved_rows is not None and token >= saved_rows:
        return "out_of_range"
    if base_rows is not None:
        return "padding_row" if token < base_rows else "needs_row"
    return "needs_row"


def judge(situation: Situation, tokens: Sequence[NewToken]) -> Verdict:
    """One word for the situation. An id beyond every saved row outweighs all else."""
    if any(token.place == "out_of_range" for token in tokens) or _beyond_full_model(situation):
        return "out_of_range"
    if not tokens:
        return "none" if situation.certain else "unknown"
    input_learns = _covers(situation, situation.input, tokens)
    output_learns = _covers(situation, situation.output, tokens)
    if input_learns and output_learns:
        return "trained"
    if input_learns or output_learns:
        if situation.tied and _other(situation, input_learns).state == "absent":
            return "trained"  # one matrix serves both sides
        if situation.tied is None and _other(situation, input_learns).state == "absent":
            return "unknown"
        return "partly_trained"
    if "frozen_copy" in (situation.input.state, situation.output.state):
        return "saved_but_frozen"
    if situation.input.learns or situation.output.learns:
        return "partly_trained"  # some of the new ids are covered, none of the sides covers all
    if situation.base_rows is None:
        return "unknown"
    if all(token.place == "padding_row" for token in tokens):
        return "in_padding_rows_untrained"
    return "lost"


def _other(situation: Situation, input_learns: bool) -> Embedding:
    return situation.output if input_learns else situation.input


def _beyond_full_model(situation: Situation) -> bool:
    rows = situation.saved_rows
    return situation.full_model and rows is not None and situation.max_token_id >= rows


def _covers(situation: Situation, embedding: Embedding, tokens: Sequence[NewToken]) -> bool:
    if embedding.state == "selected_rows" and situation.trained_ids is not None:
        return {token.id for token in tokens} <= set(situation.trained_ids)
    if embedding.state == "selected_rows" and embedding.selected_rows is not None:
        return embedding.selected_rows >= len(tokens)
    return embedding.learns


def _situation(directory: StateDirectory, tokenizer: Tokenizer, length: int, base: BaseFacts | None) -> Situation:
    config = directory.adapter_config
    embeddings = _embeddings(directory)
    trained_ids = _trained_ids(config.trainable_token_indices) if config else None
    tokens, certain = _new_tokens(tokenizer, base, trained_ids)
    tied = base.tied if base else None
    if tied is None and directory.model_config is not None:
        tied = directory.model_config.tie_word_embeddings
    output = embeddings["output"]
    return Situation(
        tokens=tokens,
        certain=certain,
        tokenizer_length=length,
        max_token_id=tokenizer.max_id if tokenizer.max_id is not None else length - 1,
        base=base,
        input=embeddings["input"],
        output=output,
        tied=tied,
        full_model=config is None,
        trained_ids=trained_ids,
    )


def _embeddings(directory: StateDirectory) -> Mapping[Side, Embedding]:
    config = directory.adapter_config
    if config is not None:
        weights = directory.adapter_weights
        if weights is None:
            return {"input": ABSENT, "output": ABSENT}
        return adapter_embeddings(
            ((tensor.name, tensor.shape) for tensor in weights.tensors), tuple(config.modules_to_save or ())
        )
    weight_set = directory.weights
    if weight_set is None:
        return {"input": ABSENT, "output": ABSENT}
    return model_embeddings((tensor.name, tensor.shape) for tensor in weight_set.tensors)


def _trained_ids(value: object) -> tuple[int, ...] | None:
    """The ids of `trainable_token_indices`: a list, or a dict of module name to list (peft 0.21.2 LoraConfig)."""
    if isinstance(value, Mapping):
        lists = [set(_ints(ids)) for ids in value.values()]
        return tuple(sorted(set.union(*lists))) if lists else None
    ids = _ints(value)
    return ids or None


def _ints(value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        return ()
    return tuple(item for item in value if type(item) is int)


def _new_tokens(
    tokenizer: Tokenizer, base: BaseFacts | None, trained_ids: tuple[int, ...] | None
) -> tuple[tuple[tuple[int, str], ...], bool]:
    """The tokens the base did not have, and whether that is known or read off the tokenizer's tail."""
    added = sorted((token.id, token.content) for token in tokenizer.added)
    if base is not None and base.contents is not None:
        known = base.contents
        return tuple((number, text) for number, text in added if text not in known), True
    if base is not None and base.tokens is not None:
        return tuple((number, text) for number, text in added if number >= base.tokens), True
    if trained_ids is not None:
        contents = dict(added)
        return tuple((number, contents.get(number, "")) for number in trained_ids), False
    plain: list[tuple[int, str]] = []
    for token in sorted(tokenizer.added, key=lambda token: token.id, reverse=True):
        if token.special or token.id < (tokenizer.vocab_size or 0):
            break
        plain.append((token.id, token.content))
    return tuple(reversed(plain)), False


def _arithmetic(situation: Situation, tokens: Sequence[NewToken]) -> tuple[str, ...]:
    lines = [f"tokenizer: {situation.tokenizer_length} tokens, largest id {situation.max_token_id}"]
    if situation.base is not None:
        base = situation.base
        spare = base.rows - base.tokens if base.rows is not None and base.tokens is not None else None
        known = f"{base.rows if base.rows is not None else 'unknown'} embedding rows"
        length = f", {base.tokens} tokens" if base.tokens is not None else ""
        padding = f", {spare} padding rows" if spare is not None and spare > 0 else ""
        lines.append(f"base: {known}{length}{padding} ({base.source})")
    for side, embedding in (("input", situation.input), ("output", situation.output)):
        rows = f", {embedding.rows} rows" if embedding.rows is not None else ""
        selected = f", {embedding.selected_rows} selected rows" if embedding.selected_rows is not None else ""
        lines.append(f"{side} embedding: {embedding.state.replace('_', ' ')}{rows}{selected}")
    lines.extend(
        f"id {token.id} {printable(token.token, 40)}: {token.place.replace('_', ' ')}" for token in tokens[:12]
    )
    if len(tokens) > 12:
        lines.append(f"... and {len(tokens) - 12} more")
    return tuple(lines)


def _evidence(directory: StateDirectory, situation: Situation) -> tuple[Evidence, ...]:
    found: list[Evidence] = []
    config = directory.adapter_config
    if config is not None:
        found.append(Evidence("adapter_config.json", "modules_to_save", list(config.modules_to_save or ()) or None))
        found.append(Evidence("adapter_config.json", "trainable_token_indices", config.trainable_token_indices))
    for embedding in (situation.input, situation.output):
        found.extend(Evidence("weights", saved.key, list(saved.shape)) for saved in embedding.tensors)
    if situation.base is not None:
        found.append(Evidence(situation.base.source, "embedding rows", situation.base.rows))
    return tuple(found)
