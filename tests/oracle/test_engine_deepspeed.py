"""The installed library as an engine: the same bytes, the same commit, and never a pickle the scan does not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders.deepspeed import Job, save_latest, save_zero12
from consolidate.making import CONFIG, make_checkpoint, read_tensors, same, small_model, snapshot

from ckpt_inspect.cli.app import main
from ckpt_inspect.consolidate.api import consolidate, verify_consolidation
from ckpt_inspect.consolidate.engine_deepspeed import EngineMissingError, UntrustedPickleError
from ckpt_inspect.errors import CkptInspectError


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w').write('executed')",))


@pytest.fixture
def library():
    pytest.importorskip("torch")
    pytest.importorskip("deepspeed")


@pytest.mark.judge
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ties", [{}, {"lm_head.weight": "model.embed_tokens.weight"}])
@pytest.mark.parametrize("stage", [2, 3])
def test_both_engines_write_the_same(stage, ties, dtype, tmp_path, library, capfd):
    config = {**CONFIG, "tie_word_embeddings": bool(ties)}
    checkpoint = make_checkpoint(tmp_path, stage=stage, model=small_model(ties=ties), config=config)
    consolidate(checkpoint, tmp_path / "native", dtype=dtype, max_shard_size="1KB")
    capfd.readouterr()
    code = main(
        ["consolidate", str(checkpoint), "-o", str(tmp_path / "theirs"), "--engine", "deepspeed", "--dtype", dtype,
         "--max-shard-size", "1KB", "--json"]
    )  # fmt: skip
    captured = capfd.readouterr()
    assert code == 0, captured.err
    assert "executes the checkpoint's pickles" in captured.err
    document = json.loads(captured.out)
    assert document["engine"] == "deepspeed"
    assert any("executes" in warning for warning in document["warnings"])
    same(read_tensors(tmp_path / "theirs"), read_tensors(tmp_path / "native"))
    ours, theirs = snapshot(tmp_path / "native"), snapshot(tmp_path / "theirs")
    assert {**ours, "consolidation.json": b""} == {**theirs, "consolidation.json": b""}, "byte for byte"
    assert verify_consolidation(tmp_path / "theirs").ok


@pytest.mark.judge
@pytest.mark.shared
@pytest.mark.parametrize("run", ["hf-z2-2r-lora", "hf-z3-2r-bf16", "ds-z2-4r"])
def test_both_engines_write_the_same_for_real_runs(run, shared, tmp_path, library):
    source = shared / "runs" / run
    consolidate(source, tmp_path / "native")
    consolidate(source, tmp_path / "theirs", engine="deepspeed")
    same(read_tensors(tmp_path / "theirs"), read_tensors(tmp_path / "native"))


@pytest.mark.judge
def test_an_unknown_pickle_is_refused_and_nothing_is_executed(tmp_path, library):
    import torch

    checkpoint = make_checkpoint(tmp_path)
    shard = sorted((checkpoint / "global_step8").glob("*optim*"))[0]
    proof = tmp_path / "proof"
    torch.save({"optimizer_state_dict": Bomb(proof)}, shard)
    before = snapshot(tmp_path)
    with pytest.raises(UntrustedPickleError, match="could execute code"):
        consolidate(checkpoint, tmp_path / "out", engine="deepspeed")
    assert snapshot(tmp_path) == before
    with pytest.raises(CkptInspectError, match="deepspeed failed"):
        consolidate(checkpoint, tmp_path / "out", engine="deepspeed", trust=True)
    assert proof.exists(), "with trust the library reads what it is given"


@pytest.mark.judge
def test_the_script_inside_the_checkpoint_is_never_run(tmp_path, library):
    checkpoint = tmp_path / "checkpoint-8"
    save_zero12(checkpoint / "global_step8", small_model(), Job(world=2))
    save_latest(checkpoint, "global_step8")
    for name in ("zero_to_fp32.py", "zero_to_torch.py", "deepspeed.py"):
        (checkpoint / name).write_text(f"open({str(tmp_path / 'proof')!r}, 'w').write('executed')\n")
    consolidate(checkpoint, tmp_path / "out", engine="deepspeed")
    assert not (tmp_path / "proof").exists()


def test_without_the_library_one_line_names_the_extra(tmp_path, monkeypatch, capfd):
    checkpoint = make_checkpoint(tmp_path)
    monkeypatch.setattr("ckpt_inspect.consolidate.engine_deepspeed.find_spec", lambda name: None)
    with pytest.raises(EngineMissingError, match=r"torch and deepspeed.*ckpt-inspect\[deepspeed\]"):
        consolidate(checkpoint, tmp_path / "out", engine="deepspeed")
    assert main(["consolidate", str(checkpoint), "--engine", "deepspeed", "-q"]) == 1
    assert capfd.readouterr().err.count("\n") == 1
