"""Calls that build tensors, read as tensors: every `_rebuild_*` function torch has written into files.

Signatures: ``torch/_utils.py`` and ``torch/_tensor.py`` 2.13; older ones keep working because torch keeps them. All
arithmetic is on Python integers, so nothing overflows; nothing is allocated by what a file claims.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ckpt_inspect.formats.dtypes import BY_TORCH, DType
from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.pickle_nodes import Blob, Call, Global, Node, Pairs, PersistentId, get_path
from ckpt_inspect.formats.torch_guards import judge_view
from ckpt_inspect.formats.torch_storages import storage_id
from ckpt_inspect.formats.torch_types import Kind, Storage, Tensor, contiguous_stride

_UTILS = "torch._utils."
_FROM_TYPE = frozenset(
    {"torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type", "torch.tensor._rebuild_from_type"}
)
_PARAMETER_TYPES = frozenset({"torch.nn.parameter.Parameter", "torch.nn.Parameter"})
_MAX_NESTING = 32
_BYTE = DType("U8", 8, "uint8", "ByteStorage", True, False)


class TensorReader:
    """Reads tensors of one file; `storages` by key, `program_offset` is where the pickle's byte 0 lies in the file."""

    def __init__(self, storages: Mapping[str, Storage], file_size: int, program_offset: int | None) -> None:
        self._storages = storages
        self._file_size = file_size
        self._program_offset = program_offset
        self._known: dict[int, tuple[Node, Tensor | None]] = {}  # with the node, so that its id stays its own

    def read(self, node: Node, log: FaultLog) -> Tensor | None:
        """The tensor a node builds, or None when it builds none; what is wrong is noted the first time only."""
        return self._call(node, log, -1)

    def known(self, node: Node) -> Tensor | None:
        """The tensor of a node that was read before."""
        return self._known[id(node)][1] if id(node) in self._known else None

    def _decode(self, target: str | None, args: Node, log: FaultLog, offset: int, depth: int) -> Tensor | None:
        if target is None or not target.startswith("torch.") or type(args) is not tuple:
            return None
        if target in _FROM_TYPE:
            return self._from_type(args, log, offset, depth)
        decoder = _DECODERS.get(target)
        if decoder is None:
            return None
        found = decoder(self, args, log, offset, depth) if depth < _MAX_NESTING else None
        if found is None:
            log.add("torch-tensor-arguments", "a tensor is built from arguments torch would refuse", offset=offset)
        return found

    def _call(self, node: Node, log: FaultLog, depth: int) -> Tensor | None:
        if type(node) is not Call:
            return None
        if id(node) not in self._known:
            self._known[id(node)] = node, self._decode(node.target, node.args, log, node.offset, depth + 1)
        return self._known[id(node)][1]

    def _from_type(self, args: tuple[Node, ...], log: FaultLog, offset: int, depth: int) -> Tensor | None:
        if len(args) != 4 or type(args[0]) is not Global or depth >= _MAX_NESTING:
            log.add("torch-tensor-arguments", "a tensor is built from arguments torch would refuse", offset=offset)
            return None
        function, cls, inner, state = args
        attributes = _attributes(state)
        base = self._decode(function.dotted, inner, log, offset, depth + 1)
        if base is None:
            return None
        name = cls.dotted if type(cls) is Global else ""
        local = self._call(get_path(attributes, "_local_tensor"), log, depth)
        if local is not None:  # torch.distributed.tensor.DTensor: the shard of this rank under the shape of the whole
            return replace(local, kind="dtensor", attributes=attributes, global_shape=base.shape)
        parameter = base.is_parameter or name in _PARAMETER_TYPES
        return replace(base, attributes=attributes, is_parameter=parameter)

    def _parameter(self, args: tuple[Node, ...], log: FaultLog, offset: int, depth: int) -> Tensor | None:
        if len(args) not in (3, 4):
            return None
        data = self._call(args[0], log, depth)
        if data is None:
            return None
        state = _attributes(args[3]) if len(args) == 4 else data.attributes
        return replace(data, requires_grad=args[1] is True, is_parameter=True, attributes=state)

    def _strided(self, args: tuple[Node, ...], log: FaultLog, offset: int, _: int) -> Tensor | None:
        """`_rebuild_tensor(storage, offset, size, stride)` and `_v2(..., requires_grad, hooks[, metadata])`."""
        if not 4 <= len(args) <= 7:
            return None
        return self._view(args, None, args[6] if len(args) > 6 else None, "dense", log, offset)

    def _strided_v3(self, args: tuple[Node, ...], log: FaultLog, offset: int, _: int) -> Tensor | None:
        """`_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])`."""
        if len(args) not in (7, 8):
            return None
        dtype = dtype_of(args[6])
        if dtype is None:
            return None
        return self._view(args, dtype, args[7] if len(args) > 7 else None, "dense", log, offset)

    def _quantized(self, args: tuple[Node, ...], log: FaultLog, offset: int, depth: int) -> Tensor | None:
        """`_rebuild_qtensor(storage, offset, size, stride, quantizer_params, requires_grad, hooks)`."""
        if len(args) < 5 or type(args[4]) is not tuple:
            return None
        requires_grad = args[5] if len(args) > 5 else False
        found = self._view((*args[:4], requires_grad), None, None, "quantized", log, offset)
        if found is None:
            return None
        return replace(found, components=self._parts(("scales", "zero_points"), args[4][1:3], log, depth))

    def _view(
        self, args: tuple[Node, ...], dtype: DType | None, metadata: Node, kind: Kind, log: FaultLog, offset: int
    ) -> Tensor | None:
        claim = storage_id(args[0]) if type(args[0]) is PersistentId else None
        shape, stride, start = ints(args[2]), ints(args[3]), args[1]
        if claim is None or shape is None or stride is None or type(start) is not int:
            return None
        storage = self._storages.get(claim.key)
        nbytes = storage.nbytes if storage is not None else claim.nbytes
        element = dtype or claim.dtype or _BYTE
        first, length = 0, nbytes * 8 // element.bits
        if claim.view is not None:  # a storage that is itself a window of another
            first, length = claim.view[0], min(claim.view[1], length - claim.view[0])
        judgement = judge_view(element, shape, stride, start, length)
        problem = judgement.problem
        if judgement.kind is not None:
            log.add(judgement.kind, judgement.message, offset=offset, place=claim.key)
        file_offset = storage.file_offset if storage is not None else None
        if file_offset is not None:
            if judgement.outside:
                file_offset = None
            else:
                file_offset += element.nbytes(first + start)
                if file_offset + element.nbytes(judgement.span) > self._file_size:
                    problem = problem or "its bytes lie past the end of the file"
                    file_offset = None
        elif problem is None and judgement.nbytes and claim.location != "meta":
            problem = "its bytes are not in the file"
        if problem is None and metadata is not None and any(get_path(metadata, bit) is True for bit in ("conj", "neg")):
            problem = "its bytes stand for their conjugate or negative"
        return Tensor(
            element.name,
            shape,
            stride,
            claim.key,
            start,
            file_offset,
            judgement.nbytes,
            "meta" if claim.location == "meta" and kind == "dense" else kind,
            judgement.contiguous,
            len(args) > 4 and args[4] is True,
            problem=problem,
        )

    def _meta(self, args: tuple[Node, ...], log: FaultLog, offset: int, _: int) -> Tensor | None:
        """`_rebuild_meta_tensor_no_storage(dtype, size, stride, requires_grad)`."""
        if len(args) != 4:
            return None
        return self._without_bytes(args[0], args[1], args[2], 0, args[3], "meta", log, offset)

    def _wrapper(self, args: tuple[Node, ...], log: FaultLog, offset: int, _: int) -> Tensor | None:
        """`_rebuild_wrapper_subclass(cls, dtype, size, stride, storage_offset, layout, device, requires_grad)`."""
        if len(args) != 8:
            return None
        return self._without_bytes(args[1], args[2], args[3], args[4], args[7], "wrapper", log, offset)

    def _without_bytes(
        self, dtype: Node, size: Node, stride: Node, start: Node, grad: Node, kind: Kind, log: FaultLog, offset: int
    ) -> Tensor | None:
        element, shape, steps = dtype_of(dtype), ints(size), ints(stride)
        if element is None or shape is None or steps is None or type(start) is not int:
            return None
        judgement = judge_view(element, shape, steps, start, None)
        if judgement.kind is not None:
            log.add(judgement.kind, judgement.message, offset=offset)
        return Tensor(
            element.name,
            shape,
            steps,
            "",
            start,
            None,
            judgement.nbytes,
            kind,
            judgement.contiguous,
            grad is True,
            problem=judgement.problem,
        )

    def _sparse(self, args: tuple[Node, ...], log: FaultLog, offset: int, depth: int) -> Tensor | None:
        """`_rebuild_sparse_tensor(layout, (indices, values, size[, coalesced]))`, or four parts when compressed."""
        if len(args) != 2 or type(args[1]) is not tuple or not 3 <= len(args[1]) <= 4:
            return None
        data = args[1]
        compressed = len(data) == 4 and type(data[3]) is not bool and data[3] is not None
        names = ("compressed_indices", "plain_indices", "values") if compressed else ("indices", "values")
        shape = ints(data[len(names)])
        present = self._parts(names, data, log, depth)
        if shape is None or len(present) != len(names):
            return None
        if any(length < 0 for length in shape) or len(shape) > 64:
            log.add("torch-view-bounds", "a sparse tensor with an impossible shape", offset=offset)
            return None
        values = present[-1][1]
        return self._of_parts(values, shape, "sparse", present)

    def _nested(self, args: tuple[Node, ...], log: FaultLog, _: int, depth: int) -> Tensor | None:
        """`_rebuild_nested_tensor(buffer, sizes, strides, storage_offsets)`: as many rows as tensors inside."""
        if len(args) != 4:
            return None
        names = ("values", "sizes", "strides", "storage_offsets")
        present = self._parts(names, args, log, depth)
        if len(present) != 4:
            return None
        return self._of_parts(present[0][1], present[0][1].shape, "nested", present)

    def _parts(
        self, names: tuple[str, ...], nodes: tuple[Node, ...], log: FaultLog, depth: int
    ) -> tuple[tuple[str, Tensor], ...]:
        """The tensors among the nodes by name; a part has no parts of its own, in torch and so here."""
        parts = ((name, self._call(node, log, depth)) for name, node in zip(names, nodes, strict=False))
        return tuple((name, part) for name, part in parts if part is not None and not part.components)

    def _of_parts(
        self, values: Tensor, shape: tuple[int, ...], kind: Kind, parts: tuple[tuple[str, Tensor], ...]
    ) -> Tensor:
        problem = next((part.problem for _, part in parts if part.problem), None)
        return Tensor(
            values.dtype,
            shape,
            contiguous_stride(shape),
            "",
            0,
            None,
            sum(part.nbytes for _, part in parts),
            kind,
            False,
            problem=problem,
            components=parts,
        )

    def _from_cpu(self, args: tuple[Node, ...], log: FaultLog, _: int, depth: int) -> Tensor | None:
        """`_rebuild_device_tensor_from_cpu_tensor(data, dtype, device, requires_grad)`; the file holds the CPU copy."""
        data = self._call(args[0], log, depth) if len(args) == 4 else None
        return None if data is None else replace(data, requires_grad=args[3] is True)

    def _from_numpy(self, args: tuple[Node, ...], log: FaultLog, offset: int, _: int) -> Tensor | None:
        """`_rebuild_device_tensor_from_numpy(array, dtype, device, requires_grad)`: the bytes are in the pickle."""
        if len(args) != 4 or type(args[0]) is not Call or type(args[0].state) is not tuple:
            return None
        state = args[0].state  # numpy's ndarray.__reduce__: (version, shape, dtype, is_fortran, data)
        shape, element = ints(state[1]) if len(state) == 5 else None, dtype_of(args[1])
        if shape is None or element is None or any(length < 0 for length in shape) or len(shape) > 64:
            return None
        stride = contiguous_stride(shape)
        judgement = judge_view(element, shape, stride, 0, None)
        raw, at = state[4], None
        length = raw.length if type(raw) is Blob else len(raw) if type(raw) in (bytes, str) else None
        if type(raw) is Blob and self._program_offset is not None and state[3] is False:
            at = self._program_offset + raw.offset
        problem = None if length == judgement.nbytes else "the array inside has another element type than the tensor"
        contiguous = state[3] is False
        return Tensor(
            element.name,
            shape,
            stride,
            "",
            0,
            None if problem else at,
            judgement.nbytes,
            "dense",
            contiguous,
            args[3] is True,
            problem=problem,
        )


