"""CKP4xx: DeepSpeed's shards. The checks are those `consolidate` makes before it writes (:mod:`ckpt_inspect.consolidate`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ckpt_inspect.consolidate.problems import Problem
from ckpt_inspect.rules.faults import hits
from ckpt_inspect.rules.finding import Hit, Severity, capitalised
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject

_ADVICE = "see `ckpt-inspect consolidate --plan` for the numbers"


def _survey(subject: Subject, *, complete: bool = False) -> tuple[Problem, ...]:
    """Everything the planner finds, without the weights' values unless `complete`."""
    place = subject.checkpoint
    if not place.tags and not place.has("latest"):
        return ()
    memo, key = place.memo, "survey_complete" if complete else "survey"
    if key not in memo:
        from ckpt_inspect.consolidate.planning import find_problems

        memo[key] = find_problems(place.tree.root / place.path, depth="complete" if complete else "none")
    found: tuple[Problem, ...] = memo[key]
    return found


def _problems(subject: Subject, *checks: str, complete: bool = False) -> Iterator[Hit]:
    """The problems of some checks, as hits. The shards' headers are read once for all rules."""
    place = subject.checkpoint
    merged: dict[tuple[str, str], list[Problem]] = {}
    for problem in _survey(subject, complete=complete):
        if problem.check in checks:
            merged.setdefault((problem.check, problem.file or ""), []).append(problem)
    for (check, _), problems in merged.items():
        yield _hit(subject, place.path, check, problems)


def _hit(subject: Subject, path: str, check: str, problems: list[Problem]) -> Hit:
    first = problems[0]
    severity: Severity = first.level if first.level in ("error", "warning") else "note"
    text = capitalised(first.message)
    more = f" And {len(problems) - 1} more like it." if len(problems) > 1 else ""
    where = _below(subject.run.tree.root, path, first.file)
    evidence = {"check": check, "rank": first.rank}
    remedy = f"{capitalised(first.remedy)}." if first.remedy else None
    return Hit(where, f"{text}.{more}", remedy, first.tensor, severity, evidence)


def _below(root: Path, place: str, file: str | None) -> str:
    """The path of a problem's file below the run: the survey states it relative to the checkpoint it opened."""
    if not file:
        return place
    for candidate in (f"{place}/{file}".lstrip("/"), file):
        if (root / candidate).exists():
            return candidate
    return place


@rule("CKP401", "no-tag", "error", scope="checkpoint", thorough=True)
def no_tag(subject: Subject) -> Iterator[Hit]:
    """There is no tag directory to load, or several and nothing says which.

    Why it matters: DeepSpeed loads the directory that `latest` names; without it a resume stops.

    How to fix: write the tag's name into a file `latest`, or pass --tag.

    Example: `checkpoint-500` with `latest` and no `global_step500`.

    Source: deepspeed 0.19.8 engine.load_checkpoint; DeepSpeed catalogue Z01.
    """
    yield from _problems(subject, "Z01")


@rule("CKP402", "latest-unusable", "error")
def latest_unusable(subject: Subject) -> Iterator[Hit]:
    """The file `latest` is empty or does not hold a tag.

    Why it matters: it is written in place, without a rename; a crash at that moment leaves it empty, and an empty tag means
    the checkpoint directory itself.

    How to fix: write the name of the newest complete tag directory into it.

    Example: a `latest` of 0 bytes beside a whole `global_step500`.

    Source: deepspeed 0.19.8 engine.save_checkpoint; DeepSpeed catalogue Z02.
    """
    yield from hits(subject, "CKP402")


@rule("CKP403", "latest-names-nothing", "error", scope="checkpoint", thorough=True)
def latest_names_nothing(subject: Subject) -> Iterator[Hit]:
    """`latest` names a tag directory that is not there.

    Why it matters: the directory was moved, rotated away or not copied; DeepSpeed cannot load the checkpoint.

    How to fix: restore the directory, or let `latest` name one that is complete.

    Example: `latest` says global_step900, only global_step800 is here.

    Source: deepspeed 0.19.8 engine.load_checkpoint; DeepSpeed catalogue Z03.
    """
    yield from _problems(subject, "Z03")


@rule("CKP404", "latest-is-not-newest", "warning", scope="checkpoint", thorough=True)
def latest_is_not_newest(subject: Subject) -> Iterator[Hit]:
    """A newer tag directory than the one `latest` names is here.

    Why it matters: a save was cut off before `latest` was written, or save_latest was off. A resume goes back to the older.

    How to fix: check the newer one with `consolidate --plan --tag`; use it if it is whole, delete it if not.

    Example: `latest` global_step800, and a half-written global_step900.

    Source: deepspeed 0.19.8 engine.save_checkpoint writes `latest` last; DeepSpeed catalogue Z04.
    """
    yield from (hit for hit in _problems(subject, "Z04") if hit.severity != "note")  # an older tag was opened by name


