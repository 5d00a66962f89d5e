"""A contract: what a good run looks like, learned from one and held against later ones (``check --contract``)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckpt_inspect.errors import UsageError
from ckpt_inspect.printable import printable
from ckpt_inspect.rules.finding import Finding

if TYPE_CHECKING:
    from ckpt_inspect.run import Run, StateDirectory

SCHEMA = "ckpt-inspect/contract/1"
CODE, NAME = "CKP090", "contract-broken"
KNOWN = ("schema", "learned_from", "artifacts", "world_size", "globals", "tensors", "bounds")


def learn(run: Run, document: Mapping[str, Any]) -> dict[str, Any]:
    """The contract of a run: `document` is its ``show --json`` object."""
    loss = document.get("loss") or {}
    bounds: dict[str, Any] = {}
    final = (loss.get("final") or {}).get("value")
    if isinstance(final, float):
        bounds["loss.final"] = {"max": round(final * 1.1, 6)}
    metric = (document.get("evaluation") or {}).get("metrics") or {}
    if isinstance(metric.get("eval_loss"), float):
        bounds["evaluation.eval_loss"] = {"max": round(metric["eval_loss"] * 1.1, 6)}
    contract: dict[str, Any] = {
        "schema": SCHEMA,
        "learned_from": run.tree.root.name,
        "artifacts": sorted({artifact.kind for artifact in run.artifacts if artifact.kind != "unknown"}),
        "bounds": bounds,
        "tensors": {name: f"{dtype} {list(shape)}" for name, dtype, shape in _tensors(run)},
    }
    world = (document.get("batches") or {}).get("world_size")
    if isinstance(world, int):
        contract["world_size"] = world
    names = sorted(_globals(run))
    if names:
        contract["globals"] = names
    return contract


def contract_text(contract: Mapping[str, Any]) -> str:
    """The contract as TOML."""
    lines = [
        "# What later runs are held to: ckpt-inspect check RUN --contract THIS. Remove what may vary, widen the bounds.",
        *(
            f"{key} = {_toml(contract[key])}"
            for key in KNOWN
            if key in contract and not isinstance(contract[key], Mapping)
        ),
    ]
    for key in ("bounds", "tensors"):
        if contract.get(key):
            lines += ["", f"[{key}]", *(f"{_toml(name)} = {_toml(value)}" for name, value in contract[key].items())]
    return "\n".join(lines) + "\n"


def read_contract(path: Path) -> dict[str, Any]:
    """Read a contract.

    Raises:
        UsageError: no such file, not TOML, not a contract, or a key that means nothing.
    """
    if not path.is_file():
        raise UsageError(
            "no such contract", where=str(path), remedy="learn one with `ckpt-inspect contract RUN -o FILE`"
        )
    try:
        contract = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not valid TOML: {error}", where=str(path)) from error
    if contract.get("schema") != SCHEMA:
        raise UsageError(f"not a contract (schema {SCHEMA})", where=str(path))
    for key in contract:
        if key not in KNOWN:
            raise UsageError(
                f"unknown key {printable(key)!r} in a contract", where=str(path), remedy=f"known: {', '.join(KNOWN)}"
            )
    return contract


def hold(run: Run, document: Mapping[str, Any], contract: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Every way in which the run breaks the contract, as error findings of rule CKP090."""
    return tuple(
        Finding(CODE, NAME, "error", "", tensor, message, "Mend the run, or learn the contract again.", evidence)
        for tensor, message, evidence in _breaches(run, document, contract)
    )


def _breaches(
    run: Run, document: Mapping[str, Any], contract: Mapping[str, Any]
) -> Iterator[tuple[str | None, str, dict[str, Any]]]:
    present = {artifact.kind for artifact in run.artifacts}
    for kind in contract.get("artifacts", ()):
        if kind not in present:
            yield None, f"the contract wants a {printable(kind)}, and there is none", {"artifact": kind}
    wanted = contract.get("world_size")
    world = (document.get("batches") or {}).get("world_size")
    if wanted is not None and world is not None and world != wanted:
        yield None, f"world size is {world}, the contract says {wanted}", {"world_size": world, "contract": wanted}
    allowed = contract.get("globals")
    if allowed is not None:
        for name in sorted(_globals(run) - set(allowed)):
            yield None, f"a pickle names {printable(name)}, which the contract does not list", {"global": name}
    yield from _tensor_breaches(run, contract)
    yield from _bound_breaches(document, contract)


def _tensor_breaches(run: Run, contract: Mapping[str, Any]) -> Iterator[tuple[str | None, str, dict[str, Any]]]:
    wanted = contract.get("tensors")
    if wanted is None:
        return
    found = {name: f"{dtype} {list(shape)}" for name, dtype, shape in _tensors(run)}
    for name, form in wanted.items():
        if name not in found:
            yield name, f"tensor {printable(name)} is missing", {"contract": form}
        elif found[name] != form:
            yield (
                name,
                f"tensor {printable(name)} is {found[name]}, the contract says {printable(form)}",
                {"contract": form},
            )
    for name in sorted(found.keys() - wanted.keys()):
        yield name, f"tensor {printable(name)} is not in the contract", {"found": found[name]}


def _bound_breaches(
    document: Mapping[str, Any], contract: Mapping[str, Any]
) -> Iterator[tuple[str | None, str, dict[str, Any]]]:
    from ckpt_inspect.rules.expect import evaluate, parse_expectation

    for path, bound in contract.get("bounds", {}).items():
        for word, operator in (("min", ">="), ("max", "<=")):
            if word in bound:
                outcome = evaluate(parse_expectation(f"{path} {operator} {bound[word]}"), document)
                if not outcome.met:
                    yield None, outcome.message, {"bound": {path: bound}}


def _tensors(run: StateDirectory) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for weights in (run.weights, run.adapter_weights):
        if weights is not None:
            yield from ((tensor.name, tensor.dtype, tensor.shape) for tensor in weights.tensors)


def _globals(run: Run) -> set[str]:
    from ckpt_inspect.scan import scan_path

    report = scan_path(run.tree.root)
    return {found.name for file in report.files for found in file.globals}


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    text = str(value)
    escaped = "".join(
        character if " " <= character <= "~" and character not in '"\\' else f"\\U{ord(character):08x}"
        for character in text
    )
    return f'"{escaped}"'
