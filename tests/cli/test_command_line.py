"""The command line as a user meets it: verbs, options, errors, exit codes, what it imports and what it prints where."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_inspect.cli.app import main
from ckpt_inspect.cli.verbs import VERBS

HEAVY = (
    "torch",
    "numpy",
    "matplotlib",
    "deepspeed",
    "transformers",
    "pydantic",
    "jinja2",
    "yaml",
    "rich",
    "ml_dtypes",
    "pickle",
)


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return subprocess.run(
        [sys.executable, "-m", "ckpt_inspect", *arguments],
        capture_output=True,
        text=True,
        env={**settings, **environment},
        check=False,
    )


def test_version_is_one_line() -> None:
    done = call("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"ckpt-inspect \d+\.\d+\.\d+\S*\n", done.stdout)


def test_help_lists_every_verb_with_its_line() -> None:
    done = call("--help", COLUMNS="200")
    assert done.returncode == 0
    for verb in VERBS:
        assert re.search(rf"^\s+{verb.name}\s+{re.escape(verb.help)}$", done.stdout, re.MULTILINE), verb.name


def test_no_arguments_print_the_help() -> None:
    assert "Verbs:" in call().stdout + call().stderr


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_verb_has_help_and_the_common_options(verb: str) -> None:
    done = call(verb, "--help", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    for option in ("--no-color", "--quiet", "--debug"):
        assert option in done.stdout


def test_show_of_a_run_is_one_screen(fixtures: Path) -> None:
    done = call("show", str(fixtures / "lora-resized"), COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("lora-resized: LoRA training run")
    assert len(done.stdout.splitlines()) <= 50
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_json_is_one_document_on_standard_output(fixtures: Path) -> None:
    done = call("show", "--json", str(fixtures / "zero3"))
    document = json.loads(done.stdout)
    assert document["schema"] == "ckpt-inspect/show/1"
    assert document["path"] == str(fixtures / "zero3")
    assert document["checkpoints"][-1]["zero"]["stage"] == 3


def test_the_current_directory_is_the_default(fixtures: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ckpt_inspect", "show", "--json"],
        capture_output=True,
        text=True,
        cwd=fixtures / "resumed",
        check=True,
    )
    assert json.loads(done.stdout)["kind"] == "run"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("sohw",), 2, "did you mean show?"),
        (("show", "--nonsense"), 2, "--nonsense"),
        (("show", "/nothing/here"), 3, "/nothing/here: no such file"),
        (("args", "/dev/null"), 3, "/dev/null"),
    ],
)
def test_errors_are_one_line_and_have_their_exit_code(arguments: tuple[str, ...], code: int, words: str) -> None:
    done = call(*arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_adds_the_traceback() -> None:
    done = call("show", "/nothing/here", "--debug")
    assert done.returncode == 3
    assert "Traceback" in done.stderr


def test_hostile_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    evil = tmp_path / "run\x1b[31m"
    evil.mkdir()
    (evil / "a\x1b]0;owned\x07.json").write_text("{}")
    (evil / "trainer_state.json").write_text('{"global_step": 1, "log_history": []}')
    for arguments in (("show", str(evil)), ("show", "--files", str(evil)), ("show", "--json", str(evil))):
        done = call(*arguments)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "\x07" not in done.stdout
    done = call("show", str(evil / "missing\x1b[0m"))
    assert "\x1b" not in done.stderr


def test_a_name_that_is_no_unicode_is_shown(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"bad\xff.bin")).write_bytes(b"x")
    for option in ("--files", "--json"):
        done = call("show", option, str(tmp_path), PYTHONIOENCODING="utf-8")
        assert done.returncode == 0, done.stderr


def test_an_ascii_terminal_is_no_error(fixtures: Path) -> None:
    done = call("show", "--files", str(fixtures / "llamafactory"), PYTHONIOENCODING="ascii", COLUMNS="60")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


def test_a_pipe_gets_no_colour_and_force_color_is_honoured(fixtures: Path) -> None:
    path = str(fixtures / "zero2")
    assert "\x1b" not in call("show", path).stdout
    assert "\x1b" in call("show", path, FORCE_COLOR="1").stdout
    assert "\x1b" not in call("show", path, FORCE_COLOR="1", NO_COLOR="1").stdout
    assert "\x1b" not in call("show", path, "--no-color", FORCE_COLOR="1").stdout


def on_a_terminal(*arguments: str, **environment: str) -> str:
    leader, follower = pty.openpty()
    settings = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "ckpt_inspect", *arguments],
        stdout=follower,
        stderr=subprocess.DEVNULL,
        env={**settings, "TERM": "xterm", **environment},
    )
    os.close(follower)
    output = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        if not part:
            break
        output += part
    os.close(leader)
    assert process.wait() == 0
    return output.decode()


def test_a_terminal_gets_colour_unless_it_says_no(fixtures: Path) -> None:
    path = str(fixtures / "zero2")
    assert "\x1b[1m" in on_a_terminal("show", path, COLUMNS="80")
    assert "\x1b" not in on_a_terminal("show", path, COLUMNS="80", NO_COLOR="1")
    assert "\x1b" not in on_a_terminal("show", path, COLUMNS="80", TERM="dumb")


def test_a_reader_that_went_away_is_no_error(fixtures: Path) -> None:
    program = f"{sys.executable} -m ckpt_inspect show --json {fixtures / 'llamafactory'}; echo code $? >&2"
    done = subprocess.run(["bash", "-c", f"({program}) | head -c 10"], capture_output=True, text=True, check=False)
    assert done.stderr == "code 0\n"


def test_the_module_can_be_run(fixtures: Path) -> None:
    assert call("show", str(fixtures / "resumed")).returncode == 0


@pytest.mark.parametrize("arguments", [("show",), ("show", "--json"), ("show", "--files"), ("args",)])
@pytest.mark.parametrize("run", ["lora-resized", "zero3", "llamafactory"])
def test_showing_a_run_imports_nothing_heavy(fixtures: Path, run: str, arguments: tuple[str, ...]) -> None:
    program = (
        "import sys\n"
        "from ckpt_inspect.cli.app import main\n"
        f"code = main([*{arguments!r}, {str(fixtures / run)!r}])\n"
        "loaded = sorted({name.partition('.')[0] for name in sys.modules})\n"
        "print(*loaded, file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(done.stderr.split())


def test_importing_the_package_imports_none_of_its_modules() -> None:
    program = "import sys, ckpt_inspect; print([name for name in sys.modules if name.startswith('ckpt_inspect.')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_library_gives_the_same_document_as_the_command_line(fixtures: Path) -> None:
    import ckpt_inspect

    path = str(fixtures / "resumed")
    assert ckpt_inspect.show(path) == json.loads(call("show", "--json", path).stdout)
    assert ckpt_inspect.args(path) == json.loads(call("args", "--json", path).stdout)
    with pytest.raises(AttributeError):
        ckpt_inspect.nothing_of_this_name  # noqa: B018


def test_args_lists_every_argument(fixtures: Path) -> None:
    done = call("args", str(fixtures / "lora-resized"))
    assert done.returncode == 0
    for name in ("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "seed"):
        assert re.search(rf"^{name}\s+\S", done.stdout, re.MULTILINE), name


def test_args_diff_shows_only_what_differs(fixtures: Path) -> None:
    one, other = str(fixtures / "lora-resized"), str(fixtures / "resumed")
    document = json.loads(call("args", one, "--diff", other, "--json").stdout)
    names = {row["name"] for row in document["diff"]}
    assert "output_dir" in names
    assert all(row["here"] != row["there"] or row["in_here"] != row["in_there"] for row in document["diff"])
    same = json.loads(call("args", one, "--diff", one, "--json").stdout)
    assert same["diff"] == []
    assert call("args", one, "--diff", one).stdout == "No argument differs.\n"


def test_completion_is_offered() -> None:
    done = call("show", "--he", _CKPT_INSPECT_COMPLETE="complete_bash", COMP_WORDS="ckpt-inspect sh", COMP_CWORD="1")
    assert done.stdout.split() == ["show"]


def test_a_mistake_of_ours_does_not_look_like_a_finding(
    fixtures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("ckpt_inspect.report.show_document.show_document", broken)
    assert main(["show", str(fixtures / "resumed")]) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "ckpt-inspect: internal error, nothing was decided: ZeroDivisionError: division by zero; "
        "please report it with what the same command prints with --debug"
    )
    assert main(["show", "--debug", str(fixtures / "resumed")]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_running_out_of_memory_does_not_look_like_a_finding(
    fixtures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hungry(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("ckpt_inspect.report.show_document.show_document", hungry)
    assert main(["show", str(fixtures / "resumed")]) == 70
    assert "out of memory" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_every_shell_can_be_printed(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.returncode == 0, done.stderr
    assert "_CKPT_INSPECT_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("typed", "word", "offered"),
    [
        ("ckpt-inspect ", "", {verb.name for verb in VERBS}),
        ("ckpt-inspect co", "co", {"consolidate", "contract"}),
        ("ckpt-inspect check --for", "--for", {"--format"}),
        ("ckpt-inspect check --format s", "s", {"sarif"}),
    ],
)
def test_completion_offers_verbs_options_and_values(typed: str, word: str, offered: set[str]) -> None:
    words = len(typed.split()) - (1 if word else 0)
    done = call(_CKPT_INSPECT_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(words))
    assert set(done.stdout.split()) == offered, done.stderr
