"""CKP04x: JSON files that are cut off, broken or odd."""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_inspect.rules.faults import hits
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject


@rule("CKP040", "json-truncated", "error")
def json_truncated(subject: Subject) -> Iterator[Hit]:
    """A JSON file ends in the middle.

    Why it matters: the writer was stopped or the copy is partial. What stands before the cut was still read.

    How to fix: take the file from another checkpoint or copy it again.

    Example: a trainer_state.json that ends inside log_history: the Trainer cannot resume from it.

    Source: RFC 8259; transformers 5.23.0 trainer_callback.py TrainerState.save_to_json writes the file in place.
    """
    yield from hits(subject, "CKP040")


@rule("CKP041", "json-broken", "error")
def json_broken(subject: Subject) -> Iterator[Hit]:
    """A JSON file does not follow the grammar.

    Why it matters: Python's json module stops at it, so transformers and PEFT do.

    How to fix: correct the place named, usually a hand edit.

    Example: a trailing comma in adapter_config.json.

    Source: RFC 8259.
    """
    yield from hits(subject, "CKP041")


@rule("CKP042", "json-duplicate-key", "warning")
def json_duplicate_key(subject: Subject) -> Iterator[Hit]:
    """A JSON object names the same key twice.

    Why it matters: most parsers take the last value, some the first; tools then disagree about the file.

    How to fix: remove the one that is not meant.

    Example: two `eos_token` entries in tokenizer_config.json.

    Source: RFC 8259 section 4.
    """
    yield from hits(subject, "CKP042")


@rule("CKP043", "json-nan", "note")
def json_nan(subject: Subject) -> Iterator[Hit]:
    """A JSON file holds the tokens NaN or Infinity, which JSON does not have.

    Why it matters: Python writes and reads them, strict parsers (jq, browsers, most other languages) refuse the file. In a
    trainer_state.json they usually tell of a NaN loss or gradient norm.

    How to fix: nothing for Python; look at the value they stand for.

    Example: `"grad_norm": NaN`.

    Source: json.dumps default allow_nan=True; transformers 5.23 TrainerState.save_to_json.
    """
    yield from hits(subject, "CKP043")


@rule("CKP044", "json-odd", "warning")
def json_odd(subject: Subject) -> Iterator[Hit]:
    """A JSON file is readable but unusual: a byte order mark, another encoding, huge numbers, lone surrogates.

    Why it matters: other readers stop at it or read another value.

    How to fix: save it as UTF-8 without a byte order mark; correct the number named.

    Example: a file edited with an old Windows editor.

    Source: RFC 8259 section 8.1.
    """
    yield from hits(subject, "CKP044")


@rule("CKP045", "field-type", "warning")
def field_type(subject: Subject) -> Iterator[Hit]:
    """A field has a type the library never writes there.

    Why it matters: the value was edited or comes from another tool; the library fails on it later, or ignores it.

    How to fix: correct the field named.

    Example: `"global_step": "500"`, a text.

    Source: the dataclasses of transformers 5.23 and peft 0.21.2.
    """
    yield from hits(subject, "CKP045")
