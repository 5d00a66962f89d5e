"""Every JSON document this tool prints, as pydantic models: the published contract, version 1.

Keys may be added, never renamed or dropped. NaN and infinities are the strings "NaN", "Infinity" and "-Infinity".
``docs/schema/*.json`` is generated from here (:mod:`ckpt_inspect.report.schema`). Printing a document does not need
these models; they are for readers of the documents and for the tests that hold the printers to them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ckpt_inspect.report.documents_base import Document, FindingCounts, Model, Severity
from ckpt_inspect.report.documents_show import ShowDocument

# ---------------------------------------------------------------- explain


class ExplainDocument(Document):
    """The same objects as in `show`, each with its paragraph, arithmetic and evidence; a topic that does not apply is null."""

    schema_: Annotated[Literal["ckpt-inspect/explain/1"], Field(alias="schema")]


# ---------------------------------------------------------------- check


class FindingRow(Model):
    """One finding."""

    rule: Annotated[str, Field(pattern=r"^CKP\d{3}$")]
    name: str
    severity: Severity
    path: str
    tensor: str | None
    message: str
    remedy: str
    evidence: dict[str, Any]


class CheckDocument(Document):
    """What is wrong and what to do about it."""

    schema_: Annotated[Literal["ckpt-inspect/check/1"], Field(alias="schema")]
    summary: FindingCounts
    findings: list[FindingRow]


# ---------------------------------------------------------------- scan


class ScannedGlobal(Model):
    """A name a file makes a loader resolve, how it uses it, and how far it is trusted."""

    name: str
    use: Annotated[
        Literal["reference", "instance", "call"],
        Field(description="Only named, made an instance of without its constructor, or called."),
    ]
    tier: Annotated[
        Literal["T0", "T1", "T2", "T3"],
        Field(description="T0 builds plain data, T1 a known library's object, T2 is unknown, T3 runs code."),
    ]
    reason: str
    place: Annotated[str, Field(description="The member it stands in, '' for the file itself.")]
    offset: int
    count: int


class ScanFinding(Model):
    """One thing worth knowing about a file; `kind` is described by the rule of that name."""

    kind: str
    verdict: Literal["clean", "known", "unknown", "suspicious", "dangerous"]
    severity: Severity
    message: str
    place: str
    offset: int | None
    meaning: str
    remedy: str


class ScannedFile(Model):
    """One file and what loading it would do."""

    path: str
    format: Annotated[str, Field(description="What the bytes are, whatever the name says.")]
    verdict: Literal["clean", "known", "unknown", "suspicious", "dangerous"]
    coverage: Literal["complete", "partial", "malformed"]
    globals: list[ScannedGlobal]
    findings: list[ScanFinding]
    loads_with_weights_only: Annotated[
        bool | None,
        Field(description="torch.load(weights_only=True) of torch 2.13; null for files that are not torch's."),
    ]
    reason: Annotated[str | None, Field(description="Why torch refuses it.")]
    artifact: str | None


class ScanSummary(Model):
    """How many files have each verdict."""

    clean: int
    known: int
    unknown: int
    suspicious: int
    dangerous: int


class ScanDocument(Document):
    """Which code each file would run."""

    schema_: Annotated[Literal["ckpt-inspect/scan/1"], Field(alias="schema")]
    table_version: Annotated[str, Field(description="The version of the table of names the verdicts rest on.")]
    summary: ScanSummary
    files: list[ScannedFile]
    problems: list[str]


# ---------------------------------------------------------------- tensors


class TensorRow(Model):
    """One tensor; `offset` is where its first byte lies in the file, null where it does not lie in one piece."""

    name: str
    dtype: str
    shape: list[int]
    bytes: int
    file: str
    offset: int | None


class TensorTotal(Model):
    """Sums over all tensors shown."""

    tensors: int
    parameters: int
    bytes: int


class TensorsDocument(Document):
    """The tensors of a file or directory."""

    schema_: Annotated[Literal["ckpt-inspect/tensors/1"], Field(alias="schema")]
    tensors: list[TensorRow]
    total: TensorTotal


# ---------------------------------------------------------------- args


class ArgsDocument(Document):
    """The training arguments; secrets are masked."""

    schema_: Annotated[Literal["ckpt-inspect/args/1"], Field(alias="schema")]
    class_: Annotated[str | None, Field(alias="class")]
    arguments: dict[str, Any]
    world_size: int | None


# ---------------------------------------------------------------- consolidate


class ConsolidateDocument(Document):
    """What was joined and written."""

    schema_: Annotated[Literal["ckpt-inspect/consolidate/1"], Field(alias="schema")]
    output: str
    engine: str
    layout: str
    stage: int | None
    world_size: int | None
    dtype: str | None
    files: list[Any] | int
    tensors: int
    parameters: int
    bytes_written: int
    seconds: float
    verified: bool | None
    warnings: list[str]


DOCUMENTS: dict[str, type[Document]] = {
    "show": ShowDocument,
    "explain": ExplainDocument,
    "check": CheckDocument,
    "scan": ScanDocument,
    "tensors": TensorsDocument,
    "args": ArgsDocument,
    "consolidate": ConsolidateDocument,
}
