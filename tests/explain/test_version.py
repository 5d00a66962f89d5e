"""Which transformers release wrote a run, exactly or as an interval."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect.explain.version import (
    NEWEST,
    OLDEST,
    UNKNOWN,
    VersionEvidence,
    exact_version,
    from_fields,
    narrow,
    parse_release,
    release_text,
)
from ckpt_inspect.knowledge import load

STATE_4_36 = ("global_step", "logging_steps", "train_batch_size")
ARGUMENTS_4_45 = ("use_cpu", "neftune_noise_alpha", "lr_scheduler_kwargs", "accelerator_config", "optim_target_modules",
                  "eval_do_concat_batches", "restore_callback_states_from_checkpoint", "eval_on_start",
                  "torch_empty_cache_steps", "use_liger_kernel", "ddp_broadcast_buffers", "dispatch_batches",
                  "save_safetensors", "use_ipex", "group_by_length", "logging_dir")  # fmt: skip


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("4.46.0", (4, 46, 0)),
        ("5.0.0.dev0", (5, 0, 0)),
        ("v4.51", (4, 51, 0)),
        ("4.28.0.dev0+abc", (4, 28, 0)),
        ("latest", None),
        (None, None),
        (4.46, None),
        ("99999999999999999999.1", None),
    ],
)
def test_versions_are_read_as_people_write_them(text: object, release: object) -> None:
    assert parse_release(text) == release


def test_fields_bracket_a_release() -> None:
    found = from_fields(STATE_4_36, None, (1.25, 1.1, 0.9))
    assert (found.low, found.high, found.exact) == ((4, 36, 0), (4, 41, 0), None)
    assert found.text == "4.36.0 or later, before 4.41.0"


def test_arguments_bracket_a_release_more_closely() -> None:
    found = from_fields(None, ARGUMENTS_4_45, ())
    assert (found.low, found.high) == ((4, 45, 0), (4, 46, 0))


def test_unrounded_losses_are_of_release_5() -> None:
    assert from_fields(("global_step", "logging_steps", "train_batch_size", "stateful_callbacks", "best_global_step"), None,
                       (6.279221, 6.1, 6.2)).low == (5, 0, 0)  # fmt: skip


@pytest.mark.parametrize("losses", [(0.0, 0.0, 0.0), (1.25,), (float("nan"), 1.5, 1.25)])
def test_few_or_masked_losses_say_nothing_about_rounding(losses: tuple[float, ...]) -> None:
    assert from_fields(None, None, losses) == UNKNOWN


def test_files_that_contradict_one_another_are_no_evidence() -> None:
    found = from_fields(("global_step",), ("enable_jit_checkpoint",), ())
    assert (found.low, found.high) == (OLDEST, NEWEST)
    assert "contradict" in found.source


def test_a_stated_version_counts_where_the_fields_allow_it() -> None:
    fields = from_fields(STATE_4_36, None, ())
    stated = exact_version((4, 37, 2), "config.json")
    assert narrow(stated, fields) is stated


def test_a_stated_version_that_cannot_have_written_the_fields_does_not_count() -> None:
    """A directory may hold the config of a model that was resaved later."""
    found = narrow(exact_version((5, 1, 0), "config.json"), from_fields(STATE_4_36, None, ()))
    assert (found.exact, found.high) == (None, (4, 41, 0))
    assert "does not fit" in found.source


@pytest.mark.parametrize(
    ("evidence", "answer"),
    [
        (exact_version((5, 19, 0), "x"), True),
        (exact_version((5, 18, 0), "x"), False),
        (exact_version((4, 57, 3), "x"), False),
        (VersionEvidence((5, 15, 0), (5, 23, 0), None, "x"), None),
        (VersionEvidence((5, 23, 0), NEWEST, None, "x"), True),
        (VersionEvidence((4, 36, 0), (4, 41, 0), None, "x"), False),
        (UNKNOWN, None),
    ],
)
def test_a_behaviour_is_known_only_where_the_whole_interval_has_it(
    evidence: VersionEvidence, answer: bool | None
) -> None:
    assert evidence.has("average_over_steps_of_this_call") is answer


@pytest.mark.parametrize("name", sorted(load("transformers_eras")["behaviour"]))
def test_every_behaviour_has_two_boundaries_in_order_and_a_source(name: str) -> None:
    row = load("transformers_eras")["behaviour"][name]
    since, before = parse_release(row["since"]), parse_release(row["before"])
    assert since is not None
    assert before is not None
    assert before < since
    assert row["source"].startswith("transformers ")


@given(st.tuples(st.integers(0, 9), st.integers(0, 99), st.integers(0, 9)))
def test_a_release_survives_being_written(release: tuple[int, int, int]) -> None:
    assert parse_release(release_text(release)) == release
