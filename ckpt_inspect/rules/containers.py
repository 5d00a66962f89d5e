"""CKP014 to 034: torch archives, safetensors files and indexes of shards that are not as their formats demand."""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_inspect.rules.faults import hits
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject


@rule("CKP014", "truncated-torch-file", "error")
def truncated_torch_file(subject: Subject) -> Iterator[Hit]:
    """A torch file ends too early.

    Why it matters: torch.load fails with "PytorchStreamReader failed finding central directory". The writer was killed,
    the disk was full, or a copy did not finish.

    How to fix: copy the file again and compare its size with its siblings; otherwise use another checkpoint.

    Example: `optimizer.pt` of 334,336 bytes in a checkpoint whose neighbours have 5 MB.

    Source: APPNOTE 6.3.10 4.3.16; mmdetection issue 4835 and many like it.
    """
    yield from hits(subject, "CKP014")


@rule("CKP015", "inconsistent-archive", "error")
def inconsistent_archive(subject: Subject) -> Iterator[Hit]:
    """The records of a zip archive contradict one another.

    Why it matters: readers differ in which record they believe, so what one tool checked is not what another loads. torch
    never writes such a file; a repacking tool, damage or intent does.

    How to fix: get the file from its source again; do not load this one.

    Example: two members of the same name, or a local header that says another method than the directory.

    Source: APPNOTE 6.3.10; CVE-2025-1944, CVE-2025-1945, CVE-2025-10156.
    """
    yield from hits(subject, "CKP015")


@rule("CKP016", "odd-archive", "note")
def odd_archive(subject: Subject) -> Iterator[Hit]:
    """A torch file has something torch itself does not write, without harm to its content.

    Why it matters: it tells that another tool wrote or changed the file.

    How to fix: nothing has to be done; re-save the file if a loader complains.

    Example: a storage no tensor uses, or an unknown format version.

    Source: torch 2.13 serialization.py.
    """
    yield from hits(subject, "CKP016")


@rule("CKP017", "tensor-outside-storage", "error")
def tensor_outside_storage(subject: Subject) -> Iterator[Hit]:
    """A tensor's description does not fit the bytes it names.

    Why it matters: its storage is missing, shorter than stated, or the view reaches beyond it. Loading fails, or reads
    memory that belongs to something else in old versions of torch.

    How to fix: get the file again; if it comes from others, do not load it.

    Example: a shape of (1000, 1000) over a record of 100 bytes.

    Source: torch 2.13 _utils.py _rebuild_tensor_v2; CVE-2026-24747.
    """
    yield from hits(subject, "CKP017")


@rule("CKP020", "safetensors-truncated", "error")
def safetensors_truncated(subject: Subject) -> Iterator[Hit]:
    """A safetensors file is shorter than its header says.

    Why it matters: every loader refuses it ("incomplete metadata, file not fully covered"). The download or the save did
    not finish.

    How to fix: download or copy it again; compare the size with the Hub's or with a sibling's.

    Example: `model-00002-of-00004.safetensors` cut at 1 GB.

    Source: safetensors 0.8.0 tensor.rs `MetadataIncompleteBuffer`.
    """
    yield from hits(subject, "CKP020")


@rule("CKP021", "safetensors-header", "error")
def safetensors_header(subject: Subject) -> Iterator[Hit]:
    """The header of a safetensors file breaks the format's rules.

    Why it matters: the reference library refuses the file.

    How to fix: write the file again with the safetensors library.

    Example: a data type that does not exist, or offsets that do not fit the shape.

    Source: safetensors 0.8.0 tensor.rs `Metadata::validate`.
    """
    yield from hits(subject, "CKP021")


@rule("CKP022", "safetensors-layout", "error")
def safetensors_layout(subject: Subject) -> Iterator[Hit]:
    """Tensors of a safetensors file overlap, leave holes, or are followed by bytes that belong to none.

    Why it matters: the format demands that the tensors tile the file exactly; hidden bytes are how polyglot files are made.

    How to fix: write the file again with the safetensors library; do not trust one from others.

    Example: a second file appended to the first.

    Source: safetensors 0.8.0 tensor.rs; Trail of Bits audit, 2023.
    """
    yield from hits(subject, "CKP022")


