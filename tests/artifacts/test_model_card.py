from __future__ import annotations

import pytest
from builders.documents import kinds, text_source
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.artifacts.front_matter import simple_mapping
from ckpt_inspect.artifacts.model_card import read_model_card

TRAINER = """---
library_name: peft
license: other
base_model: Qwen/Qwen2.5-7B
tags:
- base_model:adapter:Qwen/Qwen2.5-7B
- llama-factory
- generated_from_trainer
model-index:
- name: run
  results: []
---

<!-- This model card has been generated automatically according to the information the Trainer had access to. You
should probably proofread and complete it, then remove this comment. -->

# run

This model is a fine-tuned version of [Qwen/Qwen2.5-7B](https://huggingface.co/Qwen/Qwen2.5-7B) on the x dataset.
It achieves the following results on the evaluation set:
- Loss: 2.4694
- Accuracy: 0.75

## Training procedure

### Training hyperparameters

The following hyperparameters were used during training:
- learning_rate: 5e-05
- lr_scheduler_type: cosine
- mixed_precision_training: Native AMP

### Framework versions

- PEFT 0.13.2
- Transformers 4.46.0
- Pytorch 2.5.1+cu124
"""


def card(text: str):
    return read_model_card(text_source(text, "README.md"))


def test_the_card_of_the_trainer_is_read() -> None:
    read = card(TRAINER)
    assert (read.base_model, read.library_name, read.license) == ("Qwen/Qwen2.5-7B", "peft", "other")
    assert read.tags == ("base_model:adapter:Qwen/Qwen2.5-7B", "llama-factory", "generated_from_trainer")
    assert read.generators == ("transformers", "llama-factory")
    assert read.versions == {"peft": "0.13.2", "transformers": "4.46.0", "pytorch": "2.5.1+cu124"}
    assert read.hyperparameters["learning_rate"] == "5e-05"
    assert read.metrics == {"Loss": 2.4694, "Accuracy": 0.75}
    assert read.faults == ()


def test_line_ends_of_windows_change_nothing() -> None:
    assert card(TRAINER.replace("\n", "\r\n")).versions == card(TRAINER).versions
    assert card(TRAINER.replace("\n", "\r\n")).tags == card(TRAINER).tags


def test_the_card_of_trl_names_its_method_and_versions_with_colons() -> None:
    text = (
        "---\ntags:\n- trl\n- dpo\n---\nIt has been trained using [TRL](https://github.com/huggingface/trl).\n"
        "This model was trained with DPO, a method\n### Framework versions\n\n- TRL: 1.16.0\n- Transformers: 5.23.0\n"
    )
    read = card(text)
    assert (read.generators, read.method, read.versions) == (
        ("trl",),
        "DPO",
        {"trl": "1.16.0", "transformers": "5.23.0"},
    )


def test_the_card_of_axolotl_names_its_version() -> None:
    text = (
        "---\nbase_model: x/y\n---\n<details><summary>See axolotl config</summary>\n\n"
        "axolotl version: `0.8.0.dev0`\n```yaml\nbase_model: x/y\n```"
    )
    read = card(text)
    assert (read.generators, read.versions) == (("axolotl",), {"axolotl": "0.8.0.dev0"})


def test_several_base_models_and_unsloth_are_seen() -> None:
    read = card("---\nbase_model:\n- a/b\n- c/d\ntags:\n- unsloth\n---\n")
    assert (read.base_models, read.generators) == (("a/b", "c/d"), ("unsloth",))


def test_the_first_sentence_names_the_base_model_where_the_front_matter_does_not() -> None:
    sentence = "This model is a fine-tuned version of [{}](https://huggingface.co/x)"
    assert card(sentence.format("google/bert")).base_model == "google/bert"
    assert card(sentence.format("None")).base_model is None


@pytest.mark.parametrize("text", ["", "# Title\n", "---\n", "--- not front matter", "---\n---\n", "----\na: b\n---\n"])
def test_a_card_without_front_matter_is_read_without_a_fault(text: str) -> None:
    read = card(text)
    assert (read.front_matter, read.faults) == ({}, ())


def test_front_matter_beyond_the_simple_form_is_read_as_yaml() -> None:
    read = card('---\nbase_model: "a/b"  # quoted\ntags: [trl, sft]\nwidget:\n  - text: "hi"\n    n: 1\n---\n')
    assert (read.base_model, read.tags) == ("a/b", ("trl", "sft"))
    assert read.front_matter["widget"] == [{"text": "hi", "n": 1}]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("---\na: !!python/object/apply:os.system [true]\n---\n", "yaml-unsafe"),
        ("---\na: [\n---\n", "yaml-syntax"),
        ("---\na: " + "x" * 300_000 + "\n---\n", "card-too-large"),
        ("x" * (2 << 20), "card-too-large"),
    ],
)
def test_a_card_out_of_bounds_is_said(text: str, kind: str) -> None:
    assert kinds(card(text)) == [kind]


@given(st.text("ab1.- :#\n'\"[{&*!|>%@`~yesnoTRUEf_/", max_size=40))
def test_the_simple_form_means_what_yaml_means(text: str) -> None:
    yaml = pytest.importorskip("yaml")
    simple = simple_mapping(text)
    if simple is None:
        return
    assert simple == (yaml.safe_load(text) or {})


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z_]{2,8}", fullmatch=True).filter(
            lambda key: key not in ("yes", "off", "null", "true", "false")
        ),
        st.from_regex(r"[A-Za-z][A-Za-z0-9/:._ -]{0,20}", fullmatch=True)
        | st.lists(st.from_regex(r"[A-Za-z][A-Za-z0-9/:._-]{0,20}", fullmatch=True), min_size=1, max_size=3),
        max_size=4,
    )
)
def test_cards_in_the_simple_form_mean_what_yaml_means(values: dict) -> None:
    yaml = pytest.importorskip("yaml")
    lines = []
    for key, value in values.items():
        lines += [f"{key}:", *(f"- {item}" for item in value)] if isinstance(value, list) else [f"{key}: {value}"]
    text = "\n".join(lines) + "\n"
    simple = simple_mapping(text)
    if simple is not None:
        assert simple == (yaml.safe_load(text) or {})
