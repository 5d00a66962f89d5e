"""JSON Schemas of the documents, for ``docs/schema/``: run ``python -m ckpt_inspect.report.schema [DIRECTORY]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def schemas() -> dict[str, dict[str, Any]]:
    """The schema (draft 2020-12) of each verb's document."""
    from ckpt_inspect.report.documents import DOCUMENTS

    found: dict[str, dict[str, Any]] = {}
    for verb, model in DOCUMENTS.items():
        schema = model.model_json_schema(mode="serialization", by_alias=True)
        found[verb] = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"ckpt-inspect/{verb}/1",
            **schema,
        }
    return found


def texts() -> dict[str, str]:
    """The schema files by name, as they lie in ``docs/schema``."""
    return {f"{verb}.json": json.dumps(schema, indent=2) + "\n" for verb, schema in schemas().items()}


def main() -> None:
    """Write the schema files."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "docs" / "schema"
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
