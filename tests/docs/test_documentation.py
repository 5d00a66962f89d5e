"""The documentation says what the program does: options, files, rules, links, commands and their outputs."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click
import pytest

from ckpt_inspect import knowledge
from ckpt_inspect.cli.verbs import VERBS
from ckpt_inspect.rules.registry import all_rules
from docs.examples import ROOT, agrees, examples, pages, python_blocks, renewed, run, run_python, workplace
from make.pages import BLOCKS, blocks_of, filled, texts
from make.tables import rules_index

DOCS = ROOT / "docs"
RUNNABLE = [page for page in pages() if any(True for _ in examples(page.read_text(encoding="utf-8")))]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_a_page_that_names_all_its_options(verb: Any) -> None:
    page = (DOCS / f"{verb.name}.md").read_text(encoding="utf-8")
    assert f"ckpt-inspect {verb.name}" in page
    assert f"({verb.name}.md)" in (DOCS / "index.md").read_text(encoding="utf-8"), "the tour leads to every verb"
    general = (DOCS / "index.md").read_text(encoding="utf-8")  # the options every verb has are told once
    missing = [
        option
        for option in options_of(verb)
        if not named(option, page) and not (option in COMMON and named(option, general))
    ]
    assert not missing


COMMON = {"--no-color", "--quiet", "-q", "--debug", "--help", "-h"}


def options_of(verb: Any) -> list[str]:
    import typer.main

    function = getattr(import_module(verb.module), verb.function)
    if isinstance(function, click.Command):
        command = function
    else:
        app = typer.Typer()
        app.command()(function)
        command = typer.main.get_command(app)
    return [
        name
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name not in ("--install-completion", "--show-completion")
    ]


def named(option: str, page: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", page) is not None


@pytest.mark.parametrize(
    "kind", [kind for kind, row in knowledge.load("artifacts")["kind"].items() if row.get("purpose")]
)
def test_every_artifact_kind_is_in_the_table_of_files(kind: str) -> None:
    purpose = " ".join(knowledge.load("artifacts")["kind"][kind]["purpose"].split()).replace("|", "\\|")
    assert f"| `{kind}` | {purpose} |" in (DOCS / "files.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(texts()))
def test_what_is_made_of_the_program_is_up_to_date(name: str) -> None:
    path = DOCS / name
    assert path.is_file(), "python docs/make pages"
    assert path.read_text(encoding="utf-8") == texts()[name], "python docs/make pages"


def test_every_block_that_can_be_made_stands_on_a_page() -> None:
    assert set().union(*(blocks_of(page.read_text(encoding="utf-8")) for page in DOCS.glob("*.md"))) == set(BLOCKS)


def test_a_stale_block_is_seen() -> None:
    page = "# T\n\n<!-- make: loss-distortions -->\n\nold\n\n<!-- end -->\n\nmine\n"
    assert filled(page) != page
    assert filled(filled(page)) == filled(page)
    assert filled(page).endswith("<!-- end -->\n\nmine\n")


def test_there_is_one_page_per_rule_and_no_page_of_a_rule_that_is_gone() -> None:
    assert {path.stem for path in (DOCS / "rules").glob("CKP*.md")} == set(all_rules())


def test_every_rule_is_in_the_index_under_its_family() -> None:
    index = rules_index()
    assert all(f"[{code}]({code}.md)" in index for code in all_rules())


INTERNAL = re.compile(r"catalogue|\\breference \\d|\\brule [A-Z]\\d\\d|\\b[ANTLZ]\\d\\d\\b")


@pytest.mark.parametrize("code", sorted(all_rules()))
def test_the_source_of_a_rule_is_something_a_reader_can_look_up(code: str) -> None:
    source = all_rules()[code].section("Source")
    assert re.search(r"[A-Za-z_]{3}", source), "a library and a function, an issue, a standard"
    assert not INTERNAL.search(source)


LINKING = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "fixtures" / "README.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_relative_link_is_broken(page: Path) -> None:
    text = without_code(page)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_a_broken_link_and_a_broken_anchor_are_seen(tmp_path: Path) -> None:
    (tmp_path / "here.md").write_text("# One Heading\n```sh\n# no heading\n```\n")
    for link, broken in (("here.md#one-heading", False), ("here.md#no-heading", True), ("gone.md", True)):
        (tmp_path / "page.md").write_text(f"[x]({link})\n")
        if broken:
            with pytest.raises(AssertionError):
                test_no_relative_link_is_broken(tmp_path / "page.md")
        else:
            test_no_relative_link_is_broken(tmp_path / "page.md")


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_the_commands_of_a_page_do_what_it_shows(page: Path, tmp_path: Path) -> None:
    at = workplace(tmp_path)
    for example in examples(page.read_text(encoding="utf-8")):
        done = None
        for command, code in example.commands:
            done = run(command, at)
            assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
        if example.output is not None and done is not None:
            hint = "python tests/docs/examples.py brings the pages up to date"
            assert agrees(example.output, done.stdout), f"{example.commands[-1][0]}: {hint}\n{done.stdout}"


PYTHON = [page for page in pages() if python_blocks(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    at = workplace(tmp_path)
    for block in python_blocks(page.read_text(encoding="utf-8")):
        done = run_python(block, at)
        assert done.returncode == 0, f"{block}\n{done.stderr}"


def test_a_value_shown_beside_python_is_held_to() -> None:
    (block,) = python_blocks("```python\na = 1 + 1\na       # 2\n```\n")
    assert run_python(block, ROOT).returncode == 0
    assert run_python(block.replace("# 2", "# 3"), ROOT).returncode != 0


def test_pages_with_python_are_found() -> None:
    assert {"api.md", "pipelines.md"} <= {page.name for page in PYTHON}


def test_pages_with_commands_are_found() -> None:
    assert {"README.md", "index.md", *(f"{verb.name}.md" for verb in VERBS)} <= {page.name for page in RUNNABLE}


def test_an_output_may_leave_out_lines_but_not_change_them() -> None:
    assert agrees("a\n...\nd\n", "a\nb\nc\nd\n")
    assert agrees("a\nb\n", "a\nb\n")
    assert agrees("...\nb\n...\n", "a\nb\nc\n")
    assert not agrees("a\n...\nx\n", "a\nb\nd\n")
    assert not agrees("a\n", "a\nb\n")
    assert not agrees("a\nb\n...\nb\nc\n", "a\nb\nc\n")
    assert renewed("x\n...\ny\n", "1\n2\n3\n") == "1\n...\n3\n"


@pytest.mark.parametrize("page", [*pages(), ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_no_page_holds_a_path_of_somebodys_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(home|Users|root|tmp|work|mnt)/\w", page.read_text(encoding="utf-8"))
