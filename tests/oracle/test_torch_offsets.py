"""Torch as the judge of our reading: dtype, shape, stride, absolute offset and bytes of every tensor."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.formats.sniff import sniff
from ckpt_inspect.formats.torch_archive import Tensor, TorchArchive, open_torch
from ckpt_inspect.storage import LocalFile

pytestmark = pytest.mark.judge
torch = pytest.importorskip("torch")

CHILD = Path(__file__).with_name("torch_child.py")


def judged(files: Iterable[Path]) -> dict[str, Any]:
    """What torch says, by file. A child process loads them: their pickles run code."""
    answer = subprocess.run(
        [sys.executable, str(CHILD)],
        input="\n".join(str(file) for file in files),
        capture_output=True,
        text=True,
        check=True,
    )
    return {row["file"]: row for row in map(json.loads, answer.stdout.splitlines())}


def elements(source: LocalFile, tensor: Tensor) -> bytes:
    """The bytes of a tensor gathered by its strides from the file."""
    assert tensor.file_offset is not None
    item = BY_NAME[tensor.dtype].bits // 8
    if tensor.contiguous:
        return source.read_at(tensor.file_offset, tensor.nbytes)
    places = [0]
    for length, step in zip(tensor.shape, tensor.stride, strict=True):
        places = [place + index * step for place in places for index in range(length)]
    return b"".join(source.read_at(tensor.file_offset + place * item, item) for place in places)


def disagreements(file: Path, archive: TorchArchive, source: LocalFile, said: dict[str, Any]) -> list[str]:
    ours = dict(archive.tensors())
    wrong = [f"{file}: paths {sorted(ours.keys() ^ said.keys())[:5]}"] if ours.keys() != said.keys() else []
    for path in ours.keys() & said.keys():
        tensor, truth = ours[path], said[path]
        if "kind" in truth:
            if tensor.kind == "dense" or list(tensor.shape) != truth["shape"]:
                wrong.append(f"{file}: {path} is {truth['kind']}, not {tensor.kind}")
            continue
        found = {
            "dtype": BY_NAME[tensor.dtype].torch,
            "shape": list(tensor.shape),
            "stride": list(tensor.stride),
            "offset": tensor.file_offset if truth["offset"] is not None else None,
            "requires_grad": tensor.requires_grad,
            "parameter": tensor.is_parameter,
            "sha256": hashlib.sha256(elements(source, tensor)).hexdigest(),
        }
        if found != truth:
            wrong.append(f"{file}: {path}: {found} is not {truth}")
    return wrong


@pytest.mark.shared
@pytest.mark.slow
def test_every_tensor_of_every_torch_file_of_the_real_runs_is_where_torch_finds_it(shared: Path) -> None:
    names = {".pt", ".pth", ".bin"}
    files = sorted(f for f in (shared / "runs").rglob("*") if f.suffix in names and f.is_file())
    torch_files = []
    for file in files:
        with LocalFile(file) as source:
            if sniff(source) in ("zip", "legacy-torch", "pickle"):
                torch_files.append(file)
    said = judged(torch_files)
    wrong: list[str] = []
    compared = placed = 0
    for file in torch_files:
        with LocalFile(file) as source:
            archive = open_torch(source)
            row = said[str(file)]
            if "error" in row:
                assert archive.faults, f"{file}: torch says {row['error']}, we say nothing"
                continue
            assert not archive.faults, (file, archive.faults)
            wrong += disagreements(file, archive, source, row["tensors"])
            compared += sum("sha256" in truth for truth in row["tensors"].values())
            placed += sum(truth.get("offset") is not None for truth in row["tensors"].values())
    assert not wrong, "\n".join(wrong[:20])
    assert len(torch_files) > 700
    assert compared > 6000
    assert placed > 6000  # torch told its own offsets, they were not merely absent
