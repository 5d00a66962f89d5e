"""A run as the `show` document: the keys of the published contract, from answers where there are any, else from facts.

The document is plain JSON data (``docs/schema/show.json`` describes it). Nothing is decided here that `explain` decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ckpt_inspect import __version__
from ckpt_inspect.errors import log_failure
from ckpt_inspect.explain.answer import plain
from ckpt_inspect.explain.evaluation_best import root_weights
from ckpt_inspect.explain.version import run_version
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.progress import NullProgress, Progress
from ckpt_inspect.report.explain_document import TOPICS, explain_topics
from ckpt_inspect.report.show_checkpoints import checkpoint_rows
from ckpt_inspect.report.show_facts import best_facts, model_facts, named_adapters, rewards, training_progress
from ckpt_inspect.run import Artifact, Producer, Run

Json = dict[str, Any]

# key of the document -> the keys of its object in the contract (docs/schema/show.json)
CONTRACT: dict[str, tuple[str, ...]] = {
    "loss": ("first", "final", "minimum", "average"),
    "learning_rate": (
        "scheduler",
        "warmup_steps",
        "peak",
        "final",
        "verdict",
        "max_relative_error",
        "explanation",
    ),
    "batches": (
        "per_device",
        "gradient_accumulation",
        "world_size",
        "global_batch",
        "steps_per_epoch",
        "dataset_rows",
        "explanation",
        "devices_per_process",
        "data_parallel",
    ),
    "evaluation": ("kind", "generated", "metrics", "explanation"),
    "adapter": (
        "peft_type",
        "base_model",
        "rank",
        "alpha",
        "scaling",
        "target_modules",
        "trainable_parameters",
        "dtypes",
        "bytes",
    ),
    "new_tokens": (
        "count",
        "tokens",
        "tokenizer_length",
        "max_token_id",
        "base_rows",
        "saved_rows",
        "input_embedding",
        "output_embedding",
        "tied",
        "verdict",
        "explanation",
    ),
}
_WORST = 4
_AVERAGE = ("reported", "source", "recomputed", "relative_error", "verdict", "explanation")


def header(verb: str, run: Run) -> Json:
    """What every document begins with."""
    return {"schema": f"ckpt-inspect/{verb}/1", "tool_version": __version__, "path": str(run.target)}


def show_document(run: Run, *, base: Path | None = None, progress: Progress | None = None) -> Json:
    """The `show` document of `run`; `base` is the base model's directory where the run does not lead to it."""
    observer = progress or NullProgress()
    observer.start(len(CONTRACT) + 3, "steps", "Reading")
    try:
        return _document(run, base, observer)
    finally:
        observer.finish()


def _document(run: Run, base: Path | None, observer: Progress) -> Json:
    document: Json = {
        **header("show", run),
        "name": run.target.resolve().name or str(run.target),
        "kind": run.kind,
        "producers": [producer_row(run, item) for item in run.producers],
        "artifacts": [artifact_row(artifact) for artifact in run.all_artifacts],
        "progress": training_progress(run),
    }
    observer.advance(1)
    answers = _answers(run, base, observer)
    for key in CONTRACT:
        document[key] = answers.get(key)
        if key == "batches":
            document["best"] = best_facts(run)
    document["checkpoints"] = checkpoint_rows(run)
    observer.advance(1)
    document["findings"], document["worst_findings"] = _findings(run, base)
    document["model"] = model_facts(run)
    document["rewards"] = rewards(run)
    document["root_weights"] = plain(root_weights(run))
    document["nested"] = [{"path": item.path, "kind": item.kind} for item in run.nested]
    document["named_adapters"] = named_adapters(run)
    document["empty_directories"] = list(run.empty_directories)
    document["hub"] = _hub(run)
    document["unreadable"] = [{"path": path or ".", "message": fault.message} for path, fault in _unreadable(run)]
    document["truncated"] = run.tree.truncated
    return document


def producer_row(run: Run, producer: Producer) -> Json:
    """A library; for transformers without a stated version, the releases that fit ("4.46.0 or later")."""
    fits = run_version(run).text if producer.name == "transformers" and producer.version is None else None
    return {
        "name": producer.name,
        "version": producer.version,
        "evidence": producer.evidence,
        "releases": fits if fits != "unknown" else None,
    }


def artifact_row(artifact: Artifact) -> Json:
    """One file as the document shows it."""
    return {
        "path": artifact.path,
        "kind": artifact.kind,
        "bytes": artifact.bytes,
        "purpose": artifact.purpose,
        "needed_for": list(artifact.needed_for),
        "group": artifact.group,
        "detail": artifact.detail if artifact.exact else "a copy under another name; no library loads it",
    }


def _answers(run: Run, base: Path | None, observer: Progress) -> Json:
    """The answers of `explain` that the contract has an object for, cut to its keys."""
    names = tuple(topic.name for topic in TOPICS if topic.key in CONTRACT)
    found: Json = {}
    for topic in names:
        observer.advance(1)
        try:
            (item,) = explain_topics(run, (topic,), base=base) or (None,)
        except Exception as error:  # noqa: BLE001  # a mistake of ours in one topic must not hide the others
            fault = Fault("topic-failed", f"working out the {topic} failed ({type(error).__name__}); please report it")
            run.read_faults.append(("", fault))
            log_failure(__name__, fault.message)
            continue
        if item is None or item.answer is None:
            continue
        whole = {name: plain(getattr(item.answer, name, None)) for name in CONTRACT[item.topic.key]}
        average = whole.get("average")
        if isinstance(average, dict):
            whole["average"] = {name: average.get(name) for name in _AVERAGE}
        found[item.topic.key] = whole
    return found


def _findings(run: Run, base: Path | None) -> tuple[Json, list[Json]]:
    """Findings of a first look, by severity, and the worst: `check` also opens every pickle and every shard."""
    from ckpt_inspect.rules.engine import run_rules
    from ckpt_inspect.rules.finding import Summary
    from ckpt_inspect.rules.registry import all_rules
    from ckpt_inspect.rules.selection import select_rules

    findings = run_rules(run, select_rules(all_rules(), thorough=False), base=base)
    summary = Summary.of(findings)
    worst = [
        {"rule": item.rule, "severity": item.severity, "path": item.path or ".", "message": item.message}
        for item in findings[:_WORST]
        if item.severity != "note"
    ]
    return {"errors": summary.errors, "warnings": summary.warnings, "notes": summary.notes}, worst


def _hub(run: Run) -> Json | None:
    if run.hub is None:
        return None
    return {
        "repo_id": run.hub.repo_id,
        "revision": run.hub.revision,
        "branch": run.hub.branch,
        "incomplete": list(run.hub.incomplete),
    }


def _unreadable(run: Run) -> Iterable[tuple[str, Any]]:
    seen: set[tuple[str, str]] = set()
    for state in run.states:
        for path, fault in state.read_faults:
            if (path, fault.message) not in seen:
                seen.add((path, fault.message))
                yield path, fault
