"""From a path to a proved plan: choose the tag, read every rank, lay the parameters out, prove it.

:func:`plan_consolidation` writes nothing and reads no weights but the samples of the proof.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from ckpt_inspect.artifacts.zero_files import TagFiles
from ckpt_inspect.artifacts.zero_nodes import walk
from ckpt_inspect.artifacts.zero_shards import ZeroShards, read_models, read_optimizers
from ckpt_inspect.artifacts.zero_states import ModelState, OptimizerState
from ckpt_inspect.consolidate.agreement import Depth, compare, copies_in_module, judge
from ckpt_inspect.consolidate.dcp import DcpDraft, plan_dcp
from ckpt_inspect.consolidate.dcp_select import DcpSelection, newest_number, select_dcp
from ckpt_inspect.consolidate.draft import Draft, finish
from ckpt_inspect.consolidate.files import (
    check_entries,
    check_kinds,
    check_model_files,
    check_ranks,
    check_readable,
    check_states,
    check_times,
    choose_prefix,
)
from ckpt_inspect.consolidate.holes import suspicious_values
from ckpt_inspect.consolidate.named import collect_named
from ckpt_inspect.consolidate.plan import Plan
from ckpt_inspect.consolidate.problems import Problem, Refusal, note, refuse, warn
from ckpt_inspect.consolidate.proof import Span, prove
from ckpt_inspect.consolidate.reading import OpenFiles
from ckpt_inspect.consolidate.select import select
from ckpt_inspect.consolidate.siblings import compare_with_saved
from ckpt_inspect.consolidate.stage0 import plan_stage0
from ckpt_inspect.consolidate.steps import check_steps
from ckpt_inspect.consolidate.tags import find_tags
from ckpt_inspect.consolidate.tails import nonzero_padding
from ckpt_inspect.consolidate.universal import plan_universal
from ckpt_inspect.consolidate.zero3 import plan_zero3
from ckpt_inspect.consolidate.zero12 import plan_zero12
from ckpt_inspect.errors import UsageError
from ckpt_inspect.knowledge import load
from ckpt_inspect.printable import printable

AUTO = "auto"
DTYPES: Mapping[str, str] = {
    "float32": "F32",
    "fp32": "F32",
    "bfloat16": "BF16",
    "bf16": "BF16",
    "float16": "F16",
    "fp16": "F16",
}


def plan_consolidation(
    path: str | os.PathLike[str],
    *,
    tag: str | None = None,
    exclude_frozen: bool = False,
    only: Iterable[str] = (),
    dtype: str = AUTO,
    depth: Depth = "sample",
    force: bool = False,
) -> Plan:
    """How the checkpoint at `path` becomes one set of weights.

    Args:
        path: a run (its newest complete checkpoint is taken), a checkpoint, a tag directory or a directory of shards.
        tag: the tag to use instead of the one `latest` names.
        exclude_frozen: leave frozen parameters out.
        only: shell patterns; only tensors whose name matches one are planned.
        dtype: what floating tensors are written as, "float32", "bfloat16" or "float16"; integers stay. "auto" is float32
            for DeepSpeed's master weights, and what was saved for a distributed checkpoint.
        depth: how much of the master weights to compare with the 16-bit module: "none", "sample" or "complete".
        force: turn refusals that leave the bytes in doubt into warnings.

    Raises:
        ConsolidationError: nothing can be written; the subclass says what is wrong (:mod:`.problems`).
        UnreadableError: the path cannot be read.
    """
    target = DTYPES.get(dtype.removeprefix("torch.").lower())
    if target is None and dtype != AUTO:
        raise UsageError(f"unknown dtype {printable(dtype, 40)}", remedy=f"use one of {AUTO}, {', '.join(DTYPES)}")
    patterns = tuple(only)
    distributed = _distributed(path, tag)
    if distributed is not None:
        shards = DcpDraft(distributed, target)
        return _plan_distributed(shards, exclude_frozen=exclude_frozen, only=patterns, force=force)
    draft = Draft(select(path, tag), target or "F32")
    return _plan(draft, exclude_frozen=exclude_frozen, only=patterns, depth=depth, force=force)


def find_problems(
    path: str | os.PathLike[str], *, tag: str | None = None, depth: Depth = "sample"
) -> tuple[Problem, ...]:
    """Everything the planner and the proof would say about a checkpoint, refusals included, without raising them.

    Raises:
        UnreadableError: the path cannot be read.
    """
    draft: Draft | DcpDraft
    try:
        distributed = _distributed(path, tag)
        draft = DcpDraft(distributed, None) if distributed is not None else Draft(select(path, tag), "F32")
    except Refusal as error:
        return (error.problem,) if error.problem is not None else ()
    try:
        if isinstance(draft, DcpDraft):
            _plan_distributed(draft, exclude_frozen=False, only=(), force=True)
        else:
            _plan(draft, exclude_frozen=False, only=(), depth=depth, force=True)
    except Refusal as error:
        if error.problem is not None and error.problem not in draft.problems:
            draft.problems.append(error.problem)
    return tuple(draft.problems)


def _distributed(path: str | os.PathLike[str], tag: str | None) -> DcpSelection | None:
    """The distributed checkpoint a path stands for; None where DeepSpeed's tags are there too and are not older."""
    found = select_dcp(path, tag)
    if found is None or not found.home:
        return found
    tags = find_tags(found.tree)
    return None if tags and max(tag.number for tag in tags) >= newest_number(found.tree) else found


