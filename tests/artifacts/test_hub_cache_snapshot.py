"""Finding a base model in the local Hugging Face cache, by the variables huggingface_hub reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_inspect.artifacts.hub_cache import find_snapshot

OLD, NEW = "a" * 40, "b" * 40


def make_cache(root: Path) -> Path:
    repository = root / "models--org--name"
    for commit in (OLD, NEW):
        (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(NEW)
    (repository / "refs" / "v1").write_text(OLD)
    return repository


@pytest.mark.parametrize(
    ("variable", "below"),
    [("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("TRANSFORMERS_CACHE", ""), ("HF_HOME", "hub"),
     ("XDG_CACHE_HOME", "huggingface/hub")],
)  # fmt: skip
def test_the_cache_is_where_the_environment_says(tmp_path: Path, variable: str, below: str) -> None:
    repository = make_cache(tmp_path / below)
    assert find_snapshot("org/name", None, {variable: str(tmp_path)}) == repository / "snapshots" / NEW


@pytest.mark.parametrize(("revision", "commit"), [(None, NEW), ("main", NEW), ("v1", OLD), (OLD, OLD)])
def test_a_branch_or_a_commit_names_the_snapshot(tmp_path: Path, revision: str | None, commit: str) -> None:
    repository = make_cache(tmp_path)
    assert find_snapshot("org/name", revision, {"HF_HUB_CACHE": str(tmp_path)}) == repository / "snapshots" / commit


@pytest.mark.parametrize("name", ["org/other", "../../etc", "org/../x", "/etc/passwd", "", "a/b/c", "org/name\n"])
def test_what_is_not_there_or_not_a_name_is_not_found(tmp_path: Path, name: str) -> None:
    make_cache(tmp_path)
    assert find_snapshot(name, None, {"HF_HUB_CACHE": str(tmp_path)}) is None


def test_a_commit_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    make_cache(tmp_path)
    assert find_snapshot("org/name", "c" * 40, {"HF_HUB_CACHE": str(tmp_path)}) is None
