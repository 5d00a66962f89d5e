"""Every published trick, rebuilt: none passes in silence, and nothing that libraries write is accused."""

from __future__ import annotations

import pytest
from builders.hostile import Sample, benign, hostile

from ckpt_inspect.scan import ScannedFile, rank, scan_source
from ckpt_inspect.storage import BytesSource


def scan(sample: Sample) -> ScannedFile:
    return scan_source(BytesSource(sample.data), sample.name)


@pytest.mark.parametrize("sample", hostile(), ids=lambda sample: sample.title)
def test_a_trick_is_judged_at_least_as_badly_as_it_deserves(sample: Sample) -> None:
    found = scan(sample)
    assert rank(found.verdict) >= rank(sample.least), found  # type: ignore[arg-type]
    assert found.findings
    if found.verdict != "known":
        assert any(finding.verdict == found.verdict for finding in found.findings) or found.coverage != "complete"


@pytest.mark.parametrize("sample", list(benign()), ids=lambda sample: sample.title)
def test_what_libraries_write_is_clean_or_known(sample: Sample) -> None:
    found = scan(sample)
    assert (found.verdict, found.coverage) == (sample.least, "complete"), found


def test_nothing_is_called_clean_that_was_not_read_to_its_end() -> None:
    for sample in [*hostile(), *benign()]:
        found = scan(sample)
        assert found.coverage == "complete" or rank(found.verdict) >= rank("unknown")
