"""Runs DeepSpeed's own tools for the tests; a process of its own, because they execute the pickles they read.

usage: zero_child.py merge (DIRECTORY OUT.npz)...       get_fp32_state_dict_from_zero_checkpoint of the installed library
       zero_child.py script SCRIPT DIRECTORY OUT.npz    the same function of a zero_to_fp32.py of another version
       zero_child.py universal TAG_DIRECTORY OUTPUT     ds_to_universal --inject_missing_state
"""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace
from typing import Any


def save(state: dict[str, Any], out: str) -> None:
    import numpy as np

    # The Python API leaves frozen parameters and 16-bit masters narrow, the command line widens them
    # (to_torch_tensor); both agree after .float().
    arrays = {}
    for name, tensor in state.items():
        value = tensor.contiguous().detach()
        arrays[name] = (value.float() if value.is_floating_point() else value).numpy()
    np.savez(out, **arrays)


def merge(*pairs: str) -> None:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    for directory, out in zip(pairs[::2], pairs[1::2], strict=True):
        save(get_fp32_state_dict_from_zero_checkpoint(directory), out)


def script(path: str, directory: str, out: str) -> None:
    spec = importlib.util.spec_from_file_location("old_zero_to_fp32", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    save(module.get_fp32_state_dict_from_zero_checkpoint(directory), out)


def universal(tag: str, output: str) -> None:
    from deepspeed.checkpoint import ds_to_universal

    ds_to_universal.main(
        SimpleNamespace(
            input_folder=tag,
            output_folder=output,
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
    )


if __name__ == "__main__":
    {"merge": merge, "script": script, "universal": universal}[sys.argv[1]](*sys.argv[2:])
