"""Universal checkpoints: every parameter with its states, and what an interrupted conversion lacks."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
from builders.pickles import Called, Name
from builders.torch_files import save_zip, tensor

from ckpt_inspect.artifacts.universal import UniversalCheckpoint, read_universal, read_universal_tensor
from ckpt_inspect.storage import LocalFile, LocalTree

TAG = "global_step4_universal"


def size(*shape: int) -> Called:
    return Called(Name("torch", "Size"), (shape,))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    tag = tmp_path / TAG
    for name, states in {"w": ("fp32", "exp_avg", "exp_avg_sq", "step"), "frozen.b": ("fp32",)}.items():
        (tag / "zero" / name).mkdir(parents=True)
        for kind in states:
            value = tensor("F32", ()) if kind == "step" else {"cat_dim": 0, "param": tensor("F32", (2, 3))}
            save_zip(tag / "zero" / name / f"{kind}.pt", value)
    save_zip(tag / "zero" / "optimizer_state.pt", {"param_groups": []})
    model = {
        "module": OrderedDict(w=tensor("BF16", (2, 3))),
        "buffer_names": [],
        "param_shapes": [OrderedDict(w=size(2, 3))],
        "frozen_param_shapes": OrderedDict({"frozen.b": size(2, 3)}),
        "shared_params": {"alias": "w"},
        "ds_version": "0.19.8",
    }
    save_zip(tag / "mp_rank_00_model_states.pt", model)
    return tmp_path


def read(run: Path) -> UniversalCheckpoint:
    found = read_universal(LocalTree(run), TAG)
    assert found is not None
    return found


def kinds(run: Path) -> set[str]:
    return {fault.kind for fault in read(run).faults}


def test_a_finished_conversion_is_healthy(run: Path) -> None:
    found = read(run)
    assert found.faults == ()
    assert [parameter.name for parameter in found.parameters] == ["frozen.b", "w"]
    assert found.states == ("fp32", "exp_avg", "exp_avg_sq", "step")
    assert found.expected == {"w": (2, 3), "frozen.b": (2, 3)}
    assert found.optimizer_state == f"{TAG}/zero/optimizer_state.pt"
    assert found.missing == ()
    assert read_universal(LocalTree(run / TAG), "") is not None
    assert read_universal(LocalTree(run), "") is None


@pytest.mark.parametrize(
    ("lost", "kind"),
    [
        ("zero/w", "universal-parameter-missing"),
        ("zero/w/exp_avg.pt", "universal-state-missing"),
        ("zero/optimizer_state.pt", "universal-no-optimizer-state"),
        ("mp_rank_00_model_states.pt", "universal-no-model-file"),
    ],
)
def test_what_is_lost_is_named(run: Path, lost: str, kind: str) -> None:
    path = run / TAG / lost
    for file in list(path.iterdir()) if path.is_dir() else [path]:
        file.unlink()
    assert kinds(run) == {kind}


def test_a_parameter_without_weights_is_named_twice(run: Path) -> None:
    (run / TAG / "zero/w/fp32.pt").unlink()
    assert kinds(run) == {"universal-fp32-missing", "universal-parameter-missing"}
    assert read(run).missing == ("w",)


def test_an_interrupted_conversion_leaves_fragments(run: Path) -> None:
    fragment = run / TAG / "tmp/w/0/fp32.00"
    fragment.parent.mkdir(parents=True)
    fragment.write_bytes(b"x")
    assert kinds(run) == {"universal-leftover"}
    (run / TAG / "zero/w/fp32.pt").write_bytes(b"")
    assert kinds(run) == {"universal-leftover", "torch-empty"}


def test_a_state_file_gives_its_tensor_and_how_it_was_cut(run: Path) -> None:
    with LocalFile(run / TAG / "zero/w/fp32.pt") as source:
        found = read_universal_tensor(source)
    assert found.tensor is not None
    assert (found.tensor.shape, found.cat_dim, found.vocabulary, found.extra) == ((2, 3), 0, False, ())
    with LocalFile(run / TAG / "zero/w/step.pt") as source:
        step = read_universal_tensor(source)
    assert step.tensor is not None
    assert (step.tensor.shape, step.cat_dim) == ((), None)
    save_zip(run / "odd.pt", {"param": 5, "vocab_tensor": True, "more": 1})
    with LocalFile(run / "odd.pt") as source:
        odd = read_universal_tensor(source)
    assert (odd.tensor, odd.vocabulary, odd.extra) == (None, True, ("more",))


def test_a_model_file_that_cannot_be_read_is_a_fault(run: Path) -> None:
    tree = LocalTree(run)
    found = read_universal(tree, TAG)
    assert found is not None
    (run / TAG / "mp_rank_00_model_states.pt").unlink()  # gone after the listing was made
    assert {fault.kind for fault in found.faults} == {"unreadable"}
