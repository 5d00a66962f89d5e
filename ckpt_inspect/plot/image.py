"""Curves as a matplotlib figure: raw points faint, smoothed line strong, evaluations as marks, everything said in the legend.

Only `Figure` and its own canvas are used; pyplot's global state is never touched. Text from files is drawn without TeX.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckpt_inspect.plot.names import shortest_names
from ckpt_inspect.plot.series import SCHEDULES, Curve, Series
from ckpt_inspect.plot.smoothing import Smoothing, thinned
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_DRAWN = 6000
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")  # Okabe & Ito 2008
_AXIS_LABELS = {"step": "step", "epoch": "epoch", "tokens": "tokens seen", "time": "time (s)"}


@dataclass(frozen=True, slots=True)
class Style:
    """How the figure looks: inches, dots per inch, colours, scale; `title` None for the run's name."""

    size: tuple[float, float] = (8.0, 4.8)
    dpi: int = 150
    dark: bool = False
    log_scale: bool = False
    title: str | None = None
    smoothing: Smoothing = field(default_factory=lambda: Smoothing("ema"))

    @property
    def ink(self) -> str:
        """Colour of text and axes."""
        return "#e6e6e6" if self.dark else "#222222"

    @property
    def paper(self) -> str:
        """Colour of the background."""
        return "#15181c" if self.dark else "#ffffff"


def figure(curves: Sequence[Curve], style: Style) -> Figure:
    """Draw the curves. Learning rates get a panel of their own below; every other metric shares the first."""
    from matplotlib.figure import Figure

    panels = _panels(curves)
    drawn = Figure(figsize=style.size, dpi=style.dpi, facecolor=style.paper, layout="constrained")
    axes: Any = drawn.subplots(
        len(panels), 1, sharex=True, squeeze=False, height_ratios=[3.0] + [1.2] * (len(panels) - 1)
    )[:, 0]
    names = shortest_names([curve.path for curve in curves])
    for position, (axis, (label, metrics)) in enumerate(zip(axes, panels, strict=True)):
        _panel(axis, curves, names, metrics, style, main=position == 0)
        axis.set_ylabel(_text(label), color=style.ink)
    axes[-1].set_xlabel(_AXIS_LABELS[curves[0].axis] if curves else "step", color=style.ink)
    title = style.title if style.title is not None else " and ".join(names[:3])
    axes[0].set_title(_text(title), color=style.ink, fontsize="medium", loc="left")
    notes = [note for curve in curves for note in curve.notes]
    if notes:
        drawn.text(0.01, -0.02, _text("; ".join(notes), 200), fontsize="x-small", color=style.ink, va="top")
    return drawn


def render(drawn: Figure, kind: str, style: Style) -> bytes:
    """The figure as a png, svg or pdf file, the same bytes for the same input."""
    import matplotlib as mpl

    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}[kind]
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "ckpt-inspect", "svg.fonttype": "path"}):
        drawn.savefig(buffer, format=kind, dpi=style.dpi, metadata=metadata, bbox_inches="tight", facecolor=style.paper)
    return buffer.getvalue()


