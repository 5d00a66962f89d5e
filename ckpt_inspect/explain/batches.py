"""The topic `batches`: rows per update, processes, updates per epoch, rows of the data set, where the run ended.

The inverse problems are solved in ``batches_steps``; what the directory says is collected in ``batches_facts`` and
``batches_world``; sentences are in ``batches_words``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_inspect.explain import batches_steps as steps
from ckpt_inspect.explain import batches_words as words
from ckpt_inspect.explain.answer import Evidence
from ckpt_inspect.explain.batches_ending import Ending, Tokens, ending_of, tokens_of
from ckpt_inspect.explain.batches_facts import BatchRecords
from ckpt_inspect.explain.batches_steps import Interval
from ckpt_inspect.explain.batches_world import WorldEvidence

if TYPE_CHECKING:
    from ckpt_inspect.run import Run


@dataclass(frozen=True, slots=True)
class EpochShape:
    """An epoch of one process: micro-batches, updates, and micro-batches of the last, short update (0: none is short)."""

    batches: Interval | None
    updates: int | None
    last_accumulation: int | None
    rounded_up: bool | None
    planned_steps: int | None


@dataclass(frozen=True, slots=True)
class BatchesAnswer:
    """The answer (keys: see the JSON contract). `dataset_rows` is [low, high].

    `batches_per_epoch` are micro-batches per process; `last_accumulation` how many of them the last update of an epoch
    has when it is short; `implied_global_batch` what the speeds of the summary say.
    """

    per_device: int | None
    gradient_accumulation: int | None
    world_size: int | None
    global_batch: int | None
    steps_per_epoch: int | None
    dataset_rows: tuple[int, int] | None
    explanation: str
    data_parallel: int | None
    devices_per_process: int
    batches_per_epoch: tuple[int, int] | None
    last_accumulation: int | None
    implied_global_batch: float | None
    world_evidence: tuple[WorldEvidence, ...]
    ended: Ending | None
    tokens: Tokens | None
    paragraph: str
    arithmetic: tuple[str, ...]
    evidence: tuple[Evidence, ...]


def explain_batches(run: Run) -> BatchesAnswer | None:
    """Explain the batches and steps of a run; None where nothing in it speaks of training."""
    records = BatchRecords(run)
    if records.state is None and records.arguments is None and not records.summary:
        return None
    rows_per_update = global_batch(records)
    implied = implied_batch(records)
    by_speed = _rows_by_speed(records)
    shape = epoch_shape(records, by_speed)
    rows = dataset_rows(records, shape, by_speed)
    ending = ending_of(records)
    tokens = tokens_of(records, rows_per_update)
    sentences = words.sentences(records, rows_per_update, implied, shape, rows)
    explanation = " ".join(sentences)
    paragraph = " ".join(part for part in (explanation, *words.ending(ending), *words.tokens(tokens)) if part)
    return BatchesAnswer(
        per_device=records.per_device,
        gradient_accumulation=records.accumulation,
        world_size=records.world[0].processes if records.world else None,
        global_batch=rows_per_update,
        steps_per_epoch=shape.updates,
        dataset_rows=(rows.low, rows.high) if rows is not None else None,
        explanation=explanation or paragraph,
        data_parallel=records.replicas,
        devices_per_process=records.gpus,
        batches_per_epoch=(shape.batches.low, shape.batches.high) if shape.batches is not None else None,
        last_accumulation=shape.last_accumulation,
        implied_global_batch=implied[0] if implied is not None else None,
        world_evidence=records.world,
        ended=ending,
        tokens=tokens,
        paragraph=paragraph,
        arithmetic=words.arithmetic(records, rows_per_update, shape, rows, by_speed),
        evidence=_evidence(records),
    )


def global_batch(records: BatchRecords) -> int | None:
    """Rows per update over all processes."""
    if records.per_device is None or records.accumulation is None or records.replicas is None:
        return None
    per_process = records.per_device * records.gpus
    replicas = 1 if records.split_batches else records.replicas
    return per_process * records.accumulation * replicas


def implied_batch(records: BatchRecords) -> tuple[float, float] | None:
    """(rows per update, uncertainty) that the speeds of a run planned in max_steps imply: rows/s over updates/s."""
    if records.epochs_asked is not None or records.arguments is None:
        return None
    samples, updates = records.of_summary("train_samples_per_second"), records.of_summary("train_steps_per_second")
    if samples is None or updates is None:
        return None
    return steps.batch_from_speeds(samples, updates)


def _rows_by_speed(records: BatchRecords) -> Interval | None:
    """Rows of the data set by the speeds of a run planned in epochs."""
    epochs, state = records.epochs_asked, records.state
    samples, runtime = records.of_summary("train_samples_per_second"), records.of_summary("train_runtime")
    if epochs is None or samples is None or runtime is None or records.repeats_prompts or records.has_no_length:
        return None
    counted = records.version.has("speeds_of_this_call")
    if counted is None:
        return None if state is None or state.global_step != state.max_steps else _speed(samples, runtime, epochs, 1.0)
    share = 1.0
    if counted:
        updates = records.of_summary("train_steps_per_second")
        if state is None or not state.max_steps or updates is None:
            return None
        share = round(updates * runtime) / state.max_steps
    return _speed(samples, runtime, epochs, share)


def _speed(samples: float, runtime: float, epochs: float, share: float) -> Interval | None:
    return steps.rows_from_speed(samples, runtime, epochs * share) if share > 0 else None


def epoch_shape(records: BatchRecords, by_speed: Interval | None) -> EpochShape:
    """Micro-batches and updates per epoch."""
    nothing = EpochShape(None, None, None, None, None)
    accumulation = records.accumulation or (1 if records.arguments is None else None)
    if accumulation is None or records.has_no_length:
        return nothing
    rounded_up = records.version.has("updates_rounded_up")
    exact, rounded = list(records.epochs(rounded=False)), list(records.epochs(rounded=True))
    at_ends = steps.updates_at_epoch_ends(exact)
    if records.accumulation is None:  # without arguments only updates can be counted, not micro-batches
        found = steps.batches_per_epoch(exact, (), 1)
        return EpochShape(None, at_ends or (found.exact if found else None), None, rounded_up, None)
    batches = steps.batches_per_epoch(exact, rounded, accumulation)
    for known in _updates_known(records, at_ends):
        allowed = steps.batches_from_updates(known, accumulation, rounded_up=rounded_up)
        batches = allowed if batches is None else batches.meet(allowed) or batches
    if batches is not None and by_speed is not None:
        batches = batches.meet(_batches_of(records, by_speed)) or batches
    if batches is None:
        return nothing
    updates = {
        steps.updates_per_epoch(count, accumulation, rounded_up=up)
        for count in (batches.low, batches.high)
        for up in ((True, False) if rounded_up is None else (rounded_up,))
    }
    per_epoch = at_ends or (updates.pop() if len(updates) == 1 else None)
    planned = None
    if per_epoch is not None and records.epochs_asked is not None:
        planned = steps.planned_steps(records.epochs_asked, per_epoch)
    last = batches.exact % accumulation if batches.exact is not None else None
    return EpochShape(batches, per_epoch, last, rounded_up, planned)


def _updates_known(records: BatchRecords, at_ends: int | None) -> Iterator[Interval]:
    """Updates per epoch where the directory tells them without any batch: at epoch ends, and by the plan in epochs."""
    if at_ends is not None:
        yield Interval(at_ends, at_ends)
    if records.epochs_asked is not None and records.state is not None and records.state.max_steps:
        planned = steps.updates_from_plan(records.state.max_steps, records.epochs_asked)
        if planned is not None:
            yield planned


def _batches_of(records: BatchRecords, rows: Interval) -> Interval | None:
    size = _rows_per_batch(records)
    if size is None:
        return None
    per_batch, world = size
    return steps.batches_from_rows(rows, per_batch, world, drop_last=records.drop_last)


def _rows_per_batch(records: BatchRecords) -> tuple[int, int] | None:
    """(rows of one micro-batch, processes that share an epoch)."""
    if records.per_device is None or records.replicas is None:
        return None
    per_process = records.per_device * records.gpus
    return (per_process, 1) if records.split_batches else (per_process, records.replicas)


def dataset_rows(records: BatchRecords, shape: EpochShape, by_speed: Interval | None) -> Interval | None:
    """Rows of the training data set, as narrow as batches and speeds allow."""
    size = _rows_per_batch(records)
    if records.repeats_prompts or records.has_no_length:
        return None
    if size is None or shape.batches is None:
        return by_speed
    found = steps.rows_from_batches(shape.batches, size[0], size[1], drop_last=records.drop_last)
    return found.meet(by_speed) or found


def _evidence(records: BatchRecords) -> tuple[Evidence, ...]:
    found = [Evidence(item.file, item.key, item.processes) for item in records.world]
    if records.state is not None:
        for key in ("train_batch_size", "global_step", "max_steps", "epoch", "num_train_epochs"):
            found.append(Evidence(records.state_path, key, getattr(records.state, key)))
    if records.arguments is not None:
        for key in ("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps"):
            if key in records.arguments.arguments:
                found.append(Evidence("training_args.bin", key, records.arguments.arguments[key]))
    found.append(Evidence(records.version.source, "transformers version", records.version.text))
    return tuple(found)
