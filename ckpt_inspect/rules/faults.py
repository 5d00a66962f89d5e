"""Every fault the readers met in one directory, with the file it is in; each file is read once, on first use.

The table ``knowledge/faults`` gives each kind of fault its rule; :func:`hits` turns those of one rule into hits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ckpt_inspect import knowledge
from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.printable import printable
from ckpt_inspect.rules.finding import SEVERITIES, Hit, Severity, capitalised

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.fsdp import FsdpState
    from ckpt_inspect.rules.subject import Subject
    from ckpt_inspect.run import StateDirectory
    from ckpt_inspect.storage import ByteSource

_MOST = 3
_PREDICATES = ("is ", "has ", "was ", "names ", "starts ", "ends ", "leads ")

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
_SEVERAL = ("tokenizer", "chat_templates", "universal")


def faults_of(place: StateDirectory) -> tuple[tuple[str, Fault], ...]:
    """(path below the run, fault) for everything read in a directory, each once."""
    memo = place.memo
    if "rule_faults" not in memo:
        memo["rule_faults"] = tuple(dict.fromkeys(_collect(place)))
    found: tuple[tuple[str, Fault], ...] = memo["rule_faults"]
    return found


def hits(subject: Subject, code: str) -> Iterator[Hit]:
    """The faults that belong to one rule, one hit per file, with the remedy and severity of the table's worst row."""
    found = faults_of(subject.place)
    if not found:
        return
    table = knowledge.faults()
    by_file: dict[str, list[Fault]] = {}
    for path, fault in found:
        if table.get(fault.kind, {}).get("rule") == code:
            by_file.setdefault(path, []).append(fault)
    for path, faults in by_file.items():
        faults.sort(key=lambda fault: SEVERITIES.index(_severity(table, fault)))
        sentences = list(dict.fromkeys(_sentence(path, fault) for fault in faults))
        shown = " ".join(sentences[:_MOST])
        more = f" And {len(sentences) - _MOST} more of this kind." if len(sentences) > _MOST else ""
        evidence: dict[str, Any] = {"faults": sorted({fault.kind for fault in faults})}
        if faults[0].offset is not None:
            evidence["offset"] = faults[0].offset
        remedy = table[faults[0].kind].get("remedy")
        yield Hit(path, shown + more, remedy, None, _severity(table, faults[0]), evidence)


def _severity(table: Mapping[str, Mapping[str, str]], fault: Fault) -> Severity:
    row: Any = table[fault.kind]["severity"]
    severity: Severity = row
    return severity


def _sentence(path: str, fault: Fault) -> str:
    where = f" at byte {fault.offset:,}" if fault.offset is not None else ""
    place = printable(fault.place, 80) if fault.place and fault.place != path else ""
    if fault.message.startswith(_PREDICATES):  # the place is the sentence's subject
        return f"{place or printable(path.rpartition('/')[2], 80)} {fault.message}{where}."
    text = f"{fault.message}{where}" + (f" ({place})" if place else "")
    return f"{capitalised(text)}."


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
    yield from _side_files(place)
    if place.weights is not None:
        yield from place.weights.file_faults
    if place.zero is not None:
        yield from ((_file_of(place, fault), fault) for fault in place.zero.faults)
    for name in _SEVERAL:
        facts = getattr(place, name)
        if facts is not None:
            yield from ((_file_of(place, fault), fault) for fault in facts.faults)
    if place.fsdp is not None:
        yield from _of_fsdp(place, place.fsdp)
    yield from place.read_faults


def _of_fsdp(place: StateDirectory, fsdp: FsdpState) -> Iterator[tuple[str, Fault]]:
    """Faults of each distributed checkpoint by its directory, then those of the whole."""
    told = set()
    for directory in fsdp.directories:
        for fault in (*directory.faults, *directory.item_faults):
            told.add(fault)
            path = _file_of(place, fault)
            yield path if path != place.path else directory.path, fault
    yield from ((_file_of(place, fault), fault) for fault in fsdp.faults if fault not in told)


def _side_files(place: StateDirectory) -> Iterator[tuple[str, Fault]]:
    """Faults of files no fact comes from: plots, event files, tables of completions, settings, results as text."""
    from ckpt_inspect.artifacts.completions import read_completions
    from ckpt_inspect.artifacts.events import read_events
    from ckpt_inspect.artifacts.images import read_png
    from ckpt_inspect.artifacts.lf_yaml import read_llamaboard_config
    from ckpt_inspect.artifacts.results import read_results
    from ckpt_inspect.artifacts.training_args import read_training_args_yaml

    readers: dict[str, Callable[[ByteSource], Any]] = {
        "loss_plot": read_png,
        "tensorboard_events": read_events,
        "completions": read_completions,
        "training_args_yaml": read_training_args_yaml,
        "llamaboard_config": read_llamaboard_config,
        "results_text": read_results,
    }
    for artifact in place.artifacts:
        reader = readers.get(artifact.kind)
        if reader is not None:
            with place.tree.open(artifact.path) as source:
                faults = reader(source).faults
            yield from ((artifact.path, fault) for fault in faults)


def _file_of(place: StateDirectory, fault: Fault) -> str:
    """The file a fault's `place` names, where it names one of the directory's; else the directory."""
    if fault.place:
        for path in (fault.place, f"{place.path}/{fault.place}".lstrip("/")):
            if place.tree.get(path) is not None:
                return path
    return place.path
