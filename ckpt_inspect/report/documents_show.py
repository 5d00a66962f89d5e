"""The `show` document as pydantic models (:mod:`ckpt_inspect.report.documents`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ckpt_inspect.report.documents_base import Document, FindingCounts, Model, Need, Number, Severity


class ProducerRow(Model):
    """A library that wrote part of the directory."""

    name: str
    version: str | None
    evidence: str
    releases: Annotated[str | None, Field(description="Releases that fit, in words, where no file states one.")]


class ArtifactRow(Model):
    """One file."""

    path: str
    kind: Annotated[str, Field(description="A row of knowledge/artifacts.toml, or 'unknown'.")]
    bytes: int
    purpose: str
    needed_for: list[Need]
    group: Annotated[str, Field(description="How the text groups it.")]
    detail: str | None


class Progress(Model):
    """How far training got; `finished` is null where no file tells."""

    global_step: int | None
    max_steps: int | None
    epoch: Number | None
    num_train_epochs: int | None
    finished: bool | None


class LossPoint(Model):
    """A logged value and its step."""

    step: int | None
    value: Number


class AverageLoss(Model):
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


class Loss(Model):
    """The training loss."""

    first: LossPoint | None
    final: LossPoint | None
    minimum: LossPoint | None
    average: AverageLoss | None


class LearningRate(Model):
    """The schedule and whether the logged rates follow it."""

    scheduler: str | None
    warmup_steps: Number | None
    peak: Number | None
    final: Number | None
    verdict: Literal["matches", "differs", "unknown"]
    max_relative_error: Number | None
    explanation: str


class Batches(Model):
    """Rows per step and where the number comes from."""

    per_device: int | None
    gradient_accumulation: int | None
    world_size: int | None
    global_batch: int | None
    steps_per_epoch: Number | None
    dataset_rows: Annotated[list[int] | None, Field(description="[low, high]")]
    explanation: str
    devices_per_process: Annotated[int | None, Field(description="Above 1: DataParallel in one process.")]
    data_parallel: Annotated[int | None, Field(description="Processes that see different rows.")]


class Best(Model):
    """The best checkpoint as the trainer recorded it; `exists` says whether it is here."""

    metric: str | None
    value: Number | None
    step: int | None
    checkpoint: str | None
    exists: bool
    agrees: Annotated[bool | None, Field(description="False where the log holds a better value.")]


class Evaluation(Model):
    """What was measured, and on what."""

    kind: Literal["loss", "accuracy", "similarity", "preference", "other", "none"]
    generated: bool | None
    metrics: dict[str, Any]
    explanation: str


class Adapter(Model):
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


class NewToken(Model):
    """A token the base tokenizer did not have."""

    id: int
    token: str
    place: Literal["needs_row", "padding_row", "out_of_range", "existing", "unknown"]


EmbeddingState = Literal["trained", "frozen_copy", "low_rank", "selected_rows", "absent"]


class NewTokens(Model):
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


class Zero(Model):
    """A DeepSpeed tag."""

    stage: Annotated[int | None, Field(ge=0, le=3)]
    world_size: int | None
    model_parallel: int | None
    tag: str
    dtype: str | None
    parameters: int | None
    deepspeed_version: str | None
    expert_files: int
    layer_files: int
    missing_ranks: list[int]


class Fsdp(Model):
    """FSDP or torch distributed shards."""

    kind: str
    world_size: int | None
    tensors: int | None
    parameters: int | None
    dtypes: list[str] | None


class CheckpointRow(Model):
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
    fsdp: Fsdp | None
    form: Literal["checkpoint", "tmp_checkpoint", "renamed_checkpoint", "named_checkpoint", "tag"]
    ranks: Annotated[str | None, Field(description="With how many processes it can go on, in words.")]


class ModelFacts(Model):
    """The model by its config.json, its weights by their headers."""

    architectures: list[str] | None
    model_type: str | None
    vocab_size: int | None
    dtype: str | None
    parameters: int | None
    dtypes: list[str] | None
    weights_in: str | None


class RewardRange(Model):
    """The first and last logged value."""

    first: LossPoint
    final: LossPoint


class RootWeights(Model):
    """Which weights lie in the root."""

    of: Literal["best", "last", "unknown"]
    step: int | None


class NestedRun(Model):
    """Another output below the path, not read."""

    path: str
    kind: str


class NamedAdapter(Model):
    """An adapter in a directory of its own; `purpose` where the directory's name tells one."""

    name: str
    path: str
    purpose: str | None


class Hub(Model):
    """The Hugging Face cache entry the path lies in."""

    repo_id: str
    revision: str | None
    branch: str | None
    incomplete: list[str]


class Unreadable(Model):
    """A file nothing could be made of, and why."""

    path: str
    message: str


class WorstFinding(Model):
    """One of the worst findings."""

    rule: str
    severity: Severity
    path: str
    message: str


class ShowDocument(Document):
    """What is here and how did it go."""

    schema_: Annotated[Literal["ckpt-inspect/show/1"], Field(alias="schema")]
    name: Annotated[str, Field(description="The directory's or file's own name.")]
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
    worst_findings: list[WorstFinding]
    model: ModelFacts | None
    rewards: dict[str, RewardRange]
    root_weights: RootWeights | None
    nested: list[NestedRun]
    named_adapters: list[NamedAdapter]
    empty_directories: list[str]
    hub: Hub | None
    unreadable: list[Unreadable]
    truncated: Annotated[bool, Field(description="There are more files than were listed.")]
