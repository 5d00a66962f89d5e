"""`plot_loss`: the curves of one or several runs as a matplotlib figure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckpt_inspect.plot.series import series
from ckpt_inspect.plot.smoothing import parse_smoothing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_loss(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    metrics: Sequence[str] = (),
    x: str = "step",
    smoothing: str = "ema",
    title: str | None = None,
    size: tuple[float, float] = (8.0, 4.8),
    dpi: int = 150,
    dark: bool = False,
    log_scale: bool = False,
) -> Figure:
    """Draw the training curves of one or several runs.

    Args:
        paths: run directories; several are overlaid.
        metrics: names as logged, wildcards allowed; by default the loss and the evaluation loss.
        x: "step", "epoch", "tokens" or "time".
        smoothing: "ema" (debiased, window chosen by length), "llamafactory", "none", or a window in points.
        title: of the figure; by default the names of the runs.
        size: width and height in inches.
        dpi: dots per inch.
        dark: light lines on a dark background.
        log_scale: logarithmic values.

    Raises:
        UsageError: no such metric, axis or smoothing.
        UnreadableError: a path cannot be read.
    """
    from ckpt_inspect.plot.image import Style, figure

    several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    style = Style(size, dpi, dark, log_scale, title, parse_smoothing(smoothing))
    return figure([series(path, metrics=metrics, x=x) for path in several], style)
