"""Why an adapter is as big as it is: its rank and scaling, what was trained, and what was saved along by accident.

Sizes follow from the shapes in the file: a LoRA pair on a module of `in` x `out` has rank * (in + out) parameters
(peft 0.21.2 tuners/lora/layer.py). Which tensors are copies rather than training: ``artifacts/adapter_weights.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckpt_inspect.artifacts.adapter_targets import is_target
from ckpt_inspect.explain.answer import Evidence
from ckpt_inspect.explain.numbers import counted, listed
from ckpt_inspect.explain.space import size
from ckpt_inspect.printable import printable

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.adapter import AdapterConfig
    from ckpt_inspect.artifacts.adapter_weights import AdapterTensor, AdapterWeights
    from ckpt_inspect.run import Run, StateDirectory

# Bytes by what they are for, in the order they are told.
_PURPOSES: tuple[tuple[str, frozenset[str]], ...] = (
    ("modules trained as a whole", frozenset({"saved_module"})),
    ("rows of single tokens", frozenset({"token_delta"})),
    ("frozen copies of embeddings", frozenset({"embedding_copy"})),
    ("the input's training once more, under the tied output's name", frozenset({"tied_copy"})),
    ("second and third copies of saved modules", frozenset({"modules_to_save", "original_module"})),
    ("base weights under a LoRA", frozenset({"base_layer"})),
    ("projections, indices and other fixed tensors", frozenset({"projection", "indices", "frozen"})),
)
_ADAPTER = "the adapter's own parameters"


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes, parameters and tensors of one purpose."""

    purpose: str
    bytes: int
    parameters: int
    tensors: int


@dataclass(frozen=True, slots=True)
class AdapterAnswer:
    """The `adapter` object of the documents' contract, with the breakdown behind it.

    `rank`, `alpha` and `scaling` are the configuration's, or the one value all modules share; `ranks` counts modules
    by rank where patterns make them differ. `untouched_targets` are configured targets without any tensor,
    `strays` modules with tensors that the configuration does not target: both load without an error.
    """

    peft_type: str | None
    base_model: str | None
    rank: int | None
    alpha: float | None
    scaling: float | None
    target_modules: tuple[str, ...] | str | None
    trainable_parameters: int | None
    dtypes: tuple[str, ...]
    bytes: int | None
    explanation: str
    path: str = ""
    ranks: Mapping[int, int] | None = None
    parts: tuple[Part, ...] = ()
    untouched_targets: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    layer_gaps: Mapping[str, tuple[int, ...]] | None = None
    arithmetic: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    @property
    def paragraph(self) -> str:
        """The answer in words."""
        return self.explanation


def explain_adapter(run: Run) -> AdapterAnswer | None:
    """The adapter that stands for the run: the root's, else the newest checkpoint's; None where there is none."""
    for state in (run, *reversed(run.checkpoints)):
        if state.has("adapter_config", "adapter_weights"):
            return explain_state_adapter(state)
    return None


def explain_state_adapter(state: StateDirectory) -> AdapterAnswer:
    """The adapter of one directory."""
    config, weights = state.adapter_config, state.adapter_weights
    files = list(state.own.get("adapter_weights", ()))
    total = max((artifact.bytes for artifact in files), default=None) if files else None
    tensors = weights.tensors if weights is not None else ()
    parts = breakdown(tensors)
    ranks = Counter(weights.ranks.values()) if weights is not None else Counter()
    rank = next(iter(ranks)) if len(ranks) == 1 else config.r if config is not None else None
    scaling = _scaling(config, weights)
    untouched, strays = _targets(config, weights)
    gaps = weights.layer_gaps if weights is not None and _wants_every_layer(config) else {}
    trained = weights.trainable_parameters if weights is not None else None
    return AdapterAnswer(
        peft_type=config.peft_type if config is not None else None,
        base_model=config.base_model if config is not None else None,
        rank=rank,
        alpha=config.alpha if config is not None else None,
        scaling=scaling,
        target_modules=config.target_modules if config is not None else None,
        trainable_parameters=trained,
        dtypes=weights.dtypes if weights is not None else (),
        bytes=total,
        explanation=_explain(config, weights, total, trained, parts, untouched, strays, gaps),
        path=state.path,
        ranks=dict(sorted(ranks.items())) or None,
        parts=parts,
        untouched_targets=untouched,
        strays=strays,
        layer_gaps=gaps or None,
        arithmetic=_arithmetic(config, weights, parts, total, scaling, ranks),
        evidence=_evidence(config, files),
    )


def breakdown(tensors: Sequence[AdapterTensor]) -> tuple[Part, ...]:
    """The file's bytes by purpose, the largest first."""
    sums: dict[str, list[int]] = {}
    for tensor in tensors:
        purpose = next((name for name, roles in _PURPOSES if tensor.role in roles), _ADAPTER)
        row = sums.setdefault(purpose, [0, 0, 0])
        row[0] += tensor.nbytes
        row[1] += tensor.numel
        row[2] += 1
    parts = (Part(purpose, *row) for purpose, row in sums.items())
    return tuple(sorted(parts, key=lambda part: -part.bytes))


