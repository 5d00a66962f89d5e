"""What a file would do if somebody loaded it: verdict and coverage, from the inert pickle program.

:func:`scan_path` answers for a file or a directory. Verdicts are ordered ``clean < known < unknown < suspicious <
dangerous``; a file is never called clean when its coverage is not complete.
The package is also the verb: ``ckpt_inspect.scan(path)`` calls :func:`ckpt_inspect.api.scan`.
"""

from __future__ import annotations

from ckpt_inspect.scan.collector import ScanLimits
from ckpt_inspect.scan.engine import DEFAULT_LIMITS, scan_path, scan_source, scan_tree
from ckpt_inspect.scan.verdicts import (
    VERDICTS,
    Coverage,
    ScanFinding,
    ScannedFile,
    ScannedGlobal,
    ScanReport,
    Verdict,
    rank,
    worse,
)
from ckpt_inspect.verb_package import is_a_verb

is_a_verb(__name__)

__all__ = [
    "DEFAULT_LIMITS",
    "VERDICTS",
    "Coverage",
    "ScanFinding",
    "ScanLimits",
    "ScanReport",
    "ScannedFile",
    "ScannedGlobal",
    "Verdict",
    "rank",
    "scan_path",
    "scan_source",
    "scan_tree",
    "worse",
]
