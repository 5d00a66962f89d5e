"""The hostile and abnormal samples of the shared collection, given to the readers of JSON artifacts and templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders.tokenizer_files import added, tokenizer_json, write

from ckpt_inspect.artifacts.adapter import read_adapter_config
from ckpt_inspect.artifacts.chat_template import read_chat_templates
from ckpt_inspect.artifacts.model import read_model_config
from ckpt_inspect.artifacts.template_syntax import template_facts
from ckpt_inspect.artifacts.tokenizer import read_tokenizer
from ckpt_inspect.artifacts.trainer_state import read_trainer_state
from ckpt_inspect.storage import BytesSource, LocalFile, LocalTree

pytestmark = pytest.mark.shared


@pytest.mark.parametrize("reader", [read_trainer_state, read_adapter_config, read_model_config])
def test_abnormal_json_is_described_and_never_raises(shared: Path, reader: Any) -> None:
    files = sorted((shared / "samples" / "abnormal" / "files" / "json").glob("*.json"))
    assert files
    for path in files:
        with LocalFile(path) as source:
            facts = reader(source)
        assert facts.faults or "negzero" in path.name or facts.complete, path.name


def test_hostile_templates_are_parsed_and_never_run(shared: Path) -> None:
    files = sorted((shared / "samples" / "abnormal" / "files" / "templates").glob("*.jinja"))
    assert files
    broken = {path.name for path in files if template_facts(path.read_text(encoding="utf-8")).error}
    assert broken == {"c13_deep_nesting.jinja", "c25_zero_width.jinja"}


def test_a_hostile_inline_template_is_found(shared: Path) -> None:
    tree = LocalTree(shared / "samples" / "abnormal" / "files" / "templates")
    templates = read_chat_templates(tree)
    assert templates is not None
    assert templates.default is not None
    assert templates.default.facts.variables == {"lipsum"}


def test_evil_strings_as_tokens_and_names_stay_data(shared: Path, tmp_path: Path) -> None:
    strings = [text for text in _strings(json.loads((shared / "samples" / "evil_strings.json").read_text())) if text]
    assert len(strings) > 30
    vocab = {text: number for number, text in enumerate(dict.fromkeys(strings))}
    tokens = [added(len(vocab), strings[0] + "x", special=True)]
    try:
        write(tmp_path, {"tokenizer.json": json.dumps(tokenizer_json(vocab, tokens))})
    except UnicodeEncodeError:
        pytest.skip("this file system cannot hold the strings")
    tokenizer = read_tokenizer(LocalTree(tmp_path))
    assert tokenizer is not None
    assert tokenizer.length == len(vocab) + 1
    config = {
        "peft_type": "LORA",
        "r": 8,
        "lora_alpha": 8,
        "target_modules": strings,
        "rank_pattern": dict.fromkeys(strings, 4),
    }
    facts = read_adapter_config(BytesSource(json.dumps(config).encode()))
    assert facts.target_modules == tuple(strings)
    assert facts.scaling("model.layers.0.q_proj") is not None


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in _strings(item)]
