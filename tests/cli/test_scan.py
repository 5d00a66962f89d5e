"""`scan` on the command line: what it prints and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders.hostile import EXEC, PLAIN, benign
from builders.pickles import Called, Name, dump

from ckpt_inspect.cli.app import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["scan", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (PLAIN, 0),
        (next(sample.data for sample in benign() if sample.title == "training arguments"), 0),
        (dump(Called(Name("somepkg", "f")), 2), 1),
        (EXEC, 1),
        (b'{"hub_token": "' + b"hf_" + b"aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0xRuL" + b'"}', 1),
    ],
)
def test_the_exit_code_says_whether_to_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, code: int
) -> None:
    (tmp_path / "file.bin").write_bytes(data)
    assert run(capsys, str(tmp_path))[0] == code
    assert run(capsys, str(tmp_path / "file.bin"))[0] == code
    assert run(capsys, "--json", str(tmp_path))[0] == code


def test_unknown_can_be_let_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.pkl").write_bytes(dump(Called(Name("somepkg", "f")), 2))
    assert run(capsys, "--fail-at", "suspicious", str(tmp_path))[0] == 0
    assert run(capsys, "--fail-at", "unknown", str(tmp_path))[0] == 1


def test_wrong_usage_and_unreadable_paths_have_codes_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "--no-such-option")[0] == 2
    code, _, err = run(capsys, str(tmp_path / "nothing"))
    assert code == 3
    assert err.count("\n") == 1


def test_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.pkl").write_bytes(EXEC)
    _, out, _ = run(capsys, "--json", str(tmp_path))
    (file,) = json.loads(out)["files"]
    assert (file["path"], file["verdict"], file["coverage"]) == ("a.pkl", "dangerous", "complete")
    assert {"name": "posix.system", "use": "call", "tier": "T3"}.items() <= file["globals"][0].items()


def test_the_screen_says_first_what_matters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.pkl").write_bytes(EXEC)
    (tmp_path / "b.pkl").write_bytes(PLAIN)
    _, out, _ = run(capsys, str(tmp_path))
    lines = out.splitlines()
    assert "1 dangerous, 1 clean" in " ".join(lines[:3])
    assert "Do not load" in " ".join(lines[:4])
    assert "posix.system" in out
    assert "b.pkl" not in out.partition("torch.load")[0]


def test_a_scan_imports_no_library_that_could_load_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(EXEC)
    (tmp_path / "b.json").write_text("{}")
    script = (
        "import sys; from ckpt_inspect.cli.app import main; main(['scan', sys.argv[1]]);"
        "print([name for name in ('torch', 'numpy', 'pickle', 'marshal_', 'transformers', 'yaml', 'jinja2', 'pydantic')"
        " if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, env={**os.environ}, check=False
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"
