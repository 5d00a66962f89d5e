"""`ckpt-inspect tensors` as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders.safetensors_files import model_bytes


def call(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return subprocess.run(
        [sys.executable, "-m", "ckpt_inspect", "tensors", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**settings, **environment},
        check=False,
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shapes = {f"layers.{number}.{part}_proj.weight": ("F32", [2, 3]) for number in range(3) for part in "qkv"}
    (tmp_path / "model.safetensors").write_bytes(model_bytes(shapes))
    return tmp_path


def test_a_directory_prints_a_table_and_a_total(model: Path) -> None:
    done = call(model)
    assert (done.returncode, done.stderr) == (0, "")
    assert "layers.2.v_proj.weight" in done.stdout
    assert done.stdout.endswith("9 tensors, 54 parameters, 216 B\n")
    assert "\x1b" not in done.stdout


def test_filters_can_be_repeated_and_combined(model: Path) -> None:
    done = call(model, "-m", "*.q_proj.*", "-m", "layers.1", "-x", "*.v_proj.*", "--sort", "name", "--json")
    names = [row["name"] for row in json.loads(done.stdout)["tensors"]]
    assert names == [f"layers.{name}_proj.weight" for name in ("0.q", "1.k", "1.q", "2.q")]


def test_statistics_are_printed_when_asked_for(model: Path) -> None:
    done = call(model, "--stats", COLUMNS="120")
    assert done.returncode == 0
    assert "NAN/INF" in done.stdout.splitlines()[0]
    assert "100%" in done.stdout


def test_an_unknown_sort_key_is_wrong_usage(model: Path) -> None:
    done = call(model, "--sort", "beauty")
    assert (done.returncode, done.stdout) == (2, "")
    assert "place, name, size" in done.stderr


def test_a_file_that_holds_no_tensors_exits_3_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    done = call(tmp_path / "x.json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert call(tmp_path / "absent").returncode == 3


def test_without_stats_numpy_is_not_imported(model: Path) -> None:
    code = "import sys; from ckpt_inspect.cli.app import main; main(['tensors', sys.argv[1]]); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    shapes = {f"layers.{number}.weight": ("F32", [1]) for number in range(20_000)}
    (tmp_path / "model.safetensors").write_bytes(model_bytes(shapes))
    command = f'"{sys.executable}" -m ckpt_inspect tensors "{tmp_path}" | head -2'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout.count("\n")) == ("", 2)
