"""Settings files: found beside or above the run, nothing unknown in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_inspect.errors import UsageError
from ckpt_inspect.rules.config import find_config, read_config


def test_no_settings(tmp_path: Path) -> None:
    assert find_config(tmp_path).source is None or tmp_path not in find_config(tmp_path).source.parents


def test_the_nearest_file_with_settings_wins(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.ckpt-inspect]\nignore = ["CKP9"]\nbaseline = "known.json"\n')
    (tmp_path / "runs" / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    config = find_config(run)
    assert config.ignore == ("CKP9",)
    assert config.baseline == tmp_path / "known.json"
    (run / "ckpt-inspect.toml").write_text("strict = true\nmax-findings = 5\n[severity]\nCKP301 = 'note'\n")
    config = find_config(run)
    assert (config.strict, config.max_findings, config.severity) == (True, 5, {"CKP301": "note"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("selct = []", "did you mean select"),
        ("select = 'CKP1'", "a list of texts"),
        ("strict = 1", "true or false"),
        ("max-findings = 0", "a positive number"),
        ("severity = 'x'", "a table"),
        ("baseline = 3", "a path"),
        ("= 3", "not valid TOML"),
    ],
)
def test_a_wrong_settings_file_says_what_and_where(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "ckpt-inspect.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_settings_file_that_is_not_there() -> None:
    with pytest.raises(UsageError):
        read_config(Path("nowhere.toml"))
