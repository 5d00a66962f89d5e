"""`--verify-only` finds every flipped bit, cut file and exchanged shard, and says what it could not compare."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckpt_inspect.cli.app import main
from ckpt_inspect.consolidate import verify
from ckpt_inspect.consolidate.api import consolidate, verify_consolidation
from ckpt_inspect.consolidate.manifest import RECORD, is_sealed, seal
from ckpt_inspect.errors import NotAFormatError, PathNotFoundError, VerificationError
from consolidate.making import CONFIG, make_checkpoint, parameter, small_model


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("verify")
    checkpoint = make_checkpoint(run, config=CONFIG)
    (checkpoint / "tokenizer.json").write_text('{"model": 1}')
    consolidate(checkpoint, run / "out", max_shard_size="1KB")
    return run


@pytest.fixture
def output(made, tmp_path) -> Path:
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path / "out"


def test_what_was_just_written_is_whole_and_equals_the_shards(made):
    report = verify_consolidation(made / "out")
    assert report.ok
    assert report.shards == "equal"
    assert report.bytes_covered == sum(path.stat().st_size for path in (made / "out").iterdir())


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_flipped_bit_is_found(data, made):
    files = sorted(path for path in (made / "out").iterdir())
    path = data.draw(st.sampled_from(files))
    original = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(original) - 1))
    changed = bytearray(original)
    changed[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(changed)
    try:
        try:
            assert verify_consolidation(made / "out", shards=False).problems
        except VerificationError:
            assert path.name == RECORD
    finally:
        path.write_bytes(original)


def test_ten_thousand_flips_of_the_record_and_the_weights_change_their_seals(made):
    chance = random.Random(7)
    record = (made / "out" / RECORD).read_bytes()
    assert is_sealed(record)
    for _ in range(10_000):
        changed = bytearray(record)
        bit = chance.randrange(8 * len(record))
        changed[bit // 8] ^= 1 << (bit % 8)
        assert not is_sealed(bytes(changed))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_truncation_and_extension_is_found(data, made):
    path = data.draw(st.sampled_from(sorted((made / "out").iterdir())))
    original = path.read_bytes()
    length = data.draw(st.integers(0, len(original) + 20).filter(lambda n: n != len(original)))
    path.write_bytes((original + bytes(20))[:length])
    try:
        try:
            assert verify_consolidation(made / "out", shards=False).problems
        except VerificationError:
            assert path.name == RECORD
    finally:
        path.write_bytes(original)


def test_exchanged_shards_are_found(output):
    first, second = sorted(output.glob("*.safetensors"))[:2]
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert verify_consolidation(output).problems


def test_a_missing_file_an_added_shard_and_a_link_are_found(output, tmp_path):
    shard = sorted(output.glob("*.safetensors"))[0]
    (output / "model-00009-of-00009.safetensors").write_bytes(shard.read_bytes())
    (output / "notes.txt").write_text("x")
    moved = tmp_path / "moved"
    shard.rename(moved)
    shard.symlink_to(moved)
    (output / "tokenizer.json").unlink()
    report = verify_consolidation(output)
    text = "\n".join(report.problems)
    assert "model-00009-of-00009.safetensors was added" in text
    assert f"{shard.name} is a link" in text
    assert "tokenizer.json" in text
    assert any("notes.txt" in note for note in report.notes)


def test_shards_of_another_step_are_told_from_the_output(tmp_path):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    consolidate(checkpoint, tmp_path / "out")
    model = small_model()
    for item in model.parameters:
        item.values += 1
    shard = sorted((checkpoint / "global_step8").glob("*optim*"))[1]
    times = shard.stat()
    other = make_checkpoint(tmp_path / "other", model=model)
    data = (other / "global_step8" / shard.name).read_bytes()
    assert len(data) == times.st_size
    shard.write_bytes(data)
    touched = verify_consolidation(tmp_path / "out")
    assert touched.ok
    assert touched.shards == "changed"
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    lying = verify_consolidation(tmp_path / "out")
    assert lying.shards == "differ"
    assert "differs from the shards" in lying.problems[0]


def test_without_the_shards_the_checksums_are_all_there_is_and_that_is_said(tmp_path):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    consolidate(checkpoint, tmp_path / "out")
    shutil.rmtree(checkpoint)
    report = verify_consolidation(tmp_path / "out")
    assert report.ok
    assert report.shards == "missing"
    assert any("only the checksums" in note for note in report.notes)


def test_output_and_shards_may_move_together(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "here", config=CONFIG)
    consolidate(checkpoint)
    (tmp_path / "here").rename(tmp_path / "there")
    assert verify_consolidation(tmp_path / "there" / "fp32-checkpoint-8").shards == "equal"


def test_without_a_checksum_the_shards_still_prove_the_output(tmp_path):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    consolidate(checkpoint, tmp_path / "out", checksum=False, verify=True)
    report = verify_consolidation(tmp_path / "out")
    assert report.ok
    assert report.shards == "equal"
    assert any("without a checksum" in note for note in report.notes)
    path = tmp_path / "out" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert not verify_consolidation(tmp_path / "out").ok


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a//b", "a/../b", "", "a\\b"])
def test_a_record_that_names_files_outside_is_refused(name, output):
    record = json.loads((output / RECORD).read_text())
    record.pop("record_sha256")
    record["files"][0]["name"] = name
    (output / RECORD).write_bytes(seal(json.dumps(record, indent=2)[: -len("\n}")]))
    assert any("outside the directory" in problem for problem in verify_consolidation(output).problems)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"schema": "ckpt-inspect/consolidation/1"}', b"\xff\xfe"]
)
def test_a_record_that_is_none_is_an_error_of_one_line(content, output, capfd):
    (output / RECORD).write_bytes(content)
    with pytest.raises(VerificationError):
        verify_consolidation(output)
    assert main(["consolidate", str(output), "--verify-only"]) == 1
    assert capfd.readouterr().err.count("\n") == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_record_that_says_anything_at_all_is_never_a_crash(data, made):
    path = made / "out" / RECORD
    original = path.read_bytes()
    record = json.loads(original)
    record.pop("record_sha256")
    place, key = record, data.draw(st.sampled_from(sorted(record)))
    while isinstance(place[key], (list, dict)) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = data.draw(JSON)
    path.write_bytes(seal(json.dumps(record, indent=2)[: -len("\n}")]))
    try:
        verify_consolidation(made / "out")
    except (VerificationError, PathNotFoundError):  # a record may name a file that is not there
        pass
    finally:
        path.write_bytes(original)


def test_a_directory_without_a_record_is_no_output(tmp_path):
    with pytest.raises(NotAFormatError, match="not an output of consolidate"):
        verify_consolidation(tmp_path)
    assert main(["consolidate", str(tmp_path), "--verify-only"]) == 3


def test_the_command_says_one_line_and_exits_with_one(output, capfd):
    assert main(["consolidate", str(output), "--verify-only"]) == 0
    assert "whole and unchanged" in capfd.readouterr().out
    (output / "tokenizer.json").write_text('{"model": 2}')
    assert main(["consolidate", str(output), "--verify-only", "-q"]) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "tokenizer.json was changed" in captured.err
    assert main(["consolidate", str(output), "--verify-only", "--json"]) == 1
    assert json.loads(capfd.readouterr().out)["verified"] is False


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("checksum", [True, False])
def test_what_does_not_read_back_is_removed(complete, checksum, tmp_path, monkeypatch):
    model = small_model()
    model.parameters.append(parameter("last.weight", 64, 64))
    checkpoint = make_checkpoint(tmp_path, model=model, config=CONFIG)
    real = verify.reread

    def corrupt(directory, *arguments, **named):
        path = directory / "model.safetensors"
        data = bytearray(path.read_bytes())
        for at in range(len(data) - 30_000, len(data)):
            data[at] ^= 0x10
        path.write_bytes(data)
        real(directory, *arguments, **named)

    monkeypatch.setattr("ckpt_inspect.consolidate.execute.reread", corrupt)
    with pytest.raises(VerificationError):
        consolidate(checkpoint, tmp_path / "out", verify=complete, checksum=checksum)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-8"]
