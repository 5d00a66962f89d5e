"""Curves for the tests of `plot`: made of formulas, the same every time."""

from __future__ import annotations

import json
import math
from pathlib import Path

from ckpt_inspect.plot.series import Curve, Series


def wave(count: int, metric: str = "loss") -> Series:
    steps = tuple(range(1, count + 1))
    values = tuple(1 + 3 * math.exp(-step / (count / 4)) + 0.1 * math.sin(step * 1.7) for step in steps)
    return Series(metric, steps, tuple(float(step) for step in steps), values)


def curve(*series: Series, name: str = "run", **changes: object) -> Curve:
    facts: dict[str, object] = {
        "name": name,
        "path": f"/runs/{name}",
        "source": "trainer_state.json",
        "axis": "step",
        "series": series or (wave(200),),
        "joins": (),
        "replayed": 0,
        "checkpoints": (),
        "best": None,
        "average": None,
        "average_of": "average",
        "notes": (),
    }
    return Curve(**{**facts, **changes})  # type: ignore[arg-type]  # the table above is complete


def make_run(directory: Path, entries: list[dict[str, object]], **state: object) -> Path:
    """A run that is nothing but its trainer_state.json."""
    directory.mkdir(parents=True, exist_ok=True)
    last = max((entry["step"] for entry in entries if "step" in entry), default=0)
    document = {"global_step": last, "max_steps": last, "epoch": 1.0, "log_history": entries, **state}
    (directory / "trainer_state.json").write_text(json.dumps(document))
    return directory
