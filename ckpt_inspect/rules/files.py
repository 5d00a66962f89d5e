"""CKP0xx: files and structure, what is missing, cut off, or not what its name says."""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_inspect.printable import printable
from ckpt_inspect.rules.faults import hits
from ckpt_inspect.rules.finding import Hit, capitalised
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject

_WEIGHTS = (
    "model_weights",
    "pytorch_weights",
    "adapter_weights",
    "fsdp_full_weights",
    "fsdp_model_rank",
    "gguf_weights",
)
_SHARDS = ("dcp_model_metadata", "dcp_model_shard", "dcp_metadata", "dcp_shard")


@rule("CKP001", "no-weights", "error", scope="checkpoint")
def no_weights(subject: Subject) -> Iterator[Hit]:
    """A checkpoint directory holds no weights of any kind.

    Why it matters: it can be neither used nor resumed; transformers stops with "Can't find a valid checkpoint". A save
    that was killed or ran out of disk leaves exactly this.

    How to fix: use another checkpoint, and delete this one so that `resume_from_checkpoint=True` does not pick it.

    Example: `checkpoint-6` with only config.json and generation_config.json, after the disk was full.

    Source: transformers 5.23 Trainer._load_from_checkpoint; trainer rule catalogue 1.
    """
    place = subject.checkpoint
    if place.has(*_WEIGHTS) or place.tags or place.form == "tag" or place.universal is not None:
        return
    if any(artifact.kind in _SHARDS for artifact in place.artifacts):
        return
    names = sorted(printable(artifact.name, 40) for artifact in place.artifacts)
    held = ", ".join(names[:6]) + (" and more" if len(names) > 6 else "") if names else "nothing"
    yield Hit(place.path, f"There are no weights in this checkpoint; it holds {held}.", evidence={"files": len(names)})


@rule("CKP002", "step-mismatch", "error", scope="checkpoint")
def step_mismatch(subject: Subject) -> Iterator[Hit]:
    """The step in a checkpoint's name is not the step its trainer_state.json states.

    Why it matters: the directory was renamed, or the state was copied from another checkpoint. A resume goes on from the
    step in the file, with the weights of another.

    How to fix: give the directory the number in trainer_state.json, or discard it if files of two checkpoints are mixed.

    Example: `checkpoint-500` whose trainer_state.json says global_step 400.

    Source: transformers 5.23 Trainer._save_checkpoint names the directory by state.global_step.
    """
    place = subject.checkpoint
    state = place.trainer_state
    if state is None or state.global_step is None or place.named_step is None or place.form != "checkpoint":
        return
    if state.global_step != place.named_step:
        yield Hit(
            place.path,
            f"The directory is called {printable(place.name, 60)}, its trainer_state.json says step {state.global_step}.",
            evidence={"name": place.named_step, "global_step": state.global_step},
        )


@rule("CKP003", "unfinished-staging", "warning", scope="checkpoint")
def unfinished_staging(subject: Subject) -> Iterator[Hit]:
    """A directory is still called tmp-checkpoint-N: its save never finished.

    Why it matters: transformers 4.36 to 4.38 wrote a checkpoint under this name and renamed it last, so it was cut off, or
    several nodes raced for the rename. Nothing finds it under this name, and rotation does not count its space.

    How to fix: compare it with its neighbours; delete it if files are missing, rename it if it is whole.

    Example: `tmp-checkpoint-1500` beside `checkpoint-1000`.

    Source: transformers issues 27925, 28119, PR 28848.
    """
    place = subject.checkpoint
    if place.form == "tmp_checkpoint":
        yield Hit(place.path, f"{printable(place.name, 60)} was never renamed: the save was cut off.")


@rule("CKP004", "incomplete-marker", "error", scope="checkpoint")
def incomplete_marker(subject: Subject) -> Iterator[Hit]:
    """checkpoint-is-incomplete.txt is present: the trainer itself says the save did not finish.

    Why it matters: transformers 5.x writes this file before a just-in-time save and removes it after success.

    How to fix: resume from an earlier checkpoint and delete this one.

    Example: a job that was pre-empted while saving.

    Source: transformers 5.23 trainer_jit_checkpoint.
    """
    marker = subject.checkpoint.find("incomplete_marker")
    if marker is not None:
        yield Hit(marker.path, "The save of this checkpoint was started and never finished.")


