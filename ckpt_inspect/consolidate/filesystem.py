"""What a file system can do: room left, and whether direct writes and preallocation pay there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")

# File systems on a local device (or over one), where O_DIRECT streams well and posix_fallocate reserves extents. On
# the others glibc writes a byte into every block instead of reserving (`posix_fallocate(3)`, NOTES).
_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "f2fs", "btrfs", "overlay"})


def free_bytes(path: Path) -> int | None:
    """Bytes an unprivileged user may still write, None where the file system does not say."""
    try:
        if hasattr(os, "statvfs"):
            status = os.statvfs(path)
            return status.f_bavail * status.f_frsize if status.f_blocks else None
        import shutil

        return shutil.disk_usage(path).free
    except OSError:
        return None


def filesystem_type(path: Path) -> str | None:
    """The type of the file system `path` lies on ("ext4", "nfs4", ...), None where it cannot be told."""
    if sys.platform != "linux":
        return None
    try:
        device = os.stat(path).st_dev
        lines = _MOUNTS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    real = os.path.realpath(path)
    best: tuple[int, str] | None = None
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 10 or "-" not in fields:
            continue
        kind = fields[fields.index("-") + 1]
        if fields[2] == wanted:
            return kind
        point = fields[4].replace("\\040", " ")  # btrfs subvolumes have device numbers of their own
        if (real == point or real.startswith(point.rstrip("/") + "/")) and (best is None or len(point) >= best[0]):
            best = (len(point), kind)
    return best[1] if best else None


def supports_direct_writes(path: Path) -> bool:
    """Whether large files in this directory are best written with O_DIRECT and reserved beforehand."""
    return hasattr(os, "O_DIRECT") and hasattr(os, "posix_fallocate") and filesystem_type(path) in _LOCAL
