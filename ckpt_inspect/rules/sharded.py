"""CKP45x and 46x: FSDP, torch distributed and universal checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_inspect.rules.faults import hits
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject


@rule("CKP450", "dcp-unfinished", "error")
def dcp_unfinished(subject: Subject) -> Iterator[Hit]:
    """A distributed checkpoint has shards and no `.metadata`, or a `.metadata.tmp`.

    Why it matters: `.metadata` is written last and says where each tensor is; without it the save did not finish and nothing
    can load it.

    How to fix: use the checkpoint before; if only a copy left out the hidden file, copy it too.

    Example: `cp out/* backup/` skips names that begin with a dot.

    Source: torch 2.13 distributed/checkpoint/filesystem.py FileSystemWriter.finish: .metadata.tmp is renamed at the
    very end.
    """
    yield from hits(subject, "CKP450")


@rule("CKP451", "dcp-metadata", "error")
def dcp_metadata(subject: Subject) -> Iterator[Hit]:
    """The metadata of a distributed checkpoint is not what torch writes.

    Why it matters: the tensors it describes cannot be found.

    How to fix: restore the file, or use another checkpoint.

    Example: a `.metadata` that is a pickle of another class.

    Source: torch 2.13 distributed/checkpoint/metadata.py.
    """
    yield from hits(subject, "CKP451")


@rule("CKP452", "dcp-tiling", "error")
def dcp_tiling(subject: Subject) -> Iterator[Hit]:
    """The chunks of a tensor leave gaps or overlap.

    Why it matters: elements are missing or stated twice; torch fills gaps with whatever memory held.

    How to fix: restore all files of one save.

    Example: two of three row blocks of a matrix.

    Source: torch 2.13 distributed/checkpoint/default_planner.py _validate_global_plan.
    """
    yield from hits(subject, "CKP452")


@rule("CKP453", "dcp-files", "error")
def dcp_files(subject: Subject) -> Iterator[Hit]:
    """A `.distcp` file is missing, unused, or of another save.

    Why it matters: tensors whose chunks it holds cannot be loaded; an unused one is left over from a larger job.

    How to fix: copy the files of all ranks; delete those the metadata does not name.

    Example: `__3_0.distcp` is missing after a partial copy.

    Source: torch 2.13 distributed/checkpoint/filesystem.py: the files _StorageInfo.relative_path names.
    """
    yield from hits(subject, "CKP453")


@rule("CKP454", "dcp-item-bounds", "error")
def dcp_item_bounds(subject: Subject) -> Iterator[Hit]:
    """An item of a distributed checkpoint lies beyond the end of its file, or over another item.

    Why it matters: the file is cut off, or is of another save than the metadata.

    How to fix: copy the file again.

    Example: an item at byte 600,000 of a file of 400,000 bytes.

    Source: torch 2.13 distributed/checkpoint/filesystem.py _StorageInfo: offset and length of each item.
    """
    yield from hits(subject, "CKP454")


@rule("CKP455", "fsdp-parts", "warning")
def fsdp_parts(subject: Subject) -> Iterator[Hit]:
    """An FSDP checkpoint lacks its model part, or files of some ranks.

    Why it matters: it can be neither loaded nor merged.

    How to fix: copy the files of all ranks.

    Example: `optimizer_0/` without `pytorch_model_fsdp_0/`.

    Source: accelerate 1.15 utils/fsdp_utils.py.
    """
    yield from hits(subject, "CKP455")


@rule("CKP460", "universal-incomplete", "error")
def universal_incomplete(subject: Subject) -> Iterator[Hit]:
    """A universal checkpoint lacks states of some parameters.

    Why it matters: the conversion was interrupted; loading it stops or leaves parameters at their initial values.

    How to fix: convert again into an empty directory.

    Example: `zero/lm_head.weight/` without fp32.pt.

    Source: deepspeed 0.19.8 checkpoint/ds_to_universal.py: one directory per parameter, merged from tmp/.
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
