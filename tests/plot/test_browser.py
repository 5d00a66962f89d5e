"""The page in a real browser: its script runs under its own content policy and draws. Skipped where there is no Chromium."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ckpt_inspect.plot.html import page
from ckpt_inspect.plot.series import Curve, Series
from ckpt_inspect.plot.smoothing import Smoothing
from plot.curves import curve, wave

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

HOSTILE = "</script><img src=x onerror=document.title='owned'><script>document.title='owned'</script>"


def dom(tmp_path: Path, curves: list[Curve], **options: object) -> str:
    """The document after the script ran."""
    file = tmp_path / "page.html"
    file.write_text(page(curves, Smoothing("ema"), **options), encoding="utf-8")  # type: ignore[arg-type]
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_every_series_is_drawn_and_can_be_switched(tmp_path: Path) -> None:
    gaps = Series("eval_loss", (50, 100, 150), (50.0, 100.0, 150.0), (3.0, math.nan, 1.9))
    text = dom(tmp_path, [curve(wave(200), gaps, wave(200, "learning_rate"), average=2.0, joins=(80,))])
    plot = text[text.index('id="plot"') : text.index("<table")]
    assert len(re.findall(r"<path [^>]*d=\"M", plot)) >= 4
    assert "train_loss 2 (average)" in plot
    controls = text[text.index('id="controls"') : text.index('id="plot"')]
    assert controls.count('type="checkbox"') == 4
    assert "EMA over 10 points" in controls


def test_a_hundred_thousand_points_are_drawn(tmp_path: Path) -> None:
    assert re.search(r"<path [^>]*d=\"M", dom(tmp_path, [curve(wave(100_000))]))


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    nothing = Series("loss", (1, 2), (1.0, 2.0), (math.nan, math.nan))
    assert "nothing to draw" in dom(tmp_path, [curve(nothing)])


def test_hostile_text_runs_nothing(tmp_path: Path) -> None:
    hostile = Series(HOSTILE, (1, 2, 3), (1.0, 2.0, 3.0), (3.0, 2.0, 1.0))
    text = dom(tmp_path, [curve(hostile, notes=(HOSTILE,))], title=HOSTILE)
    assert "<title>owned" not in text
    assert "<img" not in text
