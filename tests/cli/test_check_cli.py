"""`check` and `contract` as a pipeline meets them: exit codes, formats, files, baselines, expectations, settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

SCHEMAS = Path(__file__).resolve().parents[1] / "report" / "schemas"
PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "schema"


def check(*arguments: str | Path, verb: str = "check", at: Path | None = None) -> subprocess.CompletedProcess[str]:
    settings = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return subprocess.run(
        [sys.executable, "-m", "ckpt_inspect", verb, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=settings,
        cwd=at,
        check=False,
    )


@pytest.fixture
def broken(fixtures: Path, tmp_path: Path) -> Path:
    """A run whose newest optimizer is empty (error), and whose vocabulary was not trained (warning)."""
    run = tmp_path / "broken"
    shutil.copytree(fixtures / "lora-resized", run)
    (run / "checkpoint-12" / "optimizer.pt").write_bytes(b"")
    return run


def test_0_no_error_found(fixtures: Path) -> None:
    done = check(fixtures / "resumed")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("resumed: no findings.\n")


def test_0_warnings_alone_do_not_fail(fixtures: Path) -> None:
    done = check(fixtures / "lora-resized")
    assert done.returncode == 0
    assert "warning CKP343 embeddings-saved-but-frozen: adapter_model.safetensors" in done.stdout


def test_1_an_error(broken: Path) -> None:
    done = check(broken)
    assert done.returncode == 1
    first = done.stdout.splitlines()
    assert first[0].startswith("error ")
    assert "error CKP011 empty-file: checkpoint-12/optimizer.pt" in first
    assert any(line.startswith("  -> ") for line in first)


def test_1_strict_makes_warnings_fail(fixtures: Path) -> None:
    assert check(fixtures / "lora-resized", "--strict").returncode == 1
    assert check(fixtures / "resumed", "--strict").returncode == 0


def test_1_a_missed_expectation_says_what_was_met(fixtures: Path) -> None:
    done = check(fixtures / "resumed", "--expect", "checkpoints >= 2", "--expect", "loss.final < 0.001")
    assert done.returncode == 1
    assert "not met" in done.stdout
    assert "loss.final < 0.001" in done.stdout
    assert check(fixtures / "resumed", "--expect", "progress.finished").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--select", "CKP9999"), "no rule is called"),
        (("--select", "no-weigths"), "did you mean no-weights"),
        (("--severity", "CKP001=fatal"), "not one of error, warning, note, off"),
        (("--severity", "CKP001"), "not RULE=LEVEL"),
        (("--expect", "los.final < 2"), "did you mean loss"),
        (("--baseline", "nowhere.json"), "no such baseline"),
        (("--contract", "nowhere.toml"), "no such contract"),
        (("--config", "nowhere.toml"), "nowhere.toml"),
        (("--max-findings", "0"), "max-findings"),
    ],
)
def test_2_wrong_usage_says_what_is_wrong(arguments: tuple[str, ...], words: str, fixtures: Path) -> None:
    done = check(fixtures / "resumed", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_2_a_pattern_that_matches_nothing(tmp_path: Path) -> None:
    assert check(tmp_path / "run-*").returncode == 2


@pytest.mark.parametrize("form", ["text", "json", "sarif", "junit", "github", "markdown"])
def test_3_a_path_that_cannot_be_read(form: str, tmp_path: Path) -> None:
    done = check(tmp_path / "gone", "--format", form)
    assert done.returncode == 3
    assert "gone" in done.stdout + done.stderr


def test_3_outranks_1(broken: Path, tmp_path: Path) -> None:
    assert check(broken, tmp_path / "gone").returncode == 3


@pytest.mark.parametrize("form", ["text", "json", "sarif", "junit", "github", "markdown"])
def test_the_format_never_changes_the_exit_code(form: str, broken: Path) -> None:
    done = check(broken, "--format", form)
    assert done.returncode == 1
    assert "CKP011" in done.stdout


def test_json_is_valid_against_the_published_schema(broken: Path) -> None:
    document = json.loads(check(broken, "-f", "json").stdout)
    jsonschema.validate(document, json.loads((PUBLISHED / "check.json").read_text()))
    assert document["schema"] == "ckpt-inspect/check/1"
    assert document["summary"]["errors"] == len([f for f in document["findings"] if f["severity"] == "error"]) > 0


def test_sarif_is_valid_against_the_official_schema(broken: Path) -> None:
    document = json.loads(check(broken, "-f", "sarif").stdout)
    schema = json.loads((SCHEMAS / "sarif-2.1.0-rtm.5.json").read_text())
    assert [error.message for error in jsonschema.Draft4Validator(schema).iter_errors(document)] == []
    described = document["runs"][0]["tool"]["driver"]["rules"]
    for result in document["runs"][0]["results"]:
        assert described[result["ruleIndex"]]["id"] == result["ruleId"]


def test_junit_has_a_failure_for_each_error_and_a_case_for_each_expectation(broken: Path) -> None:
    done = check(broken, "-f", "junit", "--expect", "progress.finished")
    root = ElementTree.fromstring(done.stdout)
    names = [case.get("name") for case in root.iter("testcase") if case.find("failure") is not None]
    assert "CKP011 empty-file" in names
    assert "expect progress.finished" in [case.get("name") for case in root.iter("testcase")]
    assert [case.get("name") for case in root.iter("testcase") if case.find("skipped") is not None] == [
        "CKP343 embeddings-saved-but-frozen"
    ]


def test_github_annotations_are_one_line_each(broken: Path) -> None:
    lines = check(broken, "-f", "github").stdout.splitlines()
    assert lines
    assert all(line.startswith(("::error file=", "::warning file=", "::notice file=")) for line in lines)


def test_markdown_has_a_table_per_severity(broken: Path) -> None:
    text = check(broken, "-f", "markdown").stdout
    assert text.index("#### Errors") < text.index("#### Warnings")
    rows = [line for line in text.splitlines() if line.startswith("| CKP")]
    assert all(line.replace("\\|", "").count("|") == 5 for line in rows)


def test_output_is_written_whole_or_not_at_all(broken: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("before")
    assert check(broken, "-f", "json", "-o", target).returncode == 1
    assert json.loads(target.read_text())["summary"]["errors"] > 0
    target.write_text("before")
    assert check(broken, "-f", "json", "-o", target, "--select", "CKP9999").returncode == 2
    assert target.read_text() == "before"
    assert check(broken, "-f", "json", "-o", tmp_path / "no" / "report.json").returncode == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_selection_and_severity(broken: Path) -> None:
    assert check(broken, "--select", "CKP3").returncode == 0
    assert check(broken, "--select", "embeddings-saved-but-frozen", "--severity", "CKP343=error").returncode == 1
    assert check(broken, "--ignore", "CKP0,CKP6").returncode == 0
    assert "CKP343" not in check(broken, "--severity", "CKP343=off").stdout


def test_max_findings_shows_the_worst_and_counts_the_rest(broken: Path) -> None:
    done = check(broken, "--max-findings", "1")
    assert done.returncode == 1
    assert sum(line.startswith(("error ", "warning ")) for line in done.stdout.splitlines()) == 1
    assert "and 2 more (--max-findings)" in done.stdout


def test_a_baseline_leaves_out_what_is_known_and_nothing_else(broken: Path, tmp_path: Path) -> None:
    known = tmp_path / "known.json"
    assert check(broken, "--write-baseline", known, "--max-findings", "1").returncode == 0
    done = check(broken, "--baseline", known)
    assert done.returncode == 0
    assert "3 known left out" in done.stdout
    before = known.read_text()
    assert check(broken, "--baseline", known, "--write-baseline", known).returncode == 0
    assert known.read_text() == before
    (broken / "checkpoint-6" / "optimizer.pt").write_bytes(b"")
    done = check(broken, "--baseline", known)
    assert done.returncode == 1
    assert "checkpoint-6/optimizer.pt" in done.stdout
    assert "checkpoint-12/optimizer.pt" not in done.stdout


def test_a_contract_learned_from_a_run_holds_for_it_and_not_for_another(fixtures: Path, tmp_path: Path) -> None:
    contract = tmp_path / "contract.toml"
    assert check(fixtures / "resumed", "-o", contract, verb="contract").returncode == 0
    assert check(fixtures / "resumed", "--contract", contract).returncode == 0
    done = check(fixtures / "lora-indices", "--contract", contract)
    assert done.returncode == 1
    assert "CKP090 contract-broken" in done.stdout


def test_settings_beside_the_run_and_by_name(broken: Path, tmp_path: Path) -> None:
    (broken / "ckpt-inspect.toml").write_text('ignore = ["CKP0", "CKP6"]\n')
    assert check(broken).returncode == 0
    other = tmp_path / "other.toml"
    other.write_text('strict = true\nselect = ["CKP3"]\nexpect = ["checkpoints >= 1"]\n')
    done = check(broken, "--config", other)
    assert done.returncode == 1
    assert "CKP011" not in done.stdout
    other.write_text("strikt = true\n")
    done = check(broken, "--config", other)
    assert done.returncode == 2
    assert "did you mean strict" in done.stderr


def test_several_paths_and_patterns_end_with_one_table(broken: Path, fixtures: Path, tmp_path: Path) -> None:
    shutil.copytree(fixtures / "resumed", tmp_path / "bravo")
    shutil.copytree(fixtures / "zero2", tmp_path / "zulu")
    done = check(tmp_path / "br*", tmp_path / "zulu", "--jobs", "2")
    assert done.returncode == 1
    table = done.stdout.strip().split("\n\n")[-1].splitlines()
    assert [line.split()[0].rpartition("/")[2] for line in table] == ["bravo", "broken", "zulu"]
    assert "no findings" in table[0]
    assert "2 errors, 1 warning" in table[1]


def test_several_paths_in_parallel_and_in_turn_say_the_same(broken: Path, fixtures: Path) -> None:
    paths = (fixtures / "zero2", broken, fixtures / "zero3", fixtures / "llamafactory")
    assert check(*paths, "--jobs", "2").stdout == check(*paths, "--jobs", "1").stdout


def test_deep_reads_weights(fixtures: Path, tmp_path: Path) -> None:
    run = tmp_path / "zero2"
    shutil.copytree(fixtures / "zero2", run)
    path = next((run / "checkpoint-4" / "global_step4").glob("*rank_1*optim*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(bytes(data))
    assert check(run).returncode == 0
    done = check(run, "--deep")
    assert done.returncode == 1
    assert "CKP104" in done.stdout
