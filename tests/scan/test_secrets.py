"""Keys and passwords are found in every kind of file and shown in none."""

from __future__ import annotations

import json

import pytest
from builders.pickles import Instance, Name, dump
from builders.zips import PlainMember, plain_zip

from ckpt_inspect.report.scan_document import scan_document
from ckpt_inspect.report.text_scan import scan_text
from ckpt_inspect.scan import ScannedFile, ScanReport, scan_source
from ckpt_inspect.scan.secrets import find_named, find_secrets
from ckpt_inspect.storage import BytesSource

# Put together here so that no scanner takes this file for a leak.
TOKEN = "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0xR" + "uL"
SHAPES = {
    "SEC-HF": TOKEN,
    "SEC-ANTHROPIC": "sk-" + "ant-api03-" + "Zk4w8Qn2Lr7Tj5Vb9Xc1Mf6Hd3Gs0Pa",
    "SEC-OPENAI": "sk-" + "proj-" + "Zk4w8Qn2Lr7Tj5Vb9Xc1Mf6Hd3Gs0Pa",
    "SEC-GITHUB": "ghp_" + "Zk4w8Qn2Lr7Tj5Vb9Xc1Mf6Hd3Gs0PaUe2Yi",
    "SEC-GITLAB": "glpat-" + "Zk4w8Qn2Lr7Tj5Vb9Xc1",
    "SEC-AWS": "AKIA" + "Z4W8QN2LR7TJ5VB9",
    "SEC-GCP": "AIza" + "SyZk4w8Qn2Lr7Tj5Vb9Xc1Mf6Hd3Gs0PaUe",
    "SEC-AZURE": "AccountKey="
    + "Zk4w8Qn2Lr7Tj5Vb9Xc1Mf6Hd3Gs0PaUe2YiZk4w8Qn2Lr7Tj5Vb9Xc1Mf6Hd3Gs0PaUe2YiZk4w8Qn2Lr7Tj5==",
    "SEC-SLACK": "xoxb-" + "2483920184-Zk4w8Qn2Lr7Tj5Vb9Xc1",
    "SEC-JWT": "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0." + "Zk4w8Qn2Lr7Tj5Vb9Xc1",
    "SEC-PEM": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "SEC-WANDB": "WANDB_API_KEY=" + "3f9c2b7e8d1a4c6f0b5e9d2a7c4f1b8e6d3a0c5f",
    "SEC-URL": "https://" + "bob:s3cr3tPassw0rd@example.org/repo.git",
}


@pytest.mark.parametrize(("rule", "value"), SHAPES.items())
def test_a_key_of_a_known_shape_is_found_by_its_rule_and_not_told(rule: str, value: str) -> None:
    hits = list(find_secrets(f"some text {value} more text".encode()))
    assert [hit.rule for hit in hits] == [rule]
    assert value not in hits[0].hint
    assert hits[0].grave


@pytest.mark.parametrize(
    "text",
    [
        "hf_" + "x" * 34,
        "hf_" + "A" * 34,
        "hf_your_token_here_please_insert_it_",
        "sk-" + "your-key-goes-right-here-please",
        "a task-based-approach-to-learning-things",
        "0123456789abcdef0123456789abcdef01234567",
        "commit 3f9c2b7e8d1a4c6f0b5e9d2a7c4f1b8e6d3a0c5f",
        "https://user:<password>@example.org",
        "https://huggingface.co:443/x@y",
        "AKIA" + "AAAAAAAAAAAAAAAA",
        "<HUB_TOKEN>",
    ],
)
def test_placeholders_and_hashes_are_no_secrets(text: str) -> None:
    assert [hit for hit in find_secrets(f" {text} ".encode()) if hit.grave] == []


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("hub_token", TOKEN, True),
        ("wandb_api_key", "Zk4w8Qn2Lr7Tj5Vb9Xc1Mf6Hd3", True),
        ("db_password", "Tr0ub4dor&3x!", True),
        ("eos_token", "<|endoftext|>", False),
        ("image_token", "<|image_pad_v2.1|>", False),
        ("token", "abc", False),
        ("hub_token", None, False),
        ("hub_token", "<HUB_TOKEN>", False),
        ("password", "password", False),
        ("api_key", "${API_KEY_FROM_ENV}", False),
        ("tokenizer", "Zk4w8Qn2Lr7Tj5Vb9Xc1Mf6Hd3", False),
    ],
)
def test_a_value_under_the_name_of_a_key(name: str, value: object, found: bool) -> None:
    assert (find_named(name, value) is not None) is found


