"""The checkpoints of a `show` document as a table, with what is wrong with one below it."""

from __future__ import annotations

from typing import Any

from ckpt_inspect.printable import printable
from ckpt_inspect.report.numbers import loss, short_count, size
from ckpt_inspect.report.screen import Piece, Screen, Span

Json = dict[str, Any]

_MOST_ROWS = 14
_MOST_REASONS = 6
_RESUME: dict[str, Span] = {
    "will": Span("yes", "good"),
    "will_differ": Span("differs", "warn"),
    "will_not": Span("no", "bad"),
    "unknown": Span("?", "dim"),
}
_ZERO_KEYS = ("stage", "world_size", "model_parallel", "dtype", "deepspeed_version", "parameters")


def checkpoint_table(screen: Screen, document: Json) -> None:
    """One line for each checkpoint, the best one marked; then the ZeRO facts, then the reasons."""
    rows = document["checkpoints"]
    if len(rows) == 1 and rows[0]["path"] == ".":
        _single(screen, document, rows[0])
        return
    shown = _chosen(rows, document["best"])
    screen.heading("Checkpoints")
    has_loss = any(row["loss"] is not None for row in rows)
    has_eval = any(row["eval"] is not None for row in rows)
    best = document["best"]["checkpoint"] if document["best"] else None
    metric = (document["best"] or {}).get("metric") or "eval_loss"
    head: list[Piece] = ["", "size", *(["loss"] if has_loss else []), *([printable(metric, 30)] if has_eval else [])]
    table: list[list[Piece]] = [[*head, "whole", "resumes", ""]]
    for row in shown:
        line: list[Piece] = [printable(row["path"], 120), size(row["bytes"])]
        if has_loss:
            line.append(loss(row["loss"]))
        if has_eval:
            line.append(loss(row["eval"]))
        line += [Span("yes", "good") if row["complete"] else Span("no", "bad"), _RESUME[row["resume"]]]
        line.append(Span("best", "accent") if best and row["path"] == best else "")
        table.append(line)
    numbers = 2 + has_loss + has_eval
    screen.table(table, right=range(1, numbers))
    if len(shown) < len(rows):
        screen.line(f"and {len(rows) - len(shown)} more between them (--json lists all)", indent=2)
    _zero(screen, rows)
    _reasons(screen, shown)


def _chosen(rows: list[Json], best: Json | None) -> list[Json]:
    """The first and the last ones, the best and every broken one as far as there is room."""
    if len(rows) <= _MOST_ROWS:
        return rows
    wanted = {0, *range(len(rows) - 8, len(rows))}
    wanted |= {index for index, row in enumerate(rows) if best and row["path"] == best["checkpoint"]}
    wanted |= set([index for index, row in enumerate(rows) if not row["complete"]][:4])
    return [row for index, row in enumerate(rows) if index in wanted]


def zero_words(zero: Json) -> str:
    """A ZeRO tag in words."""
    parts = [f"ZeRO stage {zero['stage']}" if zero["stage"] is not None else "DeepSpeed"]
    if zero["world_size"]:
        parts.append(f"{zero['world_size']} ranks" if zero["world_size"] != 1 else "1 rank")
    if zero["model_parallel"] and zero["model_parallel"] > 1:
        parts.append(f"{zero['model_parallel']} model-parallel")
    if zero["dtype"]:
        parts.append(printable(zero["dtype"], 20))
    if zero["parameters"]:
        parts.append(f"{short_count(zero['parameters'])} parameters")
    version = f" (DeepSpeed {printable(zero['deepspeed_version'], 20)})" if zero["deepspeed_version"] else ""
    return ", ".join(parts) + version


def _zero(screen: Screen, rows: list[Json]) -> None:
    sharded = [row for row in rows if row["zero"]]
    kinds = {tuple(row["zero"][key] for key in _ZERO_KEYS) for row in sharded}
    if len(kinds) == 1:
        screen.line(f"Shards: {zero_words(sharded[0]['zero'])}.", indent=2)
    else:
        for row in sharded[-_MOST_REASONS:]:
            screen.line(f"{printable(row['path'], 120)}: {zero_words(row['zero'])}.", indent=2, hang=4)


def _reasons(screen: Screen, rows: list[Json]) -> None:
    """Why a checkpoint is not whole or does not resume as it was; equal reasons are said once."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row["reasons"] and (row["resume"] != "will" or not row["complete"]):
            grouped.setdefault(tuple(row["reasons"][:2]), []).append(printable(row["path"], 120))
    for reasons, paths in list(grouped.items())[-_MOST_REASONS:]:
        who = paths[0] if len(paths) == 1 else f"{len(paths)} checkpoints" if len(paths) > 3 else ", ".join(paths)
        screen.line(Span(who, "warn"), f": {'; '.join(reasons)}.", indent=2, hang=4)


def _single(screen: Screen, document: Json, row: Json) -> None:
    """A checkpoint opened by its own path needs no table."""
    if row["zero"]:
        screen.field("Shards", f"{zero_words(row['zero'])}, tag {printable(row['zero']['tag'], 80)}.")
    if document["kind"] == "checkpoint":
        whole = Span("whole", "good") if row["complete"] else Span("not whole", "bad")
        words = {
            "will": ", resumes as it stopped.",
            "will_differ": ", resumes with a difference: ",
            "will_not": ", cannot be resumed: ",
            "unknown": ", resuming not decided: ",
        }[row["resume"]]
        reasons = "; ".join(row["reasons"][:2]) + "." if row["reasons"] and row["resume"] != "will" else ""
        screen.field(
            "State", whole, words.rstrip(": ") + "." if not reasons and not words.endswith(".") else words, reasons
        )
