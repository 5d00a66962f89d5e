"""Zip directories: what torch writes is read exactly, every lie has a name, and broken files are described as far as they go."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

import pytest
from builders.torch_files import tensor, zip_bytes
from builders.zips import Hole, PlainMember, TorchZipWriter, plain_zip

from ckpt_inspect.formats.zip_directory import ZipDirectory, looks_like_zip, read_zip_directory, split_archives
from ckpt_inspect.formats.zip_records import MAX_MEMBERS
from ckpt_inspect.storage import BytesSource

GOOD = [PlainMember(b"a/data.pkl", b"N."), PlainMember(b"a/data/0", bytes(16)), PlainMember(b"a/version", b"3\n")]


def read(data: bytes, **options: Any) -> ZipDirectory:
    return read_zip_directory(BytesSource(data), **options)


def kinds(data: bytes) -> set[str]:
    return {fault.kind for fault in read(data).faults}


def torch_zip(count: int = 3) -> bytes:
    return zip_bytes({str(i): tensor("F32", (4,), bytes([i] * 16)) for i in range(count)})


def test_what_torch_writes_has_no_fault_and_data_at_multiples_of_64() -> None:
    data = torch_zip()
    directory = read(data)
    assert directory.faults == ()
    assert directory.complete
    assert directory.zip64
    assert all(member.data_offset % 64 == 0 for member in directory.members)
    theirs = zipfile.ZipFile(io.BytesIO(data)).infolist()
    assert [(m.name, m.size, m.crc, m.header_offset) for m in directory.members] == [
        (info.filename, info.file_size, info.CRC, info.header_offset) for info in theirs
    ]
    member = directory.find("archive/data/1")
    assert member is not None
    assert data[member.data_offset : member.data_offset + member.size] == bytes([1] * 16)


def test_members_past_four_gibibytes_and_larger_than_it_are_found() -> None:
    class Sparse(io.RawIOBase):
        """A file of holes: only what is written is kept."""

        def __init__(self) -> None:
            self.parts: dict[int, bytes] = {}
            self.position = self.length = 0

        def write(self, data: Any) -> int:
            self.parts[self.position] = bytes(data)
            self.seek(len(data), 1)
            return len(data)

        def seek(self, offset: int, whence: int = 0) -> int:
            self.position = offset if whence == 0 else self.position + offset
            self.length = max(self.length, self.position)
            return self.position

        def tell(self) -> int:
            return self.position

        name = "sparse"

        @property
        def size(self) -> int:
            return self.length

        def read_at(self, offset: int, length: int) -> bytes:
            end = min(offset + length, self.length)
            out = bytearray(max(end - offset, 0))
            for start, part in self.parts.items():
                low, high = max(start, offset), min(start + len(part), end)
                if low < high:
                    out[low - offset : high - offset] = part[low - start : high - start]
            return bytes(out)

    file = Sparse()
    writer = TorchZipWriter(file)  # type: ignore[arg-type]
    large = 5 << 30
    begins = [writer.add("r/data/0", Hole(100)), writer.add("r/data/1", Hole(large)), writer.add("r/data/2", b"tail")]
    writer.close()
    directory = read_zip_directory(file)  # type: ignore[arg-type]
    assert directory.faults == ()
    assert [member.data_offset for member in directory.members] == begins
    assert [member.size for member in directory.members] == [100, large, 4]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_of_the_standard_library_have_no_fault(method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a/x", b"text" * 50)
        archive.writestr("a/dir/", b"")
        archive.writestr("a/ü", b"")
        archive.comment = b"written by hand"
    directory = read(buffer.getvalue())
    assert directory.faults == ()
    assert directory.comment == b"written by hand"
    assert [member.name for member in directory.members] == ["a/x", "a/dir/", "a/ü"]


def test_an_archive_written_to_a_pipe_has_descriptors_and_no_fault() -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:  # type: ignore[arg-type]
        archive.writestr("a/x", b"text" * 50)
        archive.writestr("a/y", b"more")
    assert read(pipe.data).faults == ()


def test_an_empty_archive_is_an_archive() -> None:
    data = plain_zip([])
    assert looks_like_zip(BytesSource(data))
    assert (read(data).members, read(data).faults) == ((), ())


def with_end(**end: int) -> bytes:
    return plain_zip(GOOD, end=end)


def member(**changes: Any) -> bytes:
    return plain_zip([*GOOD, PlainMember(**{"name": b"a/extra", "data": b"x" * 40, **changes})])


def with_zip64(*, offset: int | None = None, entries: int = 3, size: int | None = None) -> bytes:
    """A good archive with a zip64 record and locator before its end record."""
    plain = plain_zip(GOOD)
    end = plain.rindex(b"PK\x05\x06")
    length, start = struct.unpack_from("<2L", plain, end + 12)
    record = struct.pack(
        "<4sQ2H2L4Q",
        *(b"PK\x06\x06", 44, 45, 45, 0, 0, entries, entries),
        *(length if size is None else size, start if offset is None else offset),
    )
    return plain[:end] + record + struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1) + plain[end:]


LIES = {
    "name": (member(local={"name": b"a/other"}), {"zip-name-mismatch"}),
    "method": (member(local={"method": 8}), {"zip-method-mismatch"}),
    "flags": (member(local={"flags": 2}), {"zip-flags-mismatch"}),
    "crc": (member(local={"crc": 5}), {"zip-crc-mismatch"}),
    "size": (member(local={"size": 41}), {"zip-size-mismatch"}),
    "stored at two sizes": (member(central={"size": 30}, local={"size": 30}), {"zip-size-mismatch"}),
    "encrypted": (member(flags=1), {"zip-encrypted"}),
    "strong encryption": (member(flags=0x40), {"zip-encrypted"}),
    "patched": (member(flags=0x20), {"zip-flag"}),
    "odd method": (member(central={"method": 99}, local={"method": 99}), {"zip-method"}),
    "bomb": (member(data=bytes(4 << 20), method=8), {"zip-bomb"}),
    "disk of a member": (member(central={"disk": 3}), {"zip-disks"}),
    "zip64 field absent": (member(central={"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF}), {"zip-zip64"}),
    "header elsewhere": (member(central={"offset": 3}), {"zip-local-header"}),
    "absolute": (member(name=b"/etc/passwd"), {"zip-path"}),
    "climbing": (member(name=b"a/../../x"), {"zip-path"}),
    "backslash": (member(name=b"a\\x"), {"zip-path"}),
    "drive": (member(name=b"C:x"), {"zip-path"}),
    "no name": (member(name=b""), {"zip-path"}),
    "NUL": (member(name=b"a/x\x00.txt"), {"zip-nul-name"}),
    "escape sequence": (member(name=b"a/\x1b[2J"), {"zip-control-name"}),
    "reversed text": (member(name="a/\u202egpj".encode(), flags=0x800), {"zip-control-name"}),
    "twice": (member(name=b"a/data/0"), {"zip-duplicate"}),
    "twice but for case": (member(name=b"A/DATA/0"), {"zip-case-duplicate"}),
    "count": (with_end(entries=60000), {"zip-count"}),
    "end of several disks": (with_end(disk=2), {"zip-disks"}),
    "directory past the end": (with_end(offset=1 << 30, size=1 << 30), {"zip-directory-bounds"}),
    "prefix": (plain_zip(GOOD, prefix=b"#!/bin/sh\n"), {"zip-prefix"}),
    "trailing": (plain_zip(GOOD) + b"x" * 5000, {"zip-trailing"}),
    "far trailing": (plain_zip(GOOD) + b"x" * 60000, {"zip-trailing"}),
    "too far trailing": (plain_zip(GOOD) + b"x" * 70000, {"zip-truncated"}),
    "second end in the comment": (plain_zip(GOOD, comment=b"PK\x05\x06" + bytes(18)), {"zip-ambiguous-end"}),
    "comment cut": (plain_zip(GOOD, comment=b"long comment")[:-4], {"zip-truncated"}),
    "zip64 truth": (with_zip64(), set()),
    "zip64 count": (with_zip64(entries=2**40), {"zip-zip64", "zip-count"}),
    "zip64 offset": (with_zip64(offset=2**62), {"zip-directory-bounds"}),
    "bytes lost in the middle": (
        plain_zip([PlainMember(b"a/0", bytes(50))])[:40] + plain_zip([PlainMember(b"a/0", bytes(50))])[60:],
        {"zip-truncated", "zip-local-header"},
    ),
    "saturated without zip64": (with_end(offset=0xFFFFFFFF), {"zip-zip64"}),
}


@pytest.mark.parametrize(("data", "expected"), LIES.values(), ids=LIES.keys())
def test_each_lie_is_named_and_nothing_else_is(data: bytes, expected: set[str]) -> None:
    found = kinds(data)
    assert expected <= found
    # One lie moves others along: a header that is nowhere leaves a gap, a misplaced directory hides its members' sizes.
    allowed = expected | {"zip-overlap", "zip-gap", "zip-hidden", "zip-zip64", "zip-size-mismatch", "zip-member-bounds"}
    assert found <= allowed, found


def test_records_shared_by_many_members_are_an_overlap() -> None:
    first = plain_zip([PlainMember(b"a/0", b"z" * 100)])
    shared = [PlainMember(b"a/0", b"z" * 100), *(PlainMember(b"a/%d" % i, central={"offset": 0}) for i in range(1, 50))]
    faults = read(plain_zip(shared)).faults
    assert "zip-overlap" in {fault.kind for fault in faults}
    assert len([fault for fault in faults if fault.kind == "zip-overlap"]) <= 21  # a flood is counted, not kept
    assert kinds(first) == set()


def test_a_member_the_directory_does_not_list_is_found_in_the_gap() -> None:
    members = [PlainMember(b"a/0", b"z" * 100), PlainMember(b"a/hidden", b"y" * 10), PlainMember(b"a/2", b"x")]
    data = plain_zip(members)
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    after = data.index(b"PK\x01\x02", entry + 1)
    end = data.rindex(b"PK\x05\x06")
    count, size = 2, after - entry
    record = bytearray(data[end:])
    struct.pack_into("<2HL", record, 8, count, count, struct.unpack_from("<L", record, 12)[0] - size)
    assert kinds(data[:entry] + data[after:end] + bytes(record)) == {"zip-hidden"}


def test_bytes_between_members_are_a_gap() -> None:
    data = plain_zip([PlainMember(b"a/0", b"zz", local={"extra": b""})])
    start = data.index(b"PK\x01\x02")
    end = data.rindex(b"PK\x05\x06")
    record = bytearray(data[end:])
    struct.pack_into("<L", record, 16, start + 50)
    assert kinds(data[:start] + b"q" * 50 + data[start:end] + bytes(record)) == {"zip-gap"}


def test_a_long_extra_field_is_read_to_its_end() -> None:
    extra = b"FB" + struct.pack("<H", 4000) + b"Z" * 4000
    directory = read(plain_zip([PlainMember(b"a/0", b"data", local={"extra": extra})]))
    assert directory.faults == ()
    assert directory.members[0].data_offset == 30 + 3 + len(extra)


@pytest.mark.parametrize("keep", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_file_cut_anywhere_shows_the_members_before_the_cut(keep: float) -> None:
    data = torch_zip(20)
    whole = read(data)
    cut = data[: int(len(data) * keep)]
    directory = read(cut)
    assert not directory.complete
    assert "zip-truncated" in {fault.kind for fault in directory.faults}
    inside = [member for member in whole.members if member.end <= len(cut)]
    found = {member.name: member for member in directory.members}
    for member in inside:
        assert (found[member.name].data_offset, found[member.name].size) == (member.data_offset, member.size)


def test_sizes_known_from_elsewhere_spare_the_search_and_tell_how_much_is_missing() -> None:
    data = torch_zip(3)
    place = read(data).find("archive/data/1")
    assert place is not None
    cut = data[: place.data_offset + 5]
    sizes = {f"data/{key}": 16 for key in range(3)}
    last = read(cut, sizes=sizes).members[-1]
    assert (last.name, last.size, last.end) == ("archive/data/1", 16, place.data_offset + 16)
    assert read(cut).members[-1].size == 5


def test_a_descriptor_lookalike_inside_data_does_not_end_a_member() -> None:
    trap = b"PK\x07\x08" + struct.pack("<3L", 1, 2, 2) + b"PK\x07\x08"
    data = zip_bytes({"w": tensor("U8", (len(trap),), trap), "x": tensor("U8", (3,), b"abc")})
    cut = data[: data.rindex(b"PK\x06\x06")]
    directory = read(cut)
    found = directory.find("archive/data/0")
    assert found is not None
    assert found.size == len(trap)
    assert directory.find("archive/data/1") is not None


def test_members_of_an_archive_after_archives_are_found_one_archive_at_a_time() -> None:
    parts = [torch_zip(1), torch_zip(2), plain_zip(GOOD), torch_zip(1)]
    data = b"".join(parts)
    assert "zip-concatenated" in kinds(data)
    archives = split_archives(BytesSource(data, name="x.distcp"))
    assert [archive.size for archive in archives] == [len(part) for part in parts]
    assert all(read_zip_directory(archive).faults == () for archive in archives)
    assert split_archives(BytesSource(data + b"rest")) == ()
    assert split_archives(BytesSource(b"rest" + parts[0])) == ()


def test_two_directories_that_both_fit_are_an_ambiguity() -> None:
    first, second = torch_zip(1), torch_zip(1)
    found = kinds(b"X" + first[1:] + second)
    assert found & {"zip-concatenated", "zip-ambiguous-directory"}


def test_a_directory_cut_inside_an_entry_is_named() -> None:
    data = plain_zip(GOOD)
    start, end = data.index(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    broken = data[:start] + data[start : start + 90] + bytes(end - start - 90) + data[end:]
    assert "zip-directory-truncated" in kinds(broken)


def test_no_more_members_are_read_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_inspect.formats.zip_directory.MAX_MEMBERS", 5)
    directory = read(torch_zip(20))
    assert len(directory.members) == 5
    assert "zip-too-many-members" in {fault.kind for fault in directory.faults}
    assert MAX_MEMBERS >= 100_000


def test_nothing_of_a_file_that_is_no_zip_is_a_member() -> None:
    directory = read(b"hello")
    assert directory.members == ()
    assert not directory.complete
    assert not looks_like_zip(BytesSource(b"hello"))
    assert read(b"").members == ()


def test_names_without_the_flag_are_code_page_437() -> None:
    data = plain_zip([PlainMember(b"a/\x81ber", b"x"), PlainMember("a/über2".encode(), b"x", flags=0x800)])
    assert [member.name for member in read(data).members] == ["a/über", "a/über2"]
    assert kinds(plain_zip([PlainMember(b"a/\xff\xfe", b"x", flags=0x800)])) == {"zip-control-name"}


def zip64_extra(*values: int) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


def test_local_headers_with_64_bit_sizes_agree_with_the_directory() -> None:
    wide = {"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF}
    other = b"XX\x02\x00ab"
    good = PlainMember(b"a/x", b"data", local={**wide, "extra": other + zip64_extra(4, 4)})
    assert kinds(plain_zip([good])) == set()
    lying = PlainMember(b"a/x", b"data", local={**wide, "extra": zip64_extra(4, 5)})
    assert kinds(plain_zip([lying])) == {"zip-size-mismatch"}
    lacking = PlainMember(b"a/x", b"data", local={**wide, "extra": zip64_extra(4)})
    assert kinds(plain_zip([lacking])) == {"zip-size-mismatch"}
    only_size = PlainMember(b"a/x", b"data", local={"size": 0xFFFFFFFF, "extra": zip64_extra(4)})
    assert kinds(plain_zip([only_size])) == set()
    only_compressed = PlainMember(b"a/x", b"data", local={"compressed": 0xFFFFFFFF, "extra": zip64_extra(4)})
    assert kinds(plain_zip([only_compressed])) == set()
    central = PlainMember(b"a/x", b"data", central={**wide, "extra": zip64_extra(4, 4)})
    assert kinds(plain_zip([central])) == set()
    part = PlainMember(b"a/x", b"data", central={"compressed": 0xFFFFFFFF, "extra": zip64_extra(4)})
    assert kinds(plain_zip([part])) == set()


def test_a_hidden_member_before_the_first_listed_one_is_named() -> None:
    first, second = plain_zip([PlainMember(b"a/hidden", b"x" * 9)]), [PlainMember(b"a/x", b"y")]
    local = first[: first.index(b"PK\x01\x02")]
    whole = plain_zip([PlainMember(b"a/x", b"y", central={"offset": len(local)})], prefix=local, end={})
    end = bytearray(whole)
    at = whole.rindex(b"PK\x05\x06")
    struct.pack_into("<L", end, at + 16, struct.unpack_from("<L", whole, at + 16)[0] + len(local))
    assert kinds(bytes(end)) == {"zip-hidden"}
    assert kinds(plain_zip(second)) == set()


def test_a_prefix_the_offsets_count_with_is_named() -> None:
    prefix = b"#!/bin/sh\n"
    whole = bytearray(plain_zip([PlainMember(b"a/x", b"y", central={"offset": len(prefix)})], prefix=prefix))
    at = whole.rindex(b"PK\x05\x06")
    struct.pack_into("<L", whole, at + 16, struct.unpack_from("<L", whole, at + 16)[0] + len(prefix))
    assert kinds(bytes(whole)) == {"zip-prefix"}


def test_a_directory_larger_than_is_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_inspect.formats.zip_directory.MAX_DIRECTORY_BYTES", 100)
    assert {"zip-too-many-members", "zip-count"} <= kinds(torch_zip(20))


def test_a_locator_that_leads_nowhere_is_named() -> None:
    data = bytearray(with_zip64())
    at = data.rindex(b"PK\x06\x06")
    data[at] = ord("X")
    assert kinds(bytes(data)) >= {"zip-zip64", "zip-directory-bounds"}


def test_two_directories_behind_a_foreign_start_are_ambiguous() -> None:
    first, second = torch_zip(1), torch_zip(1)
    assert kinds(b"X" + first[1:] + second) >= {"zip-ambiguous-directory"}


def test_an_archive_cut_inside_a_header_is_named() -> None:
    data = torch_zip(3)
    place = read(data).find("archive/data/1")
    assert place is not None
    assert kinds(data[: place.header_offset + 10]) == {"zip-truncated", "zip-member-bounds"}
    assert kinds(data[: place.header_offset + 4] + b"junk") >= {"zip-truncated", "zip-member-bounds"}


def test_an_end_is_not_searched_for_beyond_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_inspect.formats.zip_walk.SEARCH_BUDGET", 1 << 10)
    data = zip_bytes({"w": tensor("U8", (50_000,)), "x": tensor("U8", (3,), b"abc")})
    cut = data[: data.rindex(b"PK\x01\x02") - 200]
    found = {fault.kind for fault in read(cut).faults}
    assert "zip-walk-limit" in found
    sized = read(cut, sizes={"data/0": 50_000, "data/1": 3})
    assert "zip-walk-limit" not in {fault.kind for fault in sized.faults}


def test_members_with_sizes_in_their_headers_are_walked_without_a_search() -> None:
    data = plain_zip([PlainMember(b"a/x", b"data" * 9), PlainMember(b"a/y", b"more", 8)])
    directory = read(data[: data.index(b"PK\x01\x02")])
    assert [(m.name, m.size, m.method) for m in directory.members] == [("a/x", 36, 0), ("a/y", 4, 8)]
    assert {fault.kind for fault in directory.faults} == {"zip-truncated"}
    half = read(data[:40])
    assert half.members[0].end > 40
    assert {fault.kind for fault in half.faults} == {"zip-truncated", "zip-member-bounds"}


def test_an_empty_member_with_a_descriptor_is_walked() -> None:
    for descriptor in (struct.pack("<4sLLL", b"PK\x07\x08", 0, 0, 0), struct.pack("<4sLQQ", b"PK\x07\x08", 0, 0, 0)):
        header = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 8, 0, 0, 0, 0, 0, 0, 3, 0)
        data = header + b"a/x" + descriptor + header + b"a/y" + descriptor
        assert [member.name for member in read(data).members] == ["a/x", "a/y"]


def test_a_descriptor_of_64_bits_is_found() -> None:
    header = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 8, 0, 0, 0, 0, 0, 0, 3, 0)
    data = header + b"a/x" + b"data" + struct.pack("<4sLQQ", b"PK\x07\x08", 7, 4, 4)
    directory = read(data + header + b"a/y" + b"cut")
    assert [(m.name, m.size, m.crc) for m in directory.members] == [("a/x", 4, 7), ("a/y", 3, 0)]
    assert "zip-local-header" in {fault.kind for fault in read(data + b"then something else").faults}
