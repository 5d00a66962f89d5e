"""The command line: finds the verb, imports it alone, and turns errors into one line and an exit code."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ckpt_inspect.cli.errors import exit_code_of
from ckpt_inspect.cli.options import with_common_options
from ckpt_inspect.cli.session import SESSION, emit
from ckpt_inspect.cli.verbs import VERBS, Verb

PROGRAM = "ckpt-inspect"


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(main(arguments))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; its exit code."""
    SESSION.debug, SESSION.quiet, SESSION.color = False, False, None
    command = typer.main.get_command(app)
    return exit_code_of(
        lambda: command.main(args=arguments, prog_name=PROGRAM, standalone_mode=False, windows_expand_args=False)
    )


class LazyVerbs(TyperGroup):
    """A group that knows its verbs by table and imports one only to run it or to print its help."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every verb whose module is there."""
        del ctx
        return [verb.name for verb in VERBS if _is_there(verb)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb as a command, imported now."""
        del ctx
        verb = next((verb for verb in VERBS if verb.name == cmd_name and _is_there(verb)), None)
        return _load(verb) if verb is not None else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the verbs without importing them."""
        rows = [(verb.name, verb.help) for verb in VERBS if _is_there(verb)]
        with formatter.section("Verbs"):
            formatter.write_dl(rows)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The verb that was named; a near miss is suggested."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            ctx.fail(f"no verb {name!r}{hint}")
        return super().resolve_command(ctx, args)


def _version(value: bool) -> None:
    if value:
        from ckpt_inspect import __version__

        emit(f"{PROGRAM} {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=LazyVerbs,
    name=PROGRAM,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Tell the truth about the output directory of a fine-tuning run, without executing a byte of it.

    Exit codes: 0 fine, 1 findings or a failed verification, 2 wrong usage, 3 the path cannot be read,
    70 a mistake of ckpt-inspect itself.
    """


@cache
def _is_there(verb: Verb) -> bool:
    return find_spec(verb.module) is not None


def _load(verb: Verb) -> Any:
    function = getattr(import_module(verb.module), verb.function)
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    settings: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
    single.command(name=verb.name, short_help=verb.help, context_settings=settings)(with_common_options(function))
    return typer.main.get_command(single)