def _scaling(config: AdapterConfig | None, weights: AdapterWeights | None) -> float | None:
    if config is None:
        return None
    modules = weights.modules if weights is not None else ()
    factors = {config.scaling(module) for module in modules}
    return factors.pop() if len(factors) == 1 else config.scaling() if not factors else None


def _targets(config: AdapterConfig | None, weights: AdapterWeights | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if config is None or weights is None or not weights.modules or config.prompt:
        return (), ()
    strays = tuple(module for module in weights.modules if is_target(config, module) is False)
    if not isinstance(config.target_modules, tuple) or config.target_parameters:
        return (), () if config.target_parameters else strays
    untouched = tuple(
        target
        for target in config.target_modules
        if not any(module == target or module.endswith(f".{target}") for module in weights.modules)
    )
    return untouched, strays


def _wants_every_layer(config: AdapterConfig | None) -> bool:
    """Whether a missing layer is a surprise: the targets are plain names and no layers were chosen."""
    return (
        config is not None
        and isinstance(config.target_modules, tuple)
        and not config.layers_to_transform
        and not any("." in target for target in config.target_modules)
    )


def _explain(
    config: AdapterConfig | None,
    weights: AdapterWeights | None,
    total: int | None,
    trained: int | None,
    parts: Sequence[Part],
    untouched: Sequence[str],
    strays: Sequence[str],
    gaps: Mapping[str, Sequence[int]],
) -> str:
    if weights is None or total is None:
        return "adapter_config.json is here, but no adapter weights that could be read."
    own = next((part for part in parts if part.purpose == _ADAPTER), None)
    other = [part for part in parts if part.purpose != _ADAPTER]
    text = f"{size(total)}"
    if trained is not None:
        text += f" for {trained:,} trained parameters"
    text += "."
    if other and own is not None and other[0].bytes > own.bytes:
        text += f" Most of it is not the adapter: {_told(other[0])}, the adapter itself {size(own.bytes)}."
        other = other[1:]
    if other:
        text += f" It also holds {listed([_told(part) for part in other])}."
    if any(part.purpose == "frozen copies of embeddings" for part in parts):
        text += " PEFT saved the embeddings because the vocabulary was resized; they were not trained."
    if any(part.purpose.startswith("second and third") for part in parts):
        text += " Only the plain .weight of each saved module is loaded; the other copies can be dropped."
    if untouched:
        names = listed([printable(name, 40) for name in untouched[:4]])
        text += f" The configuration also targets {names}, but no tensor belongs to them: they would load untrained."
    if strays:
        text += (
            f" {counted(len(strays), 'module')} with tensors ({printable(strays[0], 60)}) are not targeted: "
            "PEFT ignores them when loading."
        )
    if gaps:
        stack, missing = next(iter(gaps.items()))
        text += f" Layers {', '.join(str(number) for number in missing[:8])} of {printable(stack, 40)} have no adapter."
    return text


def _told(part: Part) -> str:
    return f"{part.purpose} ({size(part.bytes)})"


def _arithmetic(
    config: AdapterConfig | None,
    weights: AdapterWeights | None,
    parts: Sequence[Part],
    total: int | None,
    scaling: float | None,
    ranks: Mapping[int, int],
) -> tuple[str, ...]:
    lines: list[str] = []
    if config is not None and scaling is not None and config.r and config.alpha is not None:
        divisor = f"sqrt({config.r})" if config.use_rslora else str(config.r)
        lines.append(
            f"scaling: alpha / {'sqrt(r)' if config.use_rslora else 'r'} = {config.alpha:g} / {divisor} = {scaling:.4g}"
        )
    if len(ranks) > 1:
        lines.append(
            "ranks: " + ", ".join(f"{rank} on {counted(count, 'module')}" for rank, count in sorted(ranks.items()))
        )
    if weights is not None and weights.modules:
        lines.append(
            f"modules: {len(weights.modules)} ({', '.join(printable(name, 30) for name in weights.targets[:8])})"
        )
        for stack, numbers in weights.layers.items():
            lines.append(f"layers: {len(numbers)} of {printable(stack, 40)} ({numbers[0]} to {numbers[-1]})")
    lines += [
        f"{part.purpose}: {size(part.bytes)}, {part.parameters:,} values in {counted(part.tensors, 'tensor')}"
        for part in parts
    ]
    if total is not None and parts:
        held = sum(part.bytes for part in parts)
        lines.append(f"file: {total:,} bytes = {held:,} of tensors + {total - held:,} of header")
    return tuple(lines)


def _evidence(config: AdapterConfig | None, files: Sequence[Any]) -> tuple[Evidence, ...]:
    found = [Evidence(artifact.path, "bytes", artifact.bytes) for artifact in files]
    if config is not None:
        for key in ("r", "lora_alpha", "use_rslora", "target_modules", "modules_to_save", "rank_pattern"):
            if key in config.values:
                found.append(Evidence("adapter_config.json", key, config.values[key]))
    return tuple(found)
