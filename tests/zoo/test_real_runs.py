"""False alarms: what fires on directories that are as the libraries left them, each with the sentence why it is right."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import pytest

from ckpt_inspect.rules.check import Options, check_path
from ckpt_inspect.rules.checked import CheckedRun
from zoo.frame import FIXTURES, before

UNTRAINED = "Three tokens were added, the embeddings were saved because the vocabulary grew, and nothing trained them."

FIXTURE_WARNINGS = {("lora-resized", "CKP343"): UNTRAINED}

RUN_WARNINGS = {
    ("qwen-lora-sft-auto", "CKP343"): UNTRAINED,
    ("qwen-lora-sft-shrink", "CKP343"): UNTRAINED,
    ("tf451-lora-auto", "CKP343"): UNTRAINED,
}

# What happened to the others, and every error and warning that says it.
HAPPENED = {
    "diskfull-z2": {
        "CKP001": "the disk was full: no weights in checkpoint-6",
        "CKP005": "that save never reached trainer_state.json",
        "CKP601": "so nothing resumes from it",
        "CKP206": "and the run stands at step 3 of 8",
    },
    "killed-optim": {
        "CKP005": "kill -9 in the save of checkpoint-6",
        "CKP014": "while optimizer.pt was written",
        "CKP601": "so nothing resumes from it",
        "CKP206": "and the run stands at step 3 of 12",
    },
    "nan-run": {"CKP223": "the loss became NaN and is logged as 0.0"},
    "tf436-nan": {"CKP223": "the loss became NaN and is logged as 0.0"},
    "tf451-nan": {"CKP223": "the loss became NaN and is logged as 0.0"},
    "resume-extend": {"CKP240": "resumed with more steps: the schedule follows the old horizon up to step 10"},
    "tf446-resume": {"CKP221": "this release divides the loss since the resume by all steps"},
}

# Errors in directories of public repositories, which commit parts of their runs.
CORPUS_ERRORS = {
    "CKP001": "checkpoints were committed without their weights",
    "CKP005": "checkpoints were committed without trainer_state.json, among others that have it or with training_args.bin",
    "CKP012": "the files are git-LFS pointers",
    "CKP301": "adapter configurations were committed without their weights",
    "CKP403": "`latest` was committed, its tag directory was not",
    "CKP602": "scheduler.pt was committed, optimizer.pt was not",
    "CKP811": "auto_map names tokenization_chatglm.py, which was not committed",
}


def serious(run: CheckedRun) -> dict[str, str]:
    """Code -> the first message of every error and warning."""
    return {f.rule: f"{f.severity} {f.path}: {f.message}" for f in reversed(run.findings) if f.severity != "note"}


@cache
def states(shared: Path) -> dict[str, str]:
    """Run -> how it ended, from the collection's own table."""
    text = (shared / "runs" / "RUNS.md").read_text()
    return dict(re.findall(r"^\| (\S+) \| [^|]* \| (ok|resumed|diverged|damaged) \|", text, re.MULTILINE))


@pytest.mark.parametrize(
    "name",
    sorted(
        path.name
        for path in FIXTURES.iterdir()
        if (path / "config.json").exists() or (path / "adapter_config.json").exists()
    ),
)
def test_a_bundled_run_has_no_error_and_only_the_listed_warnings(name: str) -> None:
    found = {f.rule: f.message for f in before(name, True, None) if f.severity != "note"}
    assert not any(f.severity == "error" for f in before(name, True, None)), found
    assert set(found) == {rule for run, rule in FIXTURE_WARNINGS if run == name}, found


def test_no_file_given_alone_is_blamed_for_what_lies_beside_it() -> None:
    for place in ("lora-resized", "zero2", "zero3", "resumed", "llamafactory"):
        for path in sorted((FIXTURES / place).rglob("*")):
            if path.is_file():
                run = check_path(path, Options())
                assert (run.unreadable, serious(run)) == (None, {}), path


@pytest.mark.shared
def test_a_healthy_run_has_no_error_and_only_the_listed_warnings(shared: Path) -> None:
    healthy = [name for name, state in states(shared).items() if state == "ok" or name not in HAPPENED]
    assert len(healthy) > 50
    found = {
        (name, rule): text
        for name in healthy
        for rule, text in serious(check_path(shared / "runs" / name, Options(deep=True))).items()
    }
    assert set(found) == set(RUN_WARNINGS), {key: found[key] for key in set(found) - set(RUN_WARNINGS)}
    assert all(text.startswith("warning") for text in found.values())


@pytest.mark.shared
@pytest.mark.parametrize("name", HAPPENED)
def test_a_run_that_went_wrong_gets_the_findings_that_say_so(name: str, shared: Path) -> None:
    found = serious(check_path(shared / "runs" / name, Options()))
    assert set(found) == set(HAPPENED[name]), found


@pytest.mark.shared
def test_every_run_that_was_damaged_or_diverged_is_listed(shared: Path) -> None:
    assert {name for name, state in states(shared).items() if state in ("damaged", "diverged")} <= set(HAPPENED)


@pytest.mark.shared
def test_every_error_in_the_corpus_has_a_reason(shared: Path) -> None:
    found: dict[str, str] = {}
    for place, _, files in os.walk(shared / "corpus"):
        if not files:
            continue
        run = check_path(Path(place), Options())
        assert run.unreadable is None
        found |= {f.rule: f"{place}/{f.path}: {f.message}" for f in run.findings if f.severity == "error"}
    assert set(found) == set(CORPUS_ERRORS), {rule: found[rule] for rule in set(found) - set(CORPUS_ERRORS)}