@rule("CKP005", "interrupted-save", "error", scope="checkpoint")
def interrupted_save(subject: Subject) -> Iterator[Hit]:
    """A checkpoint of the Trainer has no trainer_state.json, although others of the same run have one.

    Why it matters: since transformers 4.36 this file is written last, so the save was interrupted before its end. A resume
    stops with FileNotFoundError, and other files of this checkpoint may be cut off too.

    How to fix: resume from an earlier checkpoint; keep this one's weights only after checking them with --deep.

    Example: kill -9 while optimizer.pt is written leaves weights, half an optimizer, and no trainer_state.json.

    Source: transformers 5.23 Trainer._save_checkpoint (order of writes); issues 29059, 35782.
    """
    place = subject.checkpoint
    if place.has("trainer_state") or place.form != "checkpoint":
        return
    others = [other for other in subject.run.checkpoints if other is not place and other.has("trainer_state")]
    if not others and not place.has("training_args"):
        return
    wanted = sorted(
        {artifact.name for other in others for artifact in other.artifacts if artifact.parent == other.path}
    )
    missing = [name for name in wanted if place.tree.get(f"{place.path}/{name}".lstrip("/")) is None]
    lacking = ", ".join(printable(name, 40) for name in missing[:6]) or "trainer_state.json"
    more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
    verb = "are" if len(missing) > 1 else "is"
    yield Hit(
        place.path,
        f"The save was interrupted: {lacking}{more} {verb} missing here.",
        evidence={"missing": missing[:20]},
    )


