"""The pre-commit hooks and the GitHub action, run as far as a machine without pre-commit and GitHub can."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = {step["id"]: step for step in ACTION["runs"]["steps"]}
bash = pytest.mark.skipif(shutil.which("bash") is None, reason="the steps are bash")


@pytest.fixture
def path_with_command(tmp_path: Path) -> str:
    """A PATH on which `ckpt-inspect` is the code under test."""
    place = tmp_path / "bin"
    place.mkdir()
    command = place / "ckpt-inspect"
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m ckpt_inspect "$@"\n')
    command.chmod(0o755)
    return f"{place}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def broken(fixtures: Path, tmp_path: Path) -> Path:
    run = tmp_path / "a run"
    shutil.copytree(fixtures / "resumed", run)
    (run / "checkpoint-16" / "optimizer.pt").write_bytes(b"")
    return run


def step(name: str, at: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Path]]:
    """Run a step of the action as GitHub's runner does; returns what it wrote to the runner's files."""
    files = {key: at / key for key in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "GITHUB_PATH")}
    for file in files.values():
        file.touch()
    script = at / "step.sh"
    script.write_text(STEPS[name]["run"])
    runner = {
        "GITHUB_ACTION_PATH": str(ROOT),
        "RUNNER_TEMP": str(at),
        **{key: str(file) for key, file in files.items()},
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, **runner, **environment},
        cwd=at,
        check=False,
    )
    return done, files


def inputs(paths: str, arguments: str = "", sarif: str = "") -> dict[str, str]:
    """The environment of the check step, by the step's own table of inputs."""
    given = {"paths": paths, "arguments": arguments, "sarif": sarif}
    wanted = {key: re.fullmatch(r"\$\{\{ inputs\.(\w+) \}\}", value) for key, value in STEPS["check"]["env"].items()}
    return {key: given[match.group(1)] for key, match in wanted.items() if match is not None}


def test_the_action_is_what_github_expects() -> None:
    assert ACTION["runs"]["using"] == "composite"
    assert all(step["shell"] == "bash" for step in STEPS.values())
    assert {"name", "description", "inputs", "outputs"} <= set(ACTION)
    named = set(re.findall(r"inputs\.(\w+)", (ROOT / "action.yml").read_text()))
    assert named == set(ACTION["inputs"])
    assert not any("${{" in step["run"] for step in STEPS.values()), "an input inside a script is code of the caller"
    (output,) = ACTION["outputs"].values()
    assert "steps.check.outputs.exit-code" in output["value"]


