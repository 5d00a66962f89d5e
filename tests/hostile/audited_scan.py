"""A scan under an audit hook: prints every event by which inspected data could have made something happen.

``python audited_scan.py PATH...`` imports everything a scan needs on benign data first, then watches.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FORBIDDEN = (
    "import",
    "exec",
    "compile",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.utime",
    "os.putenv",
    "shutil.",
    "socket.",
    "urllib.",
    "http.",
    "ftplib.",
    "ctypes.",
    "pickle.find_class",
    "marshal.",
    "code.__new__",
    "function.__new__",
    "builtins.input",
    "webbrowser.open",
    "tempfile.",
    "mmap.",
    "signal.",
    "pty.",
    "sqlite3.",
)
EVENTS: list[str] = []
WATCHING = False


def watch(event: str, args: tuple[Any, ...]) -> None:
    if not WATCHING:
        return
    if event.startswith(FORBIDDEN):
        EVENTS.append(f"{event} {args[:1]!r}"[:200])
    elif event == "open":
        path, mode, flags = (*args, None, None)[:3]
        if not isinstance(path, int) and (
            (isinstance(mode, str) and any(letter in mode for letter in "wax+"))
            or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        ):
            EVENTS.append(f"open for writing {path!r}"[:200])


def warm_up() -> None:
    """Import lazily imported modules by scanning one harmless file of every kind."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from builders.hostile import benign, hostile

    from ckpt_inspect.report.json_text import json_text
    from ckpt_inspect.report.scan_document import scan_document
    from ckpt_inspect.report.text_scan import scan_text
    from ckpt_inspect.scan import scan_path

    with tempfile.TemporaryDirectory() as directory:
        for number, sample in enumerate(benign()):
            (Path(directory) / f"{number}-{sample.name}").write_bytes(sample.data)
        (Path(directory) / "chat_template.jinja").write_text("{% for m in messages %}{{ m }}{% endfor %}{{ '%s' % x }}")
        (Path(directory) / "script.py").write_text("import os\nprint(os.name)\n")
        (Path(directory) / "config.json").write_text('{"weight_map": {"a": "b"}}')
        (Path(directory) / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
        report = scan_path(directory)
        scan_text(report, width=80, color=True, every=True)
        json_text(scan_document(report))
    del hostile


def main() -> None:
    global WATCHING
    warm_up()
    from builders.hostile import benign, hostile

    from ckpt_inspect.report.json_text import json_text
    from ckpt_inspect.report.scan_document import scan_document
    from ckpt_inspect.report.text_scan import scan_text
    from ckpt_inspect.scan import ScanReport, scan_path, scan_source
    from ckpt_inspect.storage import BytesSource

    samples = [*hostile(), *benign()]
    sys.addaudithook(watch)
    WATCHING = True
    files = [scan_source(BytesSource(sample.data), sample.name) for sample in samples]
    reports = [ScanReport("samples", tuple(files)), *(scan_path(path) for path in sys.argv[1:])]
    for report in reports:
        scan_text(report, width=80, color=True, every=True)
        json_text(scan_document(report))
    WATCHING = False
    print(json.dumps({"events": EVENTS, "files": sum(len(report.files) for report in reports)}))


if __name__ == "__main__":
    main()
