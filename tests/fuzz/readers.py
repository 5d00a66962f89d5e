"""Mutation fuzzing of the other readers: zip, torch, safetensors, JSON, shard index, and the scan of anything.

Each target builds its seeds in the true format, mutates them and reads the result; none may raise, take more than two
CPU seconds, or (safetensors) accept what the reference library rejects. ``python -m fuzz.readers zip --count 1000000``
from ``tests/`` runs one target and prints counts.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from builders import hostile

from ckpt_inspect.formats.fault_log import FormatLimitError
from ckpt_inspect.formats.json_document import read_json, read_json_lines
from ckpt_inspect.formats.safetensors_header import TOLERATED, read_safetensors_header
from ckpt_inspect.formats.shard_index import read_shard_index
from ckpt_inspect.formats.torch_archive import open_torch
from ckpt_inspect.formats.zip_content import InflateBudget, crc_of, member_source
from ckpt_inspect.formats.zip_directory import read_zip_directory
from ckpt_inspect.scan.collector import Collector, ScanLimits
from ckpt_inspect.scan.examine import Examiner
from ckpt_inspect.storage import BytesSource
from fuzz.mutations import MUTATIONS

SLOW = 2.0
CORPUS = Path(__file__).resolve().parent / "corpus"


class DisagreementError(AssertionError):
    """The reference library says otherwise."""


def read_zip(data: bytes) -> None:
    """The directory, and every member's content within a budget."""
    source = BytesSource(data)
    directory = read_zip_directory(source)
    budget = InflateBudget(1 << 20)
    for member in directory.members[:16]:
        try:
            member_source(source, member, budget).read_at(0, 64)
            if member.size < 1 << 16:
                crc_of(source, member)
        except FormatLimitError:
            pass


def read_torch(data: bytes) -> None:
    """Every tensor and every fault."""
    archive = open_torch(BytesSource(data))
    for _, tensor in archive.tensors():
        assert tensor.nbytes >= 0
    assert archive.faults is not None


def read_safetensors(data: bytes) -> None:
    """The header; it has a fault that the library does not tolerate exactly where the library rejects the file."""
    from safetensors import SafetensorError, deserialize

    header = read_safetensors_header(BytesSource(data))
    refused = [fault.kind for fault in header.faults if fault.kind not in TOLERATED]
    try:
        deserialize(data)
    except SafetensorError as error:
        if not refused:
            raise DisagreementError(f"accepted, and the library says {error}") from None
    else:
        if refused:
            raise DisagreementError(f"the library reads it, and we find {refused}")


def read_json_text(data: bytes) -> None:
    """One document; a complete one without faults is what the standard library reads."""
    document = read_json(BytesSource(data))
    read_json_lines(BytesSource(data))
    if document.complete and not document.faults:
        try:
            assert json.loads(data) == document.value
        except ValueError as error:
            raise DisagreementError(f"accepted, and json says {error}") from None


def read_index(data: bytes) -> None:
    """A shard index: no name that may be opened leads out of the directory."""
    index = read_shard_index(BytesSource(data), {"model-00001-of-00002.safetensors": 4})
    for shard in index.shards:
        assert not shard.startswith(("/", "\\"))
        assert ".." not in shard.split("/")


def scan(data: bytes) -> None:
    """The scan of a file that may be anything."""
    collector = Collector(ScanLimits(inflated=8 << 20))
    examiner = Examiner(collector, None, NAMES[len(data) % len(NAMES)])
    examiner.examine(BytesSource(data))
    found = collector.result("x", examiner.format, artifact=None, size=len(data), loads=None, reason=None)
    assert found.coverage == "complete" or found.verdict not in ("clean", "known")


NAMES = ("a.pkl", "a.pt", "a.bin", "a.json", "a.safetensors", "tokenizer_config.json", "a.jinja", "README.md", "a.gguf")
READERS: dict[str, Callable[[bytes], None]] = {
    "zip": read_zip,
    "torch": read_torch,
    "safetensors": read_safetensors,
    "json": read_json_text,
    "index": read_index,
    "scan": scan,
}


