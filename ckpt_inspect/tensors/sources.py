"""The rows of one file or of one distributed checkpoint, read by what its bytes are and never by its name.

Every function also gives the faults met and the name of the format; none raises for content.
"""

from __future__ import annotations

from dataclasses import dataclass

from ckpt_inspect.artifacts.fsdp import DcpDirectory
from ckpt_inspect.errors import CkptInspectError
from ckpt_inspect.formats.dcp_items import item_tensor
from ckpt_inspect.formats.dcp_types import DcpTensor
from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.pickle_memory import PickleMemory
from ckpt_inspect.formats.pickle_nodes import Call
from ckpt_inspect.formats.safetensors_header import read_safetensors_header
from ckpt_inspect.formats.sniff import sniff
from ckpt_inspect.formats.torch_archive import open_torch
from ckpt_inspect.formats.torch_paths import tensor_paths
from ckpt_inspect.formats.torch_types import Tensor
from ckpt_inspect.storage import ByteSource, LocalTree
from ckpt_inspect.tensors.rows import Chunk, TensorRow

_SAYS_ITSELF = ("empty", "zeros", "lfs-pointer", "html", "tar")  # what lies where a torch file should
_TORCH = ("zip", "legacy-torch", "pickle")


@dataclass(frozen=True, slots=True)
class FileTensors:
    """What one file gave: `format` is safetensors, torch, dcp or what else the bytes are."""

    format: str
    rows: tuple[TensorRow, ...]
    faults: tuple[Fault, ...]


class FileReader:
    """Reads files of one tree one after another; what ranks write alike is interpreted once."""

    def __init__(self, tree: LocalTree, prefix: str = "") -> None:
        self._tree = tree
        self._prefix = prefix
        self._memory = PickleMemory()
        self._main: object = None
        self._paths: tuple[tuple[str, Call], ...] = ()

    def read(self, path: str) -> FileTensors:
        """The rows of the file at `path` of the tree."""
        try:
            with self._tree.open(path) as source:
                return self._read(source, self._prefix + path)
        except CkptInspectError as error:
            return FileTensors("unreadable", (), (Fault("unreadable", error.what),))

    def _read(self, source: ByteSource, shown: str) -> FileTensors:
        kind = sniff(source)
        if kind in _TORCH:
            return self._torch(source, shown)
        if kind == "safetensors" or shown.endswith(".safetensors"):
            header = read_safetensors_header(source)
            rows = tuple(
                TensorRow(name, dtype, shape, end - begin, shown, offset)
                for name, dtype, shape, begin, end, offset in header.tensors
            )
            return FileTensors("safetensors", rows, header.faults)
        if kind in _SAYS_ITSELF:
            return FileTensors(kind, (), open_torch(source).faults)
        return FileTensors(
            kind, (), (Fault("tensors-not-listed", f"a file of kind {kind}, whose tensors are not listed"),)
        )

    def _torch(self, source: ByteSource, shown: str) -> FileTensors:
        archive = open_torch(source, memory=self._memory)
        faults = archive.faults  # looks at every tensor, from the inside out
        if archive.main is not None and archive.main is not self._main:
            self._main, self._paths = archive.main, tuple(tensor_paths(archive.main.value))
        big = archive.byteorder == "big"
        rows = tuple(
            torch_row(name, tensor, shown, big_endian=big)
            for name, node in (self._paths if archive.main is not None else ())
            if (tensor := archive.tensor(node)) is not None
        )
        return FileTensors("torch", rows, faults)


def torch_row(name: str, tensor: Tensor, shown: str, *, big_endian: bool) -> TensorRow:
    """One tensor of a torch file as a row."""
    stride = None if tensor.contiguous else tensor.stride
    problem = tensor.problem
    if problem is None and tensor.file_offset is None and tensor.nbytes and tensor.kind == "dense":
        problem = "its bytes do not lie in the file as they are"
    return TensorRow(
        name,
        tensor.dtype,
        tensor.shape,
        tensor.nbytes,
        shown,
        tensor.file_offset,
        tensor.kind,
        problem,
        stride,
        big_endian,
    )


def read_distributed(directory: DcpDirectory, prefix: str = "") -> FileTensors:
    """The whole tensors of a torch distributed checkpoint, each with its chunks."""
    try:
        metadata, faults = directory.metadata, directory.faults
    except CkptInspectError as error:
        return FileTensors("unreadable", (), (Fault("unreadable", error.what),))
    if metadata is None:
        return FileTensors("dcp", (), faults)
    sources: dict[str, ByteSource] = {}
    try:
        rows = tuple(
            _distributed_row(name, tensor, directory, prefix, sources) for name, tensor in metadata.tensors.items()
        )
    finally:
        for source in sources.values():
            source.close()  # type: ignore[attr-defined]  # opened here, so a LocalFile
    return FileTensors("dcp", rows, faults)


def _distributed_row(
    name: str, tensor: DcpTensor, directory: DcpDirectory, prefix: str, sources: dict[str, ByteSource]
) -> TensorRow:
    chunks = tuple(
        Chunk(
            chunk.offsets,
            chunk.sizes,
            prefix + directory.absolute(chunk.file),
            chunk.offset,
            chunk.length,
            chunk.form,
            chunk.transforms,
        )
        for chunk in tensor.chunks
        if chunk.file
    )
    dtype = BY_NAME.get(tensor.dtype or "")
    nbytes = dtype.nbytes(tensor.numel) if dtype is not None else 0
    problem = None if dtype is not None else "its element type is unknown"
    if len(chunks) < len(tensor.chunks):
        problem = "the metadata do not say where all of it lies"
    offset: int | None = None
    if len(chunks) == 1 and len(tensor.chunks) == 1 and chunks[0].sizes == tensor.shape:
        offset = _whole_offset(tensor, directory, sources)
    file = chunks[0].file if chunks else prefix + directory.path
    return TensorRow(name, tensor.dtype or "?", tensor.shape, nbytes, file, offset, "dense", problem, chunks=chunks)


def _whole_offset(tensor: DcpTensor, directory: DcpDirectory, sources: dict[str, ByteSource]) -> int | None:
    """Where the bytes of a tensor in one piece begin: behind the header of the archive that holds it."""
    chunk = tensor.chunks[0]
    if chunk.form == "raw":
        return chunk.offset if not chunk.transforms else None
    try:
        if chunk.file not in sources:
            sources[chunk.file] = directory.tree.open(directory.absolute(chunk.file))
        found = item_tensor(sources[chunk.file], chunk)
    except CkptInspectError:
        return None
    return found.file_offset if found is not None and found.contiguous else None
