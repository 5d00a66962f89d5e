"""A hostile file cannot flood a report: faults are kept up to a number of each kind and counted beyond it."""

from __future__ import annotations

from ckpt_inspect.formats.fault import Fault
from ckpt_inspect.formats.fault_log import KEPT_PER_KIND, FaultLog


def test_faults_come_back_in_order_with_their_place() -> None:
    log = FaultLog()
    log.add("b", "second letter", offset=3)
    log.extend([Fault("a", "first letter", None, "x")])
    assert log.sealed() == (Fault("b", "second letter", 3), Fault("a", "first letter", None, "x"))
    assert "a" in log
    assert "c" not in log
    assert log


def test_an_empty_log_is_false() -> None:
    assert not FaultLog()
    assert FaultLog().sealed() == ()


def test_the_rest_of_a_flood_is_one_fault_with_its_number() -> None:
    log = FaultLog()
    for index in range(KEPT_PER_KIND + 7):
        log.add("flood", str(index))
    log.add("other", "kept")
    sealed = log.sealed()
    assert len([fault for fault in sealed if fault.kind == "flood"]) == KEPT_PER_KIND + 1
    assert sealed[-1] == Fault("flood", "7 more of this kind")
    assert Fault("other", "kept") in sealed
