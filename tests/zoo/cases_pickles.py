"""CKP5xx: what loading would run, hidden content, templates, secrets."""

from __future__ import annotations

import pickle
from pathlib import Path

from builders.pickles import Called, Name, dump
from builders.zips import PlainMember, plain_zip

from zoo.edits import repack
from zoo.frame import case, set_json

SCHEDULER = Path("checkpoint-16/scheduler.pt")
RNG = Path("checkpoint-16/rng_state.pth")


def program(run: Path, data: bytes, where: Path = RNG) -> None:
    """Let the random states be another program."""
    repack(run / where, {"data.pkl": data})


def insert(path: Path, end: bytes, value: object) -> None:
    """Add a pair to the dictionary whose SETITEMS ends an archive's program."""
    extra = dump({"extra": value})  # PROTO 2, EMPTY_DICT, BINPUT, the pair, SETITEM, STOP
    pair = extra[extra.index(b"X") : extra.rindex(b"s")]

    def change(data: bytes) -> bytes:
        assert data.endswith(end)
        return data[: -len(end)] + pair + end

    repack(path, {"data.pkl": change})


@case("CKP501", base="resumed")
def the_random_states_run_a_command(run: Path) -> None:
    insert(run / RNG, b"u.", Called(Name("posix", "system"), ("true",)))


@case("CKP502", base="resumed")
def the_random_states_name_eval(run: Path) -> None:
    insert(run / RNG, b"u.", Name("builtins", "eval"))


@case("CKP503", base="resumed")
def the_arguments_hold_a_class_of_their_own(run: Path) -> None:
    for path in sorted(run.rglob("training_args.bin")):
        insert(path, b"ub.", Name("my_project.callbacks", "MyCallback"))


@case("CKP504", base="resumed")
def the_random_states_hold_training_arguments(run: Path) -> None:
    insert(run / RNG, b"u.", Name("transformers.training_args", "TrainingArguments"))


@case("CKP505", base="resumed", also=("CKP016",))
def a_pickle_hides_behind_the_scheduler(run: Path) -> None:
    repack(run / SCHEDULER, {"data.pkl": lambda data: data + dump({"second": 1})})


@case("CKP506", base="base-resized")
def the_model_is_a_7z_archive(run: Path) -> None:
    (run / "extra.bin").write_bytes(b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(range(256)))


@case("CKP507", base="base-resized")
def the_model_brings_its_code(run: Path) -> None:
    (run / "modeling_own.py").write_text("import torch\n\n\nclass OwnModel(torch.nn.Module):\n    pass\n")


@case("CKP510", base="resumed")
def the_program_pops_from_an_empty_stack(run: Path) -> None:
    program(run, b"\x80\x02}q\x000000.")


@case("CKP511", base="resumed", also=("CKP016",))
def a_constant_crosses_the_end_of_its_frame(run: Path) -> None:
    body = b"\x95" + (4).to_bytes(8, "little") + b"\x8c\x08" + b"abcdefgh" + b"."
    program(run, b"\x80\x04" + body)


@case("CKP512", base="resumed", also=("CKP016",))
def a_few_bytes_expand_without_end(run: Path) -> None:
    lists = b"]" + b"".join(b"q" + bytes([n]) + b"]" + (b"h" + bytes([n]) + b"a") * 2 for n in range(60))
    program(run, b"\x80\x02" + lists + b".")


@case("CKP520", base="base-resized")
def the_index_leads_out_of_the_directory(run: Path) -> None:
    (run / "model.safetensors").unlink()
    (run / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../../../etc/passwd"}}')


@case("CKP521", base="resumed", also=("CKP016", "CKP601"))
def an_archive_inflates_without_measure(run: Path) -> None:
    data = pickle.dumps({"a": 1}, 2)
    members = [PlainMember(b"scheduler/data.pkl", data), PlainMember(b"scheduler/data/0", bytes(200 << 20), method=8)]
    (run / SCHEDULER).write_bytes(plain_zip(members))


@case("CKP530", base="base-resized")
def the_template_reaches_for_the_interpreter(run: Path) -> None:
    path = run / "chat_template.jinja"
    path.write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}" + path.read_text())


@case("CKP531", base="base-resized")
def the_template_uses_a_helper_of_the_engine(run: Path) -> None:
    path = run / "chat_template.jinja"
    path.write_text("{{ lipsum }}" + path.read_text())


@case("CKP540", base="base-resized")
def a_token_was_saved_in_the_configuration(run: Path) -> None:
    set_json(run / "generation_config.json", hub_token="hf_" + "aB3dE6gH9j" * 3 + "kLmN")


@case("CKP541", base="base-resized")
def the_configuration_names_a_home(run: Path) -> None:
    set_json(run / "config.json", _name_or_path="/home/anna/models/base")


@case("CKP520", base="base-resized")
def an_index_nobody_loads_leads_out_of_the_directory(run: Path) -> None:
    (run / "old").mkdir()
    (run / "old" / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../../secrets.safetensors"}}')
