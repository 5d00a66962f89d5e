"""A scan of a directory: every file, by its bytes, nothing opened that must not be."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import jsonschema
import pytest
from builders.hostile import EXEC, PLAIN
from builders.pickles import Called, Instance, Name, dump
from builders.torch_files import save_legacy, tensor
from builders.zips import PlainMember, plain_zip

from ckpt_inspect.errors import PathNotFoundError, UnreadableError
from ckpt_inspect.report.documents import ScanDocument
from ckpt_inspect.report.json_text import json_text
from ckpt_inspect.report.scan_document import scan_document
from ckpt_inspect.report.text_scan import scan_text
from ckpt_inspect.scan import ScanLimits, ScanReport, rank, scan_path, scan_source
from ckpt_inspect.storage import BytesSource


def verdicts(report: ScanReport) -> dict[str, str]:
    return {file.path: file.verdict for file in report.files}


def test_a_directory_is_its_files_in_path_order(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "optimizer.pt").write_bytes(plain_zip([PlainMember(b"optimizer/data.pkl", PLAIN)]))
    (tmp_path / "rng_state.pth").write_bytes(EXEC)
    (tmp_path / "README.md").write_text("a model\n")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "object").write_bytes(EXEC)
    report = scan_path(tmp_path)
    assert list(verdicts(report)) == ["README.md", "checkpoint-1/optimizer.pt", "rng_state.pth"]
    assert report.verdict == "dangerous"


def test_a_finding_says_what_the_artifact_should_hold(tmp_path: Path) -> None:
    (tmp_path / "rng_state.pth").write_bytes(EXEC)
    (found,) = scan_path(tmp_path / "rng_state.pth").files
    assert found.artifact == "rng_state"
    assert any("should hold numpy arrays" in finding.message for finding in found.findings)


def test_a_harmless_name_in_the_wrong_file_is_a_remark(tmp_path: Path) -> None:
    stream = dump(Instance(Name("transformers.training_args", "TrainingArguments"), {"a": 1}), 2)
    (tmp_path / "rng_state.pth").write_bytes(stream)
    (tmp_path / "training_args.bin").write_bytes(stream)
    report = scan_path(tmp_path)
    kinds = {file.path: {finding.kind for finding in file.findings} for file in report.files}
    assert kinds["rng_state.pth"] == {"scan-unexpected-name"}
    assert kinds["training_args.bin"] == set()
    assert set(verdicts(report).values()) == {"known"}


def test_what_cannot_be_opened_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "outside.bin").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket.pkl"))
    try:
        report = scan_path(tmp_path)
    finally:
        server.close()
    found = verdicts(report)
    assert found["good.json"] == "clean"
    assert rank(found["pipe.pt"]) >= rank("unknown")  # type: ignore[arg-type]
    assert rank(found["outside.bin"]) >= rank("unknown")  # type: ignore[arg-type]
    assert rank(found["socket.pkl"]) >= rank("unknown")  # type: ignore[arg-type]
    assert report.coverage == "partial"


def test_a_path_that_is_not_there_or_no_file_raises(tmp_path: Path) -> None:
    with pytest.raises(PathNotFoundError):
        scan_path(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableError):
        scan_path(tmp_path / "pipe")


def test_a_file_that_changes_while_it_is_scanned_is_never_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckpt_inspect.scan import engine

    path = tmp_path / "model.pkl"
    path.write_bytes(PLAIN)
    real = engine.scan_source

    def scan_and_replace(*args: object, **kwargs: object) -> object:
        found = real(*args, **kwargs)  # type: ignore[arg-type]
        path.write_bytes(EXEC)
        return found

    monkeypatch.setattr(engine, "scan_source", scan_and_replace)
    (found,) = scan_path(path).files
    assert found.findings[0].kind == "scan-changed"
    assert (found.verdict, found.coverage) == ("unknown", "partial")


def test_a_file_cut_shorter_while_it_is_read_raises_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(dump([str(number) for number in range(400_000)], 4))
    cutter = threading.Timer(0.02, lambda: os.truncate(path, 100_000))
    cutter.start()
    (found,) = scan_path(path).files
    cutter.join()
    assert found.verdict in ("clean", "unknown")
    assert found.verdict != "clean" or found.coverage == "complete"


def test_one_budget_holds_for_everything_in_a_file() -> None:
    member = [PlainMember(b"a/%d.pkl" % number, bytes(2 << 20), method=8) for number in range(64)]
    found = scan_source(BytesSource(plain_zip(member)), "a.zip", limits=ScanLimits(inflated=4 << 20))
    assert found.coverage != "complete"
    assert any(finding.kind == "zip-bomb" for finding in found.findings)
    assert rank(found.verdict) >= rank("suspicious")


def test_time_is_a_budget_too() -> None:
    found = scan_source(BytesSource(plain_zip([PlainMember(b"a.pkl", PLAIN)])), "a.zip", limits=ScanLimits(seconds=0.0))
    assert (found.coverage, found.verdict) == ("partial", "suspicious")


def test_members_beyond_the_limit_are_said_not_to_be_scanned() -> None:
    members = [PlainMember(b"a/%d.txt" % number, b"x") for number in range(20)]
    found = scan_source(BytesSource(plain_zip(members)), "a.zip", limits=ScanLimits(members=10))
    assert (found.coverage, found.verdict) == ("partial", "suspicious")


def test_the_strongest_use_of_a_name_is_reported_once_with_its_count() -> None:
    name = Name("somepkg", "f")
    stream = dump([name, Called(name, ()), Called(Name("somepkg", "g"))], 2)
    found = scan_source(BytesSource(stream), "a.pkl")
    assert [(one.name, one.use) for one in found.globals] == [("somepkg.f", "call"), ("somepkg.g", "call")]


def hostile_report(tmp_path: Path) -> ScanReport:
    evil = "\x1b[31m::error::\u202e<script>|`](x)\n"
    (tmp_path / "a.pkl").write_bytes(dump(Called(Name("some\x1b[0m", "f\u202e"), (evil,)), 4))
    (tmp_path / "b.pt").write_bytes(plain_zip([PlainMember(b"x/\x1b[31mdata.pkl", EXEC)]))
    (tmp_path / "c.json").write_text(json.dumps({"auto_map": {"AutoModel": evil}}))
    (tmp_path / "d\x1b[0m\n.pkl").write_bytes(EXEC)
    return scan_path(tmp_path)


def test_no_text_from_a_file_reaches_a_report_unescaped(tmp_path: Path) -> None:
    report = hostile_report(tmp_path)
    for width in (40, 80, 160):
        for every in (False, True):
            text = scan_text(report, width=width, color=False, every=every)
            assert "\x1b" not in text
            assert "\u202e" not in text
            assert all(character.isprintable() for line in text.splitlines() for character in line)
    document = json_text(scan_document(report))
    assert document.isascii()
    assert "\\u001b" not in document


def test_the_document_follows_its_published_schema(tmp_path: Path) -> None:
    document = json.loads(json_text(scan_document(hostile_report(tmp_path))))
    jsonschema.validate(document, ScanDocument.model_json_schema(by_alias=True))
    ScanDocument.model_validate(document)
    assert document["schema"] == "ckpt-inspect/scan/1"
    assert sum(document["summary"].values()) == len(document["files"])
    assert all(finding["meaning"] and finding["remedy"] for file in document["files"] for finding in file["findings"])


def test_a_reader_that_fails_is_an_answer_about_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from ckpt_inspect.scan.examine import Examiner

    def fail(self: Examiner, source: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(Examiner, "examine", fail)
    found = scan_source(BytesSource(PLAIN), "a.pkl")
    assert (found.verdict, found.coverage) == ("suspicious", "partial")
    assert found.findings[0].kind == "reader-failed"


def test_a_legacy_file_cut_in_its_storages_is_unknown_not_suspicious(tmp_path: Path) -> None:
    save_legacy(
        tmp_path / "model.bin", {"w": tensor("F32", (64,), bytes(range(256))), "v": tensor("F32", (4,), bytes(16))}
    )
    whole = (tmp_path / "model.bin").read_bytes()
    assert scan_path(tmp_path / "model.bin").verdict == "clean"
    for cut in (8, 100, 200):
        (tmp_path / "cut.bin").write_bytes(whole[:-cut])
        (found,) = scan_path(tmp_path / "cut.bin").files
        assert (found.verdict, found.coverage) == ("unknown", "malformed")
