"""Every JSON document this tool prints, as pydantic models: the published contract, version 1.

Keys may be added, never renamed or dropped. NaN and infinities are the strings "NaN", "Infinity" and "-Infinity".
``docs/schema/*.json`` is generated from here (:mod:`ckpt_inspect.report.schema`). Printing a document does not need
these models; they are for readers of the documents and for the tests that hold the printers to them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = float | Literal["NaN", "Infinity", "-Infinity"]
Need = Literal["inference", "resume", "consolidate", "record"]
Severity = Literal["error", "warning", "note"]


class _Model(BaseModel):
    """Known keys are typed; readers must accept further ones."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class _Document(_Model):
    tool_version: str
    path: Annotated[str, Field(description="The path as it was given.")]


# ---------------------------------------------------------------- show


class ProducerRow(_Model):
    """A library that wrote part of the directory."""

    name: str
    version: str | None
    evidence: str


class ArtifactRow(_Model):
    """One file."""

    path: str
    kind: Annotated[str, Field(description="A row of knowledge/artifacts.toml, or 'unknown'.")]
    bytes: int
    purpose: str
    needed_for: list[Need]


class Progress(_Model):
    """How far training got; `finished` is null where no file tells."""

    global_step: int | None
    max_steps: int | None
    epoch: Number | None
    num_train_epochs: int | None
    finished: bool | None


class LossPoint(_Model):
    """A logged value and its step."""

    step: int | None
    value: Number


class AverageLoss(_Model):
    """`train_loss` and whether the log reproduces it."""

    reported: Number | None
    source: str | None
    recomputed: Number | None
    relative_error: Number | None
    verdict: Literal[
        "average_of_all_steps",
        "average_with_unlogged_tail",
        "resumed_sum_over_all_steps",
        "average_since_resume",
        "no_step_trained",
        "not_reproduced",
        "not_logged",
    ]
    explanation: str


class Loss(_Model):
    """The training loss."""

    first: LossPoint | None
    final: LossPoint | None
    minimum: LossPoint | None
    average: AverageLoss | None


class LearningRate(_Model):
    """The schedule and whether the logged rates follow it."""

    scheduler: str | None
    warmup_steps: Number | None
    peak: Number | None
    final: Number | None
    verdict: Literal["matches", "differs", "unknown"]
    max_relative_error: Number | None
    explanation: str


class Batches(_Model):
    """Rows per step and where the number comes from."""

    per_device: int | None
    gradient_accumulation: int | None
    world_size: int | None
    global_batch: int | None
    steps_per_epoch: Number | None
    dataset_rows: Annotated[list[int] | None, Field(description="[low, high]")]
    explanation: str


class Best(_Model):
    """The best checkpoint as the trainer recorded it; `exists` says whether it is here."""

    metric: str | None
    value: Number | None
    step: int | None
    checkpoint: str | None
    exists: bool


class Evaluation(_Model):
    """What was measured, and on what."""

    kind: Literal["loss", "accuracy", "similarity", "preference", "other", "none"]
    generated: bool | None
    metrics: dict[str, Any]
    explanation: str


class Adapter(_Model):
    """A PEFT adapter."""

    peft_type: str | None
    base_model: str | None
    rank: int | None
    alpha: Number | None
    scaling: Number | None
    target_modules: list[str] | str | None
    trainable_parameters: int | None
    dtypes: list[str] | dict[str, Any] | None
    bytes: int | None


class NewToken(_Model):
    """A token the base tokenizer did not have."""

    id: int
    token: str
    place: Literal["needs_row", "padding_row", "out_of_range", "existing"]


EmbeddingState = Literal["trained", "frozen_copy", "low_rank", "selected_rows", "absent"]


class NewTokens(_Model):
    """Where the new tokens' rows are and whether they were trained."""

    count: int
    tokens: list[NewToken]
    tokenizer_length: int | None
    max_token_id: int | None
    base_rows: int | None
    saved_rows: int | None
    input_embedding: EmbeddingState
    output_embedding: EmbeddingState
    tied: bool | None
    verdict: Literal[
        "none",
        "trained",
        "partly_trained",
        "saved_but_frozen",
        "in_padding_rows_untrained",
        "lost",
        "out_of_range",
        "unknown",
    ]
    explanation: str