_Decoder = Callable[[TensorReader, tuple[Node, ...], FaultLog, int, int], Tensor | None]

_DECODERS: dict[str, _Decoder] = {
    f"{_UTILS}{name}": decoder
    for name, decoder in {
        "_rebuild_tensor": TensorReader._strided,
        "_rebuild_tensor_v2": TensorReader._strided,
        "_rebuild_tensor_v3": TensorReader._strided_v3,
        "_rebuild_parameter": TensorReader._parameter,
        "_rebuild_parameter_with_state": TensorReader._parameter,
        "_rebuild_qtensor": TensorReader._quantized,
        "_rebuild_meta_tensor_no_storage": TensorReader._meta,
        "_rebuild_wrapper_subclass": TensorReader._wrapper,
        "_rebuild_sparse_tensor": TensorReader._sparse,
        "_rebuild_sparse_csr_tensor": TensorReader._sparse,
        "_rebuild_nested_tensor": TensorReader._nested,
        "_rebuild_device_tensor_from_numpy": TensorReader._from_numpy,
        "_rebuild_xla_tensor": TensorReader._from_numpy,
        "_rebuild_device_tensor_from_cpu_tensor": TensorReader._from_cpu,
    }.items()
}

BUILDERS = frozenset(_DECODERS) | _FROM_TYPE
"""Every function whose result is a tensor."""


def ints(node: Node) -> tuple[int, ...] | None:
    """A size or stride: a tuple or list of integers, or a ``torch.Size`` of one."""
    if type(node) is Call:
        if node.target != "torch.Size" or type(node.args) is not tuple or len(node.args) > 1:
            return None
        node = node.args[0] if node.args else ()
    if type(node) is not tuple and type(node) is not list:
        return None
    for value in node:
        if type(value) is not int:
            return None
    return tuple(node)


def dtype_of(node: Node) -> DType | None:
    """A ``torch.<dtype>`` global; types without a row (torch's ``uint4`` shells) count one byte an element."""
    if type(node) is not Global or node.module != "torch":
        return None
    known = BY_TORCH.get(node.name)
    if known is not None:
        return known
    stem = node.name.rstrip("1234567")
    return DType(node.name.upper(), 8, node.name, None, False, False) if stem in ("int", "uint") else None


def _attributes(state: Node) -> Node:
    """The attributes of a tensor: its `__dict__`, and with it its slots (``torch._utils._get_obj_state`` pairs them)."""
    if type(state) is not tuple or len(state) != 2:
        return state
    parts = [part for part in state if type(part) is Pairs]
    return parts[0] if len(parts) == 1 else Pairs([item for part in parts for item in part.items])
