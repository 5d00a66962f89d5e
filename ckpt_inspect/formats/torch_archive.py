"""Any file `torch.load` might be given, opened without torch and without executing it: see :func:`open_torch`.

Eras: zip archives (:mod:`.torch_zip`), legacy streams (:mod:`.torch_legacy`), bare pickles; tars of torch 0.1,
TorchScript, LFS pointers, HTML pages and empty files are named. Costs one read of the pickle and one small read per
storage, whatever the size of the weights.
"""

from __future__ import annotations

from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.pickle_machine import DEFAULT, PickleLimits, PickleProgram, run_pickle
from ckpt_inspect.formats.pickle_memory import PickleMemory
from ckpt_inspect.formats.sniff import sniff
from ckpt_inspect.formats.torch_legacy import open_legacy
from ckpt_inspect.formats.torch_opened import Era, TorchArchive
from ckpt_inspect.formats.torch_storages import claimed_storages
from ckpt_inspect.formats.torch_types import Storage, Tensor
from ckpt_inspect.formats.torch_zip import open_zip
from ckpt_inspect.storage import ByteSource, once

__all__ = ["Storage", "Tensor", "TorchArchive", "open_torch", "sniff"]

_MAX_PICKLES = 16

_NOT_TORCH = {
    "empty": ("torch-empty", "the file is empty"),
    "zeros": ("torch-zeros", "the file begins with zeros: space was reserved and never written"),
    "lfs-pointer": ("torch-lfs-pointer", "a git-LFS pointer lies where the file should be"),
    "html": ("torch-html", "a web page lies where the file should be"),
}


def open_torch(source: ByteSource, limits: PickleLimits = DEFAULT, memory: PickleMemory | None = None) -> TorchArchive:
    """Open a file of any era; never raises for its content, `faults` and `era` say what it is.

    `memory` spares interpreting a pickle again when many files are opened that hold the same one.
    """
    return once(source, ("torch", limits), lambda: _open(source, limits, memory))


def _open(source: ByteSource, limits: PickleLimits, memory: PickleMemory | None) -> TorchArchive:
    kind = sniff(source)
    if kind == "zip":
        return open_zip(source, limits, memory)
    if kind == "legacy-torch":
        return open_legacy(source, limits)
    if kind == "pickle":
        return _open_bare(source, limits)
    log = FaultLog()
    if kind == "tar":
        log.add("torch-tar", "a tar of torch 0.1; load and save it with an old torch to convert it")
    else:
        log.add(*_NOT_TORCH.get(kind, ("torch-not-torch", f"neither a zip nor a pickle: {kind}")))
    era: Era = "tar" if kind == "tar" else "unknown"
    return TorchArchive(era, sniffed=kind, file_size=source.size, faults=log.sealed())


def _open_bare(source: ByteSource, limits: PickleLimits) -> TorchArchive:
    """Pickles one after another; the first is the value. Tensors in them have no bytes."""
    log = FaultLog()
    programs: list[PickleProgram] = []
    position = 0
    while position < source.size and len(programs) < _MAX_PICKLES:
        program = run_pickle(source, position, limits=limits)
        programs.append(program)
        if program.coverage != "complete" or program.end <= position:
            break
        position = program.end
    main = programs[0]
    return TorchArchive(
        "bare-pickle",
        sniffed="pickle",
        file_size=source.size,
        main=main,
        programs=tuple(programs),
        storages=claimed_storages(main.events, log),
        faults=log.sealed(),
        program_offset=0,
    )
