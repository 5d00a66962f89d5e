"""Equal bytes are looked at once; different bytes, questions and large files are not mixed up."""

from __future__ import annotations

from pathlib import Path

from ckpt_inspect import memo as memo_module
from ckpt_inspect.memo import Memo
from ckpt_inspect.storage import BytesSource, LocalFile, LocalTree, once


def test_an_answer_is_worked_out_once_per_content_and_question(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{}")
    (tmp_path / "b.json").write_bytes(b"{}")
    (tmp_path / "c.json").write_bytes(b"[]")
    tree = LocalTree(tmp_path)
    asked: list[str] = []

    def answer(name: str, topic: str) -> bytes:
        with tree.open(name) as file:
            return once(file, topic, lambda: (asked.append(f"{topic} {name}"), file.read_at(0, 9))[1])

    assert [answer(name, "text") for name in ("a.json", "b.json", "c.json")] == [b"{}", b"{}", b"[]"]
    assert answer("b.json", "other") == b"{}"
    assert asked == ["text a.json", "text c.json", "other b.json"]


def test_a_file_that_was_rewritten_gets_a_new_answer(tmp_path: Path) -> None:
    path, memo = tmp_path / "state.json", Memo()
    for content in (b"old", b"new"):
        path.write_bytes(content)
        with LocalFile(path, memo=memo) as file:
            assert file.once("text", lambda file=file: file.read_at(0, 9)) == content


def test_without_a_memo_and_in_memory_every_question_is_answered_anew(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    asked: list[int] = []
    with LocalFile(tmp_path / "a") as file:
        for source in (file, file, BytesSource(b"x"), BytesSource(b"x")):
            once(source, "topic", lambda: asked.append(1))
    assert len(asked) == 4


def test_what_was_not_asked_for_the_longest_time_is_forgotten_first(monkeypatch) -> None:
    monkeypatch.setattr(memo_module, "MOST_BYTES", 20)
    memo, asked = Memo(), []

    def ask(key: str) -> None:
        memo.once(key, 10, lambda: asked.append(key))

    for key in ("a", "b", "a", "c", "a", "b"):
        ask(key)
    assert asked == ["a", "b", "c", "b"]
