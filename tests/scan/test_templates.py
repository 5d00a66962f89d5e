"""Chat templates: parsed, never compiled or rendered; what would run code or never end is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckpt_inspect.scan import ScannedFile, rank, scan_path, scan_source
from ckpt_inspect.storage import BytesSource


def scan(text: str, name: str = "chat_template.jinja") -> ScannedFile:
    return scan_source(BytesSource(text.encode()), name)


CODE = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('true').read() }}",
    "{{ lipsum.__globals__['os'].popen('true').read() }}",
    "{{ self._TemplateReference__context.cycler.__init__ }}",
    "{{ messages['__class__'] }}",
    "{{ messages['__cl' ~ 'ass__'] }}",
    "{{ messages['__cl' + 'ass__'] }}",
    "{{ messages|attr('__class__') }}",
    "{{ messages|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ messages|selectattr('__init__.__globals__')|list }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ '{x[0]}'.format_map(messages) }}",
    "{{ 'a'|attr('format')('{0.__class__}') }}",
    "{{ joiner.__init__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ (messages|list).mro() }}",
    "{% set x = messages.__class__ %}",
    "{% if messages.__class__ %}{% endif %}",
    "{% for x in messages.__class__.__mro__ %}{% endfor %}",
    "{% macro f(x) %}{{ x.__globals__ }}{% endmacro %}",
    "{{ request.application }}",
    # names put together from constants, over variables, lists, arguments and filters
    "{% set a = '__cl' %}{% set b = 'ass__' %}{{ messages[a ~ b] }}",
    "{{ messages[['__cl', 'ass__']|join] }}",
    "{{ messages[''.join(['__cl', 'ass__'])] }}",
    "{{ messages|map('attr', '_' ~ '_class_' ~ '_')|list }}",
    "{{ messages['%c%cclass%c%c'|format(95, 95, 95, 95)] }}",
    "{{ messages['%sclass%s' % ('__', '__')] }}",
    "{{ messages['__CLASS__'|lower] }}",
    "{{ messages['__ssalc__'|reverse] }}",
    "{{ messages['__ssalc__'[::-1]] }}",
    "{{ messages['__clXass__'|replace('X', '')] }}",
    "{{ messages['_' * 2 ~ 'class' ~ '_' * 2] }}",
    "{{ messages[dict(__class__=1)|join] }}",
    "{% for k in dict(__init__=0) %}{{ messages[k] }}{% endfor %}",
    "{% for k in ['__cl' ~ 'ass__'] %}{{ messages[k] }}{% endfor %}",
    "{% set ns = namespace(a='__') %}{{ messages[ns.a ~ 'class' ~ ns.a] }}",
    "{% set f = '{0.__cl' ~ 'ass__}' %}{{ f.format(messages) }}",
    "{{ messages[('__class__' if x else 'y')] }}",
]
LOADS = ["{% include '/etc/passwd' %}", "{% extends x %}", "{% import 'x' as y %}", "{% from 'x' import y %}"]
ENDLESS = [
    "{{ 'A' * 10**9 }}",
    "{{ 'A' * 1000000000 }}",
    "{{ [0] * 999999999 }}",
    "{{ ('A' * 100000) * 100000 }}",
    "{{ 9**9**9 }}",
    "{{ 2**1000000 }}",
    "{{ 2**x }}",
    "{{ '%0999999999d' % 1 }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ 'x'|center(999999999) }}",
    "{{ 'x'.rjust(999999999) }}",
    "{{ ('A'*100000).join(['B']*100000) }}",
    "{% for i in range(1000000000) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ n() }}{% endmacro %}{% macro n() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "{% for a in 'x' * 9999 %}{% for b in 'x' * 9999 %}{% for c in 'x' * 9999 %}y{% endfor %}{% endfor %}{% endfor %}",
    "{% set s = 'x' * 99999 %}{% set t = s * 99999 %}{{ t }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ 'a'|replace('', 'b' * 99999)|replace('', 'c' * 99999) }}",
    "{{ messages|batch(999999999, 'x') }}",
    "{{ messages|slice(999999999) }}",
    "{% if 1 %}" * 3000,
    "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "{{ " + "[" * 500 + "]" * 500 + " }}",
    "{{ 1 }}" + "a" * (1 << 20),
]
HARMLESS = [
    "{{ raise_exception('no system role') }}",
    "{% for message in messages %}{{ message['role'] + ': ' + message.content | trim }}{% endfor %}",
    "{% set ns = namespace(found=false) %}{% for m in messages %}{% set ns.found = true %}{% endfor %}",
    "{% set ns = namespace(text='') %}{% for m in messages %}{% set ns.text = ns.text ~ m.content %}{% endfor %}",
    "{%- for m in messages %}{%- if loop.first %}{% continue %}{% endif %}{% break %}{%- endfor %}",
    "{% generation %}{{ message.content }}{% endgeneration %}",
    "{% macro render(s) %}{% if s.items %}{{ render(s.items) }}{% endif %}{% endmacro %}{{ render(tools) }}",
    "{{ tools | tojson(indent=4) }}{{ strftime_now('%Y-%m-%d') }}",
    "{{ messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\\n') }}",
    "{{ '%s: %s' % (a, b) }}{{ 'x' * 20 }}{{ (messages | length) * 2 }}",
    "{% for i in range(0, messages | length, 2) %}{{ messages[i] }}{% endfor %}",
    "{{ message.content.split('</think>')[-1].lstrip('\\n') }}",
    "plain text without a template",
]


@pytest.mark.parametrize("text", CODE + LOADS)
def test_what_reaches_into_python_or_other_files_is_dangerous(text: str) -> None:
    assert scan(text).verdict == "dangerous"


@pytest.mark.parametrize("text", ENDLESS, ids=lambda text: text[:40])
def test_what_never_ends_is_suspicious(text: str) -> None:
    found = scan(text)
    assert rank(found.verdict) >= rank("suspicious")
    assert any(finding.kind == "template-endless" for finding in found.findings)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_published_templates_do_is_clean(text: str) -> None:
    found = scan(text)
    assert (found.verdict, found.findings) == ("clean", ())


@pytest.mark.parametrize("text", ["{{ messages\u200b }}", "{% if %}", "{{ }}", "{% nonsense %}", "{{ 'a }}"])
def test_broken_syntax_is_a_warning(text: str) -> None:
    found = scan(text)
    assert [finding.kind for finding in found.findings] == ["template-syntax"]
    assert found.verdict == "known"


@pytest.mark.parametrize(
    "document",
    [
        {"chat_template": CODE[0]},
        {"chat_template": [{"name": "default", "template": "{{ x }}"}, {"name": "tool", "template": CODE[0]}]},
        {"chat_template": {"default": CODE[0]}},
        {"nested": {"chat_template": CODE[0]}},
    ],
)
def test_templates_inside_json_are_judged_too(document: object) -> None:
    assert scan(json.dumps(document), "tokenizer_config.json").verdict == "dangerous"
    assert scan(json.dumps(document), "anything.json").verdict == "dangerous"


def test_the_template_of_a_gguf_file_is_judged() -> None:
    key, value = b"tokenizer.chat_template", CODE[0].encode()
    body = (1).to_bytes(8, "little") + len(key).to_bytes(8, "little") + key + (8).to_bytes(4, "little")
    body += len(value).to_bytes(8, "little") + value
    found = scan_source(BytesSource(b"GGUF\x03\x00\x00\x00" + bytes(8) + body), "model.gguf")
    assert (found.format, found.verdict) == ("gguf", "dangerous")


@pytest.mark.shared
def test_no_published_template_is_accused(shared: Path) -> None:
    accused = []
    found = 0
    for root in ("corpus", "runs", "base"):
        for path in sorted((shared / root).rglob("*.jinja")):
            found += 1
            if scan_path(path).verdict != "clean":
                accused.append(path)
    assert found > 50
    assert accused == []


@pytest.mark.parametrize("operator", ["+", "*", "~", " and ", " == ", " ** "])
def test_a_long_chain_is_judged_without_recursion_and_once_per_node(operator: str) -> None:
    found = scan("{{ x[" + operator.join(["1"] * 20_000) + "] }}")
    assert found.coverage == "complete"
    assert not [finding for finding in found.findings if finding.kind == "reader-failed"]


def test_a_doubling_in_a_loop_behind_a_long_chain_is_found_without_recursion() -> None:
    text = "{% for i in range(9) %}{% set ns.s = ns.s ~ ns.s" + " ~ 'a'" * 5000 + " %}{% endfor %}"
    assert "template-endless" in {finding.kind for finding in scan(text).findings}


def test_templates_are_judged_however_many_there_are_and_however_deep() -> None:
    harmless = [{"name": str(number), "template": "{{ x }}"} for number in range(100)]
    evil = {"name": "evil", "template": "{{ x.__class__ }}"}
    for value in ([*harmless, evil], {"a": {"b": evil["template"]}}):
        found = scan_source(BytesSource(json.dumps({"chat_template": value}).encode()), "tokenizer_config.json")
        assert found.verdict == "dangerous"


def test_a_template_of_a_megabyte_is_not_parsed() -> None:
    found = scan("{{ x }}" * 150_000)
    assert (found.verdict, found.coverage) == ("suspicious", "partial")
