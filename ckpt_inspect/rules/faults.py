"""Every fault the readers met in one directory, with the file it is in; each file is read once, on first use.

The table ``knowledge/faults`` gives each kind of fault its rule; :func:`hits` turns those of one rule into hits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ckpt_inspect import knowledge
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.printable import printable
from ckpt_inspect.rules.finding import Hit

if TYPE_CHECKING:
    from ckpt_inspect.rules.subject import Subject
    from ckpt_inspect.run import StateDirectory

# facts of one file -> the artifact kinds that file may be
_SINGLE: dict[str, tuple[str, ...]] = {
    "trainer_state": ("trainer_state",),
    "trainer_log": ("trainer_log",),
    "training_args": ("training_args",),
    "scheduler": ("scheduler", "scheduler_bin"),
    "optimizer": ("optimizer", "optimizer_bin"),
    "scaler": ("scaler",),
    "adapter_config": ("adapter_config",),
    "adapter_weights": ("adapter_weights",),
    "model_config": ("model_config",),
    "generation_config": ("generation_config",),
    "model_card": ("model_card",),
    "predictions": ("generated_predictions",),
    "latest": ("latest",),
}
# facts of several files, whose faults name their file as `place`
_SEVERAL = ("tokenizer", "chat_templates", "fsdp", "universal")


def faults_of(place: StateDirectory) -> tuple[tuple[str, Fault], ...]:
    """(path below the run, fault) for everything read in a directory, each once."""
    memo = place.memo
    if "rule_faults" not in memo:
        memo["rule_faults"] = tuple(dict.fromkeys(_collect(place)))
    found: tuple[tuple[str, Fault], ...] = memo["rule_faults"]
    return found


def hits(subject: Subject, *codes: str) -> Iterator[Hit]:
    """The faults that belong to one of the rules `codes`, as hits with the remedy and severity of the table."""
    table = knowledge.faults()
    for path, fault in faults_of(subject.place):
        row = table.get(fault.kind)
        if row is None or row.get("rule") not in codes:
            continue
        where = f" at byte {fault.offset}" if fault.offset is not None else ""
        which = f" ({printable(fault.place, 80)})" if fault.place and fault.place != path else ""
        evidence: dict[str, Any] = {"fault": fault.kind}
        if fault.offset is not None:
            evidence["offset"] = fault.offset
        severity: Any = row["severity"]
        yield Hit(path, f"{fault.message}{where}{which}.", row.get("remedy"), None, severity, evidence)


def _collect(place: StateDirectory) -> Iterator[tuple[str, Fault]]:
    for name, kinds in _SINGLE.items():
        facts = getattr(place, name)
        artifact = place.find(*kinds)
        if facts is not None:
            path = artifact.path if artifact is not None else place.path
            yield from ((path, fault) for fault in facts.faults)
    for split, results in place.results.items():
        artifact = place.find(f"{split}_results")
        yield from ((artifact.path if artifact is not None else place.path, fault) for fault in results.faults)
    for rank, state in place.rng_states:
        name = "rng_state.pth" if rank is None else f"rng_state_{rank}.pth"
        yield from ((f"{place.path}/{name}".lstrip("/"), fault) for fault in state.faults)
    if place.weights is not None:
        yield from place.weights.file_faults
    if place.zero is not None:
        yield from ((_file_of(place, fault), fault) for fault in place.zero.faults)
    for name in _SEVERAL:
        facts = getattr(place, name)
        if facts is not None:
            yield from ((_file_of(place, fault), fault) for fault in facts.faults)
    yield from place.read_faults


def _file_of(place: StateDirectory, fault: Fault) -> str:
    """The file a fault's `place` names, where it names one of the directory's; else the directory."""
    if fault.place:
        for path in (fault.place, f"{place.path}/{fault.place}".lstrip("/")):
            if place.tree.get(path) is not None:
                return path
    return place.path
