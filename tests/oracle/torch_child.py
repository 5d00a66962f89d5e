"""Run in a child process: what torch itself says about every tensor of trusted files, as JSON lines.

Usage: python torch_child.py [safe] < list of files. Without "safe" never give it a file from anywhere but the collection
of real runs; with it torch's restricted unpickler reads, which runs nothing a file names.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from types import ModuleType
from typing import Any

import torch

KNOWN = ("torch", "collections", "builtins", "numpy", "_codecs", "copyreg", "pathlib")


class Anything:
    """Stands in for a class of another library: only torch is the judge here."""

    def __new__(cls, *_: Any, **__: Any) -> Anything:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class Lenient(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in KNOWN:
            return super().find_class(module, name)
        return type(name, (Anything,), {"__module__": module})


def module_with(unpickler: type) -> ModuleType:
    module = ModuleType("lenient")
    module.Unpickler = unpickler  # type: ignore[attr-defined]
    module.load = pickle.load  # type: ignore[attr-defined]
    return module


def walk(value: Any, path: str, on_path: set[int]) -> Any:
    if isinstance(value, torch.Tensor):
        yield path, value
        return
    if id(value) in on_path or isinstance(value, (str, bytes, int, float, type(None))):
        return
    on_path.add(id(value))
    if isinstance(value, dict):
        items = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(str(index), inner) for index, inner in enumerate(value)]
    else:
        items = [("", inner) for inner in (getattr(value, "__dict__", None),) if isinstance(inner, dict)]
    for name, inner in items:
        yield from walk(inner, f"{path}.{name}" if path and name else path or name, on_path)
    on_path.discard(id(value))


def bits(tensor: torch.Tensor) -> bytes:
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    if dense.is_quantized:
        dense = dense.int_repr()
    return dense.view(torch.uint8).numpy().tobytes() if dense.numel() else b""


def load(file: str, device: str) -> Any:
    if "safe" in sys.argv:
        return torch.load(file, map_location=device, weights_only=True)
    return torch.load(file, map_location=device, weights_only=False, pickle_module=module_with(Lenient))


def describe(file: str) -> dict[str, Any]:
    whole = dict(walk(load(file, "cpu"), "", set()))
    try:
        placed = dict(walk(load(file, "meta"), "", set()))
    except Exception:  # noqa: BLE001  # legacy streams cannot be loaded to meta
        placed = {}
    tensors = {}
    for path, tensor in whole.items():
        if tensor.layout is not torch.strided or tensor.device.type == "meta" or tensor.is_nested:
            tensors[path] = {"shape": list(tensor.shape), "kind": str(tensor.layout)}
            continue
        storage = placed[path].untyped_storage() if path in placed else None
        begin = getattr(storage, "_checkpoint_offset", None)
        tensors[path] = {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
            "offset": None if begin is None else begin + tensor.storage_offset() * tensor.element_size(),
            "requires_grad": tensor.requires_grad,
            "parameter": isinstance(tensor, torch.nn.Parameter),
            "sha256": hashlib.sha256(bits(tensor)).hexdigest(),
        }
    return tensors


for line in sys.stdin:
    try:
        print(json.dumps({"file": line.strip(), "tensors": describe(line.strip())}), flush=True)
    except Exception as error:  # noqa: BLE001  # whatever torch cannot load is an answer too
        print(json.dumps({"file": line.strip(), "error": f"{type(error).__name__}: {error}"}), flush=True)
