"""JSON as tools write it and as accidents leave it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from builders.documents import kinds
from hypothesis import example, given
from hypothesis import strategies as st

from ckpt_inspect.formats import json_document
from ckpt_inspect.formats.json_document import parse_json, read_json, read_json_lines
from ckpt_inspect.storage import BytesSource

FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def read(data: bytes, **options: Any) -> json_document.JsonDocument:
    return read_json(BytesSource(data), **options)


@given(VALUES, st.booleans(), st.sampled_from([None, 2]))
def test_what_python_writes_is_read_back_without_a_fault(value: Any, ascii_only: bool, indent: int | None) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    document = parse_json(data)
    if "json-surrogate" not in kinds(document) and "json-utf8" not in kinds(document):
        assert (document.value, document.faults, document.complete) == (value, (), True)


@given(st.binary(max_size=200) | st.text('[]{}",:\\u0dNaIt1e+-. \n', max_size=60).map(str.encode))
@example(b"\xff\xfe\x00")
@example(b'{"a": "\\')
@example(b'["\\ud8')
@example(b"-")
def test_no_bytes_raise_and_nothing_incomplete_is_called_complete(data: bytes) -> None:
    document = parse_json(data)
    try:
        expected = json.loads(data)
    except (ValueError, RecursionError):
        assert document.faults
    else:
        if document.complete and not document.faults:
            assert repr(document.value) == repr(expected)


@given(VALUES.filter(lambda value: isinstance(value, dict | list)), st.data())
def test_every_beginning_of_a_document_gives_only_whole_things_of_it(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value).encode()
    cut = data.draw(st.integers(1, len(text) - 1))
    document = parse_json(text[:cut])
    assert not document.complete
    assert "json-truncated" in kinds(document)
    assert _is_beginning(document.value, value)


def _is_beginning(part: Any, whole: Any) -> bool:
    """Lists keep a prefix of whole elements, objects a prefix of members, the last of which may be a beginning."""
    if isinstance(whole, list):
        return isinstance(part, list) and part == whole[: len(part)]
    if isinstance(whole, dict) and isinstance(part, dict):
        names = list(part)
        return names == list(whole)[: len(names)] and all(
            part[name] == whole[name] or (name == names[-1] and _is_beginning(part[name], whole[name]))
            for name in names
        )
    return False


def test_a_trainer_state_cut_in_its_log_keeps_the_entries_before_the_cut() -> None:
    state = {
        "epoch": 1.0,
        "log_history": [{"loss": 1.5 - step / 10, "step": step} for step in range(5)],
        "max_steps": 5,
    }
    text = json.dumps(state, indent=2, sort_keys=True).encode()
    cut = text.index(b'"loss": 1.2') + 8
    document = read(text[:cut])
    assert document.value == {"epoch": 1.0, "log_history": state["log_history"][:3]}
    assert (kinds(document), document.complete) == (["json-truncated"], False)
    assert document.faults[0].offset == cut


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": 1, "b": 12', {"a": 1}),  # 12 may be the beginning of 123
        (b'{"a": 1, "b": tru', {"a": 1}),
        (b'{"a": 1, "b": true', {"a": 1, "b": True}),
        (b'{"a": 1, "b": "x', {"a": 1}),
        (b'{"a": 1, "b"', {"a": 1}),
        (b'{"a": 1, "b":', {"a": 1}),
        (b'{"a": 1, ', {"a": 1}),
        (b'{"a": {"b": 1, "c": [1, 2, {"d": 3', {"a": {"b": 1, "c": [1, 2]}}),
        (b'{"a": ["x,y", "z', {"a": ["x,y"]}),
        (b'{"a": [1], "b": "\\u00', {"a": [1]}),
        (b'{"a": [1]', {"a": [1]}),
        (b"[[1, 2], [3", [[1, 2]]),
        (b"[", []),
        (b"{", {}),
        (b'{"a": "\\"[{", "b": "\xe2\x82', {"a": '"[{'}),
    ],
)
def test_a_cut_document_is_closed_after_its_last_whole_thing(text: bytes, value: Any) -> None:
    document = read(text)
    assert (document.value, document.complete, kinds(document)) == (value, False, ["json-truncated"])


@pytest.mark.parametrize(
    ("text", "kind", "value", "complete"),
    [
        (b"", "json-empty", None, False),
        (b" \n\t", "json-empty", None, False),
        (b"\0" * 4096, "json-nul", None, False),
        (b'{"a": 1}' + b"\0" * 100, "json-nul", {"a": 1}, True),
        (b'{"a": 1}{"b": 2}', "json-trailing", {"a": 1}, True),
        (b'{"a": 1, "a": 2}', "json-duplicate-key", {"a": 2}, True),
        (b'{"a": 1, "\\u0061": 2}', "json-duplicate-key", {"a": 2}, True),
        (b'{"a": 1e400}', "json-float-overflow", {"a": math.inf}, True),
        (b'{"a": -1' + b"0" * 400 + b".5}", "json-float-overflow", {"a": -math.inf}, True),
        (b'{"a": 18446744073709551616}', "json-huge-int", {"a": 1 << 64}, True),
        (b'{"a": ' + b"9" * 5000 + b"}", "json-huge-int", {"a": math.inf}, True),
        (b'{"a": "\\ud800"}', "json-surrogate", {"a": "\ud800"}, True),
        (b'{"a": "\\udc00\\ud800"}', "json-surrogate", {"a": "\udc00\ud800"}, True),
        (b'\xef\xbb\xbf{"a": 1}', "json-bom", {"a": 1}, True),
        ('{"a": 1}'.encode("utf-16"), "json-encoding", {"a": 1}, True),
        ('{"a": 1}'.encode("utf-32-be"), "json-encoding", {"a": 1}, True),
        (b'{"a": "\xff"}', "json-utf8", {"a": "�"}, True),
        (b'{"a": "x\x01"}', "json-syntax", {"a": "x\x01"}, True),
        (b"{'a': 1}", "json-syntax", {}, False),
        (b'{"a": 1, // no\n "b": 2}', "json-syntax", {"a": 1}, False),
        (b"[1, 2,]", "json-syntax", [1, 2], False),
        (b"[" * 5000, "json-too-deep", None, False),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "json-too-deep", None, False),
    ],
)
def test_each_fault_is_named_once(text: bytes, kind: str, value: Any, complete: bool) -> None:
    document = read(text)
    assert set(kinds(document)) == {kind}
    assert (document.value, document.complete) == (value, complete)


def test_bare_nan_and_infinities_are_read_and_counted() -> None:
    document = read(b'{"a": NaN, "b": [Infinity, -Infinity], "c": "NaN"}')
    assert math.isnan(document.value["a"])
    assert document.value["b"] == [math.inf, -math.inf]
    assert kinds(document) == ["json-nan-token"]
    assert document.faults[0].message.startswith("3 ")
    assert document.faults[0].offset == 6


@pytest.mark.parametrize("text", [b'"\\ud83d\\ude00"', b'"\\\\ud800"', '"😀"'.encode(), b'"\\\\\\ud83d\\ude00"'])
def test_whole_pairs_and_escaped_backslashes_are_no_surrogates(text: bytes) -> None:
    assert read(text).faults == ()


def test_brackets_in_strings_do_not_count_as_depth() -> None:
    text = json.dumps({"template": "[{" * 5000 + '"\\[' * 50}).encode()
    assert read(text).faults == ()


def test_the_depth_limit_is_exact() -> None:
    assert read(b"[" * 200 + b"]" * 200).faults == ()
    assert kinds(read(b"[" * 201 + b"]" * 201)) == ["json-too-deep"]


def test_a_file_above_the_limit_is_not_read() -> None:
    class Untouched(BytesSource):
        size = 1 << 40  # type: ignore[assignment]

        def read_at(self, offset: int, length: int) -> bytes:
            raise AssertionError("read")

    document = read_json(Untouched(b""))
    assert (kinds(document), document.complete) == (["json-too-large"], False)


def test_a_small_file_of_millions_of_containers_is_refused_before_they_are_made() -> None:
    document = read(b"[" + b"[]," * 2_000_000 + b"1]")
    assert (document.value, kinds(document)) == (None, ["json-too-large"])


@pytest.mark.parametrize("text", [b"null", b"[]", b"1", b'"x"', b"true"])
def test_another_top_level_than_an_object_is_a_fault_where_an_object_is_wanted(text: bytes) -> None:
    document = read(text, want_object=True)
    assert kinds(document) == ["json-not-object"]
    assert document.mapping == {}
    assert read(text).faults == ()


def test_faults_of_one_kind_are_bounded() -> None:
    text = b"{" + b",".join(b'"a": %d' % number for number in range(5000)) + b"}"
    assert len(read(text).faults) < 30


# ------------------------------------------------------------------------------------------------ JSON Lines


def lines(data: bytes, **options: Any) -> json_document.JsonLines:
    return read_json_lines(BytesSource(data), **options)


def test_rows_come_with_their_line_numbers() -> None:
    found = lines(b'{"a": 1}\r\n\n{"a": 2}\n')
    assert (found.rows, found.faults, found.complete) == (((1, {"a": 1}), (3, {"a": 2})), (), True)


def test_a_last_line_without_its_end_of_line_is_whole_if_it_parses() -> None:
    assert lines(b'{"a": 1}\n{"a": 2}').rows == ((1, {"a": 1}), (2, {"a": 2}))


def test_an_unfinished_last_line_is_truncated_and_no_row() -> None:
    found = lines(b'{"a": 1}\n{"a": "\xe2\x82')
    assert found.rows == ((1, {"a": 1}),)
    assert (kinds(found), found.complete, found.faults[0].place) == (["json-truncated"], False, "line 2")


def test_a_broken_line_in_the_middle_does_not_hide_the_others() -> None:
    found = lines(b'{"a": 1}\nnot json\n{"a": 2}\n')
    assert found.rows == ((1, {"a": 1}), (3, {"a": 2}))
    assert (kinds(found), found.faults[0].place) == (["json-syntax"], "line 2")


def test_lines_longer_than_a_block_are_read_whole() -> None:
    long = "x" * (3 << 20)
    found = lines(json.dumps({"a": long}).encode() + b'\n{"b": 1}\n')
    assert [number for number, _ in found.rows] == [1, 2]
    assert found.rows[0][1] == {"a": long}


def test_a_file_of_nul_bytes_has_no_rows() -> None:
    assert (lines(b"\0" * 5000).rows, kinds(lines(b"\0" * 5000))) == ((), ["json-nul"])


def test_a_line_beyond_the_limit_stops_the_reading() -> None:
    found = lines(b'{"a": 1}\n' + b"x" * 5_000_000, max_line=1_000_000)
    assert found.rows == ((1, {"a": 1}),)
    assert ("json-too-large" in kinds(found), found.complete) == (True, False)


def test_reading_stops_at_the_limit_and_says_so() -> None:
    row = b'{"a": 1}\n'
    found = lines(row * 100, max_bytes=len(row) * 10 + 4)
    assert len(found.rows) == 10
    assert (kinds(found), found.complete) == (["json-too-large"], False)


def test_a_deep_line_is_refused() -> None:
    found = lines(b"[" * 10_000 + b'\n{"a": 1}\n')
    assert (found.rows, kinds(found)) == (((2, {"a": 1}),), ["json-too-deep"])


@given(st.binary(max_size=300))
def test_no_lines_raise(data: bytes) -> None:
    lines(data)


def test_a_broken_character_behind_a_whole_document_is_a_fault() -> None:
    document = read_json(BytesSource(b'{"a": 1}\n\xd2'))
    assert document.value == {"a": 1}
    assert [fault.kind for fault in document.faults] == ["json-utf8"]


@pytest.mark.parametrize("whole", [b'"{"', b"1e9", b"{}", b"[1]", b"null"])
@pytest.mark.parametrize("half", [b"\xe1", b"\xf3\x80", b"\xdc"])
def test_half_a_character_behind_any_whole_document_is_a_fault(whole: bytes, half: bytes) -> None:
    document = parse_json(whole + half)
    assert document.value == json.loads(whole)
    assert kinds(document) == ["json-utf8"]
