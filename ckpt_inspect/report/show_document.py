"""A run as the `show` document: the keys of the published contract, from answers where there are any, else from facts.

The document is plain JSON data (``docs/schema/show.json`` describes it). Nothing is decided here that `explain` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from ckpt_inspect import __version__
from ckpt_inspect.explain.answer import plain
from ckpt_inspect.report.show_checkpoints import checkpoint_rows
from ckpt_inspect.report.show_facts import (
    adapter_facts,
    best_facts,
    evaluation_facts,
    loss_facts,
    model_facts,
    progress,
)
from ckpt_inspect.run import Artifact, Run

Json = dict[str, Any]

# key of the document -> module and function of `explain`, whether it takes the base model's directory, the contract's keys
TOPICS: dict[str, tuple[str, str, bool, tuple[str, ...]]] = {
    "loss": ("loss", "explain_loss", False, ("first", "final", "minimum", "average")),
    "learning_rate": (
        "schedule",
        "explain_schedule",
        False,
        ("scheduler", "warmup_steps", "peak", "final", "verdict", "max_relative_error", "explanation"),
    ),
    "batches": (
        "batches",
        "explain_batches",
        False,
        (
            "per_device",
            "gradient_accumulation",
            "world_size",
            "global_batch",
            "steps_per_epoch",
            "dataset_rows",
            "explanation",
        ),
    ),
    "evaluation": ("evaluation", "explain_evaluation", False, ("kind", "generated", "metrics", "explanation")),
    "adapter": (
        "adapter_size",
        "explain_adapter",
        False,
        (
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
    ),
    "new_tokens": (
        "new_tokens",
        "explain_tokens",
        True,
        (
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
    ),
}

_FACTS: dict[str, Callable[[Run], Json | None]] = {
    "loss": loss_facts,
    "evaluation": evaluation_facts,
    "adapter": adapter_facts,
}


def header(verb: str, run: Run) -> Json:
    """What every document begins with."""
    return {"schema": f"ckpt-inspect/{verb}/1", "tool_version": __version__, "path": str(run.target)}


def show_document(run: Run, *, base: Path | None = None) -> Json:
    """The `show` document of `run`; `base` is the base model's directory where the run does not lead to it."""
    document: Json = {
        **header("show", run),
        "kind": run.kind,
        "producers": [
            {"name": item.name, "version": item.version, "evidence": item.evidence} for item in run.producers
        ],
        "artifacts": [artifact_row(artifact) for artifact in run.all_artifacts],
        "progress": progress(run),
    }
    for key in TOPICS:
        document[key] = topic(key, run, base)
        if key == "batches":
            document["best"] = best_facts(run)
    document["checkpoints"] = checkpoint_rows(run)
    document["findings"] = _findings(run, base)
    document["model"] = model_facts(run)
    document["nested"] = [{"path": item.path, "kind": item.kind} for item in run.nested]
    document["empty_directories"] = list(run.empty_directories)
    document["hub"] = _hub(run)
    document["unreadable"] = [{"path": path or ".", "message": fault.message} for path, fault in _unreadable(run)]
    document["truncated"] = run.tree.truncated
    return document


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


def topic(key: str, run: Run, base: Path | None) -> Json | None:
    """The answer to one topic in the contract's keys; the bare facts where the topic has no answer."""
    module, function, takes_base, keys = TOPICS[key]
    try:
        explain = getattr(import_module(f"ckpt_inspect.explain.{module}"), function)
    except ImportError:
        return _FACTS[key](run) if key in _FACTS else None
    answer = explain(run, base=base) if takes_base else explain(run)
    if answer is None:
        return None
    whole = plain(answer)
    return {name: whole.get(name) for name in keys} if isinstance(whole, dict) else None


def _findings(run: Run, base: Path | None) -> Json:
    del run, base
    return {"errors": 0, "warnings": 0, "notes": 0}


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