@rule("CKP406", "step-counts-differ", "note", scope="checkpoint", thorough=True)
def step_counts_differ(subject: Subject) -> Iterator[Hit]:
    """The checkpoint's name and DeepSpeed's own step count differ.

    Why it matters: the engine counts its own steps, which differ after a resume, a change of accumulation, or skipped fp16
    steps. If none of these happened, shards of another checkpoint lie here.

    How to fix: nothing if one of these happened.

    Example: checkpoint-500 holds global_step498 after two skipped steps.

    Source: deepspeed 0.19.8 engine.global_steps; DeepSpeed catalogue Z06, Z07.
    """
    yield from _problems(subject, "Z06", "Z07")


@rule("CKP408", "leftover-tag", "note", scope="checkpoint", thorough=True)
def leftover_tag(subject: Subject) -> Iterator[Hit]:
    """A checkpoint of the Trainer holds more than one tag directory.

    Why it matters: only one is loaded; the others are left over from an earlier save into the same directory and take space.

    How to fix: delete those `latest` does not name.

    Example: global_step400 and global_step500 in checkpoint-500.

    Source: DeepSpeed catalogue Z08.
    """
    yield from _problems(subject, "Z08")


@rule("CKP410", "missing-rank", "error", scope="checkpoint", thorough=True)
def missing_rank(subject: Subject) -> Iterator[Hit]:
    """The shards of one or more ranks are missing.

    Why it matters: each rank holds its own part of the float32 weights and moments; without it the checkpoint can be neither
    resumed nor consolidated.

    How to fix: copy the files of the ranks named from the node they ran on.

    Example: node-local storage on two nodes, and only one was copied.

    Source: deepspeed 0.19.8 engine._get_zero_ckpt_name; DeepSpeed catalogue Z10, Z17.
    """
    yield from _problems(subject, "Z10", "Z17")


@rule("CKP411", "extra-rank", "error", scope="checkpoint", thorough=True)
def extra_rank(subject: Subject) -> Iterator[Hit]:
    """There are shards of more ranks than the checkpoint was saved with.

    Why it matters: a smaller job overwrote the tag of a larger one; the shards that are left over belong to other weights.

    How to fix: delete the files of the ranks named after checking that they are the older ones.

    Example: 8 ranks, then 4 ranks into the same global_step1000.

    Source: deepspeed utils/zero_to_fp32.py "Expected ..."; DeepSpeed catalogue Z11.
    """
    yield from _problems(subject, "Z11")


@rule("CKP412", "mixed-world-sizes", "error", scope="checkpoint", thorough=True)
def mixed_world_sizes(subject: Subject) -> Iterator[Hit]:
    """Files of one tag were saved by jobs of different size or precision.

    Why it matters: partitions of different worlds do not fit together; merged, they give weights shifted against one another.

    How to fix: restore all files of one save.

    Example: partition_count 4 in rank 0, 8 in rank 5; or bf16_ files beside plain ones.

    Source: deepspeed 0.19.8 stage_1_and_2.state_dict partition_count; DeepSpeed catalogue Z12, Z13, Z14.
    """
    yield from _problems(subject, "Z12", "Z13", "Z14")


@rule("CKP415", "parallel-layout", "note", scope="checkpoint", thorough=True)
def parallel_layout(subject: Subject) -> Iterator[Hit]:
    """The checkpoint is of a tensor-parallel, pipeline or expert model, which is recognised and not merged.

    Why it matters: `zero_to_fp32` fails on such checkpoints or gives wrong weights; `consolidate` refuses them.

    How to fix: convert with DeepSpeed's ds_to_universal, or use the 16-bit module where it is complete.

    Example: `layer_00-model_states.pt` of a PipelineModule.

    Source: deepspeed 0.19.8 PipelineModule, moe; DeepSpeed catalogue Z15, Z16.
    """
    for hit in _problems(subject, "Z15", "Z16", "layout"):
        yield Hit(hit.path, hit.message, hit.remedy, hit.tensor, "note", hit.evidence)


@rule("CKP420", "shard-unreadable", "error", scope="checkpoint", thorough=True)
def shard_unreadable(subject: Subject) -> Iterator[Hit]:
    """A shard cannot be read, is cut off, or does not hold what DeepSpeed writes.

    Why it matters: the checkpoint can be neither resumed nor consolidated.

    How to fix: copy the file named again; compare its size with the other ranks'.

    Example: rank 3's file is 1.1 GB, all others are 2.4 GB.

    Source: DeepSpeed catalogue Z20 to Z24.
    """
    yield from _problems(subject, "Z20", "Z21", "Z22", "Z23", "key")