@bash
def test_the_install_step_installs_the_action_itself_into_an_environment_of_its_own(tmp_path: Path) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    log = tmp_path / "log"
    # In the place of python3: notes its arguments, and makes the environment's python another note-taker.
    (place / "python3").write_text(
        f'#!/bin/sh\necho "$@" >> "{log}"\nif [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi\n'
    )
    (place / "python3").chmod(0o755)
    done, files = step("install", tmp_path, PATH=f"{place}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    venv, install = log.read_text().splitlines()
    assert venv == f"-m venv {tmp_path}/ckpt-inspect"
    assert install == f"-m pip install --quiet {ROOT}"
    assert files["GITHUB_PATH"].read_text() == f"{tmp_path}/ckpt-inspect/bin\n"
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert "ckpt-inspect" in scripts


@bash
def test_the_check_step_passes_on_a_healthy_run(fixtures: Path, tmp_path: Path, path_with_command: str) -> None:
    done, files = step("check", tmp_path, PATH=path_with_command, **inputs(f"{fixtures / 'resumed'}\n"))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert files["GITHUB_OUTPUT"].read_text() == "exit-code=0\n"
    assert "no findings" in files["GITHUB_STEP_SUMMARY"].read_text()


@bash
def test_the_check_step_annotates_summarises_and_fails(broken: Path, tmp_path: Path, path_with_command: str) -> None:
    given = inputs(f"{broken}\n", "--expect=checkpoints >= 3\n--ignore=CKP6\n", "findings.sarif")
    done, files = step("check", tmp_path, PATH=path_with_command, **given)
    assert done.returncode == 1
    assert done.stdout.startswith(f"::error file={broken}/checkpoint-16/optimizer.pt,title=CKP011 empty-file::")
    assert "expected checkpoints >= 3" in done.stdout
    assert "CKP601" not in done.stdout
    assert files["GITHUB_OUTPUT"].read_text() == "exit-code=1\n"
    assert "| CKP011 empty-file |" in files["GITHUB_STEP_SUMMARY"].read_text()
    assert json.loads((tmp_path / "findings.sarif").read_text())["version"] == "2.1.0"


@bash
def test_an_input_cannot_become_a_command(tmp_path: Path, path_with_command: str) -> None:
    done, files = step("check", tmp_path, PATH=path_with_command, **inputs('$(touch owned); "; touch owned\n--strict'))
    assert done.returncode in (2, 3)
    assert not (tmp_path / "owned").exists()
    assert files["GITHUB_OUTPUT"].read_text() == f"exit-code={done.returncode}\n"


def test_the_hooks_have_what_pre_commit_needs() -> None:
    assert len({hook["id"] for hook in HOOKS}) == len(HOOKS)
    for hook in HOOKS:
        assert {"id", "name", "entry", "language"} <= set(hook)
        assert hook["language"] == "python"  # pre-commit installs the repository with pip
        assert hook["entry"].split()[0] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def run_hook(name: str, *arguments: str, path: str, at: Path) -> subprocess.CompletedProcess[str]:
    """The hook's entry with pre-commit's arguments behind it."""
    hook = next(hook for hook in HOOKS if hook["id"] == name)
    command = [*hook["entry"].split(), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PATH": path}, cwd=at, check=False
    )


def test_the_hook_on_runs(broken: Path, fixtures: Path, path_with_command: str) -> None:
    name = "ckpt-inspect-check"
    assert run_hook(name, str(fixtures / "resumed"), path=path_with_command, at=broken).returncode == 0
    assert run_hook(name, str(broken), "--strict", path=path_with_command, at=broken).returncode == 1


def test_the_hook_on_adapters_gets_the_files_it_names(fixtures: Path, tmp_path: Path, path_with_command: str) -> None:
    hook = next(hook for hook in HOOKS if hook["id"] == "ckpt-inspect-check-adapters")
    shutil.copytree(fixtures / "lora-indices", tmp_path / "run")
    files = [path.relative_to(tmp_path).as_posix() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()]
    chosen = [file for file in files if re.search(hook["files"], file)]
    assert {Path(file).name for file in chosen} == {"adapter_config.json", "adapter_model.safetensors"}
    assert run_hook(hook["id"], *chosen, path=path_with_command, at=tmp_path).returncode == 0
    (tmp_path / "run" / "adapter_config.json").write_text('{"peft_type": "LORA", ')
    done = run_hook(hook["id"], *chosen, path=path_with_command, at=tmp_path)
    assert done.returncode == 1
    assert "CKP040" in done.stdout


def snippets() -> dict[str, list[Any]]:
    """Heading -> the documents below it."""
    text = (ROOT / "docs" / "pipelines.md").read_text()
    sections = re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return {
        title: [yaml.safe_load(found) for found in re.findall(r"```yaml\n(.*?)```", body, re.DOTALL)]
        for title, body in sections
    }


def test_the_documented_action_has_the_inputs_of_the_action() -> None:
    action, plain = snippets()["GitHub"]
    *_, uses = action["jobs"]["check"]["steps"]
    assert uses["uses"].startswith("./"), "a path: where this project is published is not known here"
    assert set(uses["with"]) <= set(ACTION["inputs"])
    text = (ROOT / "docs" / "pipelines.md").read_text()
    assert all(f"| `{name}` |" in text for name in ACTION["inputs"])
    *_, install, check = plain["jobs"]["check"]["steps"]
    assert install["run"] == "pip install ckpt-inspect"
    assert check["run"].startswith("ckpt-inspect check")


def test_the_documented_hook_is_the_hook() -> None:
    ((repository,),) = [document["repos"] for document in snippets()["pre-commit"]]
    (given,) = repository["hooks"]
    offered = next(hook for hook in HOOKS if hook["id"] == given["id"])
    for key in ("entry", "language", "pass_filenames", "always_run"):
        assert given[key] == offered[key]
    assert repository["repo"] == "local"
    assert given["additional_dependencies"] == ["ckpt-inspect"], "a local hook has to name what it needs"


@bash
@pytest.mark.parametrize("job", snippets()["GitLab"], ids=["one report", "two reports"])
def test_the_documented_gitlab_job_leaves_its_report_when_it_fails(
    broken: Path, fixtures: Path, tmp_path: Path, path_with_command: str, job: dict[str, Any]
) -> None:
    job = job["check-runs"]
    shutil.copytree(fixtures / "zero2", tmp_path / "work" / "runs" / "one")
    shutil.copytree(broken, tmp_path / "work" / "runs" / "two")
    install, *commands = job["script"]
    assert install == "pip install ckpt-inspect"
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(commands)],
        env={**os.environ, "PATH": path_with_command},
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "CKP011" in (tmp_path / "work" / job["artifacts"]["reports"]["junit"]).read_text()
