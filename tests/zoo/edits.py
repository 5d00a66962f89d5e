"""Edits of binary files: torch archives member by member, safetensors headers key by key."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builders.pickles import dump
from builders.zips import TorchZipWriter

Change = Callable[[bytes], bytes]


def repack(path: Path, changes: dict[str, Change | bytes | None], add: dict[str, bytes] | None = None) -> None:
    """Write a torch archive again, as torch does, with members (named below its root) changed, dropped or added."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    root = next(iter(members)).split("/")[0]
    unknown = set(changes) - {name.split("/", 1)[1] for name in members}
    assert not unknown, f"{path.name} has no {unknown}"
    buffer = io.BytesIO()
    writer = TorchZipWriter(buffer)
    for name, data in members.items():
        change = changes.get(name.split("/", 1)[1], data)
        if change is not None:
            writer.add(name, change if isinstance(change, bytes) else change(data))
    for name, data in (add or {}).items():
        writer.add(f"{root}/{name}", data)
    writer.close()
    path.write_bytes(buffer.getvalue())


def replaced(old: bytes, new: bytes, count: int = 1) -> Change:
    """A change of bytes that have to be there."""

    def change(data: bytes) -> bytes:
        assert old in data, f"{old!r} is not there"
        return data.replace(old, new, count)

    return change


def change_pickle(path: Path, old: bytes, new: bytes) -> None:
    """Replace bytes of an archive's program."""
    repack(path, {"data.pkl": replaced(old, new)})


def store_value(path: Path, value: Any) -> None:
    """Let an archive hold another value without tensors."""
    repack(path, {"data.pkl": dump(value)})


def edit_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the header of a safetensors file in place; the data stay."""
    header, data = split(path)
    changed = change(header)
    join(path, json.dumps(header if changed is None else changed), data)


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(path: Path, header: str, data: bytes) -> None:
    """Write a safetensors file with a header of any text, padded to 8 bytes."""
    text = header.encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def set_values(path: Path, name: str, raw: bytes) -> None:
    """Overwrite the first bytes of a tensor of a safetensors file."""
    header, data = split(path)
    begin, end = header[name]["data_offsets"]
    assert len(raw) <= end - begin
    join(path, json.dumps(header), data[:begin] + raw + data[begin + len(raw) :])


def shard(path: Path) -> None:
    """Split `model.safetensors` into two shards and an index, as `save_pretrained(max_shard_size=...)` does."""
    header, data = split(path)
    header.pop("__metadata__", None)
    names = sorted(header)
    weight_map = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        out: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        body = b""
        for name in part:
            begin, end = header[name]["data_offsets"]
            out[name] = {**header[name], "data_offsets": [len(body), len(body) + end - begin]}
            body += data[begin:end]
            weight_map[name] = file
        join(path.with_name(file), json.dumps(out, separators=(",", ":")), body)
    index = {"metadata": {"total_size": len(data)}, "weight_map": weight_map}
    path.with_name("model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    path.unlink()
