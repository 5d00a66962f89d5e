"""New tokens: where each one lives, whether its rows are in the saved files, and whether they were trained.

The rules are those of transformers `resize_token_embeddings`, and of PEFT's `save_embedding_layers="auto"` (peft
0.21.2, utils/save_and_load.py `get_peft_model_state_dict`), `modules_to_save` and `trainable_token_indices`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from ckpt_inspect.artifacts.embedding_names import Side, is_silent
from ckpt_inspect.explain.answer import Evidence
from ckpt_inspect.explain.base_model import BaseFacts, find_base
from ckpt_inspect.explain.embedding_state import (
    ABSENT,
    Embedding,
    State,
    adapter_embeddings,
    model_embeddings,
    token_ids,
)
from ckpt_inspect.explain.new_token_rows import RowEvidence
from ckpt_inspect.explain.new_token_words import describe
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from pathlib import Path

    from ckpt_inspect.artifacts.tokenizer_types import Tokenizer
    from ckpt_inspect.run import StateDirectory

Place = Literal["needs_row", "padding_row", "out_of_range", "existing", "unknown"]
Coverage = Literal["all", "some", "none"]
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
    """A token the base tokenizer did not have, and where its row is ("unknown": the base's rows are not known)."""

    id: int
    token: str
    place: Place


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything the verdict rests on; `None` is "not known".

    `certain` is False where the new tokens were guessed without the base: plain tokens at the tokenizer's end, and those
    whose rows the configuration names. `silent`: the model writes no tokens, so that the input side is all they need.
    `unmoved`: the sides on which the values show that no new row changed. `readable`: the files that would hold the
    embeddings could be read, so that what is absent is absent.
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
    silent: bool = False
    unmoved: frozenset[Side] = frozenset()
    readable: bool = True

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
    evidence = _evidence(directory, situation)
    if deep and situation.tokens:
        from ckpt_inspect.explain.new_token_rows import examine_rows

        rows = examine_rows(directory, [number for number, _ in situation.tokens], tokenizer.length, facts)
        return _with_rows(answer(_observed(situation, rows), evidence), rows)
    return answer(situation, evidence)


def _observed(situation: Situation, rows: Sequence[RowEvidence]) -> Situation:
    """The situation as its values show it: what could have been trained and was not is no longer called trained."""
    unmoved = {item.side for item in rows if item.verdict == "initial"}
    if situation.full_model and situation.tied and unmoved:
        unmoved = {"input", "output"}
    sides = {"input": situation.input, "output": situation.output}
    if situation.full_model:
        sides.update({side: replace(sides[side], state="frozen_copy") for side in unmoved})
    return replace(situation, input=sides["input"], output=sides["output"], unmoved=frozenset(unmoved))


def _with_rows(found: NewTokensAnswer, rows: tuple[RowEvidence, ...]) -> NewTokensAnswer:
    told = [item for item in rows if item.verdict != "unclear" or _state(found, item.side) != "frozen_copy"]
    said = " ".join(f"{item.statement[:1].upper()}{item.statement[1:]}." for item in told)
    lines = tuple(f"rows, {item.statement}" for item in rows)
    return replace(
        found,
        rows=rows,
        explanation=f"{found.explanation} {said}".strip(),
        arithmetic=(*found.arithmetic, *lines),
    )


def _state(found: NewTokensAnswer, side: Side) -> State:
    return found.input_embedding if side == "input" else found.output_embedding


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
    return "unknown"


def judge(situation: Situation, tokens: Sequence[NewToken]) -> Verdict:
    """One word for the situation. An id beyond every saved row outweighs all else."""
    if any(token.place == "out_of_range" for token in tokens) or _beyond_full_model(situation):
        return "out_of_range"
    if not tokens:
        return "none" if situation.certain else "unknown"
    covered = coverage(situation, tokens)
    needed = [covered["input"]] if situation.silent else list(covered.values())
    if set(needed) == {"all"}:
        return "trained"
    if set(needed) != {"none"}:
        return "unknown" if situation.tied is None and _tie_decides(situation) else "partly_trained"
    if situation.unmoved or "frozen_copy" in (situation.input.state, situation.output.state):
        return "saved_but_frozen"
    if situation.base_rows is None or not situation.readable:
        return "unknown"
    if all(token.place == "padding_row" for token in tokens):
        return "in_padding_rows_untrained"
    return "lost"


def coverage(situation: Situation, tokens: Sequence[NewToken]) -> dict[Side, Coverage]:
    """How many of the new tokens have rows that training could change, on each side.

    Rows trained alone serve both sides of tied embeddings (peft 0.21.2 `TrainableTokensWrapper`, `tied_adapter`); a LoRA
    or a copy (`modules_to_save`) on one side leaves the other as it was, tied or not, unless `ensure_weight_tying`
    put the same there.
    """
    covered: dict[Side, Coverage] = {
        "input": "none" if "input" in situation.unmoved else _coverage(situation.input, tokens),
        "output": "none" if "output" in situation.unmoved else _coverage(situation.output, tokens),
    }
    if situation.tied and _tie_decides(situation):
        covered["output"] = covered["input"]
    return covered


def _tie_decides(situation: Situation) -> bool:
    """Whether the output side is covered exactly if the base ties its embeddings."""
    return situation.input.state == "selected_rows" and situation.output.state == "absent"


def _coverage(embedding: Embedding, tokens: Sequence[NewToken]) -> Coverage:
    if embedding.state != "selected_rows":
        return "all" if embedding.learns else "none"
    if embedding.ids is None:
        return "all" if (embedding.selected_rows or 0) >= len(tokens) else "some"
    chosen = {token.id for token in tokens} & set(embedding.ids)
    return "all" if len(chosen) == len(tokens) else "some" if chosen else "none"


def _beyond_full_model(situation: Situation) -> bool:
    rows = situation.saved_rows
    return situation.full_model and rows is not None and situation.max_token_id >= rows


def _situation(directory: StateDirectory, tokenizer: Tokenizer, length: int, base: BaseFacts | None) -> Situation:
    config, model = directory.adapter_config, directory.model_config
    tied = base.tied if base else None
    if tied is None and model is not None:
        tied = model.tie_word_embeddings
    embeddings = _embeddings(directory, tied)
    named = {number for ids in token_ids(config).values() for number in ids}
    tokens, certain = _new_tokens(tokenizer, base, named)
    return Situation(
        tokens=tokens,
        certain=certain,
        tokenizer_length=length,
        max_token_id=tokenizer.max_id if tokenizer.max_id is not None else length - 1,
        base=base,
        input=embeddings["input"],
        output=embeddings["output"],
        tied=tied,
        full_model=config is None,
        readable=_readable(directory, embeddings),
        silent=is_silent(config.task_type if config else None, _classes(directory)),
    )


def _readable(directory: StateDirectory, embeddings: Mapping[Side, Embedding]) -> bool:
    """An adapter need not hold an embedding; a full model whose embedding is not found was not read, or names it oddly."""
    if directory.adapter_config is not None:
        return directory.adapter_weights is not None
    return any(embedding.state != "absent" for embedding in embeddings.values())


def _classes(directory: StateDirectory) -> tuple[str, ...]:
    """The class of the model that was trained: of the adapter's configuration, else of the model's own."""
    config, model = directory.adapter_config, directory.model_config
    if config is not None:
        mapping = config.values.get("auto_mapping")
        name = mapping.get("base_model_class") if isinstance(mapping, Mapping) else None
        return (name,) if isinstance(name, str) else ()
    return model.architectures if model is not None else ()


def _embeddings(directory: StateDirectory, tied: bool | None) -> Mapping[Side, Embedding]:
    config = directory.adapter_config
    if config is not None:
        weights = directory.adapter_weights
        return adapter_embeddings(weights.tensors if weights is not None else (), config)
    weight_set = directory.weights
    if weight_set is None:
        return {"input": ABSENT, "output": ABSENT}
    return model_embeddings(((tensor.name, tensor.shape) for tensor in weight_set.tensors), tied=tied)


def _new_tokens(
    tokenizer: Tokenizer, base: BaseFacts | None, named: set[int]
) -> tuple[tuple[tuple[int, str], ...], bool]:
    """The tokens the base did not have, and whether that is known or guessed.

    Guessed without the base: the plain tokens at the tokenizer's end, and the added ones whose rows are trained alone.
    """
    added = sorted((token.id, token.content) for token in tokenizer.added)
    if base is not None and base.contents is not None:
        known = base.contents
        return tuple((number, text) for number, text in added if text not in known), True
    if base is not None and base.tokens is not None:
        return tuple((number, text) for number, text in added if number >= base.tokens), True
    tail: set[int] = set()
    for token in sorted(tokenizer.added, key=lambda token: token.id, reverse=True):
        if token.special or token.id < (tokenizer.vocab_size or 0):
            break
        tail.add(token.id)
    return tuple((number, text) for number, text in added if number in tail | named), False


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
    lines.extend(f"id {token.id} {printable(token.token, 40)}: {_place_words(token)}" for token in tokens[:12])
    if len(tokens) > 12:
        lines.append(f"... and {len(tokens) - 12} more")
    return tuple(lines)


def _place_words(token: NewToken) -> str:
    return "place unknown without the base" if token.place == "unknown" else token.place.replace("_", " ")


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
