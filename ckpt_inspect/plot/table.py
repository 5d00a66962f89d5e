"""The numbers beneath a plot, and the numbers as files: a small table of final, best and average; CSV and JSON of every point."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ckpt_inspect.plot.names import shortest_names
from ckpt_inspect.plot.series import Curve
from ckpt_inspect.printable import printable

SCHEMA = "ckpt-inspect/plot-loss/1"
COLUMNS = ("run", "metric", "points", "first", "final", "best", "at step", "average")


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one run; `best` is the lowest of a loss and of anything else whose name says so, else the highest."""

    run: str
    metric: str
    points: int
    first: float | None
    final: float | None
    best: float | None
    best_step: int | None
    average: float | None


def rows(curves: Sequence[Curve]) -> tuple[Row, ...]:
    """A row per curve and metric."""
    found: list[Row] = []
    for curve, name in zip(curves, shortest_names([curve.path for curve in curves]), strict=True):
        for series in curve.series:
            finite = [
                (value, step) for step, value in zip(series.steps, series.values, strict=True) if math.isfinite(value)
            ]
            pick = min if lower_is_better(series.metric) else max
            best = pick(finite, key=lambda item: item[0]) if finite and not series.is_schedule else None
            found.append(
                Row(
                    name,
                    series.metric,
                    len(series.values),
                    series.values[0] if series.values else None,
                    series.values[-1] if series.values else None,
                    best[0] if best else None,
                    best[1] if best else None,
                    curve.average if series.metric == "loss" else None,
                )
            )
    return tuple(found)


def lower_is_better(metric: str) -> bool:
    """Whether small values are the good ones: losses, perplexities, error rates, gradients."""
    name = metric.lower()
    return any(word in name for word in ("loss", "perplexity", "wer", "cer", "error", "grad_norm", "kl", "entropy"))


def table(curves: Sequence[Curve]) -> str:
    """The rows as aligned plain text."""
    lines_of_cells = [COLUMNS, *(cells(row) for row in rows(curves))]
    widths = [max(len(line[column]) for line in lines_of_cells) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines_of_cells
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def as_csv(curves: Sequence[Curve]) -> str:
    """Every point: run, metric, step, position on the x axis, value. Text that a spreadsheet would run is quoted away."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    axis = curves[0].axis if curves else "step"
    writer.writerow(["run", "metric", "step", *([] if axis == "step" else [axis]), "value"])
    for curve, name in zip(curves, shortest_names([curve.path for curve in curves]), strict=True):
        for series in curve.series:
            label, metric = _harmless(name), _harmless(series.metric)
            for step, x, value in zip(series.steps, series.x, series.values, strict=True):
                writer.writerow([label, metric, step, *([] if axis == "step" else [repr(x)]), repr(value)])
    return buffer.getvalue()


def as_json(curves: Sequence[Curve], version: str) -> str:
    """Every point and every mark as one document (NaN and infinities as strings)."""
    document = {
        "schema": SCHEMA,
        "tool_version": version,
        "path": curves[0].path if len(curves) == 1 else [curve.path for curve in curves],
        "runs": [
            {
                "name": curve.name,
                "path": curve.path,
                "source": curve.source,
                "axis": curve.axis,
                "series": [
                    {
                        "metric": series.metric,
                        "steps": list(series.steps),
                        "x": list(series.x),
                        "values": [number(value) for value in series.values],
                    }
                    for series in curve.series
                ],
                "resumed_after": list(curve.joins),
                "replayed": curve.replayed,
                "checkpoints": list(curve.checkpoints),
                "best_step": curve.best,
                "train_loss": number(curve.average) if curve.average is not None else None,
                "notes": list(curve.notes),
            }
            for curve in curves
        ],
    }
    return json.dumps(document, ensure_ascii=True, allow_nan=False) + "\n"


def number(value: float) -> float | str:
    """A float JSON can hold, or its name."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def cells(row: Row) -> tuple[str, ...]:
    """The row as text for a table, in the order of `COLUMNS`."""
    return (
        printable(row.run, 40),
        printable(row.metric, 40),
        str(row.points),
        *(f"{value:.5g}" if value is not None else "-" for value in (row.first, row.final, row.best)),
        str(row.best_step) if row.best_step is not None else "-",
        f"{row.average:.5g}" if row.average is not None else "-",
    )


def _harmless(text: str) -> str:
    shown = printable(text, 200)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown
