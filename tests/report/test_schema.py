"""The published schemas are those of the models, and they mean something."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError

from ckpt_inspect.report.documents import DOCUMENTS, ShowDocument
from ckpt_inspect.report.schema import schemas, texts
from ckpt_inspect.report.show_document import CONTRACT, show_document
from ckpt_inspect.run import open_run

DOCS = Path(__file__).resolve().parents[2] / "docs" / "schema"


@pytest.mark.parametrize("name", sorted(texts()))
def test_the_published_schema_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == texts()[name], "run: python -m ckpt_inspect.report.schema"


def test_nothing_else_is_published() -> None:
    assert {path.name for path in DOCS.iterdir()} == set(texts())


@pytest.mark.parametrize("verb", sorted(DOCUMENTS))
def test_every_schema_is_a_schema(verb: str) -> None:
    Draft202012Validator.check_schema(schemas()[verb])


def test_the_objects_cut_to_the_contract_have_the_keys_of_the_schema() -> None:
    definitions = schemas()["show"]["$defs"]
    models = {"loss": "Loss", "learning_rate": "LearningRate", "batches": "Batches", "new_tokens": "NewTokens"}
    models |= {"evaluation": "Evaluation", "adapter": "Adapter"}
    for key, keys in CONTRACT.items():
        assert set(definitions[models[key]]["required"]) == set(keys), key


@pytest.mark.parametrize("name", ["lora-resized", "lora-indices", "zero2", "zero3", "llamafactory", "resumed"])
def test_show_of_the_bundled_runs_is_valid(fixtures: Path, name: str) -> None:
    document = show_document(open_run(fixtures / name))
    Draft202012Validator(schemas()["show"]).validate(document)
    model = ShowDocument.model_validate(document)
    assert model.kind == "run"
    assert model.progress is not None
    assert model.progress.finished


@pytest.mark.parametrize(
    "key", ["kind", "producers", "artifacts", "progress", "loss", "checkpoints", "findings", "best"]
)
def test_a_document_that_lacks_a_key_is_refused(fixtures: Path, key: str) -> None:
    document = show_document(open_run(fixtures / "zero2"))
    del document[key]
    with pytest.raises(ValidationError):
        Draft202012Validator(schemas()["show"]).validate(document)
