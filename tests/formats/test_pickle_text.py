"""The text arguments of protocol 0, as the three readers in use spell them."""

from __future__ import annotations

import codecs
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.formats.pickle_text import read_float, read_index, read_integer, read_long, read_quoted


@pytest.mark.parametrize(
    ("line", "value"), [(b"0", 0), (b"7", 7), (b"-12", -12), (b"00", False), (b"01", True), (b"123456789", 123456789)]
)
def test_what_writers_write_is_read_without_remark(line: bytes, value: int) -> None:
    found, differs = read_integer(line)
    assert found == value
    assert type(found) is type(value)
    assert not differs


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"0x41", 65),
        (b"0b101", 5),
        (b"010", 8),
        (b"1\x00junk", 1),
        (b" 12", 12),
        (b"1_0", 10),
        (b"+5", 5),
        (b"007", 7),
        (b"+1", True),
        (b"-0", False),
    ],
)
def test_what_only_some_unpicklers_take_is_taken_and_said_to_differ(line: bytes, value: int) -> None:
    found, differs = read_integer(line)
    assert (found, differs) == (value, True)
    assert type(found) is type(value)


@pytest.mark.parametrize("line", [b"", b"abc", b"--1", b"0x", b"1.5"])
def test_what_no_unpickler_takes_is_none(line: bytes) -> None:
    assert read_integer(line)[0] is None


@pytest.mark.parametrize("line", [b"1L", b"1", b"-99999999999999999999L"])
def test_a_long_may_end_in_l(line: bytes) -> None:
    assert read_long(line) == (int(line.rstrip(b"L")), False)


def test_a_long_in_another_base_differs() -> None:
    assert read_long(b"0x41L") == (65, True)


def test_memo_indexes_are_decimal_with_leading_zeros_allowed() -> None:
    assert read_index(b"007") == (7, False)
    assert read_index(b"7\x009") == (7, True)
    assert read_index(b" 7") == (7, True)
    assert read_index(b"x")[0] is None


@pytest.mark.parametrize(
    ("line", "differs"),
    [(b"1.5", False), (b"-1e300", False), (b"inf", False), (b"nan", False), (b"1_0.5", True), (b" 1.5", True)],
)
def test_floats_that_only_python_takes_differ(line: bytes, differs: bool) -> None:
    value, found = read_float(line)
    assert value is not None
    assert found is differs


def test_a_nul_ends_a_float_in_c_only() -> None:
    assert read_float(b"1.5\x00x") == (1.5, True)
    assert read_float(b"x") == (None, True)


@pytest.mark.parametrize("line", [b"", b"'", b"'a", b"a'", b"'a\"", b"'\\x4'", b"'\\'"])
def test_strings_without_quotes_or_with_broken_escapes_are_refused(line: bytes) -> None:
    assert read_quoted(line) is None


@given(st.binary(max_size=60))
def test_quoted_strings_are_unescaped_like_python_does(raw: bytes) -> None:
    line = repr(raw)[1:].encode("ascii")
    assert read_quoted(line) == raw == codecs.escape_decode(line[1:-1])[0]


@given(st.text(alphabet="ab\\nx0123456789'\n", max_size=30))
def test_escapes_agree_with_the_decoder_of_cpython(body: str) -> None:
    raw = body.encode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # for escapes that mean nothing
        try:
            expected: object = codecs.escape_decode(raw)[0]
        except ValueError:
            expected = None
    assert read_quoted(b"'" + raw + b"'") == expected
