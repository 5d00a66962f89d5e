"""Tables of what changed in which release, from ``knowledge``: blocks of pages that are otherwise written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ckpt_inspect import knowledge
from make.tables import table_row

_LOSS = (
    "average_over_steps_of_this_call",
    "per_token_loss",
    "loss_unrounded",
    "epoch_unrounded",
    "speeds_of_this_call",
)
_FACTORS = {
    "G": "× accumulation steps",
    "W": "× processes",
    "boundary": "spike at the end of an epoch",
    "position": "too low by rows / (tokens + rows)",
}
_MODELS = {
    "plain": "models whose `forward` takes no loss arguments",
    "loss_kwargs": "models whose `forward` takes loss arguments",
    "any": "all",
}


def loss_behaviours() -> str:
    """Since when the logged loss and its average are what they are."""
    return _behaviours(_LOSS)


def other_behaviours() -> str:
    """The remaining behaviours: schedule, steps, checkpoints."""
    return _behaviours(name for name in knowledge.load("transformers_eras")["behaviour"] if name not in _LOSS)


def distortions() -> str:
    """Releases that logged a loss other than the one they trained on."""
    rows = knowledge.load("transformers_eras")["distortion"]
    lines = ["| transformers | logged loss | for | what happened | source |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        releases = row["first"] if row["first"] == row["last"] else f"{row['first']} to {row['last']}"
        lines.append(
            table_row((releases, _FACTORS[row["factor"]], _MODELS[row["models"]], row["meaning"], _code(row["source"])))
        )
    return "\n".join(lines)


def deepspeed_files() -> str:
    """The files of a tag directory."""
    rows: Mapping[str, Any] = knowledge.load("deepspeed_eras")["files"]
    lines = ["| file | stage | source |", "| --- | --- | --- |"]
    lines += [table_row((f"`{row['pattern']}`", row["stage"], _code(row["source"]))) for row in rows.values()]
    return "\n".join(lines)


def _behaviours(names: Iterable[str]) -> str:
    rows: Mapping[str, Any] = knowledge.load("transformers_eras")["behaviour"]
    lines = ["| since | last release read without | what holds | source |", "| --- | --- | --- | --- |"]
    for name in names:
        row = rows[name]
        lines.append(table_row((row["since"], row["before"], row["meaning"], _code(row["source"]))))
    return "\n".join(lines)


def _code(text: str) -> str:
    """Sources as text: underscores and stars of names are no emphasis."""
    return text.replace("*", "\\*").replace("_", "\\_")


BLOCKS: dict[str, Callable[[], str]] = {
    "loss-behaviours": loss_behaviours,
    "other-behaviours": other_behaviours,
    "loss-distortions": distortions,
    "deepspeed-files": deepspeed_files,
}