@rule("CKP006", "two-weight-formats", "warning")
def two_weight_formats(subject: Subject) -> Iterator[Hit]:
    """The same weights stand in two formats, or a whole file stands beside the index of shards.

    Why it matters: loaders prefer safetensors and a single file; the other set is easily stale, and doubles the space.

    How to fix: delete the set you do not want, usually the older one.

    Example: `model.safetensors` beside `pytorch_model.bin`, or beside `model.safetensors.index.json`.

    Source: transformers 5.23 modeling_utils._get_resolved_checkpoint_files; peft 0.21.2 load_peft_weights.
    """
    place = subject.place
    names = {artifact.name for artifact in place.artifacts if artifact.parent == place.path and artifact.exact}
    pairs = (
        ("model.safetensors", "pytorch_model.bin"),
        ("model.safetensors", "model.safetensors.index.json"),
        ("model.safetensors", "pytorch_model.bin.index.json"),
        ("model.safetensors.index.json", "pytorch_model.bin.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
        ("adapter_model.safetensors", "adapter_model.bin"),
    )
    for first, second in pairs:
        if first in names and second in names:
            path = f"{place.path}/{second}".lstrip("/")
            yield Hit(path, f"{first} and {second} are both here; loaders read {first}.", evidence={"preferred": first})


@rule("CKP010", "unreadable-file", "error")
def unreadable_file(subject: Subject) -> Iterator[Hit]:
    """A file is there and cannot be read.

    Why it matters: nothing that needs it can be checked, so no statement about the rest of the directory is complete.

    How to fix: see the reason given: permissions, a broken link, a device or FIFO in the place of a file, an I/O error.

    Example: a checkpoint copied as another user, with mode 000.

    Source: the operating system's own error.
    """
    yield from hits(subject, "CKP010")
    if not subject.is_root:
        return
    for artifact in subject.run.all_artifacts:
        if artifact.kind in ("unreadable", "broken_link", "special_file"):
            entry = subject.run.tree.get(artifact.path)
            reason = printable(entry.problem, 200) if entry is not None and entry.problem else "cannot be read"
            yield Hit(artifact.path, f"{capitalised(reason)}.")


@rule("CKP011", "empty-file", "error")
def empty_file(subject: Subject) -> Iterator[Hit]:
    """A file that must hold something is 0 bytes long.

    Why it matters: the process was stopped between creating and writing it, or the disk was full.

    How to fix: copy the file again, or use another checkpoint; check the free space where it was written.

    Example: `optimizer.pt` of 0 bytes after "No space left on device".

    Source: trainer rule catalogue 13.
    """
    seen = set()
    for hit in hits(subject, "CKP011"):
        seen.add(hit.path)
        yield hit
    for artifact in subject.place.artifacts:
        if artifact.kind == "latest":
            continue  # CKP402 tells what an empty one means
        if artifact.bytes == 0 and artifact.needed_for and artifact.path not in seen and artifact.exact:
            entry = subject.run.tree.get(artifact.path)
            if entry is not None and entry.kind == "file":
                yield Hit(artifact.path, f"{printable(artifact.name, 60)} is empty.", evidence={"bytes": 0})


@rule("CKP012", "lfs-pointer", "error")
def lfs_pointer(subject: Subject) -> Iterator[Hit]:
    """A git-LFS pointer stands where the file should be.

    Why it matters: the repository was cloned without git-lfs, so the file is 130 bytes of text naming the real one.

    How to fix: `git lfs install && git lfs pull`, or download the repository with the Hub's own client.

    Example: a `model.safetensors` that begins with "version https://git-lfs.github.com/spec/v1".

    Source: git-lfs specification; trainer rule catalogue 13, DeepSpeed catalogue Z20.
    """
    seen = set()
    for hit in hits(subject, "CKP012"):
        seen.add(hit.path)
        yield hit
    for artifact in subject.place.artifacts:
        if artifact.kind == "lfs_pointer" and artifact.path not in seen:
            yield Hit(artifact.path, f"{printable(artifact.name, 60)} is a git-LFS pointer, not the file.")


@rule("CKP013", "wrong-content", "error")
def wrong_content(subject: Subject) -> Iterator[Hit]:
    """A file does not hold what its name promises.

    Why it matters: a web page saved in place of a download, a renamed file, or a state of another kind loads with an
    obscure message or not at all.

    How to fix: fetch the right file again.

    Example: `pytorch_model.bin` that is an HTML page saying "401 Unauthorized".

    Source: first bytes of the file; DeepSpeed catalogue Z20.
    """
    seen = set()
    for hit in hits(subject, "CKP013"):
        seen.add(hit.path)
        yield hit
    for artifact in subject.place.artifacts:
        if artifact.kind == "error_page" and artifact.path not in seen:
            yield Hit(artifact.path, f"{printable(artifact.name, 60)} is a web page, not the file.")


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

    Source: torch 2.13 `_rebuild_tensor_v2`; CVE-2026-24747; DeepSpeed catalogue Z23.
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

    Source: safetensors README forbids it; safetensors 0.8.0 accepts it (measured).
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

    Source: trainer rule catalogue 10.
    """
    yield from hits(subject, "CKP031")


@rule("CKP032", "index-disagrees", "error")
def index_disagrees(subject: Subject) -> Iterator[Hit]:
    """The index places tensors where they are not.

    Why it matters: index and shards come from different saves; loading misses tensors or takes old ones.

    How to fix: copy index and shards together from one save.

    Example: the index says `lm_head.weight` is in shard 2, it is in shard 3.

    Source: transformers 5.23 modeling_utils; trainer rule catalogue 10.
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


@rule("CKP040", "json-truncated", "error")
def json_truncated(subject: Subject) -> Iterator[Hit]:
    """A JSON file ends in the middle.

    Why it matters: the writer was stopped or the copy is partial. What stands before the cut was still read.

    How to fix: take the file from another checkpoint or copy it again.

    Example: a trainer_state.json that ends inside log_history: the Trainer cannot resume from it.

    Source: RFC 8259; trainer rule catalogue 24.
    """
    yield from hits(subject, "CKP040")


@rule("CKP041", "json-broken", "error")
def json_broken(subject: Subject) -> Iterator[Hit]:
    """A JSON file does not follow the grammar.

    Why it matters: Python's json module stops at it, so transformers and PEFT do.

    How to fix: correct the place named, usually a hand edit.

    Example: a trailing comma in adapter_config.json.

    Source: RFC 8259.
    """
    yield from hits(subject, "CKP041")


@rule("CKP042", "json-duplicate-key", "warning")
def json_duplicate_key(subject: Subject) -> Iterator[Hit]:
    """A JSON object names the same key twice.

    Why it matters: most parsers take the last value, some the first; tools then disagree about the file.

    How to fix: remove the one that is not meant.

    Example: two `eos_token` entries in tokenizer_config.json.

    Source: RFC 8259 section 4.
    """
    yield from hits(subject, "CKP042")


@rule("CKP043", "json-nan", "note")
def json_nan(subject: Subject) -> Iterator[Hit]:
    """A JSON file holds the tokens NaN or Infinity, which JSON does not have.

    Why it matters: Python writes and reads them, strict parsers (jq, browsers, most other languages) refuse the file. In a
    trainer_state.json they usually tell of a NaN loss or gradient norm.

    How to fix: nothing for Python; look at the value they stand for.

    Example: `"grad_norm": NaN`.

    Source: json.dumps default allow_nan=True; transformers 5.23 TrainerState.save_to_json.
    """
    yield from hits(subject, "CKP043")


@rule("CKP044", "json-odd", "warning")
def json_odd(subject: Subject) -> Iterator[Hit]:
    """A JSON file is readable but unusual: a byte order mark, another encoding, huge numbers, lone surrogates.

    Why it matters: other readers stop at it or read another value.

    How to fix: save it as UTF-8 without a byte order mark; correct the number named.

    Example: a file edited with an old Windows editor.

    Source: RFC 8259 section 8.1.
    """
    yield from hits(subject, "CKP044")


@rule("CKP045", "field-type", "warning")
def field_type(subject: Subject) -> Iterator[Hit]:
    """A field has a type the library never writes there.

    Why it matters: the value was edited or comes from another tool; the library fails on it later, or ignores it.

    How to fix: correct the field named.

    Example: `"global_step": "500"`, a text.

    Source: the dataclasses of transformers 5.23 and peft 0.21.2.
    """
    yield from hits(subject, "CKP045")
