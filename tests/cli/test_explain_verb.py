"""`explain`: topics and a path on the command line, paragraphs and arithmetic out, the same objects as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckpt_inspect.cli.app import main
from ckpt_inspect.report.explain_document import NAMES, TOPICS


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["explain", *arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def holds(larger: object, smaller: object) -> bool:
    """Whether `larger` has everything `smaller` has: `show` leaves details out."""
    if isinstance(smaller, dict):
        return isinstance(larger, dict) and all(key in larger and holds(larger[key], smaller[key]) for key in smaller)
    return larger == smaller


def test_every_topic_that_applies_is_answered(capsys: pytest.CaptureFixture[str], fixtures: Path) -> None:
    code, out, err = call(capsys, str(fixtures / "resumed"))
    assert (code, err) == (0, "")
    for topic in ("Loss", "Learning rate", "Batches", "Evaluation", "Resume", "Space"):
        assert topic in out.splitlines()


def test_named_topics_alone_are_answered(capsys: pytest.CaptureFixture[str], fixtures: Path) -> None:
    code, out, _ = call(capsys, "loss", "batches", str(fixtures / "resumed"))
    assert code == 0
    assert [line for line in out.splitlines() if line in ("Loss", "Learning rate", "Batches", "Space")] == [
        "Loss",
        "Batches",
    ]
    assert "mean over the 8 steps since the run was resumed at step 8" in " ".join(out.split())


def test_the_arithmetic_stands_beneath_the_paragraph(capsys: pytest.CaptureFixture[str], fixtures: Path) -> None:
    _, out, _ = call(capsys, "loss", str(fixtures / "resumed"))
    lines = out.splitlines()
    assert any(line.startswith("    steps 10-12:") for line in lines)
    assert any("resumed at 8: mean over 8 steps = 5.516435" in line for line in lines)


def test_the_document_holds_the_objects_of_show(capsys: pytest.CaptureFixture[str], fixtures: Path) -> None:
    _, text, _ = call(capsys, "--json", str(fixtures / "llamafactory"))
    explained = json.loads(text)
    main(["show", "--json", str(fixtures / "llamafactory")])
    shown = json.loads(capsys.readouterr().out)
    assert explained["schema"] == "ckpt-inspect/explain/1"
    assert set(explained) >= {"schema", "tool_version", "path", *(topic.key for topic in TOPICS)}
    for topic in TOPICS:
        if explained[topic.key] is None or topic.key not in shown:
            continue
        assert {"paragraph", "arithmetic", "evidence"} <= explained[topic.key].keys()
        for key, value in shown[topic.key].items():
            assert holds(explained[topic.key][key], value), (topic.key, key)


def test_a_topic_that_does_not_apply_is_null_and_named(capsys: pytest.CaptureFixture[str], fixtures: Path) -> None:
    base = str(fixtures / "base-indices")
    _, text, _ = call(capsys, "--json", "loss", base)
    assert json.loads(text)["loss"] is None
    code, out, _ = call(capsys, "loss", "schedule", base)
    assert (code, out.strip()) == (0, "Nothing in this path to explain: loss, schedule.")


def test_an_unknown_topic_is_wrong_usage(capsys: pytest.CaptureFixture[str], fixtures: Path) -> None:
    code, out, err = call(capsys, "lose", str(fixtures / "resumed"))
    assert (code, out) == (2, "")
    assert "'lose' is no topic" in err
    assert all(name in err for name in NAMES)


def test_a_path_that_is_not_there_cannot_be_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = call(capsys, "loss", str(tmp_path / "gone"))
    assert (code, out) == (3, "")
    assert err.count("\n") == 1


def test_the_current_directory_is_the_default(
    capsys: pytest.CaptureFixture[str], fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fixtures / "resumed")
    code, out, _ = call(capsys, "loss")
    assert code == 0
    assert out.startswith("Loss\n")


def test_a_directory_named_like_a_topic_is_written_with_a_dot(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "train_results.json").write_text('{"train_loss": 1.5}')
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "loss", "./loss")
    assert code == 0
    assert "train_loss 1.500 cannot be recomputed" in out


def test_the_deletion_script_is_printed_and_nothing_is_deleted(
    capsys: pytest.CaptureFixture[str], fixtures: Path
) -> None:
    before = sorted(path.as_posix() for path in (fixtures / "resumed").rglob("*"))
    code, out, _ = call(capsys, "space", "--deletion-script", str(fixtures / "resumed"))
    assert code == 0
    assert "rm " in out
    assert sorted(path.as_posix() for path in (fixtures / "resumed").rglob("*")) == before
