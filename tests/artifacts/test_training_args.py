"""training_args.bin: every class, era and nesting is read without importing it, and no secret leaves the reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.pickles import Called, Instance, Name
from builders.torch_files import legacy_bytes, zip_bytes

from ckpt_inspect.artifacts.training_args import read_training_args, read_training_args_yaml
from ckpt_inspect.storage import BytesSource, LocalFile

ARGUMENTS = Name("transformers.training_args", "TrainingArguments")


def enum(module: str, name: str, value: object) -> Called:
    return Called(Name(module, name), (value,))


def partial_state(**values: object) -> Instance:
    kind = enum("accelerate.utils.dataclasses", "DistributedType", values.pop("distributed_type", "NO"))
    return Instance(Name("accelerate.state", "PartialState"), {"distributed_type": kind, **values})


def read(state: dict[str, object], cls: Name = ARGUMENTS, *, legacy: bool = False):
    value = Instance(cls, state)
    data = legacy_bytes(value) if legacy else zip_bytes(value, root="training_args")
    return read_training_args(BytesSource(data))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_values_are_read_from_either_torch_format(legacy: bool) -> None:
    found = read({"learning_rate": 5e-5, "max_steps": -1, "fp16": False, "run_name": None}, legacy=legacy)
    assert dict(found.arguments) == {"learning_rate": 5e-5, "max_steps": -1, "fp16": False, "run_name": None}
    assert found.torch_format == ("legacy" if legacy else "zip")
    assert found.faults == ()


@pytest.mark.parametrize(
    "cls",
    [
        ARGUMENTS,
        Name("transformers.training_args_seq2seq", "Seq2SeqTrainingArguments"),
        Name("trl.trainer.sft_config", "SFTConfig"),
        Name("llamafactory.hparams.training_args", "TrainingArguments"),
        Name("__main__", "MyArguments"),
    ],
    ids=lambda cls: cls.name,
)
def test_the_class_is_named_whoever_defined_it(cls: Name) -> None:
    assert read({"seed": 1}, cls).class_name == f"{cls.module}.{cls.name}"


def test_an_argparse_namespace_counts_as_arguments() -> None:
    assert read({"lr": 0.1}, Name("argparse", "Namespace")).arguments == {"lr": 0.1}


def test_enums_are_their_values() -> None:
    found = read(
        {
            "lr_scheduler_type": enum("transformers.trainer_utils", "SchedulerType", "cosine"),
            "save_strategy": enum("transformers.trainer_utils", "SaveStrategy", "steps"),
        }
    )
    assert found.text("lr_scheduler_type") == "cosine"
    assert found.text("save_strategy") == "steps"


def test_enums_pickled_by_name_are_their_values() -> None:
    """Python 3.11.0 to 3.11.3 pickled members as getattr(cls, "STEPS")."""
    member = Called(Name("builtins", "getattr"), (Name("transformers.trainer_utils", "IntervalStrategy"), "STEPS"))
    state = Called(Name("builtins", "getattr"), (Name("accelerate.utils.dataclasses", "DistributedType"), "MULTI_GPU"))
    found = read({"eval_strategy": member, "distributed_state": partial_state(), "parallel": state})
    assert (found.arguments["eval_strategy"], found.arguments["parallel"]) == ("steps", "MULTI_GPU")


def test_the_world_is_what_accelerate_recorded() -> None:
    state = partial_state(num_processes=4, process_index=2, distributed_type="MULTI_GPU", backend="nccl")
    found = read({"distributed_state": state, "_n_gpu": 1, "seed": 1})
    assert (found.world_size, found.process_index, found.n_gpu, found.distributed_type) == (4, 2, 1, "MULTI_GPU")
    assert "distributed_state" not in found.arguments
    assert found.runtime["distributed_state"]["backend"] == "nccl"


def test_releases_before_4_cached_the_device_with_the_number_of_gpus() -> None:
    device = Called(Name("torch", "device"), ("cuda", 0))
    found = read({"seed": 1, "local_rank": -1, "__cached__setup_devices": (device, 8)})
    assert (found.world_size, found.n_gpu) == (None, 8)


def test_nested_objects_are_shown_with_their_class() -> None:
    accelerator = Instance(Name("transformers.trainer_pt_utils", "AcceleratorConfig"), {"even_batches": True})
    found = read({"accelerator_config": accelerator, "torch_dtype": Name("torch", "bfloat16")})
    assert found.arguments["accelerator_config"] == {
        "class": "transformers.trainer_pt_utils.AcceleratorConfig",
        "even_batches": True,
    }
    assert found.arguments["torch_dtype"] == "torch.bfloat16"


def test_the_deepspeed_configuration_is_the_resolved_one() -> None:
    config = Instance(
        Name("transformers.integrations.deepspeed", "HfTrainerDeepSpeedConfig"),
        {"config": {"train_batch_size": 8, "scheduler": {"type": "WarmupLR", "params": {}}}},
    )
    found = read({"deepspeed": "ds.json", "hf_deepspeed_config": config})
    assert found.deepspeed_config is not None
    assert found.deepspeed_config["scheduler"]["type"] == "WarmupLR"
    assert found.uses_deepspeed


SECRET = "hf_" + "a" * 34


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hub_token", SECRET),
        ("push_to_hub_token", "anything at all"),
        ("wandb_api_key", "0123456789abcdef"),
        ("db_password", "hunter2"),
        ("my_secret", "xyzzy"),
        ("run_name", f"notes {SECRET}"),
        ("logging_url", "https://me:hunter2@wandb.example"),
    ],
)
def test_secrets_are_masked(name: str, value: str) -> None:
    found = read({name: value, "nested": {"inner": [{name: value}]}})
    assert value not in repr(found)
    assert found.arguments[name] == f"<{name}: {len(value)} characters>"
    assert found.secrets == (name, f"nested.inner.{name}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eos_token", "<|im_end|>"),
        ("pad_token", "<pad>"),
        ("hub_token", None),
        ("max_new_tokens", "auto"),
        ("include_num_input_tokens_seen", "all"),
        ("average_tokens_across_devices", "yes"),
        ("output_dir", "runs/password-reset-bot"),
        ("hub_model_id", "org/name"),
    ],
)
def test_what_only_sounds_secret_is_shown(name: str, value: object) -> None:
    found = read({name: value})
    assert found.arguments[name] == value
    assert found.secrets == ()


def test_a_hostile_pickle_is_described_and_not_obeyed(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    bomb = Called(Name("os", "system"), (f"touch {witness}",))
    found = read({"learning_rate": 1e-3, "callback": bomb})
    assert not witness.exists()
    assert found.number("learning_rate") == 1e-3
    assert "os.system" in found.globals


def test_a_value_that_contains_itself_ends() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert read({"loop": loop}).arguments["loop"] == ["<refers to itself>"]


def test_a_file_without_attributes_is_a_fault() -> None:
    found = read_training_args(BytesSource(zip_bytes([1, 2, 3], root="training_args")))
    assert [fault.kind for fault in found.faults] == ["args-not-arguments"]
    assert found.arguments == {}


def test_a_git_lfs_pointer_is_named() -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n"
    found = read_training_args(BytesSource(pointer))
    assert [fault.kind for fault in found.faults] == ["torch-lfs-pointer"]


def test_the_file_of_the_web_page_has_the_same_names() -> None:
    found = read_training_args_yaml(BytesSource(b"learning_rate: 5.0e-05\nhub_token: abc\nstage: sft\n"))
    assert found.number("learning_rate") == 5e-5
    assert found.arguments["hub_token"] == "<hub_token: 3 characters>"


def test_the_bundled_runs_are_read_whole(fixtures: Path) -> None:
    paths = sorted(fixtures.rglob("training_args.bin"))
    assert paths
    for path in paths:
        with LocalFile(path) as source:
            found = read_training_args(source)
        assert found.faults == ()
        assert found.world_size is not None
        assert found.text("lr_scheduler_type")
        assert len(found.arguments) > 100


@pytest.mark.shared
def test_every_shared_file_is_read_or_named(shared: Path) -> None:
    unread = {}
    for path in sorted(shared.rglob("training_args.bin")):
        if "samples" in path.parts:
            continue
        with LocalFile(path) as source:
            found = read_training_args(source)
        if found.number("learning_rate") is None:
            unread[path.parent.name] = [fault.kind for fault in found.faults]
    assert set(map(tuple, unread.values())) <= {("torch-lfs-pointer",)}
