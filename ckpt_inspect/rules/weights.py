"""CKP1xx: the values of weights. They read every byte, so they run with --deep only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckpt_inspect.explain.numbers import counted
from ckpt_inspect.printable import printable
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject

if TYPE_CHECKING:
    from ckpt_inspect.tensors.rows import TensorRow
    from ckpt_inspect.tensors.statistics import Statistics

_KEY = "rule_statistics"
_WEIGHT_KINDS = ("model_weights", "pytorch_weights", "adapter_weights", "value_head", "fsdp_full_weights")


def _statistics(subject: Subject) -> tuple[tuple[str, TensorRow, Statistics], ...]:
    """(file, tensor, statistics) of every weight in the directory, read once for all rules."""
    place = subject.place
    if _KEY not in place.memo:
        from ckpt_inspect.tensors.listing import list_tensors
        from ckpt_inspect.tensors.values import statistics_of

        found = []
        for kind in _WEIGHT_KINDS:
            for artifact in place.own.get(kind, ()):
                listing = list_tensors([place.tree.root / artifact.path])
                for row, statistics, _ in statistics_of(listing, progress=subject.progress):
                    if statistics is not None:
                        found.append((artifact.path, row, statistics))
        place.memo[_KEY] = tuple(found)
    known: tuple[tuple[str, TensorRow, Statistics], ...] = place.memo[_KEY]
    return known


@rule("CKP101", "nan-weights", "error", deep=True)
def nan_weights(subject: Subject) -> Iterator[Hit]:
    """Weights are NaN or infinite.

    Why it matters: the model answers with NaN or noise. Training diverged, or values overflowed when they were converted.

    How to fix: use a checkpoint from before; convert to bfloat16 rather than float16.

    Example: `lm_head.weight` all NaN after a run with fp16.

    Source: IEEE 754; no training library writes NaN on purpose, and holes of a sparse copy read as zeros.
    """
    by_file: dict[str, list[tuple[TensorRow, Statistics]]] = {}
    for path, row, statistics in _statistics(subject):
        if statistics.nan or statistics.infinite:
            by_file.setdefault(path, []).append((row, statistics))
    for path, found in by_file.items():
        row, statistics = found[0]
        more = f" and in {counted(len(found) - 1, 'more tensor')}" if len(found) > 1 else ""
        yield Hit(
            path,
            f"{statistics.nan:,} NaN and {statistics.infinite:,} infinite values in {printable(row.name, 100)}{more}.",
            tensor=row.name,
            evidence={"tensors": len(found), "nan": statistics.nan, "infinite": statistics.infinite},
        )


@rule("CKP102", "adapter-never-trained", "error", deep=True)
def adapter_never_trained(subject: Subject) -> Iterator[Hit]:
    """Every lora_B matrix is zero.

    Why it matters: LoRA starts with B = 0, so the adapter changes nothing: no step was trained, or the saved object was not
    the trained one.

    How to fix: check that training ran and that the PEFT model was saved.

    Example: an adapter saved before trainer.train().

    Source: peft 0.21.2 tuners/lora/layer.py reset_lora_parameters: lora_B starts at zero.
    """
    config = subject.place.adapter_config
    if config is None or config.peft_type not in ("LORA", "ADALORA"):
        return
    found = [(path, row, item) for path, row, item in _statistics(subject) if ".lora_B" in row.name and item.elements]
    if found and all(item.zeros == item.elements for _, _, item in found):
        yield Hit(found[0][0], f"All {len(found)} lora_B matrices are zero.", evidence={"matrices": len(found)})


@rule("CKP103", "zero-tensor", "warning", deep=True)
def zero_tensor(subject: Subject) -> Iterator[Hit]:
    """A large weight is zero throughout.

    Why it matters: a hole in a sparse file, a write that never reached the disk, or skip_data look like this; a trained
    matrix does not.

    How to fix: compare with another checkpoint, and copy the file again.

    Example: the last gigabyte of a file after a crash.

    Source: torch 2.13 serialization.py skip_data writes such files; so does a copy that lost the blocks of a sparse
    file.
    """
    for path, row, item in _statistics(subject):
        small = item.elements < 1024 or len(row.shape) < 2
        if item.zeros != item.elements or small or ".lora_B" in row.name or "lora_embedding_B" in row.name:
            continue
        yield Hit(path, f"All {item.elements:,} values of {printable(row.name, 100)} are zero.", tensor=row.name)


@rule("CKP104", "checksum", "error", deep=True)
def checksum(subject: Subject) -> Iterator[Hit]:
    """A record of a torch file does not have the checksum the file states.

    Why it matters: bits changed since it was written, and torch.load does not look.

    How to fix: copy the file again; if the original is damaged too, use another checkpoint.

    Example: one flipped bit in optimizer.pt.

    Source: the zip format (APPNOTE 4.4.7); torch 2.13 torch.load does not compare the CRC-32.
    """
    from ckpt_inspect.formats.zip_content import crc_of
    from ckpt_inspect.formats.zip_directory import looks_like_zip, read_zip_directory

    place = subject.place
    for artifact in place.artifacts:
        if not artifact.name.endswith((".pt", ".pth", ".bin")) or not artifact.bytes:
            continue
        with place.tree.open(artifact.path) as source:
            if not looks_like_zip(source):
                continue
            for member in read_zip_directory(source).members:
                if member.crc and member.size and crc_of(source, member) != member.crc:
                    yield Hit(
                        artifact.path,
                        f"The record {printable(member.name, 80)} does not have its checksum.",
                        tensor=None,
                    )
                    break


@rule("CKP105", "float16-range", "warning", deep=True)
def float16_range(subject: Subject) -> Iterator[Hit]:
    """Weights come close to the largest number their type can hold.

    Why it matters: float16 ends at 65504; the next update or a merge overflows to infinity.

    How to fix: keep the weights in bfloat16 or float32.

    Example: a float16 adapter with values of 6e4.

    Source: IEEE 754 binary16: the largest number is 65,504.
    """
    for path, row, item in _statistics(subject):
        if row.dtype == "F16" and item.minimum is not None and item.maximum is not None:
            largest = max(abs(item.minimum), abs(item.maximum))
            if 60000 < largest <= 65504:
                yield Hit(path, f"{printable(row.name, 100)} holds {largest:g}.", tensor=row.name)
