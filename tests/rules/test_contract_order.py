"""Findings of a contract come in the same order in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_tensors_a_contract_does_not_know_are_listed_in_one_order_whatever_the_hash_seed(
    fixtures: Path, tmp_path: Path
) -> None:
    contract = tmp_path / "contract.toml"
    contract.write_text('schema = "ckpt-inspect/contract/1"\n\n[tensors]\n"a.tensor" = "F32 [1]"\n')
    outputs = set()
    for seed in ("1", "2", "3"):
        done = subprocess.run(
            [sys.executable, "-m", "ckpt_inspect", "check", fixtures / "lora-indices", "--contract", contract],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert done.returncode == 1, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1
