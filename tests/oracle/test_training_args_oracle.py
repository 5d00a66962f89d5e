"""training_args.bin read without importing, against the object that transformers itself unpickles."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_inspect.artifacts.training_args import read_training_args
from ckpt_inspect.storage import LocalFile

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.judge


def saved(tmp_path: Path, arguments: object) -> Path:
    path = tmp_path / "training_args.bin"
    torch.save(arguments, path)
    return path


@pytest.mark.parametrize("kind", ["plain", "seq2seq", "sft"])
def test_every_argument_is_the_one_transformers_reads(tmp_path: Path, kind: str) -> None:
    options = {
        "output_dir": str(tmp_path),
        "report_to": [],
        "use_cpu": True,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "hub_token": "hf_" + "z" * 34,
        "learning_rate": 3e-4,
        "warmup_steps": 0.1,
    }
    if kind == "sft":
        cls = pytest.importorskip("trl").SFTConfig
        options["bf16"] = False
    else:
        cls = getattr(transformers, {"plain": "TrainingArguments", "seq2seq": "Seq2SeqTrainingArguments"}[kind])
    arguments = cls(**options)
    with LocalFile(saved(tmp_path, arguments)) as source:
        found = read_training_args(source)
    assert found.faults == ()
    assert found.secrets == ("hub_token",)
    assert found.arguments["hub_token"] == "<hub_token: 37 characters>"
    expected = arguments.to_dict()
    for name, value in expected.items():
        if name.endswith("_token") or name == "accelerator_config" or name not in found.arguments:
            continue  # to_dict masks every *_token, special tokens of the tokenizer included
        assert found.arguments[name] == value, name
    missing = {name for name in expected if name not in found.arguments}
    assert missing <= {"_n_gpu"}
    assert found.world_size == 1