def seeds(target: str) -> list[bytes]:
    """Small files in the true format, and streams of the corpus kept for the target."""
    kept = [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]
    if target in ("zip", "torch", "scan"):
        found = [sample.data for sample in [*hostile.containers(), *hostile.benign()]]
        if target == "scan":
            found += [sample.data for sample in hostile.misused()]
            found += [b"{% for m in messages %}{{ m['role'] ~ m.content }}{% endfor %}{{ 'a' * 3 }}", _safetensors()]
        else:
            found += 3 * _torch_files()  # against the many containers that are no torch file
            found = [data for data in found if data[:2] == b"PK" or target == "torch"]
        return kept + [data for data in found if len(data) < 4096]
    if target == "safetensors":
        return [*kept, _safetensors(), _safetensors(empty=True), _safetensors(metadata=True), _all_dtypes()]
    if target == "index":
        shards = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "sub/model-00002-of-00002.safetensors"}
        whole = {"metadata": {"total_size": 8, "total_parameters": 4.0, "x": [1, {}]}, "weight_map": shards}
        return [*kept, json.dumps(whole, indent=1).encode(), json.dumps({"weight_map": {}, "metadata": {}}).encode()]
    document = {"log_history": [{"loss": 1.5, "step": 1}, {"x": None, "y": [True, "é\U0001f600", -2e-5]}], "é": {}}
    return [
        *kept,
        json.dumps(document, indent=1, ensure_ascii=False).encode(),
        json.dumps(document).encode(),
        b'{"a": NaN, "b": [Infinity, -Infinity, 1e400, 12345678901234567890], "a": "\\ud800"}',
        b'{"a": 1}\n{"a": 2}\n',
    ]


def _safetensors(*, empty: bool = False, metadata: bool = False) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}} if metadata else {}
    if not empty:
        header["w"] = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
        header["v"] = {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw + bytes(0 if empty else 22)


def _all_dtypes() -> bytes:
    header: dict[str, object] = {}
    end = 0
    for name, bits in {"F64": 64, "I32": 32, "F8_E4M3": 8, "F4": 4, "BOOL": 8, "F6_E2M3": 6}.items():
        begin, end = end, end + bits
        header[name.lower()] = {"dtype": name, "shape": [2, 4], "data_offsets": [begin, end]}
    header["none"] = {"dtype": "I8", "shape": [0], "data_offsets": [end, end]}
    header["one"] = {"dtype": "U8", "shape": [], "data_offsets": [end, end + 1]}
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(end + 1)


def _torch_files() -> list[bytes]:
    """Tensors in every arrangement: dtypes, views, parameters, both containers."""
    from builders.torch_files import legacy_bytes, parameter, tensor, view, zip_bytes

    square = tensor("F32", (2, 3), bytes(24))
    values: list[dict[str, object]] = [
        {"w": square, "v": tensor("BF16", (4,), bytes(8))},
        {"w": square, "tied": view(square, (3,), offset=3), "p": parameter(tensor("F16", (2,), bytes(4)))},
        {
            "state": {0: {"step": tensor("F32", (), bytes(4)), "exp_avg": square}},
            "param_groups": [{"lr": 1e-4, "params": [0]}],
        },
        {"empty": tensor("I64", (0, 2), b""), "flag": tensor("BOOL", (3,), bytes(3))},
    ]
    return [
        made
        for value in values
        for made in (zip_bytes(value, era="2.13"), zip_bytes(value, era="1.13"), legacy_bytes(value))
    ]


@dataclass
class Tally:
    """What a run did."""

    target: str
    inputs: int = 0
    failures: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    worst: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.target}: {self.inputs:,} inputs, {len(self.failures)} failures, {len(self.slow)} over {SLOW:.0f} s, "
            f"worst {self.worst * 1000:.0f} ms"
        )


def run(target: str, count: int, seed: int, *, log: bool = False) -> Tally:
    """Read `count` mutated inputs."""
    rng = random.Random(seed)
    pool = seeds(target)
    reader, mutate = READERS[target], MUTATIONS[target]
    tally = Tally(target)
    told = time.monotonic()
    for data in (*pool, *(mutate(rng, pool) for _ in range(count))):
        tally.inputs += 1
        begin = time.process_time()
        try:
            reader(data)
        except Exception as error:  # noqa: BLE001  # any exception is the finding
            if len(tally.failures) < 50:
                tally.failures.append(f"{type(error).__name__}: {error}: {data.hex()}")
        took = time.process_time() - begin
        tally.worst = max(tally.worst, took)
        if took > SLOW:
            tally.slow.append(data.hex())
        if log and time.monotonic() - told > 30:
            told = time.monotonic()
            print(tally, flush=True)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", choices=sorted(READERS))
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.monotonic()
    tally = run(options.target, options.count, options.seed, log=True)
    print(f"seed {options.seed}, {time.monotonic() - begun:.0f} s: {tally}")
    for failure in tally.failures[:10] + tally.slow[:10]:
        print(failure[:3000])
    return 1 if tally.failures or tally.slow else 0


if __name__ == "__main__":
    sys.exit(main())
