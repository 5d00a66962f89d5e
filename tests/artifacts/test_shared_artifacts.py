"""Every file of the collection of real runs is read; what is called an error there really is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ckpt_inspect.artifacts.adapter import read_adapter_config
from ckpt_inspect.artifacts.adapter_weights import read_adapter_weights
from ckpt_inspect.artifacts.chat_template import read_chat_templates
from ckpt_inspect.artifacts.events import read_events
from ckpt_inspect.artifacts.images import read_png
from ckpt_inspect.artifacts.launch_args import read_launch_args
from ckpt_inspect.artifacts.lf_yaml import read_llamaboard_config
from ckpt_inspect.artifacts.model import read_generation_config, read_model_config
from ckpt_inspect.artifacts.model_card import read_model_card
from ckpt_inspect.artifacts.predictions import read_predictions
from ckpt_inspect.artifacts.processor import read_processor
from ckpt_inspect.artifacts.results import read_results
from ckpt_inspect.artifacts.tokenizer import read_tokenizer
from ckpt_inspect.artifacts.trainer_log import read_trainer_log
from ckpt_inspect.artifacts.trainer_state import read_trainer_state
from ckpt_inspect.knowledge import faults as fault_table
from ckpt_inspect.storage import LocalFile, LocalTree

pytestmark = pytest.mark.shared

READERS: dict[str, Callable[..., Any]] = {
    "trainer_state*.json": read_trainer_state,
    "*_results*.json": read_results,
    "*_results*.txt": read_results,
    "trainer_log.jsonl": read_trainer_log,
    "config.json": read_model_config,
    "generation_config.json": read_generation_config,
    "adapter_config*.json": read_adapter_config,
    "adapter_model*.safetensors": read_adapter_weights,
    "adapter_model*.bin": read_adapter_weights,
    "README.md": read_model_card,
    "generated_predictions.*": read_predictions,
    "llamaboard_config.yaml": read_llamaboard_config,
    "args.json": read_launch_args,
    "*tfevents*": read_events,
    "*.png": read_png,
    "preprocessor_config.json": read_processor,
}
# Files that are an unfetched git-LFS pointer: the corpus keeps what the repositories published.
POINTER = b"version https://git-lfs"


def files(shared: Path, pattern: str) -> Iterator[Path]:
    for place in ("runs", "corpus", "base"):
        yield from sorted((shared / place).rglob(pattern))


def errors(facts: Any) -> list[str]:
    table = fault_table()
    return [fault.kind for fault in facts.faults if table[fault.kind]["severity"] == "error"]


@pytest.mark.parametrize("pattern", READERS)
def test_every_real_file_is_read_and_only_a_broken_one_has_errors(shared: Path, pattern: str) -> None:
    count = 0
    for path in files(shared, pattern):
        with LocalFile(path) as source:
            facts = READERS[pattern](source)
            pointer = source.read_at(0, len(POINTER)) == POINTER
        assert bool(errors(facts)) == pointer, (path, facts.faults)
        count += 1
    assert count


def test_every_real_tokenizer_and_template_is_read_without_an_error(shared: Path) -> None:
    found: Counter[str] = Counter()
    for place in ("runs", "corpus", "base"):
        tree = LocalTree(shared / place)
        for directory in sorted({entry.parent for entry in tree.entries() if entry.kind == "file"}):
            tokenizer, templates = read_tokenizer(tree, directory), read_chat_templates(tree, directory)
            for facts in (tokenizer, templates):
                assert facts is None or not errors(facts), (directory, facts.faults)
            found["tokenizers"] += tokenizer is not None
            found["templates"] += templates is not None
            for template in templates.templates if templates else ():
                assert template.facts.error is None, (directory, template.place)
    assert found["tokenizers"] > 200
    assert found["templates"] > 100


def test_every_trainer_state_of_the_corpus_has_a_loss_or_says_why_not(shared: Path) -> None:
    without = [path for path in files(shared, "trainer_state.json") if _state(path).first_loss is None]
    for path in without:
        state = _state(path)
        assert state.faults or state.summary or not any(entry.kind == "train" for entry in state.log_history), path


def _state(path: Path) -> Any:
    with LocalFile(path) as source:
        return read_trainer_state(source)
