"""CKP40x to 42x: DeepSpeed's tags, ranks and files. The checks are those `consolidate` makes before it writes."""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_inspect.rules.faults import hits
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.shards import planned
from ckpt_inspect.rules.subject import Subject


@rule("CKP401", "no-tag", "error", scope="checkpoint", thorough=True)
def no_tag(subject: Subject) -> Iterator[Hit]:
    """There is no tag directory to load, or several and nothing says which.

    Why it matters: DeepSpeed loads the directory that `latest` names; without it a resume stops.

    How to fix: write the tag's name into a file `latest`, or pass --tag.

    Example: `checkpoint-500` with `latest` and no `global_step500`.

    Source: deepspeed 0.19.8 runtime/engine.py DeepSpeedEngine.load_checkpoint.
    """
    yield from planned(subject, "Z01")


@rule("CKP402", "latest-unusable", "error")
def latest_unusable(subject: Subject) -> Iterator[Hit]:
    """The file `latest` is empty or does not hold a tag.

    Why it matters: it is written in place, without a rename; a crash at that moment leaves it empty, and an empty tag means
    the checkpoint directory itself.

    How to fix: write the name of the newest complete tag directory into it.

    Example: a `latest` of 0 bytes beside a whole `global_step500`.

    Source: deepspeed 0.19.8 runtime/engine.py DeepSpeedEngine.save_checkpoint writes `latest` in place.
    """
    yield from hits(subject, "CKP402")


@rule("CKP403", "latest-names-nothing", "error", scope="checkpoint", thorough=True)
def latest_names_nothing(subject: Subject) -> Iterator[Hit]:
    """`latest` names a tag directory that is not there.

    Why it matters: the directory was moved, rotated away or not copied; DeepSpeed cannot load the checkpoint.

    How to fix: restore the directory, or let `latest` name one that is complete.

    Example: `latest` says global_step900, only global_step800 is here.

    Source: deepspeed 0.19.8 runtime/engine.py DeepSpeedEngine.load_checkpoint.
    """
    yield from planned(subject, "Z03")


@rule("CKP404", "latest-is-not-newest", "warning", scope="checkpoint", thorough=True)
def latest_is_not_newest(subject: Subject) -> Iterator[Hit]:
    """A newer tag directory than the one `latest` names is here.

    Why it matters: a save was cut off before `latest` was written, or save_latest was off. A resume goes back to the older.

    How to fix: check the newer one with `consolidate --plan --tag`; use it if it is whole, delete it if not.

    Example: `latest` global_step800, and a half-written global_step900.

    Source: deepspeed 0.19.8 runtime/engine.py DeepSpeedEngine.save_checkpoint writes `latest` last.
    """
    yield from (hit for hit in planned(subject, "Z04") if hit.severity != "note")  # an older tag was opened by name


@rule("CKP406", "step-counts-differ", "note", scope="checkpoint", thorough=True)
def step_counts_differ(subject: Subject) -> Iterator[Hit]:
    """The checkpoint's name and DeepSpeed's own step count differ.

    Why it matters: the engine counts its own steps, which differ after a resume, a change of accumulation, or skipped fp16
    steps. If none of these happened, shards of another checkpoint lie here.

    How to fix: nothing if one of these happened.

    Example: checkpoint-500 holds global_step498 after two skipped steps.

    Source: deepspeed 0.19.8 runtime/engine.py: the tag is global_step with the engine's own count, global_steps.
    """
    yield from planned(subject, "Z06", "Z07")


@rule("CKP408", "leftover-tag", "note", scope="checkpoint", thorough=True)
def leftover_tag(subject: Subject) -> Iterator[Hit]:
    """A checkpoint of the Trainer holds more than one tag directory.

    Why it matters: only one is loaded; the others are left over from an earlier save into the same directory and take space.

    How to fix: delete those `latest` does not name.

    Example: global_step400 and global_step500 in checkpoint-500.

    Source: deepspeed 0.19.8 runtime/engine.py DeepSpeedEngine.save_checkpoint adds a tag directory and removes
    none.
    """
    yield from planned(subject, "Z08")


@rule("CKP410", "missing-rank", "error", scope="checkpoint", thorough=True)
def missing_rank(subject: Subject) -> Iterator[Hit]:
    """The shards of one or more ranks are missing.

    Why it matters: each rank holds its own part of the float32 weights and moments; without it the checkpoint can be neither
    resumed nor consolidated.

    How to fix: copy the files of the ranks named from the node they ran on.

    Example: node-local storage on two nodes, and only one was copied.

    Source: deepspeed 0.19.8 runtime/engine.py _get_zero_ckpt_name: one file per data-parallel rank.
    """
    yield from planned(subject, "Z10", "Z17")


@rule("CKP411", "extra-rank", "error", scope="checkpoint", thorough=True)
def extra_rank(subject: Subject) -> Iterator[Hit]:
    """There are shards of more ranks than the checkpoint was saved with.

    Why it matters: a smaller job overwrote the tag of a larger one; the shards that are left over belong to other weights.

    How to fix: delete the files of the ranks named after checking that they are the older ones.

    Example: 8 ranks, then 4 ranks into the same global_step1000.

    Source: deepspeed 0.19.8 utils/zero_to_fp32.py get_optim_files, "Expected N of ... but found M".
    """
    yield from planned(subject, "Z11")


@rule("CKP412", "mixed-world-sizes", "error", scope="checkpoint", thorough=True)
def mixed_world_sizes(subject: Subject) -> Iterator[Hit]:
    """Files of one tag were saved by jobs of different size or precision.

    Why it matters: partitions of different worlds do not fit together; merged, they give weights shifted against one another.

    How to fix: restore all files of one save.

    Example: partition_count 4 in rank 0, 8 in rank 5; or bf16_ files beside plain ones.

    Source: deepspeed 0.19.8 runtime/zero/stage_1_and_2.py state_dict: partition_count.
    """
    yield from planned(subject, "Z12", "Z13", "Z14")


@rule("CKP415", "parallel-layout", "note", scope="checkpoint", thorough=True)
def parallel_layout(subject: Subject) -> Iterator[Hit]:
    """The checkpoint is of a tensor-parallel, pipeline or expert model, which is recognised and not merged.

    Why it matters: `zero_to_fp32` fails on such checkpoints or gives wrong weights; `consolidate` refuses them.

    How to fix: convert with DeepSpeed's ds_to_universal, or use the 16-bit module where it is complete.

    Example: `layer_00-model_states.pt` of a PipelineModule.

    Source: deepspeed 0.19.8 runtime/pipe/module.py PipelineModule, moe/layer.py.
    """
    for hit in planned(subject, "Z15", "Z16", "layout"):
        yield Hit(hit.path, hit.message, hit.remedy, hit.tensor, "note", hit.evidence)


@rule("CKP420", "shard-unreadable", "error", scope="checkpoint", thorough=True)
def shard_unreadable(subject: Subject) -> Iterator[Hit]:
    """A shard cannot be read, is cut off, or does not hold what DeepSpeed writes.

    Why it matters: the checkpoint can be neither resumed nor consolidated.

    How to fix: copy the file named again; compare its size with the other ranks'.

    Example: rank 3's file is 1.1 GB, all others are 2.4 GB.

    Source: torch 2.13 torch/serialization.py: a zip archive, or the legacy stream; git-lfs pointers and HTML pages
    stand in their place after failed downloads.
    """
    yield from planned(subject, "Z20", "Z21", "Z22", "Z23", "key")