@rule("CKP023", "safetensors-duplicate-name", "error")
def safetensors_duplicate_name(subject: Subject) -> Iterator[Hit]:
    """Two tensors of a safetensors file have the same name.

    Why it matters: the reference library takes the last and says nothing; another parser takes the first. What an auditor
    sees is not what is loaded.

    How to fix: do not use the file.

    Example: `{"w": ..., "\\u0077": ...}`.

    Source: safetensors format description (README, "Duplicate keys are disallowed"); the library itself accepts
    them in 0.8.0.
    """
    yield from hits(subject, "CKP023")


@rule("CKP024", "safetensors-odd", "warning")
def safetensors_odd(subject: Subject) -> Iterator[Hit]:
    """A safetensors file is readable but unusual: padding, unknown fields, strange names, alignment.

    Why it matters: some parsers refuse it, and misaligned tensors load more slowly or not at all through mmap.

    How to fix: write the file again with the safetensors library.

    Example: a header that begins with spaces, or an F64 tensor at an odd offset.

    Source: safetensors README and 0.8.0 serializer.
    """
    yield from hits(subject, "CKP024")


@rule("CKP030", "shard-missing", "error")
def shard_missing(subject: Subject) -> Iterator[Hit]:
    """A shard that the index names is not there, or shards have no index.

    Why it matters: from_pretrained stops; an upload or download did not finish.

    How to fix: fetch the missing file; if it is lost, use another checkpoint.

    Example: `model.safetensors.index.json` names four shards, three are there.

    Source: transformers 5.23 utils/hub.py get_checkpoint_shard_files.
    """
    yield from hits(subject, "CKP030")


@rule("CKP031", "shard-not-in-index", "warning")
def shard_not_in_index(subject: Subject) -> Iterator[Hit]:
    """A file looks like a shard and the index does not name it.

    Why it matters: it is left over from an earlier save with another number of shards, takes space, and confuses tools that
    glob for shards.

    How to fix: delete it after checking that the index is the newer of the two.

    Example: `model-00003-of-00003.safetensors` beside an index of two shards.

    Source: transformers 5.23.0 modeling_utils.py save_pretrained removes shards of an earlier save; copies and
    other writers do not.
    """
    yield from hits(subject, "CKP031")


@rule("CKP032", "index-disagrees", "error")
def index_disagrees(subject: Subject) -> Iterator[Hit]:
    """The index places tensors where they are not.

    Why it matters: index and shards come from different saves; loading misses tensors or takes old ones.

    How to fix: copy index and shards together from one save.

    Example: the index says `lm_head.weight` is in shard 2, it is in shard 3.

    Source: transformers 5.23.0 modeling_utils.py from_pretrained: a tensor is read from the shard weight_map names.
    """
    yield from hits(subject, "CKP032")


@rule("CKP033", "index-total-size", "warning")
def index_total_size(subject: Subject) -> Iterator[Hit]:
    """`total_size` in the index is not the sum of the tensors' bytes.

    Why it matters: the index belongs to another save or was edited; tools that plan memory by it are misled.

    How to fix: write the index again (save_pretrained does), or correct the number.

    Example: total_size 14 GB over 28 GB of float32 tensors.

    Source: huggingface_hub split_torch_state_dict_into_shards writes the sum.
    """
    yield from hits(subject, "CKP033")


@rule("CKP034", "index-broken", "error")
def index_broken(subject: Subject) -> Iterator[Hit]:
    """An index has no weight_map, or one that is not a map of tensor names to file names.

    Why it matters: no loader can use it.

    How to fix: fetch it again, or save the model again.

    Example: `{"weight_map": []}`.

    Source: transformers 5.23 utils/hub.py.
    """
    yield from hits(subject, "CKP034")
