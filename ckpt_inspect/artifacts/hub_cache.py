"""The Hugging Face cache: ``models--ORG--NAME/{refs,snapshots,blobs,.no_exist}`` (huggingface_hub 2.4 file_download).

A snapshot's files are links to blobs; `refs/<branch>` holds the revision a branch pointed to; a blob that ends in
`.incomplete` is a download that did not finish.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ckpt_inspect.errors import CkptInspectError
from ckpt_inspect.storage import LocalFile

_FOLDER = re.compile(r"(models|datasets|spaces)--(.+)")
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?")
_REVISION = re.compile(r"[0-9a-f]{40}")
_MAX_LISTED = 1000


@dataclass(frozen=True, slots=True)
class HubCache:
    """One repository in the cache, and the snapshot that is looked at.

    Attributes:
        repo_id: "org/name".
        root: the ``models--org--name`` directory.
        snapshot: the snapshot's directory; None when there is none.
        revision: its commit.
        branch: the branch that points to it, None when no ref does.
        snapshots: every revision there.
        incomplete: names of blobs whose download did not finish.
    """

    repo_id: str
    root: Path
    snapshot: Path | None
    revision: str | None
    branch: str | None
    snapshots: tuple[str, ...]
    incomplete: tuple[str, ...]


def find_hub_cache(path: Path) -> HubCache | None:
    """The cache entry `path` is, or is a snapshot of; None for any other directory.

    A repository directory stands for the snapshot of ``refs/main``, else of the only ref, else the newest one, which
    is how huggingface_hub's `try_to_load_from_cache` and a person would choose.
    """
    full = path.resolve()
    if full.parent.name == "snapshots" and _FOLDER.fullmatch(full.parent.parent.name):
        return _describe(full.parent.parent, full.name)
    if _FOLDER.fullmatch(full.name) and (full / "snapshots").is_dir():
        return _describe(full, None)
    return None


def find_snapshot(
    repo_id: str, revision: str | None = None, environment: Mapping[str, str] | None = None
) -> Path | None:
    """The snapshot of a model in the local cache, by branch or commit; None when it is not there. Never the network.

    The cache is HF_HUB_CACHE, else the legacy HUGGINGFACE_HUB_CACHE or TRANSFORMERS_CACHE, else HF_HOME/hub, else
    XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub (huggingface_hub 2.4 constants.py).
    """
    if not _REPO_ID.fullmatch(repo_id) or ".." in repo_id:
        return None
    for cache in cache_directories(os.environ if environment is None else environment):
        root = cache / f"models--{repo_id.replace('/', '--')}"
        if not (root / "snapshots").is_dir():
            continue
        wanted = _refs(root / "refs").get(revision, revision) if revision else None
        snapshot = _describe(root, wanted).snapshot
        if snapshot is not None and snapshot.is_dir():
            return snapshot
    return None


def cache_directories(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where models may be cached, in the order they are looked for."""
    named = [environment.get(key) for key in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE")]
    home = environment.get("HF_HOME")
    if not home:
        home = str(Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface")
    return tuple(Path(name).expanduser() for name in (*named, f"{home}/hub") if name)


def _describe(root: Path, wanted: str | None) -> HubCache:
    match = _FOLDER.fullmatch(root.name)
    repo_id = match.group(2).replace("--", "/") if match else root.name
    refs = _refs(root / "refs")
    snapshots = _children(root / "snapshots")
    revision = wanted
    if revision is None:
        named = refs.get("main") or next(iter(refs.values()), None)
        names = [child.name for child in snapshots]
        newest = max(snapshots, key=lambda child: child.stat().st_mtime_ns, default=None)
        revision = named if named in names else (newest.name if newest else None)
    branch = next((name for name, commit in refs.items() if commit == revision), None)
    incomplete = tuple(child.name for child in _children(root / "blobs") if child.name.endswith(".incomplete"))
    snapshot = root / "snapshots" / revision if revision else None
    return HubCache(repo_id, root, snapshot, revision, branch, tuple(child.name for child in snapshots), incomplete)


def _refs(directory: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for child in _children(directory):
        try:
            with LocalFile(child) as source:
                commit = source.read_at(0, 64).decode("ascii", "replace").strip()
        except CkptInspectError:
            continue
        if _REVISION.fullmatch(commit):
            found[child.name] = commit
    return found


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())[:_MAX_LISTED]
    except OSError:
        return []
