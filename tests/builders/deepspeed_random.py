"""Hypothesis strategies for DeepSpeed checkpoints: models of odd shapes, and jobs of every kind that writes them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from builders.deepspeed import Job, Model, Parameter

_SIZES = st.integers(1, 7)
_SHAPES = st.one_of(
    st.just(()),
    st.tuples(_SIZES),
    st.tuples(_SIZES, _SIZES),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    st.just((1, 1)),
    st.just((257,)),
)
# A trainable parameter without elements is left out of the flat groups; a frozen one is saved like any other.
_EMPTY_SHAPES = st.sampled_from([(0,), (0, 3), (2, 0, 5)])


@st.composite
def models(draw: st.DrawFn, *, frozen: bool = True, most: int = 14) -> Model:
    """Up to `most` parameters in up to three groups, some frozen, some empty; buffers of several types; ties."""
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    count = draw(st.integers(1, most))
    groups = draw(st.integers(1, 3))
    parameters: list[Parameter] = []
    for index in range(count):
        empty = frozen and draw(st.integers(0, 11)) == 0
        shape = draw(_EMPTY_SHAPES if empty else _SHAPES)
        values = np.asarray(random.standard_normal(shape) * 3, dtype="<f4").reshape(shape)
        is_frozen = frozen and index > 0 and draw(st.integers(0, 4)) == 0
        name = f"layer.{index}.weight" if index % 3 else f"block{index}.sub.bias"
        parameters.append(Parameter(name, values, frozen=is_frozen, group=draw(st.integers(0, groups - 1))))
    if not any(parameter.optimized for parameter in parameters):
        parameters.insert(0, Parameter("first.weight", np.asarray(random.standard_normal((3, 3)), dtype="<f4")))
    buffers = {
        name: values
        for name, values in {
            "running_mean": np.asarray(random.standard_normal(5), dtype="<f4"),
            "num_batches_tracked": np.array(16777217, dtype="<i8"),
            "mask": np.array([[True, False], [False, True]]),
            "inv_freq": np.asarray(random.standard_normal(3), dtype="<f8"),
        }.items()
        if draw(st.booleans())
    }
    ties = {}
    optimized = [parameter.name for parameter in parameters if parameter.values.size]
    for index in range(draw(st.integers(0, 2))):
        ties[f"tied.{index}.weight"] = draw(st.sampled_from(optimized))
    return Model(parameters, buffers, ties)


@st.composite
def jobs(draw: st.DrawFn, *, stages: tuple[int, ...]) -> Job:
    """A job of 1 to 9 ranks, of any era, byte order and container."""
    stage = draw(st.sampled_from(stages))
    modern = draw(st.booleans())
    alignment = modern and stage in (1, 2) and draw(st.booleans())
    big = draw(st.integers(0, 5)) == 0
    drop: tuple[str, ...] = ()
    drop_optimizer: tuple[str, ...] = () if modern else ("param_alignment_paddings",)
    if not modern and draw(st.booleans()):
        drop_optimizer += ("param_slice_mappings", "group_paddings")
    return Job(
        stage=stage,
        world=draw(st.integers(1, 9)),
        dtype=draw(st.sampled_from(["BF16", "BF16", "F16", "F32"])),
        version="0.19.8" if modern else draw(st.sampled_from(["0.9.5", "0.12.6", "0.15.4"])),
        step=draw(st.integers(1, 500)),
        skipped=draw(st.sampled_from([0, 0, 3])),
        alignment=alignment,
        round_robin=stage in (1, 2) and draw(st.booleans()),
        elastic=stage in (1, 2) and draw(st.booleans()),
        optimizer=draw(st.sampled_from(["adam", "adam", "sgd", "fused"])),
        trim="each" if modern else "last",
        sub_group=draw(st.sampled_from([10**9, 40, 10, 1])),
        nvme=stage == 3 and not big and draw(st.integers(0, 5)) == 0,
        exclude_frozen=draw(st.integers(0, 4)) == 0,
        order="big" if big else "little",
        layout="zip" if big or draw(st.integers(0, 5)) else "legacy",
        era=draw(st.sampled_from(["2.13", "2.13", "2.5"] if big else ["2.13", "2.5", "1.13"])),
        garbage=draw(st.booleans()),
        plain_stage=not modern and draw(st.booleans()),
        plain_shapes=not modern and draw(st.booleans()),
        drop=drop,
        drop_optimizer=drop_optimizer,
    )
