"""Fixtures every test can use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


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
