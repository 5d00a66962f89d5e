"""Torch files of every era: each tensor with dtype, shape, strides and the place of its first byte."""

from __future__ import annotations

import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from builders.pickles import Called, Instance, Name, Persistent, dump
from builders.torch_files import (
    Storage,
    TensorSpec,
    legacy_bytes,
    parameter,
    save_legacy,
    save_zip,
    tensor,
    torch_name,
    view,
    with_attributes,
    zip_bytes,
)
from builders.zips import Hole, PlainMember, TorchZipWriter, plain_zip

from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.formats.pickle_nodes import get_path
from ckpt_inspect.formats.torch_archive import Tensor, TorchArchive, open_torch
from ckpt_inspect.storage import BytesSource, LocalFile


def opened(data: bytes) -> TorchArchive:
    return open_torch(BytesSource(data))


def kinds(archive: TorchArchive) -> set[str]:
    return {fault.kind for fault in archive.faults}


def only(value: Any) -> tuple[Tensor, TorchArchive]:
    archive = opened(zip_bytes({"w": value}))
    return dict(archive.tensors())["w"], archive


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


@pytest.mark.parametrize("era", ["2.13", "2.5", "1.13"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_each_era_of_the_zip_is_read(tmp_path: Path, era: Any, protocol: int) -> None:
    first, second = tensor("F32", (2, 3), floats(*range(6))), tensor("BF16", (), b"\x50\x40")
    offsets = save_zip(tmp_path / "model.pt", {"a": first, "b": [second]}, era=era, protocol=protocol)
    with LocalFile(tmp_path / "model.pt") as source:
        archive = open_torch(source)
        assert archive.faults == ()
        assert (archive.era, archive.root, archive.byteorder) == ("zip", "model", "little")
        assert archive.format_version == ("1" if era == "2.13" else None)
        found = dict(archive.tensors())
        assert found["a"] == Tensor("F32", (2, 3), (3, 1), "0", 0, offsets["0"], 24, "dense", True)
        assert found["b.0"] == Tensor("BF16", (), (), "1", 0, offsets["1"], 2, "dense", True)
        assert source.read_at(offsets["0"], 24) == floats(*range(6))
        assert [storage.nbytes for storage in archive.storages.values()] == [24, 2]


@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_a_legacy_stream_is_read_in_one_pass(tmp_path: Path, protocol: int) -> None:
    # More than ten storages: the stream holds them in the order of their keys as text.
    value = {f"w{i}": tensor("I64", (i,), bytes([i] * 8 * i)) for i in range(12)}
    save_legacy(tmp_path / "w.pt", value, protocol)
    with LocalFile(tmp_path / "w.pt") as source:
        archive = open_torch(source)
        assert (archive.era, archive.faults) == ("legacy", ())
        assert len(archive.programs) == 5
        for i, (name, found) in enumerate(archive.tensors()):
            assert (name, found.shape, found.dtype) == (f"w{i}", (i,), "I64")
            assert found.file_offset is not None
            assert source.read_at(found.file_offset, found.nbytes) == bytes([i] * 8 * i)


def test_views_share_a_storage_and_have_their_own_first_byte() -> None:
    base = tensor("F32", (4, 6), floats(*range(24)))
    value = {
        "base": base,
        "rows": view(base, (2, 6), offset=12),
        "column": view(base, (4,), offset=2, stride=(6,)),
        "transposed": view(base, (6, 4), stride=(1, 6)),
        "end": view(base, (0,), offset=24),
    }
    archive = opened(zip_bytes(value))
    found = dict(archive.tensors())
    begin = found["base"].file_offset
    assert begin is not None
    assert archive.faults == ()
    assert len(archive.storages) == 1
    assert (found["rows"].file_offset, found["rows"].contiguous) == (begin + 48, True)
    assert (found["column"].file_offset, found["column"].contiguous) == (begin + 8, False)
    assert (found["transposed"].stride, found["transposed"].contiguous) == ((1, 6), False)
    assert (found["end"].nbytes, found["end"].problem) == (0, None)


def test_parameters_and_python_attributes_are_kept() -> None:
    weight = tensor("F32", (2,))
    value = {
        "plain": parameter(weight, requires_grad=False),
        "noted": parameter(weight, state={"note": "kept"}),
        "flat": with_attributes(tensor("F32", (4,)), {"ds_id": "0_7"}),
        "slots": with_attributes(weight, (None, {"slot": 5})),  # type: ignore[arg-type]
        "both": with_attributes(weight, ({"a": 1}, {"slot": 5})),  # type: ignore[arg-type]
    }
    found = dict(opened(zip_bytes(value)).tensors())
    assert (found["plain"].is_parameter, found["plain"].requires_grad) == (True, False)
    assert (found["noted"].is_parameter, found["noted"].requires_grad) == (True, True)
    assert get_path(found["noted"].attributes, "note") == "kept"
    assert get_path(found["flat"].attributes, "ds_id") == "0_7"
    assert not found["flat"].is_parameter
    assert get_path(found["slots"].attributes, "slot") == 5
    assert (get_path(found["both"].attributes, "a"), get_path(found["both"].attributes, "slot")) == (1, 5)


@pytest.mark.parametrize("name", [name for name, dtype in BY_NAME.items() if dtype.torch])
def test_every_element_type_of_torch_is_read(name: str) -> None:
    if name in ("QUINT4X2", "QUINT2X4"):
        return  # packed: judged by torch in tests/oracle
    found, archive = only(tensor(name, (3, 2)))
    assert archive.faults == ()
    assert (found.dtype, found.nbytes, found.problem) == (name, BY_NAME[name].bits // 8 * 6, None)


def test_the_oldest_rebuild_function_and_a_torch_size_are_understood() -> None:
    old = tensor("F32", (2, 2))
    old.version = "v1"
    found, archive = only(old)
    assert (archive.faults, found.shape, found.requires_grad) == ((), (2, 2), False)
    size = Called(Name("torch", "Size"), ((2, 2),))
    sized = Called(Name(UTILS, "_rebuild_tensor_v2"), (old.storage, 0, size, (2, 1), False, OrderedDict()))
    assert only(sized)[0].shape == (2, 2)


def test_big_endian_files_say_so() -> None:
    assert opened(zip_bytes({"w": tensor("F32", (1,))}, byteorder="big")).byteorder == "big"
    odd = opened(zip_bytes({"w": tensor("F32", (1,))}, byteorder="middle"))
    assert (odd.byteorder, kinds(odd)) == ("little", {"torch-byteorder"})


def test_cycles_and_shared_containers_are_walked_once_for_each_path() -> None:
    shared = {"w": tensor("F32", (1,))}
    value: dict[str, Any] = {"a": shared, "b": [shared, {"deep": shared}]}
    value["self"] = value
    value["b"].append(value["b"])
    assert [path for path, _ in opened(zip_bytes(value)).tensors()] == ["a.w", "b.0.w", "b.1.deep.w"]


def test_a_subtree_that_leads_to_tensors_only_through_a_cycle_is_walked() -> None:
    weight = tensor("F32", (1,))
    a: dict[str, Any] = {}
    x = {"b": {"a": a}}
    a["x"] = x
    a["w"] = weight
    assert [path for path, _ in opened(zip_bytes({"a": a, "x": x})).tensors()] == ["a.w", "x.b.a.w"]


def test_a_tree_doubled_sixty_times_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_inspect.formats.torch_paths.MAX_PATHS", 1000)
    bomb: list[Any] = [tensor("F32", (1,))]
    for _ in range(15):
        bomb = [bomb, bomb]
    assert len(list(opened(zip_bytes(bomb)).tensors())) == 1000
    empty: list[Any] = []
    for _ in range(24):
        empty = [empty, empty]
    assert list(opened(zip_bytes([empty, "no tensor"])).tensors()) == []


def test_tensors_inside_instances_sets_and_odd_keys_have_paths() -> None:
    weight = tensor("F32", (1,))
    value = {
        ("a", 1): weight,
        None: weight,
        3: weight,
        "module": Instance(
            Name("torch.nn.modules.linear", "Linear"), {"_parameters": OrderedDict(w=parameter(weight))}
        ),
        "bucket": Called(Name("somewhere", "Bag"), (weight,), items=[weight], pairs=[("k", weight)]),
        "counted": Called(Name("collections", "defaultdict"), (Name("builtins", "list"),), pairs=[("k", weight)]),
    }
    names = [path for path, _ in opened(zip_bytes(value)).tensors()]
    assert names == [
        "<tuple>",
        "None",
        "3",
        "module._parameters.w",
        "bucket.0",
        "bucket.k",
        "bucket.args.0",
        "counted.k",
    ]


def test_a_bare_tensor_has_the_empty_path() -> None:
    assert [path for path, _ in opened(zip_bytes(tensor("F32", (1,)))).tensors()] == [""]


UTILS = "torch._utils"
META = Called(Name(UTILS, "_rebuild_meta_tensor_no_storage"), (torch_name("torch", "float16"), (2, 3), (3, 1), True))


def sparse(*parts: Any) -> Called:
    layout = Called(Name("torch.serialization", "_get_layout"), ("torch.sparse_coo",))
    return Called(Name(UTILS, "_rebuild_sparse_tensor"), (layout, parts))


def test_tensors_without_bytes_of_their_own_are_named() -> None:
    device = Called(Name("torch", "device"), ("cpu",))
    wrapper = Called(
        Name(UTILS, "_rebuild_wrapper_subclass"),
        (Name("lib", "Wrapped"), torch_name("torch", "uint4"), (4,), (1,), 0, None, device, False),
    )
    meta, _ = only(META)
    assert (meta.kind, meta.dtype, meta.nbytes, meta.file_offset) == ("meta", "F16", 12, None)
    assert (meta.requires_grad, meta.problem) == (True, None)
    wrapped, _ = only(wrapper)
    assert (wrapped.kind, wrapped.dtype, wrapped.problem) == ("wrapper", "UINT4", None)
    stored = tensor("F32", (2,), location="meta")
    archive = opened(zip_bytes({"w": stored}))
    assert next(archive.tensors())[1].kind == "meta"


def test_a_distributed_tensor_is_its_shard_and_knows_the_whole() -> None:
    device = Called(Name("torch", "device"), ("cpu",))
    cls = Name("torch.distributed.tensor", "DTensor")
    base = (cls, torch_name("torch", "float32"), (8, 2), (2, 1), 0, None, device, False)
    local = tensor("F32", (4, 2))
    whole = Called(
        Name("torch._tensor", "_rebuild_from_type_v2"),
        (Name(UTILS, "_rebuild_wrapper_subclass"), cls, base, (None, {"_local_tensor": local, "_spec": None})),
    )
    found, archive = only(whole)
    assert archive.faults == ()
    assert (found.kind, found.shape, found.global_shape) == ("dtensor", (4, 2), (8, 2))
    assert found.file_offset is not None


def test_sparse_nested_and_quantized_tensors_have_parts() -> None:
    indices, values = tensor("I64", (2, 3)), tensor("F32", (3,))
    for parts in ((indices, values, (5, 5)), (indices, values, (5, 5), True)):
        found, archive = only(sparse(*parts))
        assert (found.kind, found.shape, found.nbytes, archive.faults) == ("sparse", (5, 5), 60, ())
        assert [name for name, _ in found.components] == ["indices", "values"]
    compressed, _ = only(sparse(tensor("I64", (6,)), tensor("I64", (3,)), values, (5, 5)))
    assert [name for name, _ in compressed.components] == ["compressed_indices", "plain_indices", "values"]
    row = tensor("I64", (2, 1))
    nested, _ = only(Called(Name(UTILS, "_rebuild_nested_tensor"), (values, row, row, tensor("I64", (2,)))))
    assert (nested.kind, len(nested.components)) == ("nested", 4)
    affine = Name("torch", "per_tensor_affine")
    byte = tensor("QUINT8", (2, 2))
    quantized = Called(
        Name(UTILS, "_rebuild_qtensor"),
        (byte.storage, 0, (2, 2), (2, 1), (affine, 0.5, 3), False, OrderedDict()),
    )
    found, archive = only(quantized)
    assert (found.kind, found.dtype, found.components, archive.faults) == ("quantized", "QUINT8", (), ())


def test_tensors_of_other_devices_have_their_bytes_in_the_pickle_or_a_copy_on_the_cpu() -> None:
    copy = Called(
        Name(UTILS, "_rebuild_device_tensor_from_cpu_tensor"),
        (tensor("F32", (2,)), torch_name("torch", "float32"), "xla:0", True),
    )
    found, _ = only(copy)
    assert (found.kind, found.requires_grad, found.nbytes) == ("dense", True, 8)
    for size, placed in ((70_000, True), (4, False)):
        dtype = Called(Name("numpy", "dtype"), ("f4", False, True), state=(3, "<", None, None, None, -1, -1, 0))
        data = bytes(range(256)) * (size * 4 // 256 + 1)
        state = (1, (size,), dtype, False, data[: size * 4])
        array = Called(
            Name("numpy.core.multiarray", "_reconstruct"), (Name("numpy", "ndarray"), (0,), b"b"), state=state
        )
        name = "_rebuild_device_tensor_from_numpy"
        raw = zip_bytes(
            {"w": Called(Name(UTILS, name), (array, torch_name("torch", "float32"), "xla:0", False))}, protocol=4
        )
        ((_, found),) = opened(raw).tensors()
        assert (found.shape, found.nbytes, found.problem) == ((size,), size * 4, None)
        assert (found.file_offset is not None) is placed
        if found.file_offset is not None:
            assert raw[found.file_offset : found.file_offset + found.nbytes] == state[4]


def test_a_conjugated_view_is_not_to_be_copied_as_it_is() -> None:
    lazy = tensor("C64", (2,))
    lazy.metadata = {"conj": True, "neg": False}
    found, _ = only(lazy)
    assert found.problem is not None
    lazy.metadata = {"conj": False}
    assert only(lazy)[0].problem is None


def bad(dtype: str = "F32", **fields: Any) -> TensorSpec:
    spec = tensor(dtype, (2, 2))
    for name, value in fields.items():
        setattr(spec, name, value)
    return spec


LIES: dict[str, tuple[Any, str]] = {
    "larger than its storage": (bad(shape=(9, 9), stride=(9, 1)), "torch-view-bounds"),
    "offset past its storage": (bad(offset=3), "torch-view-bounds"),
    "negative offset": (bad(offset=-1), "torch-view-bounds"),
    "negative length": (bad(shape=(-2, 2)), "torch-view-bounds"),
    "negative stride": (bad(stride=(-2, 1)), "torch-view-bounds"),
    "more strides than lengths": (bad(stride=(2, 1, 1)), "torch-view-bounds"),
    "length 2**62": (bad(shape=(2**62, 4), stride=(0, 0)), "torch-overflow"),
    "a thousand dimensions": (bad(shape=(1,) * 1000, stride=(1,) * 1000), "torch-rank"),
    "expanded to a terabyte": (bad(shape=(10**12,), stride=(0,)), "torch-expand"),
    "elements that share bytes": (bad(shape=(2, 2), stride=(1, 1)), "torch-aliasing"),
    "text for a length": (bad(shape=("2", 2)), "torch-tensor-arguments"),
    "a truth value for a length": (bad(shape=(True, 2)), "torch-tensor-arguments"),
    "no storage": (
        Called(Name(UTILS, "_rebuild_tensor_v2"), (None, 0, (2,), (1,), False, None)),
        "torch-tensor-arguments",
    ),
    "too few arguments": (Called(Name(UTILS, "_rebuild_tensor_v2"), (1,)), "torch-tensor-arguments"),
    "v3 without a type": (
        Called(Name(UTILS, "_rebuild_tensor_v3"), (tensor("U16", (1,)).storage, 0, (1,), (1,), False, None, "F32")),
        "torch-tensor-arguments",
    ),
    "v3 too short": (Called(Name(UTILS, "_rebuild_tensor_v3"), (1, 2)), "torch-tensor-arguments"),
    "a parameter of a number": (Called(Name(UTILS, "_rebuild_parameter"), (5, True, None)), "torch-tensor-arguments"),
    "a parameter of nothing": (Called(Name(UTILS, "_rebuild_parameter"), ()), "torch-tensor-arguments"),
    "from a type of nothing": (
        Called(Name("torch._tensor", "_rebuild_from_type_v2"), (1, 2)),
        "torch-tensor-arguments",
    ),
    "sparse of numbers": (sparse(1, 2, (3,)), "torch-tensor-arguments"),
    "sparse of one": (sparse(1), "torch-tensor-arguments"),
    "sparse of negative shape": (sparse(tensor("I64", (1, 1)), tensor("F32", (1,)), (-5,)), "torch-view-bounds"),
    "nested of numbers": (Called(Name(UTILS, "_rebuild_nested_tensor"), (1, 2, 3, 4)), "torch-tensor-arguments"),
    "nested too short": (Called(Name(UTILS, "_rebuild_nested_tensor"), ()), "torch-tensor-arguments"),
    "quantized by nothing": (Called(Name(UTILS, "_rebuild_qtensor"), (1, 0, (), (), 5)), "torch-tensor-arguments"),
    "quantized without storage": (
        Called(Name(UTILS, "_rebuild_qtensor"), (1, 0, (), (), ())),
        "torch-tensor-arguments",
    ),
    "meta of text": (
        Called(Name(UTILS, "_rebuild_meta_tensor_no_storage"), ("a", (), (), 1)),
        "torch-tensor-arguments",
    ),
    "meta too short": (Called(Name(UTILS, "_rebuild_meta_tensor_no_storage"), ()), "torch-tensor-arguments"),
    "meta that is negative": (
        Called(Name(UTILS, "_rebuild_meta_tensor_no_storage"), (torch_name("torch", "int8"), (-1,), (1,), False)),
        "torch-view-bounds",
    ),
    "wrapper too short": (Called(Name(UTILS, "_rebuild_wrapper_subclass"), (1,)), "torch-tensor-arguments"),
    "array that is none": (
        Called(Name(UTILS, "_rebuild_device_tensor_from_numpy"), (1, 2, 3, 4)),
        "torch-tensor-arguments",
    ),
    "copy of nothing": (
        Called(Name(UTILS, "_rebuild_device_tensor_from_cpu_tensor"), (1, 2, 3, 4)),
        "torch-tensor-arguments",
    ),
    "no type named so": (
        Called(Name(UTILS, "_rebuild_meta_tensor_no_storage"), (torch_name("torch", "float3"), (1,), (1,), False)),
        "torch-tensor-arguments",
    ),
    "a size that is another call": (bad(shape=Called(Name("torch", "device"), ((2, 2),))), "torch-tensor-arguments"),
}


@pytest.mark.parametrize(("value", "kind"), LIES.values(), ids=LIES.keys())
def test_a_tensor_that_cannot_be_is_named(value: Any, kind: str) -> None:
    archive = opened(zip_bytes({"w": value}))
    assert kind in kinds(archive)
    for _, found in archive.tensors():
        assert found.kind == "dense" or found.problem
        if kind != "torch-aliasing":
            assert found.problem is not None
            assert found.file_offset is None or kind == "torch-expand"


def test_strides_that_interleave_without_meeting_are_no_aliasing() -> None:
    spread = bad(shape=(3, 2), stride=(2, 3))
    spread.storage = Storage("F32", bytes(4 * 8))
    assert kinds(only(spread)[1]) == set()


def test_parameters_nested_in_parameters_need_no_recursion() -> None:
    value: Any = tensor("F32", (1,))
    for _ in range(60):
        value = parameter(value)
    archive = opened(zip_bytes({"w": value}))
    found = archive.tensor(get_path(archive.value, "w"))
    assert found is not None
    assert (found.is_parameter, archive.faults) == (True, ())
    assert dict(archive.tensors()) == {"w": found}


def test_a_sparse_tensor_of_sparse_tensors_is_refused() -> None:
    value: Any = tensor("F32", (1,))
    for _ in range(10):
        value = sparse(value, value, (1,))
    archive = opened(zip_bytes({"w": value}))
    assert kinds(archive) == {"torch-tensor-arguments"}
    assert list(archive.tensors()) == []


STORAGES: dict[str, tuple[dict[str, Any], str]] = {
    "short record": ({"data": bytes(8), "numel": 4}, "torch-storage-size"),
    "long record": ({"data": bytes(64), "numel": 4}, "torch-storage-size"),
    "numel 2**63": ({"data": bytes(16), "numel": 2**63}, "torch-storage-size"),
    "negative numel": ({"data": bytes(16), "numel": -4}, "torch-storage-size"),
    "device that cannot be": ({"data": bytes(16), "location": "cuda:99999999999"}, "torch-device"),
    "device with an escape": ({"data": bytes(16), "location": "\x1b[2Jcpu"}, "torch-device"),
}


@pytest.mark.parametrize(("fields", "kind"), STORAGES.values(), ids=STORAGES.keys())
def test_a_storage_that_lies_is_named(fields: dict[str, Any], kind: str) -> None:
    spec = bad()
    spec.storage = Storage("F32", **fields)
    archive = opened(zip_bytes({"w": spec}))
    assert kind in kinds(archive)


def pids(*pids_: Any) -> set[str]:
    return kinds(opened(plain_zip([PlainMember(b"a/data.pkl", dump([Persistent(pid) for pid in pids_])), *REST])))


REST = [PlainMember(b"a/data/0", bytes(16)), PlainMember(b"a/version", b"3\n")]
FLOAT = Name("torch", "FloatStorage")


def test_persistent_ids_that_are_no_storage_are_named() -> None:
    good = ("storage", FLOAT, "0", "cpu", 4)
    assert pids(good) == set()
    assert pids(good, ("storage", FLOAT, "0", "cpu", 3)) == {"torch-storage-conflict"}
    assert pids(("storage", FLOAT, "../../0", "cpu", 4), good) == {"torch-storage-key", "torch-storage-missing"}
    for odd in (
        "text",
        ("storage",),
        ("module", FLOAT, "0", "cpu", 4),
        ("storage", Name("os", "FloatStorage"), "0", "cpu", 4),
        ("storage", Name("torch", "load"), "0", "cpu", 4),
        ("storage", "FloatStorage", "0", "cpu", 4),
        ("storage", FLOAT, 0, "cpu", 4),
        ("storage", FLOAT, "0", None, 4),
        ("storage", FLOAT, "0", "cpu", 4.0),
        ("storage", FLOAT, "0", "cpu", 4, ("view", "x", 1)),
    ):
        assert pids(good, odd) == {"torch-persistent-id"}, odd
    assert pids(good, ("module", Name("m", "C"), "file", "source")) == set()


def test_a_storage_named_typed_and_untyped_is_one_storage() -> None:
    untyped = ("storage", Name("torch.storage", "UntypedStorage"), "0", "cpu", 16)
    value = [Persistent(untyped), Persistent(("storage", FLOAT, "0", "cpu", 4))]
    archive = opened(plain_zip([PlainMember(b"a/data.pkl", dump(value)), *REST]))
    assert archive.faults == ()
    assert archive.storages["0"].dtype is BY_NAME["F32"]
    assert archive.storages["0"].numel == 4


def test_views_of_storages_in_old_streams_are_followed() -> None:
    spec = Called(
        Name(UTILS, "_rebuild_tensor"),
        (Persistent(("storage", FLOAT, "9", "cpu", 6, ("1", 2, 4))), 1, (3,), (1,)),
    )
    data = legacy_bytes({"w": "w"})
    head = data[: data.index(b"}")]  # magic number and protocol; the first dictionary is the system information
    info = dump({"little_endian": True})
    stream = head[: head.rindex(b"\x80\x02")] + info + dump({"w": spec}) + dump(["9"]) + struct.pack("<q", 6)
    archive = opened(stream + floats(*range(6)))
    assert archive.faults == ()
    ((_, found),) = archive.tensors()
    assert found.file_offset == len(stream) + 12
    outside = Called(spec.callee, (spec.args[0], 2, (3,), (1,)))
    begin = head[: head.rindex(b"\x80\x02")] + info
    archive = opened(begin + dump({"w": outside}) + dump(["9"]) + struct.pack("<q", 6) + bytes(24))
    assert kinds(archive) == {"torch-view-bounds"}


@pytest.mark.parametrize("keep", [5, 20, 60, 120, 300, 400, 459])
def test_a_legacy_stream_cut_anywhere_is_described_as_far_as_it_goes(keep: int) -> None:
    data = legacy_bytes({"w": tensor("F32", (8,), floats(*range(8))), "x": tensor("F32", (8,))})
    assert len(data) > keep
    archive = opened(data[:keep])
    assert "torch-truncated" in kinds(archive) or archive.era != "legacy"
    for _, found in archive.tensors():
        assert found.problem is None or "bytes" in found.problem


def test_what_is_wrong_after_the_object_of_a_legacy_stream_is_named() -> None:
    data = legacy_bytes({"w": tensor("F32", (2,))})
    keys = dump(["0"])
    before, after = data[: data.rindex(keys)], data[data.rindex(keys) + len(keys) :]
    assert kinds(opened(data)) == set()
    assert kinds(opened(data + b"more")) == {"torch-legacy-trailing"}
    assert "torch-storage-missing" in kinds(opened(before + dump(["7"]) + after))
    assert "torch-storage-missing" in kinds(opened(before + dump([])))
    assert "torch-storage-missing" in kinds(opened(before + dump(["0", "0"]) + after))
    assert "torch-legacy-header" in kinds(opened(before + dump({}) + after))
    assert kinds(opened(before + keys + struct.pack("<q", 3) + after[8:] + bytes(4))) == {"torch-storage-size"}
    assert "torch-storage-size" in kinds(opened(before + keys + struct.pack("<q", -1) + after[8:]))
    assert "torch-storage-size" in kinds(opened(before + keys + struct.pack("<q", 1) + after[8:]))


def test_a_legacy_stream_of_another_protocol_is_named() -> None:
    data = legacy_bytes({"w": tensor("F32", (2,))})
    assert "torch-legacy-header" in kinds(opened(data.replace(dump(1001), dump(1002), 1)))


@pytest.mark.parametrize(
    ("data", "era", "kind"),
    [
        (b"", "unknown", "torch-empty"),
        (bytes(9000), "unknown", "torch-zeros"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "unknown", "torch-lfs-pointer"),
        (b"<!doctype html><html></html>", "unknown", "torch-html"),
        (b"\x93NUMPY\x01\x00", "unknown", "torch-not-torch"),
        (b"storages".ljust(257, b"\x00") + b"ustar" + bytes(300), "tar", "torch-tar"),
        (plain_zip([PlainMember(b"arr_0.npy", b"\x93NUMPY")]), "unknown", "torch-no-data-pkl"),
        (plain_zip([]), "unknown", "torch-no-data-pkl"),
    ],
)
def test_what_is_no_torch_file_is_named_for_what_it_is(data: bytes, era: str, kind: str) -> None:
    archive = opened(data)
    assert (archive.era, archive.value) == (era, None)
    assert kind in kinds(archive)
    assert list(archive.tensors()) == []


def test_a_bare_pickle_has_a_value_and_storages_without_bytes() -> None:
    archive = opened(dump({"a": 1}) + dump({"b": 2}))
    assert (archive.era, len(archive.programs)) == ("bare-pickle", 2)
    assert get_path(archive.value, "a") == 1
    spec = tensor("F32", (1,))
    lost = Called(
        Name(UTILS, "_rebuild_tensor_v2"),
        (Persistent(("storage", FLOAT, "0", "cpu", 1)), 0, (1,), (1,), False, OrderedDict()),
    )
    ((_, found),) = opened(dump({"w": lost})).tensors()
    assert (found.shape, found.file_offset) == (spec.shape, None)
    assert found.problem is not None


PICKLE = zip_bytes({"w": tensor("F32", (4,))})
GOOD = [PlainMember(b"a/data.pkl", dump({"w": 1})), PlainMember(b"a/version", b"3\n")]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (GOOD, set()),
        ([*GOOD, PlainMember(b"a/extra/notes.txt", b"words")], set()),
        ([*GOOD, PlainMember(b"a/extra/inner.zip", PICKLE)], {"zip-nested"}),
        ([*GOOD, PlainMember(b"a/odd", b"words")], {"torch-extra-member"}),
        ([*GOOD, PlainMember(b"a/odd", dump({}))], {"torch-extra-member", "zip-nested"}),
        ([*GOOD, PlainMember(b"a/data/9", b"words")], {"torch-storage-unused"}),
        ([*GOOD, PlainMember(b"b/data.pkl", dump({}))], {"torch-two-roots", "torch-extra-member", "zip-nested"}),
        ([PlainMember(b"z/first", b""), *GOOD], {"torch-root", "torch-extra-member"}),
        ([PlainMember(b"first", b""), *GOOD], {"torch-root", "torch-extra-member"}),
        (GOOD[:1], {"torch-version"}),
        ([GOOD[0], PlainMember(b"a/version", b"99999999999999999999\n")], {"torch-version"}),
        ([GOOD[0], PlainMember(b"a/version", b"\xc2\xb3")], {"torch-version"}),
        ([GOOD[0], PlainMember(b"a/.data/version", b"10\n")], set()),
        ([GOOD[0], PlainMember(b"a/version", b"3\n" * 99)], {"torch-version"}),
        ([PlainMember(b"a/data.pkl", dump({"w": 1}), 8), GOOD[1]], {"torch-compressed"}),
        ([PlainMember(b"a/data.pkl", dump({"w": 1}) + b"rest"), GOOD[1]], {"torch-pickle-trailing"}),
        ([PlainMember(b"a/data.pkl", dump({"w": 1}), central={"method": 9}), GOOD[1]], {"zip-method", "zip-method-mismatch"}),
    ],
)  # fmt: skip
def test_what_surrounds_the_pickle_is_judged(members: list[PlainMember], expected: set[str]) -> None:
    assert kinds(opened(plain_zip(members))) == expected


def test_a_root_without_a_directory_is_a_root() -> None:
    archive = opened(plain_zip([PlainMember(b"data.pkl", dump({"w": 1})), PlainMember(b"version", b"3")]))
    assert (archive.root, get_path(archive.value, "w")) == ("", 1)


def test_a_compressed_storage_has_no_place() -> None:
    spec = tensor("F32", (4,))
    value, _ = zip_bytes({"w": spec}), None
    directory = opened(value).directory
    assert directory is not None
    pickle = directory.find("archive/data.pkl")
    assert pickle is not None
    program = value[pickle.data_offset : pickle.data_offset + pickle.size]
    members = [PlainMember(b"a/data.pkl", program), PlainMember(b"a/data/0", bytes(16), 8), GOOD[1]]
    archive = opened(plain_zip(members))
    assert kinds(archive) == {"torch-compressed"}
    ((_, found),) = archive.tensors()
    assert (found.file_offset, found.problem) == (None, "its bytes are not in the file")


def test_torchscript_is_named_and_all_its_pickles_are_read() -> None:
    members = [*GOOD, PlainMember(b"a/constants.pkl", dump([1])), PlainMember(b"a/code/__torch__.py", b"x")]
    archive = opened(plain_zip(members))
    assert (archive.era, len(archive.programs)) == ("torchscript", 2)
    assert kinds(archive) == set()


def test_a_truncated_archive_tells_how_many_storages_are_whole(tmp_path: Path) -> None:
    value = {f"w{i}": tensor("F32", (1000,), bytes([i] * 4000)) for i in range(5)}
    offsets = save_zip(tmp_path / "w.pt", value)
    data = (tmp_path / "w.pt").read_bytes()[: offsets["2"] + 1000]
    archive = opened(data)
    assert "torch-truncated" in kinds(archive)
    assert any(fault.message.startswith("2 of 5 storages") for fault in archive.faults)
    found = dict(archive.tensors())
    assert [found[f"w{i}"].problem is None for i in range(5)] == [True, True, False, False, False]
    assert data[offsets["1"] : offsets["1"] + 4] == bytes([1] * 4)
    assert found["w1"].file_offset == offsets["1"]


def test_a_terabyte_of_holes_opens_without_reading_it(tmp_path: Path) -> None:
    class Counting(LocalFile):
        read = 0

        def read_at(self, offset: int, length: int) -> bytes:
            data = super().read_at(offset, length)
            self.read += len(data)
            return data

    count, each = 250, 4 << 30
    value = {f"layer.{i}": tensor("F32", (each // 4,), Hole(each)) for i in range(count)}
    save_zip(tmp_path / "big.pt", value)
    with Counting(tmp_path / "big.pt") as source:
        archive = open_torch(source)
        found = list(archive.tensors())
        assert archive.faults == ()
        assert source.size > 10**12
        assert sum(one.nbytes for _, one in found) == count * each
        assert source.read < 4 << 20


def test_an_archive_written_without_checksums_is_healthy() -> None:
    assert opened(zip_bytes({"w": tensor("F32", (4,))}, crc=False)).faults == ()


def test_the_alignment_of_other_writers_is_followed(tmp_path: Path) -> None:
    with (tmp_path / "w.pt").open("wb") as file:
        writer = TorchZipWriter(file, alignment=4096)
        writer.add("w/data.pkl", dump({"w": 1}))
        begin = writer.add("w/data/0", b"data")
        writer.add("w/version", b"3\n")
        writer.close()
    with LocalFile(tmp_path / "w.pt") as source:
        directory = open_torch(source).directory
    assert directory is not None
    member = directory.find("w/data/0")
    assert member is not None
    assert member.data_offset == begin
    assert begin % 4096 == 0


def packed(name: str, shape: tuple[int, ...], stored: int) -> TorchArchive:
    storage = Storage(name, bytes(stored))
    affine = (Name("torch", "per_channel_affine"), tensor("F32", (1,)), tensor("F32", (1,)), 0)
    step, stride = 1, []
    for length in reversed(shape):
        stride.append(step)
        step *= length
    call = (storage, 0, shape, tuple(reversed(stride)), affine, False, OrderedDict())
    return opened(zip_bytes({"w": Called(Name(UTILS, "_rebuild_qtensor"), call)}))


@pytest.mark.parametrize(
    ("name", "shape", "stored"),
    [("QUINT4X2", (3, 5), 9), ("QUINT4X2", (4,), 2), ("QUINT2X4", (2, 5), 4), ("QUINT4X2", (), 1)],
)
def test_types_of_several_elements_in_a_byte_round_up_their_rows(
    name: str, shape: tuple[int, ...], stored: int
) -> None:
    archive = packed(name, shape, stored)
    assert archive.faults == ()
    ((_, found),) = archive.tensors()
    assert (found.kind, found.nbytes) == ("quantized", stored)
    assert kinds(packed(name, shape, stored - 1)) == {"torch-view-bounds"}


def test_a_magic_number_that_is_computed_is_named() -> None:
    data = legacy_bytes({"w": 1})
    assert "torch-legacy-header" not in kinds(opened(data))
    from ckpt_inspect.formats.pickle_machine import PickleLimits
    from ckpt_inspect.formats.torch_legacy import open_legacy

    other = open_legacy(BytesSource(dump(5) + data[len(dump(5)) :]), PickleLimits())
    assert "torch-legacy-header" in kinds(other)


def test_a_legacy_stream_without_its_last_storage_is_named() -> None:
    data = legacy_bytes({"w": tensor("F32", (2,)), "e": tensor("F32", (1,))})
    assert kinds(opened(data[:-12])) == {"torch-truncated"}
    assert kinds(opened(data[:-8])) == {"torch-truncated"}
    assert kinds(opened(data[:-1])) == {"torch-truncated"}


def test_nodes_that_build_no_tensor_give_none() -> None:
    archive = opened(zip_bytes({"w": tensor("F32", (1,)), "d": OrderedDict(a=1)}))
    assert archive.tensor(archive.value) is None
    assert archive.tensor(get_path(archive.value, "d")) is None
    assert archive.tensor("text") is None
    assert list(archive.tensors()) == [("w", archive.tensor(get_path(archive.value, "w")))]
    assert archive.tensor(get_path(archive.value, "w")) is not None


def test_keys_that_are_bytes_and_sets_have_paths() -> None:
    weight = tensor("F32", (1,))
    raw = {b"k": weight, frozenset({1}): [weight]}
    assert [path for path, _ in opened(zip_bytes(raw, protocol=4)).tensors()] == ["k", "<setnode>.0"]


def test_a_tree_deeper_than_can_be_walked_is_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_inspect.formats.torch_paths.MAX_DEPTH", 5)
    value: Any = tensor("F32", (1,))
    for _ in range(10):
        value = [value]
    assert list(opened(zip_bytes(value)).tensors()) == []


def test_arrays_of_another_size_than_their_tensor_are_a_problem() -> None:
    name = "_rebuild_device_tensor_from_numpy"
    for state in ((1, (4,), None, False, bytes(15)), (1, (-4,), None, False, b""), (1, (4,))):
        array = Called(Name("numpy.core.multiarray", "_reconstruct"), (), state=state)
        value = Called(Name(UTILS, name), (array, torch_name("torch", "float32"), "xla:0", False))
        archive = opened(zip_bytes({"w": value}, protocol=4))
        found = dict(archive.tensors()).get("w")
        assert kinds(archive) == {"torch-tensor-arguments"} if found is None else found.problem is not None


def test_a_function_that_builds_no_tensor_gives_no_tensor_of_a_type() -> None:
    value = Called(
        Name("torch._tensor", "_rebuild_from_type_v2"), (Name("os", "system"), Name("torch", "Tensor"), (), {})
    )
    assert list(opened(zip_bytes({"w": value})).tensors()) == []


def test_members_shorter_than_small_records_should_be_are_no_records() -> None:
    members = [GOOD[0], PlainMember(b"a/version", b"3\n", central={"method": 77}, local={"method": 77})]
    assert kinds(opened(plain_zip(members))) == {"zip-method", "torch-version"}


def test_strides_of_whole_tensors_are_those_of_torch() -> None:
    from ckpt_inspect.formats.torch_types import contiguous_stride, is_contiguous

    assert contiguous_stride((2, 3, 4)) == (12, 4, 1)
    assert contiguous_stride((2, 0, 4)) == (4, 4, 1)
    assert contiguous_stride(()) == ()
    assert is_contiguous((2, 1, 4), (4, 99, 1))
    assert is_contiguous((0, 3), (7, 7))
    assert is_contiguous((3, 0, 2), (9, 9, 9))
    assert not is_contiguous((2, 3), (1, 2))
    assert Tensor("F32", (2, 3), (3, 1), "0", 0, None, 24, "dense", True).numel == 6
