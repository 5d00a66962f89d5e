"""A plan in the making, and the last step of every planner: order, aliases, what kind of weights these are."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ckpt_inspect.artifacts.zero_shards import trained_dtype
from ckpt_inspect.artifacts.zero_states import ModelState
from ckpt_inspect.consolidate.adapters import is_adapter_only
from ckpt_inspect.consolidate.addresses import Sources
from ckpt_inspect.consolidate.agreement import Agreement, Depth
from ckpt_inspect.consolidate.named import Named
from ckpt_inspect.consolidate.parts import Trainable, planned
from ckpt_inspect.consolidate.plan import Origin, Plan, PlannedTensor
from ckpt_inspect.consolidate.problems import Problem, note, settle, warn
from ckpt_inspect.consolidate.proof import Span
from ckpt_inspect.consolidate.select import Selection
from ckpt_inspect.consolidate.tags import checkpoint_number


@dataclass(slots=True)
class Draft:
    """A plan in the making."""

    selection: Selection
    target: str
    sources: Sources = field(default_factory=Sources)
    problems: list[Problem] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    trainables: list[Trainable] = field(default_factory=list)
    named: Named = field(default_factory=Named)
    spans: list[Span] | None = None
    arbitrated: bool = False

    def settle(self, force: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Raise what refuses; else warnings and notes. Z34 waits until values arbitrated it (`_settle_slices`)."""
        decided = self.problems if self.arbitrated else [p for p in self.problems if p.check != "Z34"]
        return settle(decided, str(self.selection.tree.root), force=force)

    def record(self, agreement: Agreement, depth: Depth) -> None:
        """Keep what was compared among the facts."""
        self.facts["compared"] = {
            "tensors": agreement.tensors,
            "elements": agreement.elements,
            "differing_fragments": len(agreement.differing),
            "depth": depth,
        }


def finish(
    draft: Draft,
    layout: str,
    stage: int | None,
    world: int,
    model: ModelState | None,
    origin: Origin = "master",
) -> Plan:
    """Put buffers, frozen, trainable and module tensors in DeepSpeed's order; an alias replaces a tensor of its name."""
    named = draft.named
    trainable = [
        planned(item.name, item.shape, item.dtype, item.ranges, origin, draft.target) for item in draft.trainables
    ]
    tensors: list[PlannedTensor] = [*named.before, *trainable, *named.after]
    names = {tensor.name for tensor in tensors}
    aliases = {alias: owner for alias, owner in named.aliases.items() if owner in names and owner not in named.aliases}
    tensors = [tensor for tensor in tensors if tensor.name not in aliases]
    selection = draft.selection
    draft.problems += _numbers(selection, model)
    adapter = is_adapter_only(tensors, named.before)
    if adapter:
        draft.problems.append(note("Z42", "only adapter weights are in the checkpoint: the base model was not saved"))
    draft.facts.update(
        model_dtype=trained_dtype(model.config) if model else None,
        ds_version=model.ds_version if model else None,
        global_steps=model.global_steps if model else None,
        skipped_steps=model.skipped_steps if model else None,
    )
    return Plan(
        layout=layout,
        stage=stage,
        world_size=world,
        tag=selection.tag or None,
        root=str(selection.tree.root.resolve()),
        checkpoint=selection.where,
        sources=draft.sources.files(),
        tensors=tuple(tensors),
        aliases=aliases,
        adapter_only=adapter,
    )


def _numbers(selection: Selection, model: ModelState | None) -> list[Problem]:
    """Z06 and Z07: the numbers in the names of the tag and of the checkpoint against the steps DeepSpeed counted."""
    if model is None or model.global_steps is None:
        return []
    steps, skipped = model.global_steps, model.skipped_steps or 0
    problems: list[Problem] = []
    tag = re.fullmatch(r"global_step(\d{1,12})", selection.tag)
    if tag is not None and int(tag.group(1)) != steps:
        message = f"the tag is called {selection.tag}, DeepSpeed counted {steps} steps: it was renamed"
        problems.append(warn("Z06", message, file=model.path))
    number = checkpoint_number(selection.home or str(selection.tree.root.resolve()))
    if number is not None and number != steps:
        message = f"the directory is called checkpoint-{number}, DeepSpeed counted {steps} steps"
        make = note if abs(number - steps) <= skipped else warn
        problems.append(make("Z07", message, file=model.path))
    return problems
