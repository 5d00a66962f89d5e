"""What the real libraries write is never accused: files made here and now by torch, transformers, peft, trl, accelerate."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import functools
import pathlib
import pickle
import random
import uuid
import warnings
from pathlib import Path
from typing import Any

import pytest

from ckpt_inspect.scan import ScannedFile, scan_path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.judge, pytest.mark.filterwarnings("ignore")]
nn = torch.nn


def saved(tmp_path: Path, value: Any, name: str = "file.pt", **options: Any) -> ScannedFile:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, tmp_path / name, **options)
    return scan_path(tmp_path / name).files[0]


def fine(found: ScannedFile) -> bool:
    assert found.coverage == "complete", found.findings
    assert found.verdict in ("clean", "known"), [finding for finding in found.findings if finding.severity != "note"]
    return True


def module() -> Any:
    return nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), nn.LayerNorm(4), nn.Dropout(), nn.TransformerEncoderLayer(4, 2), nn.LSTM(4, 4),
        nn.Conv2d(1, 1, 3), nn.BatchNorm1d(4), nn.Embedding(4, 4), nn.MultiheadAttention(4, 2),
    )  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_of_every_form(tmp_path: Path, protocol: int, zipped: bool) -> None:
    found = saved(tmp_path, module().state_dict(), pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert (found.verdict, found.coverage) == ("clean", "complete")


@pytest.mark.parametrize("zipped", [True, False])
def test_whole_modules(tmp_path: Path, zipped: bool) -> None:
    assert fine(saved(tmp_path, module(), _use_new_zipfile_serialization=zipped))
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear}, dtype=torch.qint8)
    assert fine(saved(tmp_path, quantised))


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adafactor", "RAdam", "LBFGS", "Adagrad", "NAdam"])
def test_optimizers_and_their_states(tmp_path: Path, name: str) -> None:
    made = module()
    optimizer = getattr(torch.optim, name)(made.parameters(), lr=0.1)
    assert fine(saved(tmp_path, optimizer.state_dict()))
    assert fine(saved(tmp_path, optimizer))


def test_schedules_and_scalers(tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW(module().parameters())
    lr = torch.optim.lr_scheduler
    for schedule in (
        lr.CosineAnnealingLR(optimizer, 10),
        lr.OneCycleLR(optimizer, 0.1, total_steps=10),
        lr.SequentialLR(optimizer, [lr.ConstantLR(optimizer), lr.StepLR(optimizer, 2)], [3]),
        lr.ReduceLROnPlateau(optimizer),
        transformers.get_cosine_schedule_with_warmup(optimizer, 1, 10),
    ):
        assert fine(saved(tmp_path, schedule.state_dict(), "scheduler.pt"))
        assert fine(saved(tmp_path, schedule))
    assert fine(saved(tmp_path, torch.amp.GradScaler("cpu").state_dict(), "scaler.pt"))
    assert fine(saved(tmp_path, torch.amp.GradScaler("cpu")))


def test_tensors_of_every_kind(tmp_path: Path) -> None:
    dtypes = (torch.float8_e4m3fn, torch.bfloat16, torch.complex64, torch.uint16, torch.bool, torch.int8)
    parameter = nn.Parameter(torch.zeros(2))
    parameter.ds_id = "0_1"
    assert fine(saved(tmp_path, {str(dtype): torch.zeros(4).to(dtype) for dtype in dtypes}))
    assert fine(saved(tmp_path, {"a": torch.eye(3).to_sparse(), "b": torch.eye(3).to_sparse_csr(), "p": parameter}))
    assert fine(saved(tmp_path, torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.quint8)))
    assert fine(saved(tmp_path, torch.empty(3, device="meta")))
    assert fine(saved(tmp_path, torch.nested.nested_tensor([torch.rand(2), torch.rand(3)])))
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"w": torch.rand(3)}))
    assert fine(scan_path(tmp_path / "plain.pkl").files[0])


@pytest.mark.parametrize("protocol", [4, 5])
def test_odds_and_ends_that_states_hold(tmp_path: Path, protocol: int) -> None:
    values = {
        "namespace": argparse.Namespace(a=1),
        "time": [datetime.datetime(2026, 1, 2), datetime.timedelta(1), datetime.UTC],
        "numbers": [decimal.Decimal("1.5"), 1j, range(3), slice(1, 2), Ellipsis],
        "containers": [
            collections.defaultdict(list),
            collections.deque([1]),
            collections.Counter("aa"),
            {1},
            frozenset(),
        ],
        "bytes": [b"abcdefghij", bytearray(b"xx")],
        "names": [pathlib.PurePosixPath("x"), uuid.uuid4(), random.Random(1)],  # pickled, not used
        "torch": [torch.Size([1]), torch.device("cpu"), torch.strided, torch.channels_last, torch.float32],
        "partial": functools.partial(nn.functional.silu),
    }
    assert fine(saved(tmp_path, values, pickle_protocol=protocol))


def test_numpy(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    values = {
        "array": numpy.arange(3),
        "scalar": numpy.float64(3),
        "dtype": numpy.dtype("f4"),
        "generator": numpy.random.default_rng(0),
        "state": numpy.random.RandomState(0),
        "masked": numpy.ma.array([1, 2], mask=[0, 1]),
        "record": numpy.zeros(2, dtype=[("a", "i4"), ("b", "O")]),
        "date": numpy.datetime64("2020"),
        "text": numpy.array(["a"]),
    }
    assert fine(saved(tmp_path, values))
    numpy.savez(tmp_path / "a.npz", **{key: values[key] for key in ("array", "text")})
    numpy.savez_compressed(tmp_path / "b.npz", array=values["array"])
    assert fine(scan_path(tmp_path / "a.npz").files[0])
    assert fine(scan_path(tmp_path / "b.npz").files[0])


def test_torchscript(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU())), tmp_path / "script.pt")
    torch.jit.save(torch.jit.trace(nn.Linear(4, 4), torch.rand(1, 4)), tmp_path / "trace.pt")
    for name in ("script.pt", "trace.pt"):
        found = scan_path(tmp_path / name).files[0]
        assert fine(found)
        assert found.loads_with_weights_only is False


def test_models_of_transformers_and_peft(tmp_path: Path) -> None:
    config = transformers.Qwen2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = transformers.Qwen2ForCausalLM(config)
    assert fine(saved(tmp_path, model))
    assert fine(saved(tmp_path, config))
    bert = transformers.BertConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    assert fine(saved(tmp_path, transformers.BertForSequenceClassification(bert)))
    peft = pytest.importorskip("peft")
    assert fine(saved(tmp_path, peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))))


def test_training_arguments_of_transformers_and_trl(tmp_path: Path) -> None:
    assert fine(saved(tmp_path, transformers.TrainingArguments("out", use_cpu=True), "training_args.bin"))
    arguments = transformers.Seq2SeqTrainingArguments(
        "out", use_cpu=True, predict_with_generate=True, generation_config=transformers.GenerationConfig()
    )
    assert fine(saved(tmp_path, arguments, "training_args.bin"))
    trl = pytest.importorskip("trl")
    made = 0
    for name in dir(trl):
        if name.endswith("Config") and issubclass(getattr(trl, name), transformers.TrainingArguments):
            found = saved(tmp_path, getattr(trl, name)("out", use_cpu=True, bf16=False), "training_args.bin")
            assert fine(found)
            made += 1
    assert made >= 5


def test_the_state_accelerate_saves(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = accelerator.prepare(nn.Linear(2, 2))
    accelerator.prepare(torch.optim.AdamW(model.parameters()))
    accelerator.save_state(str(tmp_path / "state"))
    files = scan_path(tmp_path / "state").files
    assert len(files) >= 3
    assert all(fine(found) for found in files)
