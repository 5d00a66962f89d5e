"""The checkpoints of a `show` document as a table, with what is wrong with one below it."""

from __future__ import annotations

from typing import Any

from ckpt_inspect.printable import printable
from ckpt_inspect.report.numbers import counted, loss, short_count, size
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
        line.append(Span("best", "accent") if best and row["path"].rpartition("/")[2] == best else "")
        table.append(line)
    numbers = 2 + has_loss + has_eval
    screen.table(table, right=range(1, numbers))
    if len(shown) < len(rows):
        screen.line(f"and {len(rows) - len(shown)} more between them (--json lists all)", indent=2)
    _shards(screen, rows)
    _reasons(screen, shown)


def _chosen(rows: list[Json], best: Json | None) -> list[Json]:
    """The first and the last ones, the best and every broken one as far as there is room."""
    if len(rows) <= _MOST_ROWS:
        return rows
    wanted = {0, *range(len(rows) - 8, len(rows))}
    wanted |= {index for index, row in enumerate(rows) if best and row["path"].rpartition("/")[2] == best["checkpoint"]}
    wanted |= set([index for index, row in enumerate(rows) if not row["complete"]][:4])
    return [row for index, row in enumerate(rows) if index in wanted]


def zero_words(zero: Json) -> str:
    """A ZeRO tag in words."""
    parts = [stage_words(zero)]
    if zero["world_size"]:
        parts.append(counted(zero["world_size"], "rank"))
    if zero["model_parallel"] and zero["model_parallel"] > 1:
        parts.append(f"{zero['model_parallel']} model-parallel")
    if zero["expert_files"]:
        parts.append(counted(zero["expert_files"], "expert file"))
    if zero["layer_files"]:
        parts.append(counted(zero["layer_files"], "pipeline layer file"))
    if zero["dtype"]:
        parts.append(printable(zero["dtype"], 20))
    if zero["parameters"]:
        parts.append(f"{short_count(zero['parameters'])} parameters")
    version = f" (DeepSpeed {printable(zero['deepspeed_version'], 20)})" if zero["deepspeed_version"] else ""
    return ", ".join(parts) + version


def stage_words(zero: Json) -> str:
    """The stage: 0 is DeepSpeed without ZeRO."""
    return (
        f"ZeRO stage {zero['stage']}"
        if zero["stage"]
        else "DeepSpeed without ZeRO"
        if zero["stage"] == 0
        else "DeepSpeed"
    )


def fsdp_words(fsdp: Json) -> str:
    """FSDP or distributed shards in words."""
    name = "torch distributed checkpoint" if fsdp["kind"].startswith("dcp") else "FSDP"
    parts = [{"full": f"{name}, gathered into one file", "local": f"{name}, one file per rank"}.get(fsdp["kind"], name)]
    if fsdp["world_size"]:
        parts.append(counted(fsdp["world_size"], "rank"))
    if fsdp["parameters"]:
        parts.append(f"{short_count(fsdp['parameters'])} parameters")
    if fsdp["dtypes"]:
        parts.append("/".join(printable(name, 20) for name in fsdp["dtypes"]))
    return ", ".join(parts)


def _shards(screen: Screen, rows: list[Json]) -> None:
    """What the shards are: once if they are alike, else for the last checkpoints each."""
    said = [(printable(row["path"], 120), shard_words(row)) for row in rows]
    said = [(path, words) for path, words in said if words]
    if len({words for _, words in said}) == 1:
        screen.line(f"Shards: {said[0][1]}.", indent=2)
    else:
        for path, words in said[-_MOST_REASONS:]:
            screen.line(f"{path}: {words}.", indent=2, hang=4)


def shard_words(row: Json) -> str:
    """The shards of one checkpoint in words, '' where it has none."""
    if row["zero"]:
        return zero_words(row["zero"])
    return fsdp_words(row["fsdp"]) if row["fsdp"] else ""


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
    if words := shard_words(row):
        tag = f", tag {printable(row['zero']['tag'], 80)}" if row["zero"] else ""
        screen.field("Shards", f"{words}{tag}.")
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
