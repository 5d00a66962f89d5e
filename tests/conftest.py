"""Fixtures every test can use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The collection of real runs, corpus and samples; tests that need it are skipped where it is not."""
    value = os.environ.get("CKPT_INSPECT_SHARED", "")
    path = Path(value)
    if not value or not (path / "runs").is_dir():
        pytest.skip("CKPT_INSPECT_SHARED does not name the collection of real runs")
    return path.resolve()


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The small real runs bundled with the project."""
    return Path(__file__).resolve().parent.parent / "fixtures"