def test_places_are_remarks_not_secrets() -> None:
    text = b"/home/alice/x C:\\Users\\bob\\y runs/Nov23_19-15-19_gpu-node-17 10.1.2.3 head.internal"
    hits = list(find_secrets(text))
    assert {hit.rule for hit in hits} == {"PRIV-PATH", "PRIV-HOST", "PRIV-IP"}
    assert not any(hit.grave for hit in hits)
    assert not any("alice" in hit.hint or "gpu-node" in hit.hint for hit in hits)


def test_a_dump_of_the_environment() -> None:
    text = b"PATH=/bin\nHOME=/root\nUSER=x\nSLURM_JOB_ID=1\nLANG=C\nTERM=xterm\n"
    assert [hit.rule for hit in find_secrets(text) if hit.grave] == ["SEC-ENVDUMP"]


def everywhere() -> list[tuple[str, bytes]]:
    header = json.dumps({"__metadata__": {"note": TOKEN}}).encode()
    header += b" " * (-len(header) % 8)
    return [
        ("config.json", json.dumps({"deep": [{"hub_token": TOKEN}]}).encode()),
        ("README.md", f"export HF_TOKEN={TOKEN}\n".encode()),
        ("training_args.yaml", f"hub_token: {TOKEN}\n".encode()),
        ("trainer_log.jsonl", f'{{"a": 1}}\n{{"note": "{TOKEN}"}}\n'.encode()),
        ("model.safetensors", len(header).to_bytes(8, "little") + header),
        ("events.out.tfevents.1.host", b"\x18\x00\x00\x00\x00\x00\x00\x00abc%" + TOKEN.encode() + b"\x00"),
        (
            "training_args.bin",
            plain_zip(
                [
                    PlainMember(
                        b"training_args/data.pkl",
                        dump(
                            Instance(Name("transformers.training_args", "TrainingArguments"), {"hub_token": TOKEN}), 2
                        ),
                    )
                ]
            ),
        ),
        ("old.bin", dump({"x": TOKEN}, 0)),
        ("broken.pkl", dump({"x": TOKEN}, 4)[:-2]),
        ("model.pt", plain_zip([PlainMember(b"a/data.pkl", b"\x80\x02}.")], comment=TOKEN.encode())),
        ("chat_template.jinja", f"{{{{ messages }}}} {TOKEN}".encode()),
        (
            "model.gguf",
            b"GGUF\x03\x00\x00\x00"
            + bytes(8)
            + b"\x01"
            + bytes(7)
            + b"\x01"
            + bytes(7)
            + b"a\x08\x00\x00\x00"
            + len(TOKEN).to_bytes(8, "little")
            + TOKEN.encode(),
        ),
    ]


@pytest.mark.parametrize(("name", "data"), everywhere(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_key_is_found_in_every_kind_of_file_and_printed_in_no_report(name: str, data: bytes) -> None:
    found = scan_source(BytesSource(data), name)
    assert [finding.severity for finding in found.findings if finding.kind == "secret"], found
    report = ScanReport(".", (found,))
    for text in (scan_text(report, width=100, color=False, every=True), json.dumps(scan_document(report)), repr(found)):
        assert TOKEN not in text
        assert TOKEN[10:30] not in text


def test_the_length_before_a_string_is_not_taken_for_its_first_letter() -> None:
    key = "sk-" + "Zk4w8Qn2Lr7Tj5Vb9Xc1Mf6Hd3Gs0PaUe2YiOo8RtKq3Nv1" + "A"
    assert chr(len(key)).isalnum()
    assert [hit.rule for hit in find_secrets(dump(key, 4))] == ["SEC-OPENAI"]
    assert [hit.rule for hit in find_secrets(dump({"k": key}, 0))] == ["SEC-OPENAI"]


def test_a_short_password_shows_neither_its_beginning_nor_a_digest() -> None:
    hit = find_named("password", "Tr0ub4dor&3x!")
    assert hit is not None
    assert hit.hint == "13 characters"


def test_files_without_secrets_have_none() -> None:
    clean: ScannedFile = scan_source(BytesSource(b'{"eos_token": "</s>", "pad_token_id": 0}'), "tokenizer_config.json")
    assert clean.findings == ()
