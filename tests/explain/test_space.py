"""The ledger of bytes, and a deletion script that does nothing until somebody edits it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_inspect.explain.space import deletion_script, explain_space, size
from ckpt_inspect.run import open_run


def make_run(root: Path, *, best: int = 10) -> Path:
    for step in (10, 20, 30):
        place = root / f"checkpoint-{step}"
        place.mkdir(parents=True)
        state = {"global_step": step, "max_steps": 30, "log_history": [], "best_metric": 1.0}
        state["best_model_checkpoint"] = f"/elsewhere/checkpoint-{best}"
        (place / "trainer_state.json").write_text(json.dumps(state))
        (place / "tokenizer.json").write_bytes(b"x" * (100 << 10))
        header = b'{"w":{"dtype":"U8","shape":[200000],"data_offsets":[0,200000]}}'
        (place / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes([step]) * 200_000)
        (place / "optimizer.pt").write_bytes(bytes([step]) * 400_000)
    (root / "trainer_state.json").write_text((root / "checkpoint-30" / "trainer_state.json").read_text())
    return root


def test_every_byte_is_accounted_for(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "out"))
    answer = explain_space(run)
    assert answer is not None
    on_disk = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert answer.total == on_disk == sum(share.bytes for share in answer.purposes)


def test_the_best_and_the_newest_checkpoint_are_never_proposed_whole(tmp_path: Path) -> None:
    answer = explain_space(open_run(make_run(tmp_path / "out")))
    assert answer is not None
    whole = [path for proposal in answer.proposals for path in proposal.paths if "/" not in path]
    assert whole == ["checkpoint-20"]
    assert any("optimizer.pt" in path for proposal in answer.proposals for path in proposal.paths)


def test_equal_files_are_duplicates_and_different_ones_are_not(tmp_path: Path) -> None:
    answer = explain_space(open_run(make_run(tmp_path / "out")), deep=True)
    assert answer is not None
    assert [duplicate.paths for duplicate in answer.duplicates] == [
        tuple(f"checkpoint-{step}/tokenizer.json" for step in (10, 20, 30))
    ]
    assert answer.duplicates[0].certain
    assert answer.duplicates[0].bytes == 2 * (100 << 10)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell and names with line breaks")
def test_the_script_deletes_nothing_as_written_even_with_a_hostile_name(tmp_path: Path) -> None:
    root = make_run(tmp_path / "out")
    os.rename(root / "checkpoint-20", root / "checkpoint-20'\ntouch hacked\n'")
    (root / "left over\ntouch hacked.incomplete").write_bytes(b"z" * 70_000)
    run = open_run(root)
    answer = explain_space(run)
    assert answer is not None
    script = deletion_script(run, answer)
    before = sorted(root.rglob("*"))
    subprocess.run(["sh", "-c", script], check=True, cwd=tmp_path)
    assert sorted(root.rglob("*")) == before
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (250_000_000, "250 MB"), (3.2e12, "3.2 TB")]
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text
