"""What other scanners say about the same files, as a Markdown table: hostile samples, benign samples, real runs.

The others run in an interpreter that has them; they read files and load nothing::

    pip install picklescan fickling typing_extensions modelscan    # in an environment of its own
    python benchmarks/scanners.py --python THAT/bin/python --samples DIR [--runs DIR]

`DIR` of samples holds a ``manifest.json`` (path, group, min_verdict); without `--samples` the project's own rebuilt tricks
(``tests/builders/hostile.py``) are written to a temporary directory. "flagged": called dangerous. "soft": an error, a warning
or "suspicious". "silent": nothing said.
"""

from __future__ import annotations

import os.path
import sys

# This directory holds a script called like a module of the standard library; the builders lie with the tests.
sys.path[0] = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests")

# ruff: noqa: E402
import argparse
import json
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

CHILD = r"""
import contextlib, io, json, logging, sys, time, warnings, zipfile

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
tool = sys.argv[1]
paths = json.load(sys.stdin)

def picklescan(path):
    from picklescan.scanner import SafetyLevel, scan_file_path
    found = scan_file_path(path)
    if found.issues_count or found.infected_files:
        return "flagged"
    odd = any(one.safety == SafetyLevel.Suspicious for one in found.globals)
    return "soft" if odd or found.scan_err else "silent"

def fickling(path):
    from fickling import scan_file, scan_zip_archive
    from fickling.fickle import EmptyPickleError
    try:
        found = (scan_zip_archive if zipfile.is_zipfile(path) else scan_file)(path, graceful=True)
    except EmptyPickleError:
        return "silent"
    if found.results and not found.is_safe:
        return "flagged"
    errors = [error for error in found.errors if "No pickle files" not in error]
    return "soft" if errors or not found.is_safe else "silent"

def modelscan(path):
    from modelscan.modelscan import ModelScan
    found = ModelScan().scan(path)
    if found["issues"]:
        return "flagged"
    return "soft" if found["errors"] else "silent"

answers = []
for path in paths:
    begin = time.process_time()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            answer = {"picklescan": picklescan, "fickling": fickling, "modelscan": modelscan}[tool](path)
    except BaseException as error:
        answer = "soft"
    answers.append([answer, time.process_time() - begin])
json.dump(answers, sys.stdout)
"""


@dataclass(frozen=True)
class File:
    path: Path
    hostile: bool


def ours(files: list[File]) -> list[tuple[str, float]]:
    from ckpt_inspect.scan import scan_path

    words = {"clean": "silent", "known": "silent", "unknown": "soft", "suspicious": "soft", "dangerous": "flagged"}
    answers = []
    for file in files:
        begin = time.process_time()
        verdict = scan_path(file.path).files[0].verdict
        answers.append((words[verdict], time.process_time() - begin))
    return answers


def theirs(tool: str, python: str, files: list[File]) -> list[tuple[str, float]] | None:
    done = subprocess.run(
        [python, "-c", CHILD, tool],
        input=json.dumps([str(file.path) for file in files]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"{tool}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return [(answer, seconds) for answer, seconds in json.loads(done.stdout)]


def samples(folder: Path) -> list[File]:
    rows = json.loads((folder / "manifest.json").read_text())
    return [File(folder / row["path"], row["group"] != "benign") for row in rows]


def rebuilt(folder: Path) -> list[File]:
    from builders.hostile import benign, hostile

    files = []
    for number, (sample, evil) in enumerate([*((one, True) for one in hostile()), *((one, False) for one in benign())]):
        place = folder / f"{number:04d}"
        place.mkdir()
        (place / sample.name).write_bytes(sample.data)
        files.append(File(place / sample.name, evil))
    return files


def of_runs(folder: Path) -> list[File]:
    suffixes = (".pt", ".bin", ".pth", ".metadata", ".distcp", ".safetensors", ".json")
    return [File(path, False) for path in sorted(folder.rglob("*")) if path.is_file() and path.name.endswith(suffixes)]


def row(name: str, files: list[File], answers: list[tuple[str, float]] | None) -> str:
    if answers is None:
        return f"| {name} | - | - | - | - | - |"
    evil = Counter(answer for file, (answer, _) in zip(files, answers, strict=True) if file.hostile)
    good = Counter(answer for file, (answer, _) in zip(files, answers, strict=True) if not file.hostile)
    seconds = sum(taken for _, taken in answers)
    counts = f"{evil['flagged']} | {evil['soft']} | **{evil['silent']}** | {good['flagged']} | {good['soft']}"
    return f"| {name} | {counts} | {seconds:.1f} |"


def table(title: str, files: list[File], python: str | None) -> None:
    hostile = sum(file.hostile for file in files)
    print(f"\n{title}: {hostile} hostile, {len(files) - hostile} benign\n")
    print("| scanner | flagged | soft | **silent** | benign flagged | benign soft | CPU-s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    print(row("ckpt-inspect scan", files, ours(files)))
    for tool in ("picklescan", "fickling", "modelscan") if python else ():
        print(row(tool, files, theirs(tool, str(python), files)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", help="an interpreter that has picklescan, fickling and modelscan")
    parser.add_argument("--samples", type=Path, help="a directory of samples with a manifest.json")
    parser.add_argument("--runs", type=Path, help="a directory of real runs, all benign")
    options = parser.parse_args()
    if options.samples:
        table("Samples", samples(options.samples), options.python)
    with tempfile.TemporaryDirectory() as directory:
        table("Rebuilt tricks", rebuilt(Path(directory)), options.python)
    if options.runs:
        table("Real runs", of_runs(options.runs), options.python)


if __name__ == "__main__":
    main()
