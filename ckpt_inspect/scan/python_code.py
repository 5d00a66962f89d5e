"""Python files in a run: parsed as text, never run. Says whether one does more than the scripts libraries leave there."""

from __future__ import annotations

import ast
import re
import warnings

from ckpt_inspect.scan.collector import Collector
from ckpt_inspect.storage import ByteSource

_LONGEST = 1 << 20
_DEEPEST = 200
_UNUSUAL_MODULES = frozenset(
    {
        "subprocess", "socket", "ctypes", "urllib", "requests", "http", "ftplib", "smtplib", "telnetlib", "pty",
        "multiprocessing", "marshal", "base64", "binascii", "codecs", "importlib", "runpy", "code", "webbrowser",
        "paramiko", "httpx", "aiohttp", "winreg", "cffi", "pip", "dill", "cloudpickle",
    }
)  # fmt: skip
_UNUSUAL_CALLS = frozenset(
    {"eval", "exec", "compile", "__import__", "system", "popen", "Popen", "execv", "execve", "spawnl", "spawnv", "fork"}
)


_MENTIONS = re.compile(
    rb"\b(?:import|from)\b[^\n]*\b(?:%b)\b|\b(?:%b)\b|\bcoding[:=]"
    % ("|".join(sorted(_UNUSUAL_MODULES)).encode(), "|".join(sorted(_UNUSUAL_CALLS)).encode())
)


def scan_python(source: ByteSource, collector: Collector, place: str, name: str) -> None:
    """Note what the code of a script reaches for."""
    text = source.read_at(0, _LONGEST + 1)
    collector.note("scan-python", "known", "Python code, which runs only when somebody runs it", place=place)
    if len(text) <= _LONGEST and not _may_be_unusual(text):
        return
    if len(text) > _LONGEST or _too_deep(text):
        collector.note("scan-python-unusual", "unknown", "the code is too long or too deep to be read", place=place)
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # other versions of Python, or none: nothing runs it here
    unusual = sorted(set(_unusual(tree)))
    if unusual:
        listed = ", ".join(unusual[:5])
        collector.note("scan-python-unusual", "known", f"the code uses {listed}", place=place, severity="warning")


def _may_be_unusual(text: bytes) -> bool:
    """The cheap look: whether any of the words stands where it would count. Names outside ASCII are normalised by Python."""
    joined = text.replace(b"\\\n", b" ").replace(b"\\\r\n", b" ")
    return not text.isascii() or _MENTIONS.search(joined) is not None


def _unusual(tree: ast.AST) -> list[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names if alias.name.partition(".")[0] in _UNUSUAL_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.partition(".")[0] in _UNUSUAL_MODULES:
                found.append(node.module)
        elif isinstance(node, ast.Call):
            function = node.func
            called = function.id if isinstance(function, ast.Name) else ""
            if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
                called = function.attr if function.value.id in ("os", "subprocess", "builtins", "pty") else ""
            if called in _UNUSUAL_CALLS:
                found.append(f"{called}()")
    return found


def _too_deep(text: bytes) -> bool:
    depth = deepest = 0
    for byte in text:
        if byte in b"([{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b")]}":
            depth -= 1
    return deepest > _DEEPEST
