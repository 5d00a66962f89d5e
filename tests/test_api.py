"""The public functions: reachable from the top, typed, the same answers as the command line, and nothing imported too early."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import ckpt_inspect as ci

ROOT = Path(__file__).resolve().parents[1]
VERBS = ("show", "explain", "check", "args", "tensors", "scan", "plot_loss", "series", "consolidate")


def command(*arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "ckpt_inspect", *arguments], capture_output=True, text=True, check=False
    )
    document: dict[str, object] = json.loads(done.stdout)
    return document


def test_the_example_of_the_package_works_as_written(fixtures: Path, tmp_path: Path) -> None:
    run = ci.open_run(fixtures / "zero3")
    assert run.trainer_state is not None
    assert run.trainer_state.final_loss is not None
    assert run.trainer_state.final_loss.step == 4
    zero = run.checkpoints[-1].zero
    assert zero is not None
    assert zero.world_size == 2
    assert ci.check(run).findings == ()
    assert ci.consolidate(run, tmp_path / "merged").output == tmp_path / "merged"
    assert ci.verify_consolidation(tmp_path / "merged").ok


def test_what_is_public_is_one_list() -> None:
    assert set(ci.__all__) == {*ci.PUBLIC, "__version__"}
    assert set(ci.__all__) <= set(dir(ci))
    for name in ci.PUBLIC:
        assert callable(getattr(ci, name)), name


def test_everything_public_is_there_for_type_checkers() -> None:
    source = inspect.getsource(ci).partition("if TYPE_CHECKING:")[2].partition("# name -> module")[0]
    named = {word.strip("(),") for word in source.split()}
    assert set(ci.PUBLIC) <= named
    assert (ROOT / "ckpt_inspect" / "py.typed").is_file()


@pytest.mark.parametrize("name", sorted(ci.PUBLIC))
def test_everything_public_is_documented(name: str) -> None:
    thing = getattr(__import__(ci.PUBLIC[name], fromlist=[name]), name)
    text = inspect.getdoc(thing) or ""
    assert text
    if inspect.isfunction(thing):
        described = text.partition("Args:")[2]
        parameters = inspect.signature(thing).parameters
        assert "Raises:" in text
        if len(parameters) > 1:
            assert not [one for one in parameters if f"{one}:" not in described]


def test_a_package_that_is_a_verb_stays_callable_whatever_was_imported_before() -> None:
    program = (
        "import ckpt_inspect.scan.engine, ckpt_inspect.explain.loss, ckpt_inspect.tensors.listing, ckpt_inspect as ci\n"
        "import inspect\n"
        "for verb in (ci.scan, ci.explain, ci.tensors, ci.consolidate): print(next(iter(inspect.signature(verb).parameters)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["path", "path", "paths", "path"]


def test_explain_gives_the_answers_by_topic(fixtures: Path) -> None:
    answers = ci.explain(fixtures / "resumed")
    assert {"loss", "schedule", "batches", "resume", "space"} <= set(answers)
    assert "adapter" not in answers, "it does not apply"
    document = command("explain", "loss", str(fixtures / "resumed"), "--json")["loss"]
    assert isinstance(document, dict)
    (loss,) = ci.explain(fixtures / "resumed", "loss").values()
    assert (loss.paragraph, list(loss.arithmetic)) == (document["paragraph"], document["arithmetic"])
    with pytest.raises(ci.UsageError, match="the topics are loss"):
        ci.explain(fixtures / "resumed", "lost")


def test_check_finds_what_the_command_finds(fixtures: Path) -> None:
    checked = ci.check(fixtures / "lora-resized", expect=["loss.final < 2", "adapter.rank == 4"])
    document = command("check", str(fixtures / "lora-resized"), "--format", "json")
    found = document["findings"]
    assert isinstance(found, list)
    assert [finding.rule for finding in checked.findings] == [finding["rule"] for finding in found] == ["CKP343"]
    assert [outcome.met for outcome in checked.outcomes] == [False, True]
    assert checked.fails()
    passing = ci.check(fixtures / "lora-resized")
    assert (passing.fails(), passing.fails(failing="warning")) == (False, True)
    assert ci.check(fixtures / "lora-resized", ignore=["CKP343"]).findings == ()
    assert ci.check(fixtures / "lora-resized", severity={"CKP343": "error"}).fails()


def test_check_holds_a_run_to_a_contract_and_leaves_out_what_is_known(fixtures: Path, tmp_path: Path) -> None:
    run, contract, known = str(fixtures / "lora-resized"), tmp_path / "contract.toml", tmp_path / "known.json"
    for words in (["contract", run, "-o", contract], ["check", run, "--write-baseline", known]):
        subprocess.run([sys.executable, "-m", "ckpt_inspect", *map(str, words)], capture_output=True, check=True)
    assert ci.check(run, contract=contract, baseline=known).findings == ()
    assert {one.rule for one in ci.check(fixtures / "lora-indices", contract=contract).findings} == {"CKP090"}


def test_scan_and_tensors_are_those_of_the_command(fixtures: Path) -> None:
    run = fixtures / "zero2"
    files = command("scan", str(run), "--json")["files"]
    rows = command("tensors", str(run), "--json")["tensors"]
    assert isinstance(files, list)
    assert isinstance(rows, list)
    assert [file.verdict for file in ci.scan(run).files] == [file["verdict"] for file in files]
    assert [row.name for row in ci.tensors(run).rows] == [row["name"] for row in rows]
    assert {row.name for row in ci.tensors([run], match=["norm"]).rows} < {row["name"] for row in rows}


def test_the_numbers_of_a_curve(fixtures: Path) -> None:
    curve = ci.series(ci.open_run(fixtures / "resumed"), metrics=["loss"])
    loss = curve.get("loss")
    assert loss is not None
    assert loss.final is not None
    assert loss.final[0] == 15


def test_a_run_and_a_checkpoint_can_be_given_where_a_path_is_asked_for(fixtures: Path) -> None:
    run = ci.open_run(fixtures / "zero3")
    checkpoint = run.checkpoints[-1]
    assert Path(run) == fixtures / "zero3"
    assert Path(checkpoint) == fixtures / "zero3" / "checkpoint-4"
    assert ci.show(run) == ci.show(fixtures / "zero3")
    assert ci.plan_consolidation(checkpoint).stage == 3
    assert dict(ci.iter_tensors(checkpoint, only=["model.norm.weight"])).keys() == {"model.norm.weight"}


def test_an_opened_run_is_not_opened_again(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ci.open_run(fixtures / "resumed")
    monkeypatch.setattr("ckpt_inspect.run.open_run", lambda path: pytest.fail(f"opened {path}"))
    assert ci.show(run)["kind"] == "run"
    assert ci.check(run).findings == ()


def test_a_path_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    for verb in (ci.show, ci.check, ci.explain, ci.scan, ci.tensors, ci.series, ci.consolidate):
        with pytest.raises(ci.UnreadableError, match="no such file or directory"):
            verb(tmp_path / "nothing")
