"""Whatever a header says, listing and measuring its tensors raises nothing and reads nothing outside the file."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

from builders.safetensors_files import file_bytes
from builders.torch_files import tensor, view, zip_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_inspect.errors import NotAFormatError
from ckpt_inspect.formats.dtypes import BY_NAME
from ckpt_inspect.report.tensors_document import tensors_json
from ckpt_inspect.report.text_tensors import tensors_text
from ckpt_inspect.tensors import list_tensors
from ckpt_inspect.tensors.values import statistics_of

SIZES = st.integers(0, 9) | st.sampled_from([1 << 31, 1 << 40, 1 << 63])
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([name for name, dtype in BY_NAME.items() if dtype.safetensors]),
        "shape": st.lists(SIZES, max_size=3),
        "data_offsets": st.lists(st.integers(0, 40) | SIZES, min_size=2, max_size=2),
    }
)


def _harmless(line: str) -> bool:
    """No control, format or unassigned character; blanks other than the space are only blanks."""
    return all(character.isprintable() or unicodedata.category(character) == "Zs" for character in line)


def work_through(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / name
        path.write_bytes(data)
        try:
            listing = list_tensors([path])
        except NotAFormatError:
            return
        measured = list(statistics_of(listing))
        for row, found, reason in measured:
            assert (found is None) == (reason is not None)
            assert found is None or found.elements >= row.numel
        assert len(json.loads("".join(tensors_json(listing, measured)))["tensors"]) == len(listing.rows)
        assert all(_harmless(line) for line in tensors_text(listing, measured, width=80, color=False))


@given(st.dictionaries(st.text(max_size=6), ENTRIES, max_size=5), st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_safetensors_header(header: dict[str, Any], data: bytes) -> None:
    work_through("model.safetensors", file_bytes(json.dumps(header), data))


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 5), max_size=3), st.lists(st.integers(0, 7), max_size=3), st.integers(0, 20)),
        max_size=5,
    ),
    st.sampled_from(["F32", "BF16", "U8", "F8_E4M3", "C64", "BOOL"]),
    st.integers(0, 400),
)
@settings(max_examples=200, deadline=None)
def test_any_view_in_a_torch_file_cut_anywhere(
    views: list[tuple[list[int], list[int], int]], dtype: str, missing: int
) -> None:
    whole = tensor(dtype, (24,))
    value = {}
    for number, (shape, stride, offset) in enumerate(views):
        steps = (*stride[: len(shape)], *(1 for _ in range(len(shape) - len(stride))))
        value[str(number)] = view(whole, tuple(shape), stride=steps, offset=offset)
    data = zip_bytes(value)
    work_through("pytorch_model.bin", data[: max(1, len(data) - missing)])
