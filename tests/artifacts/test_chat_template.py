from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders.documents import kinds
from builders.tokenizer_files import write

from ckpt_inspect.artifacts.chat_template import ChatTemplates, read_chat_templates
from ckpt_inspect.artifacts.template_syntax import template_facts
from ckpt_inspect.storage import LocalTree

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message.content + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def templates(tmp_path: Path):
    def read(files: dict[str, Any]) -> ChatTemplates:
        found = read_chat_templates(LocalTree(write(tmp_path, files)))
        assert found is not None
        return found

    return read


def test_a_directory_without_templates_has_none(tmp_path: Path) -> None:
    assert read_chat_templates(LocalTree(write(tmp_path, {"tokenizer_config.json": {"eos_token": "x"}}))) is None


def test_templates_are_found_in_every_place_they_are_kept(templates) -> None:
    read = templates(
        {
            "chat_template.jinja": "file",
            "additional_chat_templates/tool_use.jinja": "tools",
            "additional_chat_templates/notes.txt": "no template",
            "tokenizer_config.json": {
                "chat_template": [{"name": "default", "template": "inline"}, {"name": "rag", "template": "rag"}]
            },
            "chat_template.json": {"chat_template": "legacy"},
        }
    )
    assert [(t.name, t.text, t.place, t.inline) for t in read.templates] == [
        ("default", "file", "chat_template.jinja", False),
        ("tool_use", "tools", "additional_chat_templates/tool_use.jinja", False),
        ("default", "inline", "tokenizer_config.json:chat_template[0]", True),
        ("rag", "rag", "tokenizer_config.json:chat_template[1]", True),
        ("default", "legacy", "chat_template.json:chat_template", True),
    ]


def test_the_jinja_file_wins_and_differing_copies_are_named(templates) -> None:
    read = templates({"chat_template.jinja": "new", "tokenizer_config.json": {"chat_template": "old"}})
    assert read.default is not None
    assert read.default.text == "new"
    assert [(a.place, b.place) for a, b in read.conflicts] == [
        ("chat_template.jinja", "tokenizer_config.json:chat_template")
    ]


def test_copies_that_differ_by_a_last_line_end_are_the_same(templates) -> None:
    assert templates({"chat_template.jinja": "x\n", "tokenizer_config.json": {"chat_template": "x"}}).conflicts == ()


def test_templates_of_a_sub_directory_are_its_own(tmp_path: Path) -> None:
    tree = LocalTree(write(tmp_path, {"chat_template.jinja": "a", "checkpoint-5/chat_template.jinja": "b"}))
    read = read_chat_templates(tree, "checkpoint-5")
    assert read is not None
    assert [t.text for t in read.templates] == ["b"]


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"chat_template.jinja": b"\xff\xfe"}, "template-not-text"),
        ({"chat_template.jinja": "x" * (1 << 20) + "y"}, "template-too-large"),
        ({"tokenizer_config.json": {"chat_template": 7}}, "template-entry"),
        ({"tokenizer_config.json": {"chat_template": [{"name": "default"}]}}, "template-entry"),
        ({"tokenizer_config.json": {"chat_template": "x" * (1 << 20) + "y"}}, "template-too-large"),
    ],
)
def test_what_is_no_template_is_said(templates, files: dict, kind: str) -> None:
    assert kinds(templates(files)) == [kind]


def test_a_template_says_what_it_refers_to() -> None:
    facts = template_facts(CHATML + "{{ bos_token }}{{ enable_thinking }}{% set x = 1 %}{{ x }}<think>")
    assert facts.error is None
    assert facts.variables == {"messages", "add_generation_prompt", "bos_token", "enable_thinking"}
    assert facts.unknown_variables == {"enable_thinking"}
    assert facts.generation_prompt
    assert not facts.generation_blocks
    assert facts.control_strings == ("<|im_start|>", "<|im_end|>")
    assert facts.tags == ("<think>",)


def test_the_extensions_of_transformers_are_known() -> None:
    text = (
        "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}"
        "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}"
    )
    facts = template_facts(text)
    assert facts.error is None
    assert facts.generation_blocks
    assert facts.unknown_filters == frozenset()


@pytest.mark.parametrize(
    ("text", "line"),
    [("{% if %}", 1), ("a\n{{ messages", 2), ("{% endfor %}", 1), ("{{ a \u200b }}", 1), ("{% unknown_tag %}", 1)],
)
def test_a_template_that_does_not_parse_says_where(text: str, line: int) -> None:
    facts = template_facts(text)
    assert facts.error
    assert facts.line == line


def test_filters_and_tests_jinja_does_not_have_are_named() -> None:
    facts = template_facts("{{ a | shout }}{% if a is purple %}{% endif %}")
    assert (facts.unknown_filters, facts.unknown_tests) == ({"shout"}, {"purple"})


@pytest.mark.parametrize(
    "text",
    [
        "{{ 9**9**9 }}",
        "{{ ('A'*100000).join(['B']*100000) }}",
        "{{ '%0999999999d' % 1 }}",
        "{% for a in range(10**9) %}{% for b in range(10**9) %}{% endfor %}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_nothing_of_a_template_is_evaluated(text: str) -> None:
    assert template_facts(text).error is None


@pytest.mark.parametrize(
    "text", ["{% if 1 %}" * 3000, "{{ " + "(" * 3000, "{{ " + "-" * 100_000 + "1 }}", "x" * (1 << 21)]
)
def test_nesting_and_length_are_bounded(text: str) -> None:
    assert template_facts(text).error


def test_names_a_template_assigns_are_not_read_from_outside() -> None:
    facts = template_facts(
        "{% macro f(p) %}{{ p }}{% endmacro %}{% set ns = namespace(a=1) %}{% for k, v in tools %}{{ f(k) }}{{ ns.a }}{% endfor %}"
    )
    assert facts.variables == {"namespace", "tools"}