def _plan_distributed(draft: DcpDraft, *, exclude_frozen: bool, only: Sequence[str], force: bool) -> Plan:
    plan = _narrow(plan_dcp(draft, exclude_frozen=exclude_frozen, force=force), only)
    draft.problems += prove(plan.tensors, plan.sources)
    warnings, notes = draft.settle(force)
    said = draft.selection.said
    facts = {"dtype": draft.target, "said": list(said), "notes": list(notes), **draft.facts}
    return replace(plan, warnings=(*said, *warnings), facts=facts)


def _plan(draft: Draft, *, exclude_frozen: bool, only: Sequence[str], depth: Depth, force: bool) -> Plan:
    draft.problems += draft.selection.problems
    if draft.selection.universal:
        plan = plan_universal(draft, exclude_frozen=exclude_frozen, depth=depth, force=force)
    else:
        plan = _plan_zero(draft, exclude_frozen, depth, force)
    plan = _narrow(plan, only)
    draft.problems += prove(plan.tensors, plan.sources, draft.spans)
    draft.arbitrated = True
    warnings, notes = draft.settle(force)
    said = draft.selection.said
    facts = {"dtype": draft.target, "said": list(said), "notes": list(notes), **draft.facts}
    return replace(plan, warnings=(*said, *warnings), facts=facts)


def _plan_zero(draft: Draft, exclude_frozen: bool, depth: Depth, force: bool) -> Plan:
    selection = draft.selection
    tree = selection.tree
    draft.problems += check_kinds(selection.files)
    draft.problems += check_entries(entry for entry in tree.entries() if entry.parent == selection.directory)
    draft.settle(force)
    models, broken = read_models(tree, selection.files.model)
    files, found = choose_prefix(selection.files, models[0] if models else None)
    optimizers, broken_optimizers = read_optimizers(tree, files.optimizer)
    draft.problems += check_readable(ZeroShards(tuple(models), tuple(optimizers), (*broken, *broken_optimizers)), files)
    draft.problems += found
    draft.settle(force)
    draft.sources.add_files(files.model)
    draft.sources.add_files(files.optimizer)
    if not optimizers:
        return _without_optimizers(draft, files, models, exclude_frozen, depth, force)
    states, found = check_ranks(files, optimizers)
    draft.problems += found
    draft.settle(force)
    partitioned = states[0].layout == "zero3" or files.partitioned_model
    use_frozen = not exclude_frozen
    usable, found = check_model_files(files, models, len(states), partitioned=partitioned, frozen=use_frozen)
    draft.problems += found
    draft.settle(force)
    model = usable[0]
    draft.problems += check_states(model, states, len(states))
    draft.problems += check_times(files)
    draft.settle(force)
    _lay_out(draft, model, states)
    draft.named = collect_named(
        usable,
        [trainable.name for trainable in draft.trainables],
        draft.sources,
        partitioned=partitioned,
        target=draft.target,
        exclude_frozen=exclude_frozen,
    )
    draft.problems += draft.named.problems
    draft.settle(force)
    _prove_values(draft, model, states, depth)
    stage = states[0].stage if states[0].stage is not None else _config_stage(model)
    layout = {"zero3": "zero3", "bf16_optimizer": "bf16_optimizer"}.get(str(states[0].layout), f"zero{stage}")
    return finish(draft, layout, stage, len(states), model)


