"""Options that several verbs share, as annotated types, and those every verb has."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from ckpt_inspect.cli.session import SESSION

RunPath = Annotated[
    Path,
    typer.Argument(
        metavar="[PATH]",
        help="A run, checkpoint, tag directory, adapter, model or single file.",
        show_default="the current directory",
    ),
]
RunPaths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[PATH]...",
        help="Runs, checkpoints, tag directories, adapters, models or single files.",
        show_default="the current directory",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document (docs/schema).")]
BaseOption = Annotated[
    Path | None,
    typer.Option("--base", metavar="DIR", help="The base model's directory, where the run does not lead to it."),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to a file instead of the terminal.")
]


def _no_color(value: bool) -> None:
    if value:
        SESSION.color = False


def _quiet(value: bool) -> None:
    SESSION.quiet = SESSION.quiet or value


def _debug(value: bool) -> None:
    if value and not SESSION.debug:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")  # to standard error
        SESSION.debug = True


_COMMON: dict[str, Any] = {
    "no_color": Annotated[
        bool,
        typer.Option(
            "--no-color", help="Plain text, also on a terminal (so does NO_COLOR).", is_eager=True, callback=_no_color
        ),
    ],
    "quiet": Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="No progress and no remarks, only the result.", is_eager=True, callback=_quiet
        ),
    ],
    "debug": Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", is_eager=True, callback=_debug)
    ],
}


def with_common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with --no-color, --quiet and --debug, which set :data:`SESSION` and are not passed on."""
    signature = inspect.signature(function, eval_str=True)
    parameters = list(signature.parameters.values())
    added = {name: note for name, note in _COMMON.items() if name not in signature.parameters}

    @wraps(function)
    def call(**given: Any) -> Any:
        return function(**{name: value for name, value in given.items() if name not in added})

    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=note)
        for name, note in added.items()
    ]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by inspect
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del call.__wrapped__  # or its annotations would be read instead
    return call
