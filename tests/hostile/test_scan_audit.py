"""Nothing that is inspected makes the interpreter import, execute, compile, write, connect or start anything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ckpt_inspect

HERE = Path(__file__).resolve().parent


def audited(*paths: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, str(HERE / "audited_scan.py"), *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_the_hook_sees_what_it_must_see() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import audited_scan as a; sys.addaudithook(a.watch);"
        "a.WATCHING = True; import colorsys; compile('1', 'x', 'eval'); open('/dev/null', 'w').close();"
        "a.WATCHING = False; print(len(a.EVENTS))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 3


def test_scanning_every_rebuilt_trick_causes_no_event() -> None:
    result = audited()
    assert result["events"] == []
    assert isinstance(result["files"], int)
    assert result["files"] > 400


@pytest.mark.shared
def test_scanning_the_shared_samples_causes_no_event(shared: Path) -> None:
    assert audited(shared / "samples")["events"] == []


FORBIDDEN = re.compile(
    r"(?<![\w.])(?:eval|exec|__import__)\s*\(|^\s*(?:import|from)\s+(?:pickle|_pickle|pickletools|marshal|shelve|dill|cloudpickle)\b"
    r"|yaml\.(?:load|unsafe_load|full_load)\s*\(|\.from_string\s*\(|(?<![\w.])compile\s*\(",
    re.MULTILINE,
)


def test_the_product_has_no_way_to_execute_data() -> None:
    found = []
    for path in sorted(Path(ckpt_inspect.__path__[0]).rglob("*.py")):
        for match in FORBIDDEN.finditer(path.read_text()):
            line = path.read_text().count("\n", 0, match.start()) + 1
            found.append(f"{path.name}:{line}: {match.group().strip()}")
    assert found == []