def robust_limits(values: Sequence[float]) -> tuple[float, float] | None:
    """Limits that a few spikes do not squash: the data's range, cut where a tail is far beyond the 2nd or 98th percentile."""
    ordered = sorted(value for value in values if math.isfinite(value))
    if len(ordered) < 20:
        return None
    low, high = ordered[len(ordered) // 50], ordered[-1 - len(ordered) // 50]
    spread = high - low
    if spread <= 0 or (ordered[-1] <= high + 1.5 * spread and ordered[0] >= low - 1.5 * spread):
        return None
    return max(ordered[0], low - 0.5 * spread), min(ordered[-1], high + 0.5 * spread)


def _panels(curves: Sequence[Curve]) -> list[tuple[str, list[str]]]:
    metrics = list(dict.fromkeys(series.metric for curve in curves for series in curve.series))
    rates = [metric for metric in metrics if metric in SCHEDULES]
    first = [metric for metric in metrics if metric not in rates]
    if not first:
        return [("learning rate" if rates else "loss", rates)]
    label = "loss" if all(metric.endswith("loss") for metric in first) else first[0] if len(first) == 1 else "value"
    return [(label, first), *([("learning rate", rates)] if rates else [])]


def _panel(
    axis: Axes, curves: Sequence[Curve], names: Sequence[str], metrics: Sequence[str], style: Style, *, main: bool
) -> None:
    handles: list[Any] = []
    labels: list[str] = []
    shown: list[float] = []
    number = 0
    for curve, name in zip(curves, names, strict=True):
        prefix = f"{name}: " if len(curves) > 1 else ""
        for metric in metrics:
            series = curve.get(metric)
            if series is None:
                continue
            colour = _COLOURS[number % len(_COLOURS)]
            number += 1
            for handle, label in _draw(axis, series, colour, style):
                handles.append(handle)
                labels.append(_text(prefix + label))
            shown.extend(series.values)
            if main and metric == "loss" and curve.average is not None and math.isfinite(curve.average):
                handles.append(axis.axhline(curve.average, color=colour, linestyle="--", linewidth=1, alpha=0.8))
                labels.append(_text(f"{prefix}train_loss {curve.average:.4g} ({curve.average_of})"))
        if main:
            extra_handles, extra_labels = _marks(axis, curve, style, prefix, single=len(curves) == 1)
            handles += extra_handles
            labels += extra_labels
    _finish(axis, style, shown, handles, labels)


def _draw(axis: Axes, series: Series, colour: str, style: Style) -> list[tuple[Any, str]]:
    final = series.final
    ending = f", final {final[1]:.4g}" if final is not None else ""
    x, values = thinned(series.x, series.values, MOST_DRAWN)
    drawn: list[tuple[Any, str]] = []
    if series.is_schedule:
        (line,) = axis.plot(x, values, linewidth=1.4, color=colour)
        drawn.append((line, series.metric + ending))
    elif series.is_evaluation or len(series.values) < 3:
        (line,) = axis.plot(x, values, marker="o", markersize=4, linewidth=1.2, color=colour)
        drawn.append((line, series.metric + ending))
    else:
        smooth, words = style.smoothing.apply(series.values)
        faint = 0.35 if words else 1.0
        (line,) = axis.plot(x, values, linewidth=0.9, color=colour, alpha=faint, marker="." if len(x) < 60 else "")
        drawn.append((line, series.metric + ending))
        if words:
            (line,) = axis.plot(*thinned(series.x, smooth, MOST_DRAWN), linewidth=1.8, color=colour)
            drawn.append((line, f"{series.metric}, {words}"))
    gaps = [x for x, value in zip(series.x, series.values, strict=True) if not math.isfinite(value)]
    if gaps:
        gaps, _ = thinned(gaps, [0.0] * len(gaps), MOST_DRAWN)  # type: ignore[assignment]  # only the positions matter
        (rug,) = axis.plot(
            gaps, [0.01] * len(gaps), "|", color="#c00000", markersize=7, transform=axis.get_xaxis_transform()
        )
        drawn.append((rug, f"{series.metric} is NaN or infinite"))
    return drawn


def _marks(axis: Axes, curve: Curve, style: Style, prefix: str, *, single: bool) -> tuple[list[Any], list[str]]:
    """Checkpoints as ticks on the upper edge, the best as a star there, resumes as dotted lines."""
    position = _position_of(curve)
    handles: list[Any] = []
    labels: list[str] = []
    top = axis.get_xaxis_transform()
    places = [place for step in curve.checkpoints if (place := position(step)) is not None]
    if places and single:
        (mark,) = axis.plot(
            places, [1.0] * len(places), "v", color=style.ink, markersize=4, transform=top, clip_on=False
        )
        handles.append(mark)
        labels.append("checkpoint")
    best = position(curve.best) if curve.best is not None else None
    if best is not None:
        (mark,) = axis.plot([best], [1.0], "*", color="#E69F00", markersize=10, transform=top, clip_on=False)
        handles.append(mark)
        labels.append(_text(f"{prefix}best checkpoint (step {curve.best})"))
    for index, step in enumerate(curve.joins):
        place = position(step)
        if place is not None:
            line = axis.axvline(place, color=style.ink, linestyle=":", linewidth=1)
            if index == 0:
                handles.append(line)
                labels.append(_text(f"{prefix}resumed"))
    return handles, labels


def _position_of(curve: Curve) -> Any:
    if curve.axis == "step":
        return lambda step: float(step)
    known: dict[int, float] = {}
    for series in curve.series:
        known.update(zip(series.steps, series.x, strict=True))
    return known.get


def _finish(axis: Axes, style: Style, shown: Sequence[float], handles: list[Any], labels: list[str]) -> None:
    axis.set_facecolor(style.paper)
    axis.tick_params(colors=style.ink, labelsize="small")
    for spine in axis.spines.values():
        spine.set_color(style.ink)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(visible=True, color=style.ink, alpha=0.12, linewidth=0.7)
    finite = [value for value in shown if math.isfinite(value)]
    if style.log_scale and finite and min(finite) > 0:
        axis.set_yscale("log")
    elif limits := robust_limits(finite):
        axis.set_ylim(*limits)
    if not finite:
        axis.text(
            0.5,
            0.5,
            "nothing to draw",
            transform=axis.transAxes,
            ha="center",
            va="center",
            color=style.ink,
            fontsize="large",
        )
    if handles:
        axis.legend(handles, labels, fontsize="x-small", frameon=False, labelcolor=style.ink)


def _text(text: str, limit: int = 80) -> str:
    """Escaped, shortened, and with `$` doubled by a backslash so that matplotlib does not read TeX."""
    return printable(text, limit).replace("$", r"\$")
