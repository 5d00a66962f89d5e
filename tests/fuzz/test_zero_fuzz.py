"""Damaged shards: whatever byte is changed, planning answers with a plan or with one of the package's own errors."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from builders.deepspeed import Job, save_stage0, save_universal, save_zero3, save_zero12
from consolidate.conftest import small_model

from ckpt_inspect.artifacts.zero_shards import read_zero_tag
from ckpt_inspect.consolidate.planning import find_problems, plan_consolidation
from ckpt_inspect.errors import CkptInspectError
from ckpt_inspect.storage import LocalTree

_KINDS = ("zero2", "zero3", "zero0", "wrapped", "legacy", "offloaded", "universal")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    model = small_model()
    model.ties["head.weight"] = "layers.0.weight"
    save_zero12(root / "zero2" / "t", model, Job(world=2))
    save_zero3(root / "zero3" / "t", model, Job(world=2))
    save_stage0(root / "zero0" / "t", model, Job(stage=0))
    save_zero12(root / "wrapped" / "t", model, Job(world=2), bf16_optimizer=True)
    save_zero12(root / "legacy" / "t", model, Job(world=2, layout="legacy"))
    save_zero3(root / "offloaded" / "t", model, Job(world=2, nvme=True))
    save_universal(root / "universal" / "t", model, Job(world=2))
    return root


def mutate(data: bytearray, source: random.Random) -> None:
    """Change bytes, mostly in the pickle: any byte, an opcode, a length; or cut some out."""
    start = max(0, data.find(b"\x80\x02"))
    for _ in range(source.choice([1, 1, 2, 5, 20])):
        if not data:
            return
        near = source.random() < 0.8
        at = source.randrange(start, min(len(data), start + 4000)) if near and start < len(data) else 0
        at = at if near else source.randrange(len(data))
        kind = source.random()
        if kind < 0.5:
            data[at] = source.randrange(256)
        elif kind < 0.7:
            data[at] ^= 1 << source.randrange(8)
        elif kind < 0.8:
            data[at] = source.choice(b"IiKMJLNR(tub.]})0q")
        elif kind < 0.9:
            data[at : at + 4] = source.choice([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\1\0\0\0"])
        else:
            del data[at : at + source.randrange(1, 9)]


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_damage_never_escapes_as_another_error(whole: Path, tmp_path: Path, kind: str, seed: int) -> None:
    source = random.Random(f"{kind}{seed}")
    directory = tmp_path / "damaged"
    said: list[str] = []
    for _ in range(15):
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(whole / kind, directory)
        path = source.choice(sorted(path for path in directory.rglob("*") if path.is_file()))
        data = bytearray(path.read_bytes())
        mutate(data, source)
        path.write_bytes(data)
        try:
            plan = plan_consolidation(directory, force=source.random() < 0.5)
            sizes = {number: file.size for number, file in enumerate(plan.sources)}
            for tensor in plan.tensors:
                assert sum(part.length for part in tensor.ranges) == tensor.source_nbytes
                assert all(0 <= part.offset <= sizes[part.source] - part.length for part in tensor.ranges)
        except CkptInspectError as error:
            said.append(str(error))
        find_problems(directory)
        read_zero_tag(LocalTree(directory), "t")
    assert not any("\n" in text for text in said)
