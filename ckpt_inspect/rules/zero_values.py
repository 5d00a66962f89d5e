"""CKP425 to 441: whether DeepSpeed's shards fit together, by their sizes, shapes, steps and values."""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_inspect.rules.finding import Hit, Severity
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.shards import planned, survey
from ckpt_inspect.rules.subject import Subject


@rule("CKP425", "shard-sizes-differ", "warning", scope="checkpoint")
def shard_sizes_differ(subject: Subject) -> Iterator[Hit]:
    """The optimizer shards of one tag differ in size by more than their pickles can explain.

    Why it matters: partitions are padded to the same length on every rank, so a smaller file was written in part, or comes
    from another save.

    How to fix: copy the files that stand out again.

    Example: 2.4 GB on seven ranks, 1.9 GB on the eighth.

    Source: deepspeed 0.19.8 runtime/zero/stage_1_and_2.py and stage3.py: flat partitions are padded to the same
    length on every rank.
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

    Source: torch 2.13 serialization.py skip_data writes such files; so does a copy that lost the blocks of a sparse
    file.
    """
    for hit in planned(subject, "Z26", complete=True):
        # Zeros may be those of an adapter that was never trained; what is not finite has a tensor's name.
        severity: Severity = "error" if hit.tensor else "warning"
        yield Hit(hit.path, hit.message, hit.remedy, hit.tensor, severity, hit.evidence)


@rule("CKP427", "mixed-saves", "error", scope="checkpoint", thorough=True)
def mixed_saves(subject: Subject) -> Iterator[Hit]:
    """Files of one tag disagree on the ZeRO stage, the parameters' shapes or their groups.

    Why it matters: they come from different saves or runs; `zero_to_fp32` checks none of it and merges them silently.

    How to fix: restore all files of one save.

    Example: param_shapes of rank 0 and rank 1 list different tensors.

    Source: deepspeed 0.19.8 utils/zero_to_fp32.py parse_optim_states reads zero_stage and partition_count of the
    first file only, and joins groups with zip().
    """
    yield from planned(subject, "Z27", "Z30", "Z33")


@rule("CKP428", "mixed-deepspeed-versions", "warning", scope="checkpoint", thorough=True)
def mixed_versions(subject: Subject) -> Iterator[Hit]:
    """Files of one tag were written by different DeepSpeed versions.

    Why it matters: ranks ran in different environments, or files of two saves are mixed.

    How to fix: use the same environment on all nodes; check that all files are of one save.

    Example: ds_version 0.14.5 on rank 0, 0.16.7 on rank 4.

    Source: deepspeed 0.19.8 runtime/engine.py: every file of a save holds ds_version.
    """
    yield from planned(subject, "Z28")


@rule("CKP431", "partition-sums", "error", scope="checkpoint", thorough=True)
def partition_sums(subject: Subject) -> Iterator[Hit]:
    """The lengths of the partitions do not add up to the parameters.

    Why it matters: elements are missing or belong elsewhere: DeepSpeed says "consumed N numels out of M". Merging anyway
    shifts every later tensor.

    How to fix: find the file of another save or world size among the shards; see the numbers with `consolidate --plan`.

    Example: 30 + 29 elements saved for 60 wanted.

    Source: deepspeed 0.19.8 utils/zero_to_fp32.py _get_fp32_state_dict_from_zero2_checkpoint,
    _get_fp32_state_dict_from_zero3_checkpoint.
    """
    yield from planned(subject, "Z31", "Z32", "Z35", "coverage")


@rule("CKP434", "slice-addresses", "note", scope="checkpoint", thorough=True)
def slice_addresses(subject: Subject) -> Iterator[Hit]:
    """The addresses DeepSpeed recorded for its fragments disagree with the order of the parameters.

    Why it matters: under round_robin_gradients DeepSpeed records wrong ones, and ds_to_universal follows them silently.
    Elsewhere it means that the layout is not understood.

    How to fix: use `consolidate`, which arbitrates with the module's values, not ds_to_universal.

    Example: 10 of 15 parameters converted to wrong weights, measured with 3 ranks.

    Source: deepspeed 0.19.8 runtime/zero/stage_1_and_2.py _link_all_hp_params, utils/mixed_precision_linkage.py.
    """
    for hit in planned(subject, "Z34"):
        yield Hit(hit.path, hit.message, hit.remedy, hit.tensor, "note", hit.evidence)


@rule("CKP437", "master-not-float32", "note", scope="checkpoint", thorough=True)
def master_not_float32(subject: Subject) -> Iterator[Hit]:
    """The master weights are not float32.

    Why it matters: a float32 output has no more precision than they have; mixed types across ranks mean damage.

    How to fix: nothing if bf16_master_weights_and_grads or its fp16 twin was meant.

    Example: `single_partition_of_fp32_groups` of bfloat16 tensors.

    Source: deepspeed 0.19.8 runtime/zero/stage_1_and_2.py fp16_master_weights_and_gradients.
    """
    for hit in planned(subject, "Z37"):
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

    Source: deepspeed 0.19.8 runtime/zero/stage_1_and_2.py step: the 16-bit module is the rounded master after each
    update.
    """
    # A note tells that the values agree, or that there is nothing to compare them with.
    yield from (hit for hit in planned(subject, "Z38", complete=True) if hit.severity != "note")


@rule("CKP439", "rank-steps-differ", "error", scope="checkpoint", thorough=True)
def rank_steps_differ(subject: Subject) -> Iterator[Hit]:
    """The ranks' optimizer states are of different steps.

    Why it matters: the shards come from different saves: DeepSpeed publishes `latest` without waiting for slow ranks. The
    merged weights would mix two steps.

    How to fix: restore the shards of one save, or take the checkpoint before.

    Example: step 500 on ranks 0 to 6, step 400 on rank 7.

    Source: deepspeed 0.19.8 runtime/engine.py DeepSpeedEngine.save_checkpoint writes `latest` on rank 0 without
    waiting for all ranks' files.
    """
    yield from (hit for hit in planned(subject, "Z39") if hit.severity != "note")  # some eras record no step


@rule("CKP440", "frozen-not-recorded", "note", scope="checkpoint", thorough=True)
def frozen_not_recorded(subject: Subject) -> Iterator[Hit]:
    """Parameters stand in the module and in no optimizer record: `zero_to_fp32` drops them.

    Why it matters: under ZeRO-1 DeepSpeed does not record frozen parameters, so its own script leaves them out silently.

    How to fix: use `ckpt-inspect consolidate`, which takes them from the module.

    Example: a frozen embedding under ZeRO-1: 15 tensors come out instead of 18.

    Source: deepspeed 0.19.8 runtime/engine.py DeepSpeedEngine._save_checkpoint: save_frozen_param,
    frozen_param_fragments.
    """
    if any(problem.level == "error" for problem in survey(subject)):
        return  # what is in no shard then is missing for another reason
    for hit in planned(subject, "Z40"):
        yield Hit(hit.path, hit.message, hit.remedy, hit.tensor, "note", hit.evidence)


@rule("CKP441", "alias-without-owner", "note", scope="checkpoint", thorough=True)
def alias_without_owner(subject: Subject) -> Iterator[Hit]:
    """A shared parameter's owner is not in the checkpoint.

    Why it matters: the alias has no values of its own and cannot be restored.

    How to fix: nothing if the owner was frozen and left out on purpose; otherwise the checkpoint is incomplete.

    Example: `lm_head.weight` shares `embed_tokens.weight`, which was excluded.

    Source: deepspeed 0.19.8 runtime/engine.py DeepSpeedEngine._get_shared_params.
    """
    yield from planned(subject, "Z41", "Z43")
