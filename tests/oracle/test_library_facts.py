"""The table `show` is compared with is what the libraries installed here say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.judge, pytest.mark.shared]

SAMPLE = ("lf-sft-lora", "qwen-lora-sft-mts", "hf-z3-2r-bf16", "tf446-resume", "ds-moe-z1-2r", "ds012-z3-2r-bf16")


def test_the_table_of_library_facts_is_current(shared: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    here = Path(__file__).parent
    table = json.loads((here.parent / "report" / "library_facts.json").read_text(encoding="utf-8"))
    command = [sys.executable, str(here / "library_facts.py"), str(shared / "runs"), *SAMPLE]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout) == {name: table[name] for name in SAMPLE}
