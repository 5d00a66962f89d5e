"""The sentences of the new-token answer: what happened, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.embedding_names import Side
    from ckpt_inspect.explain.embedding_state import Embedding
    from ckpt_inspect.explain.new_tokens import NewToken, Situation, Verdict

_TRAIN_THEM = (
    "Train them with trainable_token_indices={'embed_tokens': ids, 'lm_head': ids} (small) or "
    "modules_to_save=['embed_tokens', 'lm_head'] (whole matrices)."
)


_USE_THEM = (
    "Check that the training data holds them: the chat template that writes them has to be the one it was made with."
)


def describe(situation: Situation, tokens: Sequence[NewToken], verdict: Verdict) -> tuple[str, str | None]:
    """The explanation and the remedy (None where nothing is to be done) of a verdict."""
    words = {
        "none": _none,
        "trained": _trained,
        "partly_trained": _partly,
        "saved_but_frozen": _frozen,
        "in_padding_rows_untrained": _padding,
        "lost": _lost,
        "out_of_range": _out_of_range,
        "unknown": _unknown,
    }
    explanation, remedy = words[verdict](situation, tokens)
    return explanation + _copies(situation), remedy


def _names(tokens: Sequence[NewToken]) -> str:
    shown = ", ".join(printable(token.token, 24) for token in tokens[:4])
    more = f" and {len(tokens) - 4} more" if len(tokens) > 4 else ""
    plural = "token" if len(tokens) == 1 else "tokens"
    return f"{len(tokens)} new {plural} ({shown}{more})"


def _ids(tokens: Sequence[NewToken]) -> str:
    ids = sorted(token.id for token in tokens)
    if not ids:
        return ""
    if ids[-1] - ids[0] == len(ids) - 1 and len(ids) > 1:
        return f"ids {ids[0]} to {ids[-1]}"
    return ("id " if len(ids) == 1 else "ids ") + ", ".join(str(number) for number in ids[:6])


def _side(name: str, embedding: Embedding) -> str:
    return {
        "trained": f"the {name} embedding was trained as a whole and saved ({embedding.rows} rows)",
        "low_rank": f"the {name} embedding was trained through a low-rank update",
        "selected_rows": f"{embedding.selected_rows} rows of the {name} embedding were trained alone",
        "frozen_copy": f"the {name} embedding is a frozen copy ({embedding.rows} rows) that was saved, not trained",
        "absent": f"the {name} embedding is not in the files",
    }[embedding.state]


def _embedding(situation: Situation, side: Side) -> Embedding:
    return situation.input if side == "input" else situation.output


def _sides(situation: Situation) -> str:
    return f"{_side('input', situation.input)}; {_side('output', situation.output)}"


def _none(situation: Situation, tokens: Sequence[NewToken]) -> tuple[str, str | None]:
    base = situation.base
    known = f"{base.tokens} tokens" if base and base.tokens is not None else "the same tokens"
    return (
        f"No new tokens: the base tokenizer already has {known} (tokenizer here: {situation.tokenizer_length}).",
        None,
    )


def _trained(situation: Situation, tokens: Sequence[NewToken]) -> tuple[str, str | None]:
    if situation.full_model:
        return (
            f"{_names(tokens)}, {_ids(tokens)}: the whole model is saved and covers them "
            f"({situation.saved_rows} rows). Whether training changed their rows is in the values alone: "
            "--deep compares them.",
            None,
        )
    tie = ""
    if situation.silent:
        tie = " This model writes no tokens, so they need no output row."
    elif situation.output.shared or (situation.tied and "absent" in (situation.input.state, situation.output.state)):
        tie = " The base ties input and output, so the same rows serve both."
    elif situation.tied and situation.input.state == situation.output.state == "trained":
        tie = " The base ties input and output, but both were saved and trained apart: they may have diverged."
    return f"{_names(tokens)}, {_ids(tokens)}, were trained: {_sides(situation)}.{tie}", None


def _partly(situation: Situation, tokens: Sequence[NewToken]) -> tuple[str, str | None]:
    from ckpt_inspect.explain.new_tokens import coverage

    covered = coverage(situation, tokens)
    still = [side for side in situation.unmoved if _embedding(situation, side).learns]
    if len(still) == 1 and covered["output" if still[0] == "input" else "input"] == "all":
        return (
            f"{_names(tokens)}, {_ids(tokens)}, could be trained on both sides: {_sides(situation)}. But their rows of the "
            f"{still[0]} embedding did not move: the tokens hardly occur in the training data.",
            _USE_THEM,
        )
    if set(covered.values()) != {"all", "none"}:
        return (
            f"{_names(tokens)}, {_ids(tokens)}, were trained in part: {_sides(situation)}, and the trained rows do not "
            "cover every new id.",
            _TRAIN_THEM,
        )
    missing = "output" if covered["input"] == "all" else "input"
    effect = "read but hardly write them" if missing == "output" else "write but not read them"
    tie = ""
    if situation.tied and situation.input.state != "selected_rows":
        tie = " That the base ties its embeddings does not help: PEFT put the training on one side alone."
    return (
        f"{_names(tokens)}, {_ids(tokens)}, were trained on one side only: {_sides(situation)}. "
        f"The model learned to {effect}.{tie}",
        f"Cover the {missing} side too: {_TRAIN_THEM[0].lower()}{_TRAIN_THEM[1:]}",
    )


def _frozen(situation: Situation, tokens: Sequence[NewToken]) -> tuple[str, str | None]:
    said = f"{_names(tokens)}, {_ids(tokens)}:"
    if situation.full_model:
        return (
            f"{said} rows for them are saved, but training did not change them. The embeddings were frozen, or the "
            "tokens never occurred.",
            "Train the embeddings, on data that holds the tokens.",
        )
    if any(_embedding(situation, side).learns for side in situation.unmoved):
        return f"{said} their rows could be trained, but did not move: {_sides(situation)}.", _USE_THEM
    if not situation.input.called:
        return (
            f"{said} the input embedding was wrapped where no forward pass goes through it (the module `shared` only lends "
            "its parameter to encoder and decoder), so nothing was learned.",
            "Train them with trainable_token_indices=ids (the list form), which follows the tie.",
        )
    rows, base = situation.saved_rows, situation.base_rows
    reason = "PEFT saves them when the vocabulary size changed"
    if base is not None:
        reason = (
            f"PEFT saved them because the vocabulary size changed (base {base} rows, here {rows})"
            if base != rows
            else "They were saved on request (save_embedding_layers), not because anything trained them"
        )
    return (
        f"{said} the embeddings are in the adapter but were not trained. {reason}; no modules_to_save, LoRA target or "
        "trainable_token_indices names them, so the new rows still hold the values they had before training.",
        _TRAIN_THEM,
    )


def _padding(situation: Situation, tokens: Sequence[NewToken]) -> tuple[str, str | None]:
    base = situation.base
    length = base.tokens if base and base.tokens is not None else None
    spare = f" ({length} tokens, {situation.base_rows} rows)" if length is not None else ""
    why = "with the embeddings frozen"
    if situation.input.learns or situation.output.learns:
        why = "with only the rows of other ids trained"
    return (
        f"{_names(tokens)}, {_ids(tokens)}, sit in padding rows the base already had{spare}. No resize was needed, "
        f"so PEFT saved no matrix, and {why} these rows were never trained, here or in pretraining.",
        _TRAIN_THEM,
    )


def _lost(situation: Situation, tokens: Sequence[NewToken]) -> tuple[str, str | None]:
    needing = [token for token in tokens if token.place == "needs_row"]
    return (
        f"{_names(tokens)}: {_ids(needing)} need rows beyond the base's {situation.base_rows}, and no row of "
        "theirs was saved. If the model was resized for training, those rows are gone; loading gives a base without them.",
        f"Save the embeddings (save_embedding_layers=True). {_TRAIN_THEM}",
    )


def _out_of_range(situation: Situation, tokens: Sequence[NewToken]) -> tuple[str, str | None]:
    rows = situation.saved_rows if situation.saved_rows is not None else situation.base_rows
    return (
        f"The tokenizer's largest id is {situation.max_token_id}, but the saved embedding has {rows} rows: "
        "any text with such a token fails with an index error (a device-side assert on a GPU).",
        "Resize the model to len(tokenizer) before training, or use the tokenizer the weights were trained with.",
    )


def _unknown(situation: Situation, tokens: Sequence[NewToken]) -> tuple[str, str | None]:
    remedy = "Name the base model's directory with --base to decide it."
    if not tokens:
        return "Which tokens are new cannot be told without the base model's tokenizer.", remedy
    if not situation.readable:
        return (
            f"{_names(tokens)}, {_ids(tokens)}: the weights here hold no embedding that could be read, so whether they were "
            "trained cannot be told.",
            "Point at the directory with the model's weights; `consolidate` makes them from ZeRO and FSDP shards.",
        )
    if situation.base_rows is None and not (situation.input.learns or situation.output.learns):
        return (
            f"{_names(tokens)} ({_guess(situation)}), {_ids(tokens)}: no embedding was saved. "
            "Either they sit in padding rows of the base and were not trained, or they needed new rows and those are lost; "
            "the base model is not at hand to tell which.",
            remedy,
        )
    return (
        f"{_names(tokens)}, {_ids(tokens)}: {_sides(situation)}. Whether that covers both sides depends on whether the "
        "base ties its embeddings, and the base model is not at hand.",
        remedy,
    )


def _guess(situation: Situation) -> str:
    return "by the base's tokens" if situation.certain else "the plain tokens at the tokenizer's end"


def _copies(situation: Situation) -> str:
    worst = max(situation.input.copies, situation.output.copies)
    if worst < 2:
        return ""
    return (
        f" Each matrix is in the file {worst} times (modules_to_save together with a resize): "
        "only the plain .weight is loaded."
    )
