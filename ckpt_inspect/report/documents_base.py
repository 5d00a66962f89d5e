"""What the models of the documents share: strict about what they know, open to keys that are added later."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = float | Literal["NaN", "Infinity", "-Infinity"]
Need = Literal["inference", "resume", "consolidate", "record"]
Severity = Literal["error", "warning", "note"]


class Model(BaseModel):
    """Known keys are typed; readers must accept further ones."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class Document(Model):
    """What every document begins with."""

    tool_version: str
    path: Annotated[str, Field(description="The path as it was given.")]


class FindingCounts(Model):
    """Findings by severity. In `show` those of a first look: rules that open every pickle or shard run in `check` only."""

    errors: int
    warnings: int
    notes: int
