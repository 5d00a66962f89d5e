"""What transformers really does when asked to resume from a damaged checkpoint, against what we say it would do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckpt_inspect.explain.resume import explain_resume
from ckpt_inspect.run import open_run

pytestmark = pytest.mark.judge
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

STEPS = 4


class Rows(torch.utils.data.Dataset[Any]):
    """Sixteen rows of eight tokens."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = torch.arange(index, index + 8) % 32
        return {"input_ids": ids, "labels": ids}


def trainer(output: Path, max_steps: int) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    arguments = transformers.TrainingArguments(
        str(output),
        max_steps=max_steps,
        save_steps=2,
        logging_steps=1,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    return transformers.Trainer(transformers.LlamaForCausalLM(config), arguments, train_dataset=Rows())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps with checkpoints at 2 and 4."""
    output = tmp_path_factory.mktemp("resume") / "out"
    trainer(output, STEPS).train()
    return output


@pytest.fixture(scope="module")
def whole(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The log of steps 3 and 4 when the resume from step 2 changes nothing."""
    return resume(finished, tmp_path_factory.mktemp("whole"), lambda checkpoint: None)


def resume(finished: Path, place: Path, damage: Callable[[Path], None]) -> list[dict[str, Any]]:
    """Resume from a damaged copy of checkpoint-2; the training entries after step 2."""
    output = place / "out"
    shutil.copytree(finished, output)
    shutil.rmtree(output / "checkpoint-4")
    damage(output / "checkpoint-2")
    instance = trainer(output, STEPS)
    instance.train(resume_from_checkpoint=str(output / "checkpoint-2"))
    return [entry for entry in instance.state.log_history if "loss" in entry and entry["step"] > 2]


def our_answer(finished: Path, place: Path, damage: Callable[[Path], None]) -> str:
    output = place / "ours"
    shutil.copytree(finished, output)
    shutil.rmtree(output / "checkpoint-4")
    damage(output / "checkpoint-2")
    answer = explain_resume(open_run(output))
    assert answer is not None
    return answer.checkpoints[0].verdict


def remove(*names: str) -> Callable[[Path], None]:
    return lambda checkpoint: [(checkpoint / name).unlink() for name in names] and None


def halve(name: str) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        data = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(data[: len(data) // 2])

    return damage


def edit_state(**changes: Any) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        path = checkpoint / "trainer_state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


FAILS = {
    "no trainer_state.json": remove("trainer_state.json"),
    "no weights": remove("model.safetensors"),
    "truncated weights": halve("model.safetensors"),
    "truncated optimizer.pt": halve("optimizer.pt"),
    "truncated scheduler.pt": halve("scheduler.pt"),
    "truncated trainer_state.json": halve("trainer_state.json"),
    "train_batch_size null": edit_state(train_batch_size=None),
}
RESUMES_OTHERWISE = {
    "no optimizer.pt": remove("optimizer.pt"),
    "no scheduler.pt": remove("scheduler.pt"),
    "neither": remove("optimizer.pt", "scheduler.pt"),
}
RESUMES = {
    "nothing missing": lambda checkpoint: None,
    "no training_args.bin": remove("training_args.bin"),
    "no config.json": remove("config.json"),
}


@pytest.mark.parametrize("name", FAILS)
def test_will_not(finished: Path, tmp_path: Path, name: str) -> None:
    assert our_answer(finished, tmp_path, FAILS[name]) == "will_not"
    with pytest.raises(Exception):  # noqa: B017  # every cause has an exception of its own
        resume(finished, tmp_path, FAILS[name])


@pytest.mark.parametrize("name", RESUMES_OTHERWISE)
def test_will_differ(finished: Path, tmp_path: Path, whole: list[dict[str, Any]], name: str) -> None:
    assert our_answer(finished, tmp_path, RESUMES_OTHERWISE[name]) == "will_differ"
    entries = resume(finished, tmp_path, RESUMES_OTHERWISE[name])
    assert [entry["learning_rate"] for entry in entries] != [entry["learning_rate"] for entry in whole]


@pytest.mark.parametrize("name", RESUMES)
def test_will(finished: Path, tmp_path: Path, whole: list[dict[str, Any]], name: str) -> None:
    assert our_answer(finished, tmp_path, RESUMES[name]) == "will"
    entries = resume(finished, tmp_path, RESUMES[name])
    assert [(e["step"], e["loss"], e["learning_rate"]) for e in entries] == [
        (e["step"], e["loss"], e["learning_rate"]) for e in whole
    ]


def test_without_rng_state_the_data_order_is_kept(finished: Path, tmp_path: Path, whole: list[dict[str, Any]]) -> None:
    assert our_answer(finished, tmp_path, remove("rng_state.pth")) == "will_differ"
    entries = resume(finished, tmp_path, remove("rng_state.pth"))
    # This model draws nothing at random, so that the same losses show the same order of rows.
    assert [entry["loss"] for entry in entries] == [entry["loss"] for entry in whole]


@pytest.mark.parametrize(("steps", "words", "reached"), [(4, "one step more", 5), (8, "no step would be trained", 8)])
def test_at_the_last_step(tmp_path: Path, steps: int, words: str, reached: int) -> None:
    output = tmp_path / "out"
    trainer(output, steps).train()
    answer = explain_resume(open_run(output))
    assert answer is not None
    assert words in answer.explanation
    instance = trainer(output, steps)
    instance.train(resume_from_checkpoint=str(output / f"checkpoint-{steps}"))
    assert instance.state.global_step == reached
