"""`show` describes damaged and hostile directories as far as they go: no traceback, no failed reader, a valid document."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from ckpt_inspect.report.json_text import json_text
from ckpt_inspect.report.schema import schemas
from ckpt_inspect.report.show_document import show_document
from ckpt_inspect.report.text_show import show_text
from ckpt_inspect.run import open_run

RUNS = ("lora-resized", "zero2", "zero3", "llamafactory", "resumed")
NAMES = (
    ("trainer_state.json", "adapter_config.json", "adapter_model.bin", "config.json", "tokenizer.json"),
    ("adapter_model.safetensors", "tokenizer_config.json", "optimizer.pt", "rng_state_0.pth", "training_args.bin"),
    ("README.md", "all_results.json", "trainer_log.jsonl", "model.safetensors.index.json", "latest"),
    ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt", ".metadata", "scheduler.pt"),
    ("generated_predictions.jsonl", "training_args.yaml", "chat_template.jinja", "added_tokens.json", "zero/x/fp32.pt"),
)
ODD: tuple[Any, ...] = (
    None,
    -1,
    1e308,
    float("nan"),
    "x\x1b[31m",
    [],
    {},
    [1, "a"],
    {"a": 1},
    True,
    10**40,
    "1e5",
    -5.5,
)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def check(directory: Path, what: object) -> None:
    document = show_document(open_run(directory))
    failed = [row for row in document["unreadable"] if "please report" in row["message"]]
    assert not failed, (what, failed)
    for width in (60, 140):
        text = show_text(document, width=width, files=width == 140)
        assert "\x1b" not in text, what
    parsed = json.loads(json_text(document), parse_constant=lambda token: pytest.fail(token))
    errors = [error.message[:200] for error in Draft202012Validator(schemas()["show"]).iter_errors(parsed)]
    assert not errors, (what, errors[:3])


def confused(value: Any, choose: random.Random) -> Any:
    """`value` with some parts replaced by values of other types."""
    if isinstance(value, dict):
        return {
            key: confused(item, choose) if choose.random() > 0.15 else choose.choice(ODD) for key, item in value.items()
        }
    if isinstance(value, list):
        return [confused(item, choose) if choose.random() > 0.05 else choose.choice(ODD) for item in value]
    return value


def damaged(data: bytes, path: Path, choose: random.Random) -> bytes | None:
    kind = choose.randrange(6)
    if kind == 0:
        return data[: choose.randrange(len(data) + 1)]
    if kind == 1 and data:
        changed = bytearray(data)
        for _ in range(choose.randint(1, 20)):
            changed[choose.randrange(len(changed))] = choose.randrange(256)
        return bytes(changed)
    if kind == 2:
        return None
    if kind == 3 and path.suffix == ".json":
        return json.dumps(confused(json.loads(data), choose)).encode()
    return POINTER if kind == 4 else b""


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_run_is_still_described(fixtures: Path, tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    run = tmp_path / "run"
    shutil.copytree(fixtures / choose.choice(RUNS), run)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    changes = []
    for path in choose.sample(files, choose.randint(1, 6)):
        data = damaged(path.read_bytes(), path, choose)
        changes.append((str(path.relative_to(run)), None if data is None else len(data)))
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
    check(run, changes)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_hostile_files_under_the_names_of_artifacts_are_described(shared: Path, tmp_path: Path, part: int) -> None:
    samples = sorted(path for path in (shared / "samples").rglob("*") if path.is_file())
    for index, sample in enumerate(samples):
        if index % 4 != part or sample.stat().st_size > 1_000_000:
            continue
        place = tmp_path / str(index)
        for name in NAMES[index % len(NAMES)]:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sample, place / name)
        check(place, (sample.name, NAMES[index % len(NAMES)]))
