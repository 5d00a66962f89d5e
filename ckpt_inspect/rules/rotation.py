"""CKP7xx: what the Trainer's rotation would count and delete, and what is left over."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from ckpt_inspect.explain.space import size
from ckpt_inspect.printable import printable
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject


@rule("CKP701", "renamed-checkpoint", "warning", scope="checkpoint")
def renamed_checkpoint(subject: Subject) -> Iterator[Hit]:
    """A directory called checkpoint-N-something is counted, and deleted, as a checkpoint by save_total_limit.

    Why it matters: rotation looks at every name that begins with `checkpoint-` and a number, although a resume does not find
    it: a copy you kept "safe" under such a name goes first.

    How to fix: give it a name that begins differently, such as `best-checkpoint-500`.

    Example: `checkpoint-500-merged`.

    Source: transformers 5.23 trainer_utils.sort_checkpoints (glob `checkpoint-*`).
    """
    place = subject.checkpoint
    if place.form == "renamed_checkpoint":
        yield Hit(
            place.path,
            f"{printable(place.name, 80)} would be deleted by save_total_limit as checkpoint {place.named_step}.",
        )


@rule("CKP702", "checkpoint-order", "note", scope="run")
def checkpoint_order(subject: Subject) -> Iterator[Hit]:
    """The checkpoints' modification times are not in the order of their steps.

    Why it matters: transformers up to 4.37 and from 4.52 on deletes the oldest by time: after a copy, that can be the newest.

    How to fix: `touch` the directories in the order of their steps before training goes on, or raise save_total_limit.

    Example: `cp -r` copied checkpoint-500 after checkpoint-1000.

    Source: transformers 4.52 trainer_utils.py sort_checkpoints: by modification time.
    """
    args = subject.run.training_args
    if args is None or not args.arguments.get("save_total_limit"):
        return
    times = []
    for checkpoint in subject.run.checkpoints:
        entry = subject.run.tree.get(checkpoint.path) if checkpoint.path else None
        if entry is not None and checkpoint.form == "checkpoint":
            times.append((entry.mtime_ns, checkpoint.name))
    if len(times) < 2 or max(times)[0] - min(times)[0] < 1_000_000_000:
        return  # within a second the Trainer goes by number
    for (before, first), (after, second) in pairwise(times):
        if after < before:
            yield Hit(
                "",
                f"{printable(second, 60)} is older on disk than {printable(first, 60)}: rotation may delete the wrong one.",
            )
            return


@rule("CKP703", "last-step-not-saved", "note", scope="run")
def last_step_not_saved(subject: Subject) -> Iterator[Hit]:
    """The run finished, and its last step has no checkpoint.

    Why it matters: before transformers 4.42 no checkpoint was forced at the end, and `epoch` or `best` strategies may skip it.
    The last weights are then only in the root, if anywhere.

    How to fix: nothing if the root's weights are what you use.

    Example: save_steps 500, max_steps 1200, newest checkpoint 1000.

    Source: transformers 4.42 trainer_callback.py DefaultFlowCallback.on_step_end.
    """
    found = subject.run.newest_trainer_state
    steps = [item.step for item in subject.run.checkpoints if item.step is not None and item.form == "checkpoint"]
    if found is None or not steps or subject.run.kind != "run":
        return
    state, path = found
    if (
        state.max_steps
        and state.global_step == state.max_steps
        and max(steps) < state.max_steps
        and state.summary is not None
    ):
        yield Hit(path, f"The run ended at step {state.max_steps}, the newest checkpoint is of step {max(steps)}.")


@rule("CKP704", "unfinished-files", "warning", scope="run")
def unfinished_files(subject: Subject) -> Iterator[Hit]:
    """Files of interrupted downloads or saves are left over.

    Why it matters: they take space, and tell that something beside them may be missing.

    How to fix: fetch or save again, then delete them.

    Example: `3f2a....incomplete` in a Hugging Face cache.

    Source: huggingface_hub 2.4 file_download.py: *.incomplete.
    """
    found = [
        artifact
        for artifact in subject.run.all_artifacts
        if artifact.kind in ("incomplete_download", "temporary_file") and artifact.bytes
    ]
    if found:
        total = sum(artifact.bytes for artifact in found)
        names = ", ".join(printable(artifact.name, 40) for artifact in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        yield Hit(
            found[0].path, f"Left over: {names}{more} ({size(total)}).", evidence={"files": len(found), "bytes": total}
        )
