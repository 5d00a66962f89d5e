"""The base model of a run: where its files are on this machine, and what they say about tokens and rows.

Looked for in order: the directory given (``--base``), `base_model_name_or_path` as a local path, the Hugging Face cache
(read only, offline), then the table of published models. Never the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_inspect.errors import CkptInspectError, UsageError
from ckpt_inspect.knowledge import load
from ckpt_inspect.run import open_run

if TYPE_CHECKING:
    from ckpt_inspect.run import Run, StateDirectory


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What is known of a base model; `None` is "not known".

    `contents` holds every added token's text, so that a run's new tokens are exactly those it lacks; `source` says
    where the facts come from, in words.
    """

    name: str | None
    path: Path | None
    rows: int | None
    tokens: int | None
    tied: bool | None
    contents: frozenset[str] | None
    source: str


def find_base(directory: StateDirectory, given: Path | None = None) -> BaseFacts | None:
    """The base model of an adapter (or of a full model that names one); None when nothing is known of it.

    Raises:
        UsageError: `given` is not a directory that holds a model or a tokenizer.
    """
    if given is not None:
        return _given(given)
    name = base_name(directory)
    if name is None:
        return None
    for path, source in _candidates(directory, name):
        facts = _read(path, name, source)
        if facts is not None:
            return facts
    return published(name)


def base_name(directory: StateDirectory) -> str | None:
    """What the run calls its base: `base_model_name_or_path`, else `_name_or_path` of a full model's config."""
    config = directory.adapter_config
    if config is not None:
        return config.base_model or None
    model = directory.model_config
    value = model.values.get("_name_or_path") if model is not None else None
    return value if isinstance(value, str) and value else None


def published(name: str) -> BaseFacts | None:
    """The row of ``knowledge/published_models.toml`` for a repository name."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    for row in load("published_models")["model"]:
        if fnmatchcase(last, row["pattern"]):
            source = f"the table of published models, {row['pattern']}"
            return BaseFacts(name, None, row["rows"], row["tokens"], row["tied"], None, source)
    return None


def _given(path: Path) -> BaseFacts:
    if not path.is_dir():
        raise UsageError("--base must be a directory with the base model's config.json", where=str(path))
    facts = _read(path, path.name, "--base")
    if facts is None:
        raise UsageError(
            "--base holds neither a config.json nor a tokenizer",
            where=str(path),
            remedy="give the base model's directory",
        )
    return facts


def _candidates(directory: StateDirectory, name: str) -> Iterator[tuple[Path, str]]:
    local = Path(name).expanduser()
    if local.is_absolute():
        yield local, "base_model_name_or_path"
    else:
        # A relative path was relative to the training process; the run's own parents are the likely places.
        for parent in (Path.cwd(), *directory.tree.root.resolve().parents[:3]):
            if (parent / local / "config.json").is_file():
                yield parent / local, "base_model_name_or_path"
    if not local.is_absolute():
        from ckpt_inspect.artifacts.hub_cache import find_snapshot

        config = directory.adapter_config
        snapshot = find_snapshot(name, config.revision if config is not None else None)
        if snapshot is not None:
            yield snapshot, "Hugging Face cache"


def _read(path: Path, name: str, source: str) -> BaseFacts | None:
    try:
        if not path.is_dir():
            return None
        base = open_run(path)
    except (CkptInspectError, OSError):
        return None
    return read_base(base, name, source)


def read_base(base: Run, name: str, source: str) -> BaseFacts | None:
    """The facts of an opened base model directory; None when it holds neither a config nor a tokenizer."""
    config, tokenizer = base.model_config, base.tokenizer
    if config is None and tokenizer is None:
        return None
    rows = config.vocab_size if config is not None else None
    weights = base.weights
    if weights is not None:
        from ckpt_inspect.explain.embedding_state import model_embeddings

        saved = model_embeddings((tensor.name, tensor.shape) for tensor in weights.tensors)["input"].rows
        rows = saved if saved is not None else rows
    return BaseFacts(
        name=name,
        path=base.tree.root,
        rows=rows,
        tokens=tokenizer.length if tokenizer is not None else None,
        tied=config.tie_word_embeddings if config is not None else None,
        contents=frozenset(token.content for token in tokenizer.added) if tokenizer is not None else None,
        source=source,
    )
