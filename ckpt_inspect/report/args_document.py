"""The `args` document: every training argument of a run, and how they differ from another run's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckpt_inspect.artifacts.training_args import TrainingArgs, read_training_args, read_training_args_yaml
from ckpt_inspect.errors import NotAFormatError
from ckpt_inspect.explain.answer import plain
from ckpt_inspect.report.show_document import header
from ckpt_inspect.run import Run

Json = dict[str, Any]


def find_arguments(run: Run) -> tuple[TrainingArgs, str]:
    """The arguments of a run and the file they are from: the root's, else those of the newest checkpoint that has any.

    Raises:
        NotAFormatError: the file, or no file of the directory, holds training arguments.
    """
    if run.file is not None:
        reader = read_training_args_yaml if run.file.name.endswith((".yaml", ".yml")) else read_training_args
        with run.tree.open(run.file.path) as source:
            facts = reader(source)
        if not facts.arguments:
            raise NotAFormatError("holds no training arguments", where=str(run.target))
        return facts, run.file.path
    for state in (run, *reversed(run.checkpoints)):
        artifact = state.find("training_args")
        if artifact is not None and state.training_args is not None and state.training_args.arguments:
            return state.training_args, artifact.path
    artifact = run.find("training_args_yaml")
    if artifact is not None and run.training_args_yaml is not None:
        return run.training_args_yaml, artifact.path
    raise NotAFormatError(
        "no training_args.bin that can be read", where=str(run.target), remedy="name a run, a checkpoint or the file"
    )


def args_document(run: Run, other: Run | None = None) -> Json:
    """The `args` document; with `other`, also what differs, under the key "diff"."""
    facts, file = find_arguments(run)
    document: Json = {
        **header("args", run),
        "file": file,
        "class": facts.class_name,
        "arguments": {name: plain(facts.arguments[name]) for name in sorted(facts.arguments)},
        "world_size": facts.world_size,
        "secrets": list(facts.secrets),
        "faults": [{"kind": fault.kind, "message": fault.message} for fault in facts.faults],
    }
    if other is not None:
        theirs, their_file = find_arguments(other)
        document["other"] = {"path": str(other.target), "file": their_file, "class": theirs.class_name}
        document["diff"] = difference(facts.arguments, theirs.arguments)
    return document


def difference(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[Json]:
    """Arguments that differ, those only one side has included; equal numbers of different types are equal."""
    rows = []
    for name in sorted({*here, *there}):
        left, right = plain(here.get(name)), plain(there.get(name))
        if left != right or (name in here) != (name in there):
            rows.append(
                {"name": name, "here": left, "there": right, "in_here": name in here, "in_there": name in there}
            )
    return rows
