"""The tables of names: exact, sourced, without contradictions."""

from __future__ import annotations

import inspect
import re
import sys
import tomllib
from pathlib import Path

import pytest

from ckpt_inspect import knowledge
from ckpt_inspect.formats.pickle_opcodes import OPCODES
from ckpt_inspect.scan import collector
from ckpt_inspect.scan.guards import GUARDS
from ckpt_inspect.scan.tiers import expectation, standing_of

TABLE = knowledge.load("pickle_globals")
KINDS = knowledge.load("artifacts")["kind"]
RUNS_CODE = frozenset({"os", "posix", "nt", "sys", "subprocess", "shutil", "importlib", "pickle", "operator"})


def test_every_row_names_its_source_and_a_guard_that_exists() -> None:
    for row in TABLE["allow"]:
        assert row["source"]
        assert row["tier"] in ("T0", "T1")
        assert set(row["use"]) <= {"call", "instance", "state"}
        assert row.get("guard") is None or row["guard"] in GUARDS
        assert row["modules"]
        assert row["names"]
    for row in TABLE["deny"]["gadget"]:
        assert row["source"]
        assert row["reason"]


def test_what_may_be_called_has_its_arguments_looked_at_or_only_holds_data() -> None:
    unguarded = {
        f"{module}.{name}"
        for row in TABLE["allow"]
        if "call" in row["use"] and "guard" not in row
        for module in row["modules"]
        for name in row["names"]
    }
    allowed = (
        "numpy.",
        "array.",
        "torch.distributed.",
        "torch.jit._pickle.",
        "deepspeed.",
        "transformers.",
        "tokenizers.",
    )
    assert {name for name in unguarded if not name.startswith(allowed)} == set()


def test_no_allowed_name_is_a_builtin_or_function_that_runs_code() -> None:
    for row in TABLE["allow"]:
        for module in row["modules"]:
            for name in row["names"]:
                if module == "builtins":
                    assert name not in (
                        "eval",
                        "exec",
                        "compile",
                        "open",
                        "input",
                        "__import__",
                        "globals",
                        "type",
                        "map",
                    )
                if (module, name) != ("operator", "getitem"):  # its guard lets types through and nothing else
                    assert module not in RUNS_CODE


def test_every_guard_is_used() -> None:
    used = {row.get("guard") for row in TABLE["allow"]}
    assert set(GUARDS) <= used


def test_the_standard_library_of_this_python_is_denied() -> None:
    denied = set(TABLE["deny"]["standard_library"])
    assert set(sys.stdlib_module_names) - {"__main__"} <= denied


@pytest.mark.parametrize("module", sorted(sys.stdlib_module_names))
def test_nothing_of_the_standard_library_is_allowed_by_its_module_alone(module: str) -> None:
    assert standing_of(module, "anything").tier == ("T3" if module != "__main__" else "T2")
    assert standing_of(f"{module}.inner", "anything").tier in ("T2", "T3")


def test_expectations_speak_of_kinds_and_families_that_exist() -> None:
    families = {row["family"] for row in TABLE["allow"]}
    for row in TABLE["expect"]:
        assert row["source"]
        assert set(row["families"]) <= families
        for kind in row["kinds"]:
            assert kind in KINDS
            found = expectation(kind)
            assert found is not None
            assert found.holds == row["holds"]


def test_every_finding_is_described_and_none_is_described_in_vain() -> None:
    used: set[str] = set()
    for path in Path(inspect.getfile(collector)).parent.glob("*.py"):
        used |= set(re.findall(r'"((?:scan|template)-[a-z-]+|secret|privacy)"', path.read_text()))
    table = Path(inspect.getfile(knowledge)).parent / "faults" / "scan.toml"
    assert set(tomllib.loads(table.read_text())) == used


def test_every_fault_with_a_meaning_exists() -> None:
    described = knowledge.faults()
    for kind in knowledge.load("scan")["fault"]:
        assert kind in described, kind


def test_weights_only_accepts_34_opcodes() -> None:
    names = {name for name, _ in OPCODES.values()}
    opcodes = knowledge.load("weights_only")["opcodes"]
    assert len(opcodes) == 34
    assert set(opcodes) <= names


@pytest.mark.parametrize(
    ("module", "name", "tier"),
    [
        ("torch._utils", "_rebuild_tensor_v2", "T0"),
        ("collections", "OrderedDict", "T0"),
        ("transformers.training_args", "TrainingArguments", "T1"),
        ("torch.nn.modules.linear", "Linear", "T1"),
        ("torch.nn.modules.linear", "linear", "T2"),
        ("torch.nn.modules.evil", "Linear", "T2"),
        ("somepkg", "Thing", "T2"),
        ("__main__", "Args", "T2"),
        ("torch.hub", "load", "T3"),
        ("torch", "hub.load", "T3"),
        ("torch.nn.modules.linear", "torch.hub", "T3"),
        ("_private", "x", "T3"),
        ("os", "system", "T3"),
        ("os.path", "join", "T3"),
        ("xml.dom", "x", "T3"),
        ("numpy", "load", "T3"),
        ("numpy.testing._private.utils", "runstring", "T3"),
        ("a b", "c", "T3"),
        ("", "x", "T3"),
        ("(computed)", "(computed)", "T3"),
        ("somepkg", "__class__", "T3"),
        ("__torch__.x", "Y", "T3"),
    ],
)
def test_where_names_stand(module: str, name: str, tier: str) -> None:
    assert standing_of(module, name).tier == tier


def test_a_torchscript_archive_may_bring_its_own_classes() -> None:
    assert standing_of("__torch__.model", "Net", torchscript=True).tier == "T1"
    assert standing_of("os", "system", torchscript=True).tier == "T3"
