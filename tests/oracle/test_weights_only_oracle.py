"""The answer about `weights_only`, judged by torch itself on benign real files."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import pytest

from ckpt_inspect import knowledge
from ckpt_inspect.scan import scan_path

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.judge

SUFFIXES = (".pt", ".bin", ".pth", ".metadata")
LARGEST = 80_000_000


def files_of(root: Path) -> list[Path]:
    found = []
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory) / name
            if name.endswith(SUFFIXES) and path.stat().st_size <= LARGEST:
                with path.open("rb") as file:
                    if file.read(2) in (b"PK", b"\x80\x02", b"\x80\x04"):
                        found.append(path)
    return sorted(found)


def agree(path: Path) -> str | None:
    """What is wrong with our answer for a file, None if nothing."""
    ours = scan_path(path).files[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(path, map_location="cpu", weights_only=True)
        theirs, message = True, ""
    except Exception as error:  # noqa: BLE001  # torch raises many kinds
        theirs, message = False, str(error)
    if ours.loads_with_weights_only is not theirs:
        return f"{path}: torch says {theirs}, we say {ours.loads_with_weights_only} ({ours.reason}); {message[-300:]}"
    named = re.search(r"Unsupported global: GLOBAL (\S+) was not", message)
    if named and named.group(1) not in (ours.reason or ""):
        return f"{path}: torch stops at {named.group(1)}, we say {ours.reason}"
    return None


def test_the_table_is_that_of_this_torch() -> None:
    from torch._utils import IMPORT_MAPPING, NAME_MAPPING
    from torch._weights_only_unpickler import _get_allowed_globals

    table = knowledge.load("weights_only")
    if torch.__version__.partition("+")[0] != table["torch"]:
        pytest.skip("the table is of another version of torch")
    assert set(table["globals"]) == set(_get_allowed_globals())
    assert table["modules"] == IMPORT_MAPPING
    assert table["names"] == {":".join(key): ":".join(value) for key, value in NAME_MAPPING.items()}


def test_bundled_runs(fixtures: Path) -> None:
    found = files_of(fixtures)
    assert len(found) > 20
    assert [problem for problem in map(agree, found) if problem] == []


@pytest.mark.shared
@pytest.mark.slow
def test_every_real_torch_file(shared: Path) -> None:
    found = files_of(shared / "runs") + files_of(shared / "corpus")
    assert len(found) > 500
    assert [problem for problem in map(agree, found) if problem] == []
