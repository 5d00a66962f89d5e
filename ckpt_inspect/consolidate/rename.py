"""Renaming directories so that an existing one is never overwritten by accident, or is exchanged in one step.

Linux ``renameat2`` and macOS ``renamex_np`` do both atomically; elsewhere plain ``rename`` is used, which cannot
replace a directory that holds something (POSIX: ENOTEMPTY; Windows: FileExistsError).
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

_AT_FDCWD = -100
_LINUX_NOREPLACE, _LINUX_EXCHANGE = 1, 2
_DARWIN_SWAP, _DARWIN_EXCL = 2, 4
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM})


def rename_to_new(source: Path, target: Path) -> None:
    """Give `source` the name `target`, where nothing may be.

    Raises:
        FileExistsError: something is there.
        OSError: the system refused.
    """
    if _flagged(source, target, _LINUX_NOREPLACE, _DARWIN_EXCL):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise


def exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where the system or file system cannot.

    Raises:
        OSError: the system can, but refused.
    """
    return _flagged(first, second, _LINUX_EXCHANGE, _DARWIN_SWAP)


def _flagged(source: Path, target: Path, linux: int, darwin: int) -> bool:
    function = _function()
    if function is None:
        return False
    if function(os.fsencode(source), os.fsencode(target), linux if sys.platform == "linux" else darwin) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


def _function() -> Callable[[bytes, bytes, int], int] | None:
    if sys.platform not in ("linux", "darwin"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux":
        if not hasattr(library, "renameat2"):  # glibc 2.28, musl 1.2.4
            return None
        raw = library.renameat2
        raw.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
        return lambda source, target, flags: int(raw(_AT_FDCWD, source, _AT_FDCWD, target, flags))
    if not hasattr(library, "renamex_np"):
        return None
    plain = library.renamex_np
    plain.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint)
    return lambda source, target, flags: int(plain(source, target, flags))
