"""The bytes of zip members come out within limits, and their checksum without holding them."""

from __future__ import annotations

import zlib

import pytest
from builders.zips import PlainMember, plain_zip

from ckpt_inspect.formats.fault_log import FormatLimitError
from ckpt_inspect.formats.zip_content import InflateBudget, crc_of, member_source
from ckpt_inspect.formats.zip_directory import ZipMember, read_zip_directory
from ckpt_inspect.storage import BytesSource


def only(member: PlainMember) -> tuple[BytesSource, ZipMember]:
    source = BytesSource(plain_zip([member]), name="x.pt")
    return source, read_zip_directory(source).members[0]


def kind_of(error: pytest.ExceptionInfo[FormatLimitError]) -> str:
    return error.value.fault.kind


@pytest.mark.parametrize("method", [0, 8])
@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_content_and_checksum_come_back(method: int, size: int) -> None:
    data = bytes(i * i % 251 for i in range(min(size, 1000))) * (size // 1000 or 1)
    source, member = only(PlainMember(b"a/x", data, method))
    content = member_source(source, member)
    assert content.read_at(0, content.size + 1) == data
    assert content.name == "x.pt!a/x"
    read: list[int] = []
    assert crc_of(source, member, read.append) == zlib.crc32(data) == member.crc
    assert sum(read) == member.compressed


def test_a_stored_member_is_a_window_that_copies_nothing() -> None:
    source, member = only(PlainMember(b"a/x", b"0123456789"))
    assert member_source(source, member, InflateBudget(0)).read_at(3, 4) == b"3456"


def test_inflating_stops_at_the_budget_shared_by_all() -> None:
    source, member = only(PlainMember(b"a/x", bytes(range(256)) * 4000, 8))
    budget = InflateBudget(1_500_000)
    member_source(source, member, budget)
    with pytest.raises(FormatLimitError) as error:
        member_source(source, member, budget)
    assert kind_of(error) == "zip-bomb"


def test_inflating_stops_at_a_hundredfold_whatever_the_directory_says() -> None:
    source, member = only(PlainMember(b"a/x", bytes(30 << 20), 8, central={"size": 50}))
    with pytest.raises(FormatLimitError) as error:
        member_source(source, member)
    assert kind_of(error) == "zip-bomb"


def test_the_checksum_of_a_large_member_needs_no_budget() -> None:
    source, member = only(PlainMember(b"a/x", bytes(30 << 20), 8))
    assert crc_of(source, member) == member.crc


@pytest.mark.parametrize(
    ("member", "kind"),
    [
        (PlainMember(b"a/x", b"data" * 50, 8, central={"size": 7}, local={"size": 7}), "zip-size-mismatch"),
        (PlainMember(b"a/x", b"\xff" * 50, 0, central={"method": 8}, local={"method": 8}), "zip-deflate"),
        (PlainMember(b"a/x", b"data", central={"method": 12}), "zip-method"),
        (PlainMember(b"a/x", b"data", central={"offset": 2}), "zip-local-header"),
    ],
)
def test_what_cannot_be_inflated_is_refused_with_its_reason(member: PlainMember, kind: str) -> None:
    source, found = only(member)
    with pytest.raises(FormatLimitError) as error:
        member_source(source, found)
    assert kind_of(error) == kind
    with pytest.raises(FormatLimitError) as error:
        crc_of(source, found)
    assert kind_of(error) == kind


def test_a_deflate_stream_cut_by_the_end_of_the_file_is_refused() -> None:
    source, member = only(PlainMember(b"a/x", bytes(range(256)) * 40, 8))
    with pytest.raises(FormatLimitError) as error:
        member_source(BytesSource(source.read_at(0, member.data_offset + 20)), member)
    assert kind_of(error) == "zip-size-mismatch"


def test_the_checksum_of_a_cut_member_is_refused() -> None:
    source, member = only(PlainMember(b"a/x", b"0123456789"))
    with pytest.raises(FormatLimitError) as error:
        crc_of(BytesSource(source.read_at(0, member.data_offset + 4)), member)
    assert kind_of(error) == "zip-member-bounds"


def test_a_flag_of_encryption_hides_nothing() -> None:
    source, member = only(PlainMember(b"a/x", b"plain", flags=1))
    assert member_source(source, member).read_at(0, 9) == b"plain"
    assert not member.stored
