from __future__ import annotations

import pytest
from builders.documents import kinds, text_source

from ckpt_inspect.artifacts.lf_yaml import read_llamaboard_config, read_yaml_mapping


def read(text: str):
    return read_yaml_mapping(text_source(text))


def test_arguments_keep_their_types() -> None:
    values, faults = read("cutoff_len: 925\ndo_predict: true\ntop_p: 0.7\nstage: sft\ndataset:\n- a\n- b\nnone: null\n")
    assert values == {
        "cutoff_len": 925,
        "do_predict": True,
        "top_p": 0.7,
        "stage": "sft",
        "dataset": ["a", "b"],
        "none": None,
    }
    assert faults == ()


def test_the_fields_of_the_web_page_are_sorted_by_tab() -> None:
    config = read_llamaboard_config(text_source("top.model_name: Qwen\neval.dataset:\n- alpaca\nlang: en\n"))
    assert config.get("top", "model_name") == "Qwen"
    assert config.get("eval", "dataset") == ["alpaca"]
    assert config.get("", "lang") == "en"
    assert config.get("train", "cutoff_len") is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a: !!python/object/apply:os.system ['true']\n", "yaml-unsafe"),
        ("a: [1, 2\nb: 3\n", "yaml-syntax"),
        ("a: 2024-13-45\n", "yaml-syntax"),
        ("? [1, 2]\n: 3\n", "yaml-unsafe"),
        ("- 1\n- 2\n", "yaml-not-mapping"),
        ("just text", "yaml-not-mapping"),
        ("a: " + "[" * 100 + "]" * 100, "yaml-too-large"),
        (
            "x: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"x{n}: &a{n} [{','.join(['*a' + (str(n - 1) if n else '')] * 10)}]\n" for n in range(8)),
            "yaml-too-large",
        ),
        ("a: 1\n" * 300_000, "yaml-too-large"),
        ("a: \x00", "yaml-syntax"),
        ("a: *nowhere\n", "yaml-syntax"),
    ],
)
def test_what_is_no_plain_mapping_is_a_fault_and_no_values(text: str, kind: str) -> None:
    values, faults = read(text)
    assert values == {}
    assert [fault.kind for fault in faults] == [kind]


def test_an_empty_file_holds_nothing() -> None:
    assert read("") == ({}, ())


def test_a_modest_alias_is_allowed() -> None:
    assert read("a: &x [1, 2]\nb: *x\n") == ({"a": [1, 2], "b": [1, 2]}, ())


def test_keys_become_text() -> None:
    assert read("2: a\ntrue: b\n")[0] == {"2": "a", "True": "b"}


def test_a_broken_page_configuration_is_said() -> None:
    assert kinds(read_llamaboard_config(text_source("- 1\n"))) == ["yaml-not-mapping"]
