"""CKP001 to 013: files and structure, what is missing, empty, or not what its name says."""

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

    Source: transformers 5.23.0 trainer.py Trainer._load_from_checkpoint: "Can't find a valid checkpoint at".
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

    Source: seen after a full disk and interrupted copies; no library writes an empty file here.
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

    Source: the git-lfs pointer file format, https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
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

    Source: the first bytes of torch, safetensors, JSON, HTML and git-lfs files.
    """
    seen = set()
    for hit in hits(subject, "CKP013"):
        seen.add(hit.path)
        yield hit
    for artifact in subject.place.artifacts:
        if artifact.kind == "error_page" and artifact.path not in seen:
            yield Hit(artifact.path, f"{printable(artifact.name, 60)} is a web page, not the file.")
