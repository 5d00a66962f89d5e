"""Figures, pages and terminal charts: what is in them, what a hostile text cannot do to them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from ckpt_inspect.plot.html import page
from ckpt_inspect.plot.image import Style, figure, render, robust_limits
from ckpt_inspect.plot.names import shortest_names
from ckpt_inspect.plot.series import Series, series
from ckpt_inspect.plot.smoothing import Smoothing
from ckpt_inspect.plot.table import as_csv, as_json, table
from ckpt_inspect.plot.terminal import chart
from plot.curves import curve, make_run, wave

EVIL = "x\x1b]0;owned\x07\x1b[31m<script>alert(1)</script>$\\frac{1}{0}$ \u202e&amp; =cmd|' /C calc'!A0 </script><img src=x>"
NAN = Series("loss", (1, 2, 3, 4), (1.0, 2.0, 3.0, 4.0), (2.0, math.nan, 1.5, 1.0))
EVALUATION = Series("eval_loss", (50, 100, 150), (50.0, 100.0, 150.0), (3.0, 2.0, 1.9))
REFERENCE = Path(__file__).parent / "reference"
TOLERANCE = 12.0  # root mean square of grey levels; fonts and antialiasing differ between systems by less than 8


def pixels(data: bytes) -> np.ndarray:
    from matplotlib import image

    return np.asarray(image.imread(io.BytesIO(data), format="png"))[..., :3] * 255


CASES = {
    "plain": (dict(), Style(size=(5, 3), dpi=60)),
    "marked": (
        dict(
            series=(wave(200), EVALUATION),
            joins=(80,),
            checkpoints=(100, 200),
            best=100,
            average=1.9,
            notes=("resumed",),
        ),
        Style(size=(5, 3), dpi=60),
    ),
    "dark": (
        dict(series=(wave(200), wave(200, "learning_rate"))),
        Style(size=(5, 3), dpi=60, dark=True, title="night"),
    ),
}


def drawn(name: str) -> bytes:
    changes, style = CASES[name]
    series_ = changes.get("series", (wave(200),))
    rest = {key: value for key, value in changes.items() if key != "series"}
    return render(figure([curve(*series_, **rest)], style), "png", style)


@pytest.mark.parametrize("name", CASES)
def test_image_looks_as_it_did(name: str) -> None:
    ours, reference = pixels(drawn(name)), pixels((REFERENCE / f"{name}.png").read_bytes())
    height, width = (min(a, b) for a, b in zip(ours.shape[:2], reference.shape[:2], strict=True))
    assert max(abs(a - b) for a, b in zip(ours.shape[:2], reference.shape[:2], strict=True)) <= 12
    difference = ours[:height, :width] - reference[:height, :width]
    assert float(np.sqrt((difference**2).mean())) < TOLERANCE


def test_the_comparison_can_fail() -> None:
    ours, other = pixels(drawn("plain")), pixels((REFERENCE / "dark.png").read_bytes())
    height, width = (min(a, b) for a, b in zip(ours.shape[:2], other.shape[:2], strict=True))
    assert float(np.sqrt(((ours[:height, :width] - other[:height, :width]) ** 2).mean())) > 5 * TOLERANCE


def test_the_same_input_gives_the_same_bytes() -> None:
    style = Style()
    first, second = (render(figure([curve()], style), "svg", style) for _ in range(2))
    assert first == second


def test_pyplot_is_never_imported() -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from plot.curves import curve\nfrom ckpt_inspect.plot.image import Style, figure, render\n"
        "render(figure([curve()], Style()), 'png', Style())\nassert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_legend_states_what_is_drawn() -> None:
    axis = figure([curve(wave(200), EVALUATION, average=1.9, checkpoints=(100,), best=100, joins=(80,))], Style()).axes[
        0
    ]
    legend = " | ".join(text.get_text() for text in axis.get_legend().get_texts())
    for words in (
        "EMA over 10 points",
        "train_loss 1.9 (average)",
        "eval_loss, final 1.9",
        "best checkpoint (step 100)",
        "resumed",
    ):
        assert words in legend


def test_a_spike_does_not_flatten_the_curve() -> None:
    values = [1 + index / 100 for index in range(100)]
    assert robust_limits([*values, 1e6]) is not None
    assert robust_limits(values) is None


def test_hostile_text_is_only_text_in_svg() -> None:
    style = Style(title=EVIL)
    hostile = Series(EVIL, (1, 2, 3), (1.0, 2.0, 3.0), (3.0, 2.0, 1.0))
    text = render(figure([curve(hostile, name=EVIL.replace("/", "_"), notes=(EVIL,))], style), "svg", style).decode()
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()}
    assert not tags & {"script", "image", "a", "foreignObject"}
    assert "\x1b" not in text


def test_page_is_self_contained_and_escapes_what_a_file_says() -> None:
    hostile = Series(EVIL, (1, 2, 3), (1.0, 2.0, 3.0), (3.0, 2.0, math.nan))
    text = page([curve(hostile, name="a", notes=(EVIL,))], Smoothing("ema"), title=EVIL)
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert "<img" not in text
    assert not re.search(r"<[^>]*(src|href)\s*=", text)
    assert "default-src 'none'" in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data.group(1))["series"][0]["y"][-1] == "NaN"


def test_page_of_many_points_stays_small() -> None:
    assert len(page([curve(wave(100_000), wave(100_000, "grad_norm"))], Smoothing("ema"))) < 3_000_000


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("colour", [False, True])
def test_terminal_chart_fits_the_window(width: int, colour: bool) -> None:
    text = chart([curve(wave(300), EVALUATION)], Smoothing("ema"), width=width, height=20, colour=colour)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert (plain == text) == (not colour)
    assert max(len(line) for line in plain.splitlines()) <= max(width, 60)
    assert "eval_loss" in plain


def test_terminal_chart_of_hostile_names_has_no_escape_of_theirs() -> None:
    hostile = Series(EVIL, (1, 2, 3), (1.0, 2.0, 3.0), (3.0, 2.0, 1.0))
    text = chart([curve(hostile, name=EVIL, notes=(EVIL,))], Smoothing("ema"), width=80, height=15, colour=False)
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize("values", [(), (2.0,), (math.nan, math.nan), (2.0, 2.0, 2.0), (0.0, 1e308)])
def test_odd_series_are_drawn_everywhere(values: tuple[float, ...]) -> None:
    odd = Series("loss", tuple(range(len(values))), tuple(float(i) for i in range(len(values))), values)
    curves = [curve(odd)]
    assert render(figure(curves, Style(dpi=40)), "png", Style(dpi=40)).startswith(b"\x89PNG")
    assert chart(curves, Smoothing("ema"), width=60, height=12, colour=False) is not None
    assert "<html" in page(curves, Smoothing("ema"))
    assert table(curves)


def test_csv_holds_every_point_and_no_formula() -> None:
    rows = list(csv.reader(io.StringIO(as_csv([curve(NAN, name="=cmd")]))))
    assert rows[0] == ["run", "metric", "step", "value"]
    assert [row[3] for row in rows[1:]] == ["2.0", "nan", "1.5", "1.0"]
    assert all(row[0].startswith("'=") for row in rows[1:])


def test_json_is_json() -> None:
    document = json.loads(as_json([curve(NAN)], "1"), parse_constant=lambda token: pytest.fail(token))
    assert document["schema"] == "ckpt-inspect/plot-loss/1"
    assert document["runs"][0]["series"][0]["values"] == [2.0, "NaN", 1.5, 1.0]


def test_several_runs_are_told_apart_by_their_shortest_names() -> None:
    assert shortest_names(["/a/x/out", "/a/y/out"]) == ["x/out", "y/out"]
    assert shortest_names(["/a/one", "/b/two"]) == ["one", "two"]
    both = [curve(wave(50), name="one"), curve(wave(80), name="two")]
    legend = figure(both, Style()).axes[0].get_legend().get_texts()
    assert {text.get_text().split(":")[0] for text in legend} == {"one", "two"}


def test_evil_strings_of_the_collection(shared: Path, tmp_path: Path) -> None:
    strings = json.loads((shared / "samples" / "evil_strings.json").read_text())
    for item in strings:
        text = item if isinstance(item, str) else str(item.get("string", item.get("value", item)))
        hostile = Series(text, (1, 2), (1.0, 2.0), (2.0, 1.0))
        curves = [curve(hostile, notes=(text,))]
        shown = chart(curves, Smoothing("ema"), width=80, height=12, colour=False) + table(curves)
        assert all(character == "\n" or character.isprintable() for character in shown)
        assert "<script>" not in page(curves, Smoothing("ema"), title=text).replace("<script>\n", "", 1)


def test_command_line_writes_whole_files_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ckpt_inspect.cli.app import main

    run = make_run(tmp_path / "out", [{"step": step, "loss": 3.0 / step} for step in range(1, 9)])
    for suffix in ("png", "svg", "pdf", "html", "csv", "json"):
        target = tmp_path / f"curve.{suffix}"
        assert main(["plot-loss", str(run), "-o", str(target)]) == 0
        assert target.stat().st_size > 0
    assert main(["plot-loss", str(run), "-o", str(tmp_path / "curve.xyz")]) == 2
    assert main(["plot-loss", str(run), "-o", str(tmp_path / "nowhere" / "curve.png")]) == 2
    assert main(["plot-loss", str(run), "--metric", "nothing"]) == 2
    assert main(["plot-loss", str(tmp_path / "absent")]) == 3
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("curve")) == [
        f"curve.{suffix}" for suffix in ("csv", "html", "json", "pdf", "png", "svg")
    ]
    assert main(["plot-loss", str(run)]) == 0
    assert "loss" in capsys.readouterr().out


def test_the_numbers_of_a_bundled_run(fixtures: Path) -> None:
    drawn_series = series(fixtures / "resumed")
    assert drawn_series.checkpoints == (12, 16)
    assert drawn_series.joins == (8,)
    assert drawn_series.series[0].steps == (3, 6, 9, 12, 15)
