"""Curves as one self-contained page: no network, no external script, a content policy that forbids both.

The numbers travel as JSON in a data block with `<`, `>` and `&` escaped; the script writes text with `textContent` only.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files

from ckpt_inspect.plot.names import shortest_names
from ckpt_inspect.plot.series import Curve
from ckpt_inspect.plot.smoothing import Smoothing, thinned
from ckpt_inspect.plot.table import COLUMNS, cells, number, rows
from ckpt_inspect.printable import printable

MOST_POINTS = 6000  # a series drawn from so many points looks the same as from all, and keeps the page small


def page(curves: Sequence[Curve], smoothing: Smoothing, *, title: str | None = None, log_scale: bool = False) -> str:
    """The page as text."""
    names = shortest_names([curve.path for curve in curves])
    heading = printable(title if title is not None else " and ".join(names[:3]), 120)
    data = {
        "axis": curves[0].axis if curves else "step",
        "log": log_scale,
        "series": [
            item
            for curve, name in zip(curves, names, strict=True)
            for item in _series(curve, name, smoothing, len(curves) > 1)
        ],
        "runs": [
            {
                "name": printable(name, 60),
                "resumed": list(curve.joins),
                "checkpoints": list(curve.checkpoints),
                "best": curve.best,
            }
            for curve, name in zip(curves, names, strict=True)
        ],
    }
    style, script = _resource("page.css"), _resource("page.js")
    policy = f"default-src 'none'; style-src 'sha256-{_digest(style)}'; script-src 'sha256-{_digest(script)}'"
    notes = [note for curve in curves for note in curve.notes]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(heading)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(heading)}</h1>\n"
        '<div id="controls"></div>\n<div id="plot" tabindex="0" role="img" aria-label="training curves"></div>\n'
        f"{_table(curves)}\n"
        + "".join(f"<p>{html.escape(printable(note, 300))}</p>\n" for note in notes)
        + f'<script type="application/json" id="data">{_data(data)}</script>\n<script>{script}</script>\n</body>\n</html>\n'
    )


def _series(curve: Curve, name: str, smoothing: Smoothing, several: bool) -> list[dict[str, object]]:
    drawn: list[dict[str, object]] = []
    for series in curve.series:
        label = f"{name}: {series.metric}" if several else series.metric
        x, values = thinned(series.x, series.values, MOST_POINTS)
        item: dict[str, object] = {
            "label": printable(label, 80),
            "panel": "rate" if series.is_schedule else "main",
            "marks": series.is_evaluation or len(series.values) < 3,
            "x": [_short(position) for position in x],
            "y": [_short(value) for value in values],
        }
        if not series.is_evaluation and not series.is_schedule and len(series.values) >= 3:
            smooth, words = smoothing.apply(series.values)
            if words:
                smooth_x, smooth_y = thinned(series.x, smooth, MOST_POINTS)
                item["smooth"] = {
                    "label": words,
                    "x": [_short(position) for position in smooth_x],
                    "y": [_short(value) for value in smooth_y],
                }
        if series.metric == "loss" and curve.average is not None:
            item["average"] = number(curve.average)
        drawn.append(item)
    return drawn


def _short(value: float) -> float | str | int:
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else number(rounded)


def _table(curves: Sequence[Curve]) -> str:
    head = "".join(f"<th>{word}</th>" for word in COLUMNS)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells(row))}</tr>" for row in rows(curves)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _data(data: object) -> str:
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resource(name: str) -> str:
    return (files("ckpt_inspect.plot") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
