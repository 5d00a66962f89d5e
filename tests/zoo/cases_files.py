"""CKP0xx: files and structure."""

from __future__ import annotations

from pathlib import Path

from zoo.frame import case


@case("CKP011", base="resumed", also=("CKP601",))
def the_optimizer_is_empty(run: Path) -> None:
    (run / "checkpoint-16" / "optimizer.pt").write_bytes(b"")
