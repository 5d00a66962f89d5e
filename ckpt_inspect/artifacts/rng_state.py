"""``rng_state.pth`` and ``rng_state_{rank}.pth``: the random generators of one process.

A dict of "python", "numpy", "cpu" and, by device, "cuda", "npu", "mlu", "musa", "hpu", "xla"
(transformers ``trainer.py:_save_rng_state``). "cuda" is a list over the visible GPUs in distributed runs and one tensor
otherwise. numpy 2 writes ``numpy._core``, numpy 1 ``numpy.core``: numpy 1 cannot load the former.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.pickle_nodes import as_mapping
from ckpt_inspect.formats.torch_archive import open_torch

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource


@dataclass(frozen=True, slots=True)
class RngState:
    """Which generators the file restores.

    Attributes:
        keys: generators in the file, e.g. ("python", "numpy", "cpu", "cuda").
        numpy_flavor: "numpy._core" (numpy 2), "numpy.core" (numpy 1), None without a numpy array.
        cuda_devices: GPUs visible to the process where the file holds a list, 1 where it holds one tensor, None
            without "cuda".
    """

    keys: tuple[str, ...]
    numpy_flavor: str | None
    cuda_devices: int | None
    faults: tuple[Fault, ...]
    globals: tuple[str, ...] = ()


def read_rng_state(source: ByteSource) -> RngState:
    """Read the state. Never raises for content."""
    archive = open_torch(source)
    faults = FaultLog()
    faults.extend(archive.faults)
    values = as_mapping(archive.value)
    if not values and not faults:
        faults.add("rng-not-a-state", "holds no dictionary of generator states")
    names = tuple(sorted({name.dotted for program in archive.programs for name in program.globals}))
    flavor = next(
        (module for module in ("numpy._core", "numpy.core") if any(name.startswith(f"{module}.") for name in names)),
        None,
    )
    cuda = values.get("cuda")
    devices = None if "cuda" not in values else len(cuda) if isinstance(cuda, list | tuple) else 1
    return RngState(tuple(values), flavor, devices, faults.sealed(), names)
