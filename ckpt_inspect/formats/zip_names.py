"""Member names of a zip file: how they are decoded, and which of them no honest writer of checkpoints uses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ckpt_inspect.formats.fault_log import FaultLog
from ckpt_inspect.formats.zip_records import FLAG_UTF8
from ckpt_inspect.printable import printable

_ODD = re.compile(r"[\x00-\x1f\x7f\\]|[^\x00-\x7f]|^/|^[A-Za-z]:|(?:^|/)\.\.(?:/|$)|^$")
_DRIVE = re.compile(r"^[A-Za-z]:")


def decode_name(raw: bytes, flags: int) -> str:
    """A member name as text: UTF-8 where the flag says so, else code page 437 (APPNOTE appendix D)."""
    if raw.isascii() or flags & FLAG_UTF8:
        return raw.decode("utf-8", "surrogateescape")
    return raw.decode("cp437")


def check_name(name: str, offset: int, log: FaultLog) -> None:
    """Note a name that would escape a directory, hide characters, or is read differently by different readers."""
    if _ODD.search(name) is None:
        return
    problem = _path_problem(name)
    if problem:
        log.add("zip-path", f"a member name {problem}", offset=offset, place=name)
    if "\x00" in name:
        log.add("zip-nul-name", "a member name holds a NUL; some readers end it there", offset=offset, place=name)
    elif printable(name, limit=len(name)) != name:
        log.add("zip-control-name", "a member name holds invisible or control characters", offset=offset, place=name)


def _path_problem(name: str) -> str | None:
    if not name:
        return "is empty"
    if name.startswith("/"):
        return "is an absolute path"
    if _DRIVE.match(name):
        return "begins with a drive letter"
    if "\\" in name:
        return "holds a backslash, a separator on Windows"
    if ".." in name.split("/"):
        return "climbs out of its directory with '..'"
    return None


def check_duplicates(names: Sequence[str], log: FaultLog) -> None:
    """Note names given twice, exactly or but for upper and lower case."""
    if len(set(names)) != len(names):
        for name, count in Counter(names).items():
            if count > 1:
                log.add(
                    "zip-duplicate", f"{count} members have one name; readers differ in which they take", place=name
                )
    distinct = set(names)
    if len({name.casefold() for name in distinct}) != len(distinct):
        first: dict[str, str] = {}
        for name in sorted(distinct):
            if first.setdefault(name.casefold(), name) != name:
                log.add("zip-case-duplicate", "two member names differ only in upper and lower case", place=name)
