"""Whether torch.load(weights_only=True) reads a file, and the first thing it stops at."""

from __future__ import annotations

import pytest
from builders.pickles import Called, Instance, Name, dump
from builders.zips import PlainMember, plain_zip

from ckpt_inspect.scan import ScannedFile, scan_source
from ckpt_inspect.storage import BytesSource


def archive(stream: bytes, *more: PlainMember) -> bytes:
    return plain_zip([PlainMember(b"archive/data.pkl", stream), *more, PlainMember(b"archive/version", b"3\n")])


def scan(data: bytes, name: str = "model.pt") -> ScannedFile:
    return scan_source(BytesSource(data), name)


def test_plain_values_are_read() -> None:
    found = scan(archive(dump({"a": [1, 2.5, "x", None, True, (1, 2)], "b": {1: 2**70}}, 2)))
    assert (found.loads_with_weights_only, found.reason) == (True, None)


@pytest.mark.parametrize(
    ("stream", "reason", "byte"),
    [
        (dump({"a": 1}, 4), "opcode FRAME", 2),
        (b"\x80\x03C\x01a.", "opcode SHORT_BINBYTES", 2),
        (b"\x80\x02]q\x00(K\x01K\x022e.", "opcode DUP", 10),
        (dump(Instance(Name("argparse", "Namespace"), {"a": 1}), 2), "argparse.Namespace is not on torch's list", 2),
        (dump(Called(Name("__builtin__", "getattr"), (1, 2)), 2), "builtins.getattr is not on torch's list", 2),
        (dump(Called(Name("posix", "system"), ("true",)), 2), "posix.system is not on torch's list", 2),
        (
            dump(Called(Called(Name("collections", "OrderedDict")), ()), 2),
            "calls something that is not on torch's list",
            None,
        ),
        (dump(Called(Name("__builtin__", "set"), ([1],), items=[2]), 2), "appends to the result of builtins.set", None),
        (dump(Called(Name("collections", "Counter"), (), pairs=[("a", 1)]), 2), None, None),
        (b"\x80\x02K\x01Q.", "no storage", 4),
        (b"\x80\x02K\x01K\x02a.", "no container", 6),
    ],
)
def test_a_refusal_names_what_torch_stops_at(stream: bytes, reason: str | None, byte: int | None) -> None:
    found = scan(archive(stream))
    if reason is None:
        assert found.loads_with_weights_only is True
        return
    assert found.loads_with_weights_only is False
    assert found.reason is not None
    assert reason in found.reason
    if byte is not None:
        assert f"(byte {byte})" in found.reason


def test_the_first_of_several_reasons_is_given() -> None:
    stream = b"\x80\x02cargparse\nNamespace\n)\x81\x942."
    found = scan(archive(stream))
    assert found.reason is not None
    assert "argparse.Namespace" in found.reason


def test_archives_that_torch_does_not_open_that_way() -> None:
    script = plain_zip(
        [
            PlainMember(b"m/data.pkl", b"\x80\x02}."),
            PlainMember(b"m/constants.pkl", b"\x80\x02)."),
            PlainMember(b"m/version", b"3\n"),
        ]
    )
    assert (scan(script).loads_with_weights_only, scan(script).reason) == (False, "it is a TorchScript archive")
    assert scan(dump({"a": 1}, 2), "a.pkl").loads_with_weights_only is False
    assert scan(plain_zip([PlainMember(b"a.txt", b"x")]), "a.zip").loads_with_weights_only is None
    assert scan(b'{"a": 1}', "a.json").loads_with_weights_only is None


def test_a_storage_that_is_missing_is_a_reason() -> None:
    pid = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
    stream = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
        + pid
        + b"K\x00K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR."
    )
    found = scan(archive(stream))
    assert found.loads_with_weights_only is False
    whole = scan(archive(stream, PlainMember(b"archive/data/0", bytes(16))))
    assert whole.loads_with_weights_only is True
    short = scan(archive(stream, PlainMember(b"archive/data/0", bytes(8))))
    assert short.loads_with_weights_only is False