@rule("CKP425", "shard-sizes-differ", "warning", scope="checkpoint")
def shard_sizes_differ(subject: Subject) -> Iterator[Hit]:
    """The optimizer shards of one tag differ in size by more than their pickles can explain.

    Why it matters: partitions are padded to the same length on every rank, so a smaller file was written in part, or comes
    from another save.

    How to fix: copy the files that stand out again.

    Example: 2.4 GB on seven ranks, 1.9 GB on the eighth.

    Source: deepspeed 0.19.8 flat partitions; DeepSpeed catalogue Z25.
    """
    zero = subject.checkpoint.zero
    if zero is None or len(zero.optim_files) < 2 or zero.expert_files or zero.model_parallel > 1:
        return
    sizes = {file.path: file.size for file in zero.optim_files}
    largest = max(sizes.values())
    for path, size in sizes.items():
        if largest - size > max(64 << 10, largest // 8):
            yield Hit(
                path, f"This shard has {size:,} bytes, the largest of its tag {largest:,}.", evidence={"bytes": size}
            )


@rule("CKP426", "shard-values", "error", scope="checkpoint", deep=True, thorough=True)
def shard_values(subject: Subject) -> Iterator[Hit]:
    """Master weights of a rank are zero wherever they were sampled, or are not finite.

    Why it matters: a file system that lost its blocks leaves a file of the right size full of zeros, which under stage 3
    nothing else would notice; weights that are NaN or infinite are those of a run that diverged.

    How to fix: copy the file of the rank named again and compare its checksum; after a divergence, take an earlier
    checkpoint.

    Example: a shard restored from a snapshot taken before its pages were flushed.

    Source: torch 2.13 serialization.skip_data writes such files; DeepSpeed catalogue Z26.
    """
    for hit in _problems(subject, "Z26", complete=True):
        # Zeros may be those of an adapter that was never trained; what is not finite has a tensor's name.
        severity: Severity = "error" if hit.tensor else "warning"
        yield Hit(hit.path, hit.message, hit.remedy, hit.tensor, severity, hit.evidence)


@rule("CKP427", "mixed-saves", "error", scope="checkpoint", thorough=True)
def mixed_saves(subject: Subject) -> Iterator[Hit]:
    """Files of one tag disagree on the ZeRO stage, the parameters' shapes or their groups.

    Why it matters: they come from different saves or runs; `zero_to_fp32` checks none of it and merges them silently.

    How to fix: restore all files of one save.

    Example: param_shapes of rank 0 and rank 1 list different tensors.

    Source: DeepSpeed catalogue Z27, Z30, Z33.
    """
    yield from _problems(subject, "Z27", "Z30", "Z33")


@rule("CKP428", "mixed-deepspeed-versions", "warning", scope="checkpoint", thorough=True)
def mixed_versions(subject: Subject) -> Iterator[Hit]:
    """Files of one tag were written by different DeepSpeed versions.

    Why it matters: ranks ran in different environments, or files of two saves are mixed.

    How to fix: use the same environment on all nodes; check that all files are of one save.

    Example: ds_version 0.14.5 on rank 0, 0.16.7 on rank 4.

    Source: DeepSpeed catalogue Z28.
    """
    yield from _problems(subject, "Z28")


@rule("CKP431", "partition-sums", "error", scope="checkpoint", thorough=True)
def partition_sums(subject: Subject) -> Iterator[Hit]:
    """The lengths of the partitions do not add up to the parameters.

    Why it matters: elements are missing or belong elsewhere: DeepSpeed says "consumed N numels out of M". Merging anyway
    shifts every later tensor.

    How to fix: find the file of another save or world size among the shards; see the numbers with `consolidate --plan`.

    Example: 30 + 29 elements saved for 60 wanted.

    Source: deepspeed utils/zero_to_fp32.py; DeepSpeed catalogue Z31, Z32, Z35.
    """
    yield from _problems(subject, "Z31", "Z32", "Z35", "coverage")


@rule("CKP434", "slice-addresses", "note", scope="checkpoint", thorough=True)
def slice_addresses(subject: Subject) -> Iterator[Hit]:
    """The addresses DeepSpeed recorded for its fragments disagree with the order of the parameters.

    Why it matters: under round_robin_gradients DeepSpeed records wrong ones, and ds_to_universal follows them silently.
    Elsewhere it means that the layout is not understood.

    How to fix: use `consolidate`, which arbitrates with the module's values, not ds_to_universal.

    Example: 10 of 15 parameters converted to wrong weights, measured with 3 ranks.

    Source: deepspeed 0.19.8 stage_1_and_2._link_all_hp_params; DeepSpeed catalogue Z34.
    """
    for hit in _problems(subject, "Z34"):
        yield Hit(hit.path, hit.message, hit.remedy, hit.tensor, "note", hit.evidence)


@rule("CKP437", "master-not-float32", "note", scope="checkpoint", thorough=True)
def master_not_float32(subject: Subject) -> Iterator[Hit]:
    """The master weights are not float32.

    Why it matters: a float32 output has no more precision than they have; mixed types across ranks mean damage.

    How to fix: nothing if bf16_master_weights_and_grads or its fp16 twin was meant.

    Example: `single_partition_of_fp32_groups` of bfloat16 tensors.

    Source: deepspeed 0.19.8 zero/stage_1_and_2.py; DeepSpeed catalogue Z37.
    """
    for hit in _problems(subject, "Z37"):
        yield Hit(
            hit.path, hit.message, hit.remedy, hit.tensor, "error" if hit.severity == "error" else "note", hit.evidence
        )


@rule("CKP438", "master-differs-from-module", "error", scope="checkpoint", deep=True, thorough=True)
def master_differs_from_module(subject: Subject) -> Iterator[Hit]:
    """The float32 master weights, rounded, are not the 16-bit weights beside them.

    Why it matters: optimizer shards of one step lie beside the model file of another; no other tool looks. A resume goes on
    from weights that never existed together.

    How to fix: restore both from the same save; suspect a crash during the save.

    Example: `latest` was published while a slow rank still wrote its shard.

    Source: DeepSpeed catalogue Z38.
    """
    # A note tells that the values agree, or that there is nothing to compare them with.
    yield from (hit for hit in _problems(subject, "Z38", complete=True) if hit.severity != "note")


@rule("CKP439", "rank-steps-differ", "error", scope="checkpoint", thorough=True)
def rank_steps_differ(subject: Subject) -> Iterator[Hit]:
    """The ranks' optimizer states are of different steps.

    Why it matters: the shards come from different saves: DeepSpeed publishes `latest` without waiting for slow ranks. The
    merged weights would mix two steps.

    How to fix: restore the shards of one save, or take the checkpoint before.

    Example: step 500 on ranks 0 to 6, step 400 on rank 7.

    Source: deepspeed 0.19.8 engine.save_checkpoint has no barrier there; DeepSpeed catalogue Z39.
    """
    yield from (hit for hit in _problems(subject, "Z39") if hit.severity != "note")  # some eras record no step


@rule("CKP440", "frozen-not-recorded", "note", scope="checkpoint", thorough=True)
def frozen_not_recorded(subject: Subject) -> Iterator[Hit]:
    """Parameters stand in the module and in no optimizer record: `zero_to_fp32` drops them.

    Why it matters: under ZeRO-1 DeepSpeed does not record frozen parameters, so its own script leaves them out silently.

    How to fix: use `ckpt-inspect consolidate`, which takes them from the module.

    Example: a frozen embedding under ZeRO-1: 15 tensors come out instead of 18.

    Source: deepspeed 0.19.8 engine._save_checkpoint save_frozen_param; DeepSpeed catalogue Z40.
    """
    if any(problem.level == "error" for problem in _survey(subject)):
        return  # what is in no shard then is missing for another reason
    for hit in _problems(subject, "Z40"):
        yield Hit(hit.path, hit.message, hit.remedy, hit.tensor, "note", hit.evidence)


@rule("CKP441", "alias-without-owner", "note", scope="checkpoint", thorough=True)
def alias_without_owner(subject: Subject) -> Iterator[Hit]:
    """A shared parameter's owner is not in the checkpoint.

    Why it matters: the alias has no values of its own and cannot be restored.

    How to fix: nothing if the owner was frozen and left out on purpose; otherwise the checkpoint is incomplete.

    Example: `lm_head.weight` shares `embed_tokens.weight`, which was excluded.

    Source: deepspeed 0.19.8 shared_params; DeepSpeed catalogue Z41, Z43.
    """
    yield from _problems(subject, "Z41", "Z43")


@rule("CKP460", "universal-incomplete", "error")
def universal_incomplete(subject: Subject) -> Iterator[Hit]:
    """A universal checkpoint lacks states of some parameters.

    Why it matters: the conversion was interrupted; loading it stops or leaves parameters at their initial values.

    How to fix: convert again into an empty directory.

    Example: `zero/lm_head.weight/` without fp32.pt.

    Source: deepspeed 0.19.8 checkpoint/ds_to_universal.py; DeepSpeed catalogue Z50.
    """
    yield from hits(subject, "CKP460")


@rule("CKP461", "universal-leftover", "warning")
def universal_leftover(subject: Subject) -> Iterator[Hit]:
    """A universal checkpoint still has the temporary fragments of its conversion.

    Why it matters: the conversion was cut off, or ran with --keep_temp_folder; `tmp/` holds one file per parameter, state
    and rank.

    How to fix: convert again if states are missing; otherwise delete `tmp/`.

    Example: 1.4 million small files below `tmp/`.

    Source: deepspeed 0.19.8 checkpoint/ds_to_universal.py.
    """
    yield from hits(subject, "CKP461")
