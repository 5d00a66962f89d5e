"""The table of tensors: whole names at any width, statistics in columns, nothing hostile on the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders.safetensors_files import file_bytes, model_bytes

from ckpt_inspect.report.documents import TensorsDocument
from ckpt_inspect.report.tensors_document import tensors_document, tensors_json
from ckpt_inspect.report.text_tensors import tensors_text
from ckpt_inspect.tensors import TensorListing, list_tensors
from ckpt_inspect.tensors.values import statistics_of

LONG = "base_model.model.model.layers.10.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def listing(tmp_path: Path) -> TensorListing:
    shapes = {LONG: ("F32", [8, 896]), "embed": ("BF16", [151936, 1]), "scalar": ("I64", [])}
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(model_bytes(shapes))
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(model_bytes({"head": ("F16", [3])}))
    return list_tensors([tmp_path])


def lines(listing: TensorListing, width: int, *, stats: bool = False, color: bool = False) -> list[str]:
    measured = statistics_of(listing) if stats else None
    return list(tensors_text(listing, measured, width=width, color=color))


@pytest.mark.parametrize("width", [60, 80, 100, 160, 400])
@pytest.mark.parametrize("stats", [False, True])
def test_names_are_whole_at_every_width(listing: TensorListing, width: int, stats: bool) -> None:
    text = "\n".join(lines(listing, width, stats=stats))
    assert all(row.name in text for row in listing.rows)


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("stats", [False, True])
def test_no_line_of_the_table_is_wider_than_the_terminal(listing: TensorListing, width: int, stats: bool) -> None:
    table = lines(listing, width, stats=stats)
    assert max(len(line) for line in table if not line.startswith("!")) <= width


def test_columns_line_up_in_every_file(listing: TensorListing) -> None:
    table = lines(listing, 160)
    column = table[0].index("DTYPE")
    for row in listing.rows:
        line = next(line for line in table if row.name in line)
        assert line[column:].startswith(row.dtype)


def test_the_file_stands_above_its_tensors(listing: TensorListing) -> None:
    table = lines(listing, 160)
    heads = [number for number, line in enumerate(table) if line.startswith("model-0000")]
    assert len(heads) == 2
    assert "head" in table[heads[1] + 1]


def test_the_total_counts_tensors_parameters_bytes_and_files(listing: TensorListing) -> None:
    total = lines(listing, 80)[5 + 2 :]
    assert any("4 tensors, 159,108 parameters, 333 kB in 2 files" in line for line in total)


def test_the_offset_has_a_column_where_there_is_room(listing: TensorListing) -> None:
    assert "OFFSET" not in lines(listing, 80)[0]
    assert "OFFSET" in lines(listing, 120)[0]


def test_a_listing_without_tensors_says_so(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(model_bytes({}))
    assert lines(list_tensors([tmp_path]), 80) == ["0 tensors, 0 parameters, 0 B"]


def test_what_is_wrong_with_a_file_follows_the_table(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(model_bytes({"a": ("F32", [4])})[:-4])
    assert lines(list_tensors([tmp_path]), 80)[-1].startswith("! model.safetensors: the file ends 4 bytes early")


def test_hostile_names_reach_no_terminal(tmp_path: Path) -> None:
    names = ["\x1b[2Jcleared", "\u202egpj.exe", "a\nb", "x" * 3000, "\x9b31m", "a\r\x08b"]
    header = {name: {"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]} for n, name in enumerate(names)}
    (tmp_path / "m\x1b[31m.safetensors").write_bytes(file_bytes(json.dumps(header), bytes(len(names))))
    (tmp_path / "model.safetensors").write_bytes(model_bytes({"a": ("F32", [1])}))
    found = list_tensors([tmp_path])
    for stats in (False, True):
        for line in lines(found, 80, stats=stats):
            assert line.isprintable()
            assert len(line) < 400
    text = "".join(tensors_json(found))
    assert text.isascii()
    assert {row["name"] for row in json.loads(text)["tensors"]} == {*names, "a"}


@pytest.mark.parametrize("stats", [False, True])
def test_the_json_in_pieces_is_the_document(listing: TensorListing, stats: bool) -> None:
    text = "".join(tensors_json(listing, statistics_of(listing) if stats else None))
    document = json.loads(text)
    assert document == json.loads(json.dumps(tensors_document(listing, statistics_of(listing) if stats else None)))
    TensorsDocument.model_validate(document)
    assert document["schema"] == "ckpt-inspect/tensors/1"
    assert document["total"] == {"tensors": 4, "parameters": 159108, "bytes": 332558}
    first = document["tensors"][0]
    assert {"name", "dtype", "shape", "bytes", "file", "offset"} <= first.keys()
    assert ("stats" in first) == stats


def test_the_json_of_no_tensors_is_whole(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(model_bytes({}))
    document = json.loads("".join(tensors_json(list_tensors([tmp_path]))))
    assert (document["tensors"], document["total"]["tensors"]) == ([], 0)


def test_statistics_are_in_the_json_and_odd_values_counted(tmp_path: Path) -> None:
    import numpy

    values = numpy.array([1, 2, numpy.nan, numpy.inf, 0, 0], "f4")
    (tmp_path / "model.safetensors").write_bytes(model_bytes({"w": ("F32", [6])}, data={"w": values.tobytes()}))
    found = list_tensors([tmp_path])
    row = json.loads("".join(tensors_json(found, statistics_of(found))))["tensors"][0]
    assert row["stats"]["mean"] == 0.75
    assert (row["stats"]["nan"], row["stats"]["inf"], row["stats"]["zero_fraction"]) == (1, 1, 2 / 6)
    assert "1/1" in lines(found, 160, stats=True)[1]


def test_colour_is_only_added(listing: TensorListing) -> None:
    import re

    plain = lines(listing, 100)
    coloured = lines(listing, 100, color=True)
    assert coloured != plain
    assert [re.sub(r"\x1b\[\d+m", "", line) for line in coloured] == plain