class Zero(_Model):
    """A DeepSpeed tag."""

    stage: Annotated[int | None, Field(ge=0, le=3)]
    world_size: int | None
    model_parallel: int | None
    tag: str
    dtype: str | None
    parameters: int | None
    deepspeed_version: str | None


class CheckpointRow(_Model):
    """One saved state. `path` is "." where the path given is itself the state."""

    step: int | None
    path: str
    bytes: int
    loss: Number | None
    eval: Number | None
    complete: bool
    resume: Literal["will", "will_differ", "will_not", "unknown"]
    reasons: list[str]
    zero: Zero | None


class FindingCounts(_Model):
    """Findings by severity. In `show` those of a first look: rules that open every pickle or shard run in `check` only."""

    errors: int
    warnings: int
    notes: int


class ShowDocument(_Document):
    """What is here and how did it go."""

    schema_: Annotated[Literal["ckpt-inspect/show/1"], Field(alias="schema")]
    kind: Literal["run", "checkpoint", "adapter", "model", "zero", "file"]
    producers: list[ProducerRow]
    artifacts: list[ArtifactRow]
    progress: Progress | None
    loss: Loss | None
    learning_rate: LearningRate | None
    batches: Batches | None
    best: Best | None
    evaluation: Evaluation | None
    adapter: Adapter | None
    new_tokens: NewTokens | None
    checkpoints: list[CheckpointRow]
    findings: FindingCounts


# ---------------------------------------------------------------- explain


class ExplainDocument(_Document):
    """The same objects as in `show`, each with its paragraph, arithmetic and evidence; a topic that does not apply is null."""

    schema_: Annotated[Literal["ckpt-inspect/explain/1"], Field(alias="schema")]


# ---------------------------------------------------------------- check


class FindingRow(_Model):
    """One finding."""

    rule: Annotated[str, Field(pattern=r"^CKP\d{3}$")]
    name: str
    severity: Severity
    path: str
    tensor: str | None
    message: str
    remedy: str
    evidence: dict[str, Any]


class CheckDocument(_Document):
    """What is wrong and what to do about it."""

    schema_: Annotated[Literal["ckpt-inspect/check/1"], Field(alias="schema")]
    summary: FindingCounts
    findings: list[FindingRow]


# ---------------------------------------------------------------- scan


class ScannedGlobal(_Model):
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


class ScanFinding(_Model):
    """One thing worth knowing about a file; `kind` is described by the rule of that name."""

    kind: str
    verdict: Literal["clean", "known", "unknown", "suspicious", "dangerous"]
    severity: Severity
    message: str
    place: str
    offset: int | None
    meaning: str
    remedy: str


class ScannedFile(_Model):
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


class ScanSummary(_Model):
    """How many files have each verdict."""

    clean: int
    known: int
    unknown: int
    suspicious: int
    dangerous: int


class ScanDocument(_Document):
    """Which code each file would run."""

    schema_: Annotated[Literal["ckpt-inspect/scan/1"], Field(alias="schema")]
    table_version: Annotated[str, Field(description="The version of the table of names the verdicts rest on.")]
    summary: ScanSummary
    files: list[ScannedFile]
    problems: list[str]


# ---------------------------------------------------------------- tensors


class TensorRow(_Model):
    """One tensor; `offset` is where its first byte lies in the file, null where it does not lie in one piece."""

    name: str
    dtype: str
    shape: list[int]
    bytes: int
    file: str
    offset: int | None


class TensorTotal(_Model):
    """Sums over all tensors shown."""

    tensors: int
    parameters: int
    bytes: int


class TensorsDocument(_Document):
    """The tensors of a file or directory."""

    schema_: Annotated[Literal["ckpt-inspect/tensors/1"], Field(alias="schema")]
    tensors: list[TensorRow]
    total: TensorTotal


# ---------------------------------------------------------------- args


class ArgsDocument(_Document):
    """The training arguments; secrets are masked."""

    schema_: Annotated[Literal["ckpt-inspect/args/1"], Field(alias="schema")]
    class_: Annotated[str | None, Field(alias="class")]
    arguments: dict[str, Any]
    world_size: int | None


# ---------------------------------------------------------------- consolidate


class ConsolidateDocument(_Document):
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


DOCUMENTS: dict[str, type[_Document]] = {
    "show": ShowDocument,
    "explain": ExplainDocument,
    "check": CheckDocument,
    "scan": ScanDocument,
    "tensors": TensorsDocument,
    "args": ArgsDocument,
    "consolidate": ConsolidateDocument,
}