def _lay_out(draft: Draft, model: ModelState, states: Sequence[OptimizerState]) -> None:
    if states[0].layout == "zero3":
        directory = draft.selection.directory
        prefix = f"{directory}/" if directory else ""
        swaps = {
            entry.path[len(prefix) :]: entry
            for entry in draft.selection.tree.entries()
            if entry.kind == "file" and entry.path.startswith(f"{prefix}{load('deepspeed_eras')['nvme']['directory']}/")
        }
        draft.trainables, found, facts = plan_zero3(model, states, draft.sources, swaps)
    else:
        draft.trainables, found, facts = plan_zero12(model, states, draft.sources)
    draft.problems += found
    draft.facts.update(facts)
    draft.spans = _master_spans(draft, states)


def _master_spans(draft: Draft, states: Sequence[OptimizerState]) -> list[Span]:
    """Where master weights lie: the flat vectors of every rank, and whole swap files."""
    listed = draft.sources.files()
    index = {file.path: number for number, file in enumerate(listed)}
    spans = [
        Span(index[state.path], tensor.file_offset, tensor.file_offset + tensor.nbytes)
        for state in states
        for tensor in state.masters
        if tensor.file_offset is not None
    ]
    marker = f"{load('deepspeed_eras')['nvme']['directory']}/"
    return spans + [Span(index[file.path], 0, file.size) for file in listed if marker in file.path]


def _prove_values(draft: Draft, model: ModelState, states: Sequence[OptimizerState], depth: Depth) -> None:
    """Z34, Z36, Z38, Z39: the checks that read a few bytes of weights."""
    listed = draft.sources.files()
    indexes = {file.path: number for number, file in enumerate(listed)}
    tree = draft.selection.tree
    with OpenFiles(tree, listed) as files:
        found, facts = check_steps(model, states, indexes, files)
        draft.problems += found
        draft.facts.update(facts)
        draft.problems += nonzero_padding(draft.trainables, states, indexes, files)
        paths = {number: state.path for number, state in enumerate(states)}
        draft.problems += suspicious_values(draft.trainables, paths, files)
        agreement = compare(draft.trainables, copies_in_module(model, listed), files, depth)
    if agreement.elements or states[0].layout != "zero3":
        hint = f"; {found[0].message}" if found and found[0].level == "warning" else ""
        draft.problems += judge(agreement, model.path, paths, depth, hint=hint)
    else:
        beside, found = compare_with_saved(tree, draft.selection.home, draft.trainables, states, listed, depth)
        draft.problems += found
        agreement = beside or agreement
    draft.record(agreement, depth)
    _settle_slices(draft, model, passed=agreement.passed, differ=bool(agreement.differing))


