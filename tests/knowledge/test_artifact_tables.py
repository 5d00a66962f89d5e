"""The tables the artifact readers stand on: every row has its source, and readers state no fault the table lacks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ckpt_inspect.artifacts
from ckpt_inspect.artifacts.adapter_keys import Role, markers
from ckpt_inspect.knowledge import faults, load

PACKAGE = Path(ckpt_inspect.artifacts.__file__).parent


@pytest.mark.parametrize("name", ["trainer_state_eras", "model_configs", "model_defaults"])
def test_every_row_names_its_source(name: str) -> None:
    for key, row in load(name).items():
        assert row.get("source"), key


def test_every_adapter_type_and_marker_names_its_source() -> None:
    table = load("peft_types")
    for section in ("type", "marker"):
        assert all(row["source"] for row in table[section].values())
    assert all(row["source"] and row["since"] for row in load("peft_eras")["LORA"].values())


def test_every_marker_belongs_to_a_type_and_has_a_known_role() -> None:
    types, roles = load("peft_types")["type"], set(Role.__args__)
    for marker in markers().values():
        assert marker.type in types
        assert marker.role in roles


def test_keys_of_the_era_table_are_keys_of_the_type() -> None:
    table = load("peft_types")
    known = {*table["type"]["LORA"]["fields"], *table["common"]["fields"]}
    assert set(load("peft_eras")["LORA"]) <= known


def test_every_fault_a_reader_states_is_described() -> None:
    described = faults()
    stated = set()
    for path in PACKAGE.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        stated |= set(re.findall(r'(?:\.add|YamlError)\(\s*"([a-z][a-z0-9-]+)"', text))
    assert len(stated) > 30
    assert stated <= described.keys()


def test_every_fault_has_a_severity_a_meaning_and_a_remedy() -> None:
    for kind, row in faults().items():
        assert row["severity"] in ("error", "warning", "note"), kind
        assert row["meaning"], kind
        assert row["remedy"], kind
        assert row["source"], kind
