from __future__ import annotations

import pytest
from builders.tokenizer_files import sentencepiece

from ckpt_inspect.formats.protobuf_wire import BYTES, WireError, fields, varint


def test_fields_are_stepped_over_by_their_wire_type() -> None:
    data = b"\x08\x96\x01" + b"\x12\x02hi" + b"\x19" + b"\0" * 8 + b"\x25" + b"\0" * 4
    found = list(fields(data))
    assert [(field.number, field.kind, field.value) for field in found] == [
        (1, 0, 150),
        (2, BYTES, 0),
        (3, 1, 0),
        (4, 5, 0),
    ]
    assert data[found[1].start : found[1].end] == b"hi"


def test_a_sentencepiece_model_has_one_field_per_piece() -> None:
    assert sum(field.number == 1 for field in fields(sentencepiece(["a"] * 300))) == 300


@pytest.mark.parametrize("data", [b"\x0a\x05ab", b"\x0b", b"\x00\x01", b"\xff" * 11, b"\x0a", b"\x09\0\0"])
def test_what_is_no_message_raises_where_that_shows(data: bytes) -> None:
    with pytest.raises(WireError):
        list(fields(data))


def test_a_number_keeps_64_bits() -> None:
    assert varint(b"\xff" * 9 + b"\x01", 0) == ((1 << 64) - 1, 10)