def _settle_slices(draft: Draft, model: ModelState, *, passed: bool, differ: bool) -> None:
    """Z34 is a hint: values that agree with the module decide, then a configuration known to record wrong addresses."""
    round_robin = walk(model.config, "zero_optimization", "round_robin_gradients") is True
    for index, problem in enumerate(draft.problems):
        if problem.check != "Z34" or problem.level != "error":
            continue
        if passed:
            why = "the values agree with the module, so the addresses are wrong (ds_to_universal would follow them)"
            draft.problems[index] = note("Z34", f"{problem.message}; {why}", file=problem.file)
        elif differ:  # Z38 refuses, and says more
            draft.problems[index] = note("Z34", problem.message, file=problem.file)
        elif round_robin:
            why = "round_robin_gradients makes DeepSpeed record wrong addresses"
            draft.problems[index] = warn("Z34", f"{problem.message}; {why}", file=problem.file)


def _without_optimizers(
    draft: Draft, files: TagFiles, models: Sequence[ModelState], exclude_frozen: bool, depth: Depth, force: bool
) -> Plan:
    """A tag without optimizer shards: stage 0, or a ZeRO checkpoint that lost them all."""
    if not models:
        raise refuse("Z01", "holds neither model nor optimizer files").exception(draft.selection.where)
    model = models[0]
    world = model.dp_world_size or 1
    if model.shapes is not None or files.partitioned_model:
        message = f"none of the {world} optimizer files is here, and they hold the float32 weights"
        remedy = "copy the *_optim_states.pt files of every rank into the tag directory"
        if not files.partitioned_model:
            remedy += "; the 16-bit weights in mp_rank_00_model_states.pt are whole"
        draft.problems.append(refuse("Z10", message, file=draft.selection.directory or None, rank=0, remedy=remedy))
    if model.module is None:
        message = "the model file holds no module"
        draft.problems.append(refuse("Z15" if "module" in model.keys else "key", message, file=model.path))
    draft.problems += _single_model(model)
    draft.settle(force)
    with OpenFiles(draft.selection.tree, draft.sources.files()) as opened:
        draft.trainables, found, facts = plan_stage0(model, draft.sources, opened)
        draft.problems += found
        draft.facts.update(facts)
        copies = copies_in_module(model, draft.sources.files())
        agreement = compare(draft.trainables, copies, opened, depth)
    if draft.trainables:
        draft.problems += judge(agreement, model.path, {0: model.path}, depth)
        draft.record(agreement, depth)
    if exclude_frozen and not draft.trainables:
        message = "without named master weights nothing tells which parameters are frozen: all were kept"
        draft.problems.append(warn("Z40", message, file=model.path))
    draft.named = collect_named(
        [model],
        [trainable.name for trainable in draft.trainables],
        draft.sources,
        partitioned=False,
        target=draft.target,
        exclude_frozen=exclude_frozen and bool(draft.trainables),
        expected_in_module=True,
    )
    draft.problems += draft.named.problems
    return finish(draft, "stage0", 0, world, model)


def _single_model(model: ModelState) -> list[Problem]:
    from ckpt_inspect.consolidate.files import check_degrees

    return check_degrees(model)


def _config_stage(model: ModelState) -> int | None:
    stage = walk(model.config, "zero_optimization", "stage")
    return stage if isinstance(stage, int) and not isinstance(stage, bool) else None


def _narrow(plan: Plan, patterns: Sequence[str]) -> Plan:
    """Keep tensors whose name, or the name of an alias of theirs, matches a pattern."""
    if not patterns:
        return plan

    def wanted(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    owners = {owner for alias, owner in plan.aliases.items() if wanted(alias)}
    kept = tuple(tensor for tensor in plan.tensors if wanted(tensor.name) or tensor.name in owners)
    if not kept:
        shown = ", ".join(printable(pattern, 40) for pattern in patterns[:3])
        raise UsageError(f"no tensor matches {shown}", where=plan.checkpoint)
    names = {tensor.name for tensor in kept}
    aliases = {alias: owner for alias, owner in plan.aliases.items() if owner in names}
    return replace(plan, tensors=kept, aliases=aliases)
