"""What opening a torch file gives, whatever its era: the value, its storages and tensors, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, TypeAlias

from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.pickle_nodes import Call, Node
from ckpt_inspect.formats.pickle_program import PickleProgram
from ckpt_inspect.formats.torch_paths import tensor_paths
from ckpt_inspect.formats.torch_tensors import BUILDERS, TensorReader
from ckpt_inspect.formats.torch_types import Storage, Tensor
from ckpt_inspect.formats.zip_directory import ZipDirectory

Era: TypeAlias = Literal["zip", "legacy", "tar", "torchscript", "bare-pickle", "unknown"]
Byteorder: TypeAlias = Literal["little", "big"]


class TorchArchive:
    """A file `torch.load` would open, described without opening it.

    `value` is the tree of the pickle with tensors as calls; `programs` every pickle read (the value's is `main`);
    `root` the directory inside a zip; `storages` by key, in the order met; `sniffed` what the first bytes are
    (:func:`ckpt_inspect.formats.sniff.sniff`). Treat it as immutable.
    """

    def __init__(
        self,
        era: Era,
        *,
        sniffed: str,
        file_size: int,
        main: PickleProgram | None = None,
        programs: tuple[PickleProgram, ...] = (),
        root: str = "",
        byteorder: Byteorder = "little",
        storages: Mapping[str, Storage] | None = None,
        directory: ZipDirectory | None = None,
        faults: Iterable[Fault] = (),
        format_version: str | None = None,
        program_offset: int | None = None,
    ) -> None:
        self.era: Era = era
        self.sniffed = sniffed
        self.main = main
        self.programs = programs
        self.root = root
        self.byteorder: Byteorder = byteorder
        self.storages: Mapping[str, Storage] = {} if storages is None else storages
        self.directory = directory
        self.format_version = format_version
        self._own_faults = tuple(faults)
        self._file_size = file_size
        self._program_offset = program_offset
        self._reader = TensorReader(self.storages, file_size, program_offset)
        self._tensor_log: FaultLog | None = None

    @property
    def value(self) -> Node:
        """What a loader would return, None where there is no pickle."""
        return self.main.value if self.main is not None else None

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Everything wrong with the container, its pickles and its tensors; tensors are judged on the first call."""
        log = FaultLog()
        log.extend(self._own_faults)
        for program in self.programs:
            log.extend(program.faults)
        log.extend(self._read_all().sealed())
        return log.sealed()

    def tensor(self, node: Node) -> Tensor | None:
        """The tensor a node builds (any `_rebuild_*`, parameters and subclasses included), None if it builds none."""
        if type(node) is not Call or node.target not in BUILDERS:
            return None
        if self._tensor_log is None:
            found = self._reader.read(node, FaultLog())
            if found is not None:
                return found
            self._read_all()  # from the inside out no nesting is too deep
        return self._reader.known(node)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the value with its dotted path, in file order; one met on two paths comes twice."""
        if self.main is None:
            return
        self._read_all()
        for path, node in tensor_paths(self.main.value):
            found = self._reader.known(node)
            if found is not None:
                yield path, found

    def _read_all(self) -> FaultLog:
        """Read every tensor the program builds, in the order it builds them: parts before wholes."""
        if self._tensor_log is None:
            log = FaultLog()
            reader = TensorReader(self.storages, self._file_size, self._program_offset)
            for event in self.main.events if self.main is not None else ():
                if type(event) is Call and event.target in BUILDERS:
                    reader.read(event, log)
            self._reader, self._tensor_log = reader, log
        return self._tensor_log

    def __repr__(self) -> str:
        return f"<TorchArchive {self.era}, {len(self.storages)} storages>"
