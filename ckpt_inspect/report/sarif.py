"""SARIF 2.1.0 for code scanning: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html.

A checkpoint file has no lines: a result points at the file, and at the tensor as a logical location.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from ckpt_inspect.report.json_text import jsonable
from ckpt_inspect.rules.checked import CheckedRun, CheckReport
from ckpt_inspect.rules.finding import Finding
from ckpt_inspect.rules.registry import Rule

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
DOCUMENTATION = "https://ckpt-inspect.readthedocs.io"


def sarif(report: CheckReport, rules: Mapping[str, Rule], version: str) -> str:
    """The report as one SARIF run; only rules that fired are described."""
    fired = sorted({finding.rule for run in report.runs for finding in run.findings} & set(rules))
    index = {code: position for position, code in enumerate(fired)}
    unreadable = [run for run in report.runs if run.unreadable]
    document = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "ckpt-inspect",
                        "version": version,
                        "informationUri": DOCUMENTATION,
                        "rules": [_descriptor(rules[code]) for code in fired],
                    }
                },
                "invocations": [
                    {
                        "executionSuccessful": not unreadable,
                        "toolExecutionNotifications": [
                            {"level": "error", "message": {"text": str(run.unreadable)}} for run in unreadable
                        ],
                    }
                ],
                "results": [_result(run, finding, index) for run in report.runs for finding in run.findings],
            }
        ],
    }
    return json.dumps(jsonable(document), indent=2, ensure_ascii=True) + "\n"


def _descriptor(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(part.capitalize() for part in rule.name.split("-")),
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.section("Why it matters") or rule.summary},
        "help": {"text": rule.section("How to fix") or rule.summary},
        "helpUri": f"{DOCUMENTATION}/rules/{rule.code}/",
        "defaultConfiguration": {"level": rule.severity},
    }


def _result(run: CheckedRun, finding: Finding, index: Mapping[str, int]) -> dict[str, Any]:
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": _uri(run.path, finding.path)}}}
    if finding.tensor:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.tensor, "kind": "member"}]
    described = {"ruleIndex": index[finding.rule]} if finding.rule in index else {}
    return {
        "ruleId": finding.rule,
        **described,
        "level": finding.severity,
        "message": {"text": f"{finding.message} {finding.remedy}".strip()},
        "locations": [location],
        "partialFingerprints": {"ckptInspect/v1": finding.fingerprint},
        "properties": {"evidence": dict(finding.evidence)},
    }


def _uri(root: str, path: str) -> str:
    full = PurePath(root) / path if path else PurePath(root)
    return quote(full.as_posix(), safe="/")  # a colon in the first part would make it a scheme
