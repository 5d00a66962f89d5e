"""Batches, steps and endings told in sentences, and their arithmetic line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckpt_inspect.explain.numbers import counted, listed, plainly, short

if TYPE_CHECKING:
    from ckpt_inspect.explain.batches import EpochShape
    from ckpt_inspect.explain.batches_ending import Ending, Tokens
    from ckpt_inspect.explain.batches_facts import BatchRecords
    from ckpt_inspect.explain.batches_steps import Interval


def sentences(
    records: BatchRecords,
    rows_per_update: int | None,
    implied: tuple[float, float] | None,
    shape: EpochShape,
    rows: Interval | None,
) -> list[str]:
    """What an update and an epoch are made of."""
    found = [*_update(records, rows_per_update), *_conflicts(records, rows_per_update, implied)]
    if records.has_no_length:
        found.append("The data set had no length, so epochs and the number of its rows are not known.")
    elif shape.updates is not None:
        found.append(_epoch(records, shape))
        state = records.state
        if shape.planned_steps is not None and state is not None and state.max_steps not in (None, shape.planned_steps):
            found.append(
                f"{plainly(records.epochs_asked)} epochs of {shape.updates} updates would be {shape.planned_steps} steps, but "
                f"max_steps is {state.max_steps}: rows, batch size, accumulation or processes changed since it was planned."
            )
    if rows is not None:
        unit = "packed sequence" if records.packed else "row"
        unit += "" if rows.high == 1 else "s"
        size = str(rows.low) if rows.low == rows.high else f"between {rows.low} and {rows.high}"
        found.append(f"The training data had {size} {unit}.")
    elif records.repeats_prompts:
        found.append(
            "Rows of a batch are several generations of one prompt, so the data set cannot be counted from them."
        )
    return found


def _update(records: BatchRecords, rows_per_update: int | None) -> list[str]:
    if rows_per_update is None:
        missing = [
            name
            for name, value in (
                ("the batch size", records.per_device),
                ("the accumulation steps", records.accumulation),
                ("the number of processes", records.replicas),
            )
            if value is None
        ]
        return [f"The rows per update are not known: the directory does not tell {listed(missing)}."]
    devices = f" x {records.gpus} GPUs per process" if records.gpus > 1 else ""
    replicas = records.replicas or 1
    each = "in all" if records.split_batches else "per device"
    text = (
        f"An update takes {counted(rows_per_update, 'row')}: {records.per_device} {each}{devices} x "
        f"{counted(records.accumulation or 1, 'accumulation step')} x {counted(replicas, 'process', 'processes')}"
    )
    source = records.world[0]
    where = f" (processes by {source.key} in {source.file})" if source.processes > 1 or not source.exact else ""
    return [f"{text}{where}."]


def _conflicts(records: BatchRecords, rows_per_update: int | None, implied: tuple[float, float] | None) -> list[str]:
    found: list[str] = []
    asked, used = records.per_device_asked, records.per_device
    before = records.state.train_batch_size if records.state is not None else None
    if records.keeps_first_batch_size and used is not None and before and before != used * records.gpus:
        found.append(
            f"trainer_state.json still says {before} rows per process: the run was resumed with another batch size, which "
            "the arguments give; the entries before have other steps per epoch."
        )
    if asked is not None and used is not None and asked != used:
        found.append(
            f"The arguments ask for {asked} rows per device, trainer_state.json says {used} were used: auto_find_batch_size "
            "lowered it, or a resume kept the batch size of the checkpoint."
        )
    if len(records.world) > 1 and records.world[1].processes != records.world[0].processes:
        first, second = records.world[0], records.world[1]
        found.append(
            f"{first.key} says {counted(first.processes, 'process', 'processes')}, but there are {second.processes} "
            f"{second.key}: files of other nodes were not copied, or runs were mixed."
        )
    if implied is not None and rows_per_update is not None and abs(implied[0] - rows_per_update) > implied[1] + 0.01:
        found.append(
            f"The speeds of the summary imply {plainly(implied[0], 5)} rows per update, not {rows_per_update}: batch size, "
            "accumulation or processes changed, or the number of processes is wrong."
        )
    return found


def _epoch(records: BatchRecords, shape: EpochShape) -> str:
    text = f"An epoch has {counted(shape.updates or 0, 'update')}"
    batches = shape.batches.exact if shape.batches is not None else None
    if batches is not None and (records.accumulation or 1) > 1:
        text += f" ({counted(batches, 'micro-batch', 'micro-batches')} per process"
        if shape.last_accumulation:
            if shape.rounded_up is False:
                rest = shape.last_accumulation
                last = (
                    "one makes no full update of its own" if rest == 1 else f"{rest} make no full update of their own"
                )
                text += f", of which the last {last})"
            else:
                text += f", the last update with {shape.last_accumulation} instead of {records.accumulation})"
        else:
            text += ")"
    return f"{text}."


def ending(found: Ending | None) -> list[str]:
    """Where training ended."""
    if found is None:
        return []
    at = f"step {found.step}"
    epoch = f", epoch {plainly(found.epoch, 4)}" if found.epoch is not None else ""
    if found.by == "last_step":
        return [f"It reached its last step ({found.step} of {found.planned}{epoch})."]
    if found.by == "past_the_end":
        return [
            f"It ended at {at} although {found.planned} were planned: a finished run was resumed and trained on{epoch}."
        ]
    if found.by == "resumed":
        return [
            f"What is told here is of a train() call that ended; it was resumed, and checkpoint-{found.step} goes on to "
            f"{at} of {found.planned}{epoch}, without an ending: that was cut off or is going on."
        ]
    if found.by == "early_stop":
        why = "early stopping ended it" if found.early_stopping else "a callback or the script stopped it"
        return [f"It ended at {at} of {found.planned}{epoch}: {why}."]
    if found.by == "cut_off":
        return [
            f"The newest record ends at {at} of {found.planned}{epoch}, without an ending: the run was cut off or is going on."
        ]
    return [f"The newest record ends at {at}{epoch}."]


def tokens(found: Tokens | None) -> list[str]:
    """Tokens and speeds."""
    if found is None:
        return []
    told: list[str] = []
    if found.seen is not None and found.per_update is not None:
        told.append(f"It saw {counted(found.seen, 'token')}, {short(found.per_update)} per update.")
    if "train_steps_per_second" in found.inflated and found.steps_per_second_true is not None:
        told.append(
            f"train_steps_per_second {plainly(found.steps_per_second_reported)} is too high: it counts planned steps; "
            f"executed were {short(found.steps_per_second_true)} per second."
        )
    if "throughput" in found.inflated:
        told.append(
            "The throughput in trainer_log.jsonl is too high since the resume: it divides all tokens by the new time."
        )
    return told


def arithmetic(
    records: BatchRecords,
    rows_per_update: int | None,
    shape: EpochShape,
    rows: Interval | None,
    by_speed: Interval | None,
) -> tuple[str, ...]:
    """How the numbers come about."""
    lines: list[str] = []
    if rows_per_update is not None:
        replicas = 1 if records.split_batches else records.replicas
        factors = f"{records.per_device} x {records.gpus} x {records.accumulation} x {replicas}"
        lines.append(
            f"rows per update = per device x devices x accumulation x processes = {factors} = {rows_per_update}"
        )
    pair = next(iter(records.epochs(rounded=False)), None)
    if shape.batches is not None and pair is not None:
        lines.append(
            f"micro-batches per epoch = step x accumulation / epoch = {pair[0]} x {records.accumulation} / "
            f"{plainly(pair[1], 10)}: {_span(shape.batches)}"
        )
    if shape.updates is not None and shape.batches is not None:
        rule = {True: "rounded up (from 4.52)", False: "rounded down (up to 4.51)", None: "rounded"}[shape.rounded_up]
        lines.append(f"updates per epoch = micro-batches / accumulation, {rule} = {shape.updates}")
    if shape.planned_steps is not None:
        state = records.state
        stated = f"; trainer_state.json has {state.max_steps}" if state is not None and state.max_steps else ""
        lines.append(
            f"max_steps = ceil({plainly(records.epochs_asked)} epochs x {shape.updates}) = {shape.planned_steps}{stated}"
        )
    if by_speed is not None:
        lines.append(
            "rows by speed = train_samples_per_second x train_runtime / epochs = "
            f"{plainly(records.of_summary('train_samples_per_second'))} x {plainly(records.of_summary('train_runtime'))} / "
            f"{plainly(records.epochs_asked)}: {_span(by_speed)}"
        )
    if rows is not None:
        lines.append(f"rows of the data set: {_span(rows)}")
    return tuple(lines)


def _span(interval: Interval) -> str:
    return str(interval.low) if interval.low == interval.high else f"{interval.low} to {interval.high}"
